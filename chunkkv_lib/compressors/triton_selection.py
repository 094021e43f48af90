"""The choice of the highest scores on a GPU, one Triton kernel for what takes PyTorch a dozen small ones.

One program per kept set holds all of its scores. Import this module only where triton is installed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_POSITIONS = 1 << 16  # scores that one program's registers can hold


def highest(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` highest scores of each row, ties to the lower position: [S, p] float32 -> [S, p] bool.

    count  at least 1, at most p
    """
    scores = scores.contiguous()
    sets, p = scores.shape
    mask = torch.empty(sets, p, dtype=torch.bool, device=scores.device)
    with torch.cuda.device_of(scores):
        _highest_kernel[(sets,)](scores, mask, p, count, WIDE=triton.next_power_of_2(p), num_warps=_warps(p))
    return mask


def positions(mask: Tensor, tokens: int) -> Tensor:
    """Positions of the True entries, `tokens` of them in every row: [S, n] bool -> [S, tokens] int64, ascending."""
    mask = mask.contiguous()
    sets, n = mask.shape
    result = torch.empty(sets, tokens, dtype=torch.int64, device=mask.device)
    with torch.cuda.device_of(mask):
        _positions_kernel[(sets,)](mask, result, n, tokens, WIDE=triton.next_power_of_2(n), num_warps=_warps(n))
    return result


def _warps(elements: int) -> int:
    return min(32, max(4, triton.next_power_of_2(elements) // 256))


@triton.jit(do_not_specialize=["p", "count"])
def _highest_kernel(scores, mask, p, count, WIDE: tl.constexpr):
    """Find the lowest score that stays bit by bit; numbers of a sign bit and 31 others order like their scores."""
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDE)
    bits = (tl.load(scores + row * p + at, mask=at < p, other=0.0) + 0.0).to(tl.int32, bitcast=True)  # -0 becomes 0
    rank = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    rank = tl.where(at < p, rank, -2147483648)
    enough = tl.sum((rank >= 0).to(tl.int32), 0) >= count
    lowest = tl.where(enough, 0, -2147483648)
    for step in range(31):
        higher = lowest + (1 << (30 - step))
        enough = tl.sum((rank >= higher).to(tl.int32), 0) >= count
        lowest = tl.where(enough, higher, lowest)
    level = ((rank == lowest) & (at < p)).to(tl.int32)
    room = count - tl.sum((rank > lowest).to(tl.int32), 0)
    stays = (rank > lowest) | ((level != 0) & (tl.cumsum(level, 0) <= room))
    tl.store(mask + row * p + at, stays, mask=at < p)


@triton.jit(do_not_specialize=["n", "tokens"])
def _positions_kernel(mask, result, n, tokens, WIDE: tl.constexpr):
    """Every kept position goes to the place that its count among the kept ones names."""
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDE)
    kept = tl.load(mask + row * n + at, mask=at < n, other=0).to(tl.int32)
    place = tl.cumsum(kept, 0) - 1
    tl.store(result + row * tokens + place, at.to(tl.int64), mask=(kept != 0) & (place < tokens))
