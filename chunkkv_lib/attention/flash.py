"""SDPA's own kernels, asked for the log-sum-exp too: it comes with the output, for nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend


def causal_attention(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor] | None:
    """Causal attention with the kernel that SDPA picks for these tensors; None where that one has no log-sum-exp.

    queries  [1, Hq, n, d]
    keys     [1, Hkv, n, d], values as well; Hq is a multiple of Hkv
    scale    of the logits; None: 1 / sqrt(d)
    return   [1, Hq, n, d] in the queries' dtype, and [Hq, n] float32 natural log-sum-exp of the scaled logits
    """
    ops = torch.ops.aten
    if queries.device.type == "cpu":
        if queries.dtype == torch.float64:
            return None
        output, lse = ops._scaled_dot_product_flash_attention_for_cpu(queries, keys, values, 0.0, True, scale=scale)
        return output, lse[0]
    if not queries.is_cuda or queries.shape[3] % 8 or values.shape[3] != queries.shape[3]:
        return None
    grouped = queries.shape[1] != keys.shape[1]
    choice = torch._fused_sdp_choice(queries, keys, values, None, 0.0, True, scale=scale, enable_gqa=grouped)
    if choice == SDPBackend.FLASH_ATTENTION.value:
        output, lse = ops._scaled_dot_product_flash_attention(queries, keys, values, 0.0, True, False, scale=scale)[:2]
    elif choice == SDPBackend.CUDNN_ATTENTION.value:
        kernel = ops._scaled_dot_product_cudnn_attention
        output, lse = kernel(queries, keys, values, None, True, 0.0, True, False, scale=scale)[:2]
    else:
        return None
    return output, lse.reshape(queries.shape[1:3])
