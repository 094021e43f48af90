"""Full attention rows of a few queries: the observation window's, or the probes'."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from .checks import check_heads
from .gpu import kernels


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def attention_logits(queries: Tensor, keys: Tensor, positions: Tensor | None = None) -> Tensor:
    """Scaled logits q.k / sqrt(d) of a few queries; keys that a query cannot see get -inf.

    queries    [Hq, r, d]
    keys       [Hkv, n, d]
    positions  [r] int64, absolute position of each query: it sees the keys 0..position. None: it sees all keys.
    return     [Hq, r, n] float32 (float64 for float64 inputs)
    raises InputError: shapes that do not fit.
    """
    group = check_heads(queries, keys)
    kv_heads, n, d = keys.shape
    # One product per KV head with the group's queries stacked: the keys are never repeated.
    stacked, columns = queries.reshape(kv_heads, group * queries.shape[1], d), keys.transpose(1, 2)
    if keys.is_cuda and queries.dtype == keys.dtype and keys.dtype in (torch.bfloat16, torch.float16):
        # Products of 16-bit numbers are exact in float32, and the result is: the keys need not be widened.
        logits = torch.bmm(stacked, columns, out_dtype=torch.float32).mul_(d**-0.5)
    else:
        logits = torch.matmul(_wide(stacked) * d**-0.5, _wide(columns))
    logits = logits.view(queries.shape[0], -1, n)
    # Positions on a GPU are not looked at: the CPU would have to wait for them.
    if positions is not None and (positions.device.type != "cpu" or int(positions.min()) < n - 1):
        hidden = torch.arange(n, device=keys.device) > positions.to(keys.device)[:, None]
        logits.masked_fill_(hidden, -torch.inf)
    return logits


def attention_rows(queries: Tensor, keys: Tensor, positions: Tensor | None = None) -> Tensor:
    """Softmax of `attention_logits`: rows that sum to 1 over the keys each query sees. Shapes as there."""
    return attention_logits(queries, keys, positions).softmax(-1)


def output_rows(rows: Tensor, values: Tensor) -> Tensor:
    """Attention outputs: each row's weighted sum of the values.

    rows    [Hq, r, n]
    values  [Hkv, n, d]
    return  [Hq, r, d]
    """
    query_heads, r, n = rows.shape
    kv_heads = values.shape[0]
    if triton := _kernels(rows, values):
        return triton.weighted_sums(rows, values)
    stacked = rows.reshape(kv_heads, query_heads // kv_heads * r, n)
    return torch.matmul(stacked, values.to(rows.dtype)).view(query_heads, r, -1)


def kept_outputs(rows: Tensor, values: Tensor, kept: Tensor) -> Tensor:
    """Attention outputs over the kept positions alone, of several methods.

    rows    [Hq, r, n]
    values  [Hkv, n, d]
    kept    [m, S, b] int64; S divides Hq
    return  [m, Hq, r, d]
    """
    if triton := _kernels(rows, values):
        return triton.kept_outputs(rows, values, kept)
    query_heads, r, n = rows.shape
    heads = max(len(values), kept.shape[1])  # as many as differ in their values or in what they keep
    mine = kept.repeat_interleave(heads // kept.shape[1], 1)  # [m, heads, b]
    stacked = rows.reshape(heads, -1, n).expand(len(kept), -1, -1, -1)
    some = stacked.gather(3, mine[:, :, None].expand(-1, -1, stacked.shape[2], -1))
    owner = torch.arange(heads, device=rows.device)[:, None] // (heads // len(values))
    return torch.matmul(some, values[owner, mine].to(rows.dtype)).view(len(kept), query_heads, r, -1)


def _kernels(rows: Tensor, values: Tensor) -> ModuleType | None:
    """The Triton kernels, where they can take these rows and values."""
    triton = kernels("attention.triton_rows", rows, values)
    takes = triton and rows.dtype == torch.float32 and values.dtype != torch.float64
    return triton if takes and triton.fits(rows.shape[1], values.shape[2]) else None
