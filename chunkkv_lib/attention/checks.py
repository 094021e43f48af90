"""What the tensors of one layer must look like; mistakes are told before any work is done."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError


def check_finite(name: str, x: Tensor) -> None:
    """Raise InputError if `x` holds NaN or infinity."""
    # The sum tells it in one quick pass; only where it overflowed must every value be looked at.
    if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
        raise not_finite(name)


def not_finite(name: str) -> InputError:
    """The error for tensors that hold NaN or infinity."""
    return InputError(
        f"{name} hold NaN or infinity; every value must be finite. Run the model in float32 or bfloat16 "
        "(float16 overflows beyond 65504), or look for the layer that produced them."
    )


def check_heads(queries: Tensor, keys: Tensor) -> int:
    """The number of query heads that share a KV head; InputError if `queries` and `keys` do not fit together.

    queries  [Hq, any, d]
    keys     [Hkv, n, d], Hq a multiple of Hkv
    """
    for name, x in (("queries", queries), ("keys", keys)):
        if x.dim() != 3:
            raise InputError(
                f"{name} have shape {tuple(x.shape)}; expected 3 dimensions [heads, tokens, head dimension]. "
                "One sequence at a time: drop the batch dimension."
            )
        if not x.is_floating_point():
            raise InputError(f"{name} have dtype {x.dtype}; expected a floating-point dtype. Convert with .float().")
    if queries.shape[2] != keys.shape[2]:
        raise InputError(
            f"queries have head dimension {queries.shape[2]} and keys {keys.shape[2]}; they must be equal. "
            "Pass both from the same layer."
        )
    query_heads, kv_heads = queries.shape[0], keys.shape[0]
    if kv_heads == 0 or query_heads == 0 or query_heads % kv_heads:
        raise InputError(
            f"{query_heads} query heads do not divide over {kv_heads} KV heads; the number of query heads must be a "
            "multiple of the KV heads. Pass the keys un-repeated, as the model caches them."
        )
    return query_heads // kv_heads


def check_prompt(queries: Tensor, keys: Tensor, finite: bool = False) -> None:
    """Raise InputError unless `queries [Hq, n, d]` and `keys [Hkv, n, d]` are one layer's tensors of one prompt.

    finite  True: do not look for NaN and infinity
    """
    check_heads(queries, keys)
    if queries.shape[1] != keys.shape[1]:
        raise InputError(
            f"{queries.shape[1]} queries and {keys.shape[1]} keys; a prompt has one of each per token. "
            "Pass exactly the prompt's tensors, without the answer's."
        )
    if keys.shape[1] == 0:
        raise InputError("the prompt is empty (0 tokens); at least 1 token is needed. Pass a longer prompt.")
    if not finite:
        check_finite("queries", queries)
        check_finite("keys", keys)
