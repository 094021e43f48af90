"""Sums over the rows of a few queries on a GPU, as Triton kernels: over kept positions, and weighted by the values.

A library's matrix product is made for wide results; these have a handful of columns and thousands of terms each. Here
the terms are dealt to many programs, whose parts are added up afterwards in a fixed order. Everything is float32: a
product of float32 numbers is taken apart into TF32 pieces that together keep their digits.
Import this module only where triton is installed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64  # terms that a program takes at once
PROGRAMS = 256  # enough to fill a GPU with several programs for each of its processors
MAX_ROWS = 128  # of one head; a program holds them all
MAX_COLUMNS = 256  # of a result


def kept_sums(rows: Tensor, masks: Tensor) -> Tensor:
    """Sums of rows and of their squares over each method's kept positions, and over all positions, in one sweep.

    rows    [Hq, r, n] float32
    masks   [M, S, n] bool, True for kept positions; S divides Hq
    return  [2, 2, M + 1, Hq, r] float32: power 1 or 2; with or without position 0; methods, and last all positions
    """
    heads, r, n = rows.shape
    methods, sets = masks.shape[:2]
    splits, length = _splits(heads, n)
    parts = torch.empty(splits, heads, r, 2, 2 * (methods + 1), dtype=torch.float32, device=rows.device)
    rows, masks = rows.contiguous(), masks.contiguous()
    with torch.cuda.device_of(rows):
        _kept_sums_kernel[(splits, heads)](
            rows, masks, parts, n, r, methods, length, heads // sets, masks.stride(0), masks.stride(1),
            R=_wide(r), N=_wide(2 * (methods + 1)), BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return parts.sum(0).view(heads, r, 2, 2, methods + 1).permute(2, 3, 4, 0, 1)


def weighted_sums(rows: Tensor, values: Tensor) -> Tensor:
    """Every row's weighted sum of the values: rows [Hq, r, n] float32, values [Hkv, n, d] -> [Hq, r, d] float32."""
    heads, r, n = rows.shape
    kv_heads, _, d = values.shape
    splits, length = _splits(heads, n)
    parts = torch.empty(splits, heads, r, d, dtype=torch.float32, device=rows.device)
    rows = rows.contiguous()
    values = values if values.stride(2) == 1 else values.contiguous()
    with torch.cuda.device_of(rows):
        _weighted_sums_kernel[(splits, heads)](
            rows, values, parts, n, r, length, heads // kv_heads, values.stride(0), values.stride(1),
            R=_wide(r), D=d, WIDE=_wide(d), BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return parts.sum(0)


def kept_outputs(rows: Tensor, values: Tensor, kept: Tensor) -> Tensor:
    """`weighted_sums` over the kept positions of m methods alone: kept [m, S, b] int64 -> [m, Hq, r, d] float32."""
    heads, r, n = rows.shape
    kv_heads, _, d = values.shape
    methods, sets, tokens = kept.shape
    result = torch.empty(methods, heads, r, d, dtype=torch.float32, device=rows.device)
    rows, kept = rows.contiguous(), kept.contiguous()
    values = values if values.stride(2) == 1 else values.contiguous()
    with torch.cuda.device_of(rows):
        _kept_outputs_kernel[(heads, methods)](
            rows, values, kept, result, n, r, tokens, sets, heads // sets, heads // kv_heads,
            values.stride(0), values.stride(1), R=_wide(r), D=d, WIDE=_wide(d), BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return result


def masses(x: Tensor) -> Tensor:
    """Sums of |x| and of x squared over the head dimension, in one sweep: [Hkv, n, d] -> [2, Hkv, n] float32."""
    heads, n, d = x.shape
    result = torch.empty(2, heads, n, dtype=torch.float32, device=x.device)
    x = x if x.stride(2) == 1 else x.contiguous()
    with torch.cuda.device_of(x):
        _masses_kernel[(triton.cdiv(n, BLOCK), heads)](
            x, result, n, heads, x.stride(0), x.stride(1), D=d, WIDE=_wide(d), BLOCK=BLOCK, num_warps=4
        )
    return result


def fits(rows: int, columns: int) -> bool:
    """Whether the kernels take results of this size."""
    return rows <= MAX_ROWS and columns <= MAX_COLUMNS and _wide(rows) * _wide(columns) <= 64 * 256


def _wide(size: int) -> int:
    """The smallest tile side that holds `size`."""
    return max(16, triton.next_power_of_2(size))


def _splits(heads: int, n: int) -> tuple[int, int]:
    """Parts that the positions are dealt to, and positions in a part."""
    blocks = triton.cdiv(n, BLOCK)
    each = triton.cdiv(blocks, max(1, PROGRAMS // heads))
    return triton.cdiv(blocks, each), each * BLOCK


@triton.jit
def _tile_of_rows(rows, head, begin, end, n, r, R: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK positions of one head's rows: [R, BLOCK], zero outside."""
    row, at = tl.arange(0, R), begin + tl.arange(0, BLOCK)
    places = rows + (head * r + row[:, None]) * n + at[None, :]
    return tl.load(places, mask=(row[:, None] < r) & (at[None, :] < end), other=0.0)


@triton.jit(do_not_specialize=["n", "length"])
def _kept_sums_kernel(
    rows, masks, parts, n, r, methods, length, group, mask_method, mask_set,
    R: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program adds up one head's rows over one part of the positions.

    Column c is method c mod (methods + 1), where the last counts every position; in the second half position 0 is out.
    """
    split, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, column = tl.arange(0, R), tl.arange(0, N)
    method, first, columns = column % (methods + 1), column // (methods + 1), 2 * (methods + 1)
    masks += (head // group) * mask_set
    end = tl.minimum(n, (split + 1) * length)
    sums = tl.zeros([R, N], dtype=tl.float32)
    energy = tl.zeros([R, N], dtype=tl.float32)
    for begin in range(split * length, end, BLOCK):
        x = _tile_of_rows(rows, head, begin, end, n, r, R, BLOCK)
        at = begin + tl.arange(0, BLOCK)
        counts = (at[:, None] < end) & (at[:, None] >= first[None, :]) & (column[None, :] < columns)
        kept = masks + method[None, :] * mask_method + at[:, None]
        keep = tl.load(kept, mask=counts & (method[None, :] < methods), other=0).to(tl.float32)
        keep = tl.where(counts & (method[None, :] == methods), 1.0, keep)
        sums += tl.dot(x, keep, input_precision="tf32x3")
        energy += tl.dot(x * x, keep, input_precision="tf32x3")
    places = parts + ((split * tl.num_programs(1) + head) * r + row[:, None]) * (2 * columns) + column[None, :]
    inside = (row[:, None] < r) & (column[None, :] < columns)
    tl.store(places, sums, mask=inside)
    tl.store(places + columns, energy, mask=inside)


@triton.jit(do_not_specialize=["n", "length"])
def _weighted_sums_kernel(
    rows, values, parts, n, r, length, group, value_head, value_token,
    R: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program adds up one head's outputs over one part of the positions."""
    split, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, column = tl.arange(0, R), tl.arange(0, WIDE)
    values += (head // group) * value_head
    end = tl.minimum(n, (split + 1) * length)
    sums = tl.zeros([R, WIDE], dtype=tl.float32)
    for begin in range(split * length, end, BLOCK):
        x = _tile_of_rows(rows, head, begin, end, n, r, R, BLOCK)
        at = begin + tl.arange(0, BLOCK)
        inside = (at[:, None] < end) & (column[None, :] < D)
        tile = tl.load(values + at[:, None].to(tl.int64) * value_token + column[None, :], mask=inside, other=0.0)
        sums += tl.dot(x, tile.to(tl.float32), input_precision="tf32x3")
    places = ((split * tl.num_programs(1) + head) * r + row[:, None]) * D + column[None, :]
    tl.store(parts + places, sums, mask=(row[:, None] < r) & (column[None, :] < D))


@triton.jit(do_not_specialize=["n", "tokens"])
def _kept_outputs_kernel(
    rows, values, kept, result, n, r, tokens, sets, set_group, group, value_head, value_token,
    R: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program adds up one head's outputs over the positions that one method keeps for it."""
    head, method = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    row, column = tl.arange(0, R), tl.arange(0, WIDE)
    values += (head // group) * value_head
    kept += (method * sets + head // set_group) * tokens
    sums = tl.zeros([R, WIDE], dtype=tl.float32)
    for begin in range(0, tokens, BLOCK):
        place = begin + tl.arange(0, BLOCK)
        at = tl.load(kept + place, mask=place < tokens, other=0)
        weights = rows + (head * r + row[:, None]) * n + at[None, :]
        x = tl.load(weights, mask=(row[:, None] < r) & (place[None, :] < tokens), other=0.0)
        inside = (place[:, None] < tokens) & (column[None, :] < D)
        tile = tl.load(values + at[:, None] * value_token + column[None, :], mask=inside, other=0.0)
        sums += tl.dot(x, tile.to(tl.float32), input_precision="tf32x3")
    places = ((method * tl.num_programs(0) + head) * r + row[:, None]) * D + column[None, :]
    tl.store(result + places, sums, mask=(row[:, None] < r) & (column[None, :] < D))


@triton.jit(do_not_specialize=["n"])
def _masses_kernel(
    x, result, n, heads, head_stride, token_stride, D: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """A program sums BLOCK tokens of one head."""
    at, column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDE)
    head = tl.program_id(1).to(tl.int64)
    places = x + head * head_stride + at[:, None].to(tl.int64) * token_stride + column[None, :]
    tile = tl.load(places, mask=(at[:, None] < n) & (column[None, :] < D), other=0.0).to(tl.float32)
    tl.store(result + head * n + at, tl.sum(tl.abs(tile), 1), mask=at < n)
    tl.store(result + (heads + head) * n + at, tl.sum(tile * tile, 1), mask=at < n)
