"""Log-sum-exp and column sums of causal attention on a GPU, as two Triton kernels.

Each program owns one tile of one head's result and walks over the tiles it needs in a fixed order: no atomics, so the
same inputs give the same bits. Tiles that the causal rule hides altogether are never loaded. Nothing of n x n elements
exists outside a program's registers. Import this module only where triton is installed; `attention.py` does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_HEAD_DIM = 256  # a tile of keys must fit in shared memory as a whole
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
BLOCKS = ((128, 2), (64, 3), (64, 2), (32, 2), (16, 1))  # rows of a tile, tiles in flight; the fastest on an H100 first
SHARED_RESERVE = 8 << 10  # bytes left to the compiler, for reductions between warps
LOG2_E, LN_2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)  # GPUs compute powers of two
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # TRITON_INTERPRET=1: on the CPU, for tests


def log_sum_exp(queries: Tensor, keys: Tensor, block: int | None = None) -> Tensor:
    """Log-sum-exp of every query's causal logits.

    queries  [Hq, n, d], keys [Hkv, n, d], of DTYPES, d at most MAX_HEAD_DIM
    block    rows of a tile, a power of two of at least 16; None: what the GPU's shared memory allows
    return   [Hq, n] float32
    """
    return _launch(_log_sum_exp_kernel, queries, keys, block)


def column_sums(queries: Tensor, keys: Tensor, log_sums: Tensor, block: int | None = None) -> Tensor:
    """Attention that each key receives, summed over all causal queries. log_sums [Hq, n], the rest as above -> [Hq, n].

    Products of 16-bit inputs are exact and summed in float32; float32 inputs are not rounded to TF32.
    """
    return _launch(_column_sums_kernel, queries, keys, block, log_sums.float().contiguous())


def _launch(kernel, queries: Tensor, keys: Tensor, block: int | None, *more: Tensor) -> Tensor:
    """Run one kernel, one program per head and tile: [Hq, n] float32."""
    kind = torch.promote_types(queries.dtype, keys.dtype)
    queries, keys = (x.to(kind) for x in (queries, keys))
    # Neighbouring elements of a row must lie next to each other; heads and tokens may lie anywhere.
    queries, keys = (x if x.stride(2) == 1 else x.contiguous() for x in (queries, keys))
    query_heads, n, d = queries.shape
    result = torch.empty(query_heads, n, dtype=torch.float32, device=queries.device)
    wide = max(16, triton.next_power_of_2(d))  # columns of a tile; those beyond d are zero
    stages = 1
    if block is None:
        limits = torch.cuda.get_device_properties(queries.device)
        block, stages = tile_shape(wide, kind, getattr(limits, "shared_memory_per_block_optin", 48 << 10))
    # Triton launches on the current device, which with layers on several GPUs need not be the tensors'.
    with torch.cuda.device_of(queries):
        kernel[(triton.cdiv(n, block), query_heads)](
            queries, keys, *more, result, n, query_heads // keys.shape[0], d**-0.5,
            queries.stride(0), queries.stride(1), keys.stride(0), keys.stride(1),
            D=d, WIDE=wide, BLOCK=block, num_warps=warps(wide, block), num_stages=stages,
        )  # fmt: skip
    return result


def tile_shape(columns: int, dtype: torch.dtype, memory: int) -> tuple[int, int]:
    """Rows of a tile and tiles in flight: the most that `memory` bytes hold beside the tile that stays."""
    row, most = columns * dtype.itemsize, 32 if dtype == torch.float32 else 128  # larger float32 tiles spill registers
    fits = [(rows, flying) for rows, flying in BLOCKS if (1 + flying) * rows * row <= memory - SHARED_RESERVE]
    return next((shape for shape in fits if shape[0] <= most), BLOCKS[-1])


def warps(columns: int, block: int) -> int:
    """Warps of a program. Four hold a product of 128 x 128 in registers and leave room for a second program."""
    return 8 if block >= 128 and columns > 128 else 4


@triton.jit
def _tile(head, start, n, token_stride, D: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr):
    """Rows start.. of one head's queries or keys: [BLOCK, WIDE], zero beyond n and D. FULL: all rows are below n."""
    rows, columns = start + tl.arange(0, BLOCK), tl.arange(0, WIDE)
    places = head + rows[:, None].to(tl.int64) * token_stride + columns[None, :]
    if FULL and D == WIDE:
        return tl.load(places)
    return tl.load(places, mask=((rows[:, None] < n) | FULL) & (columns[None, :] < D), other=0.0)


@triton.jit
def _logits(
    mine, head, start, n, token_stride, scale,
    D: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """Scaled products of the program's own tile with another one: [BLOCK own, BLOCK other] float32."""
    others = _tile(head, start, n, token_stride, D, WIDE, BLOCK, FULL)
    if INTERPRETED:  # numpy has no bfloat16; its products are exact in float32
        mine, others = mine.to(tl.float32), others.to(tl.float32)
    return tl.dot(mine, tl.trans(others), input_precision="ieee") * scale


@triton.jit(do_not_specialize=["n"])  # a prompt of another length is no reason to compile again
def _log_sum_exp_kernel(
    queries, keys, result, n, group, scale, query_head, query_token, key_head, key_token,
    D: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK queries of a head and walks over the keys that they see."""
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK  # the last queries have most keys: they go first
    head = tl.program_id(1).to(tl.int64)
    mine = _tile(queries + head * query_head, start, n, query_token, D, WIDE, BLOCK, False)
    keys += (head // group) * key_head
    scale *= LOG2_E
    rows = tl.arange(0, BLOCK)
    # The diagonal tile comes first: in it every query sees a key, so that the maximum is finite from here on.
    logits = _logits(mine, keys, start, n, key_token, scale, D, WIDE, BLOCK, False)
    logits = tl.where(rows[:, None] >= rows[None, :], logits, float("-inf"))
    highest = tl.max(logits, 1)
    total = tl.sum(tl.exp2(logits - highest[:, None]), 1)
    for before in range(0, start, BLOCK):
        logits = _logits(mine, keys, before, n, key_token, scale, D, WIDE, BLOCK, True)
        higher = tl.maximum(highest, tl.max(logits, 1))
        total = total * tl.exp2(highest - higher) + tl.sum(tl.exp2(logits - higher[:, None]), 1)
        highest = higher
    tl.store(result + head * n + start + rows, (highest + tl.log2(total)) * LN_2, mask=start + rows < n)


@triton.jit(do_not_specialize=["n"])
def _column_sums_kernel(
    queries, keys, log_sums, result, n, group, scale, query_head, query_token, key_head, key_token,
    D: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK keys as one query head sees them, and walks over the queries that see them."""
    start = tl.program_id(0) * BLOCK  # the first keys have most queries: they go first
    head = tl.program_id(1).to(tl.int64)
    mine = _tile(keys + (head // group) * key_head, start, n, key_token, D, WIDE, BLOCK, False)
    queries += head * query_head
    log_sums += head * n
    scale *= LOG2_E
    rows = tl.arange(0, BLOCK)
    # Keys are the rows of the product, so that a sum over queries stays inside a warp.
    logits = _logits(mine, queries, start, n, query_token, scale, D, WIDE, BLOCK, False)
    received = tl.exp2(logits - _norms(log_sums, start, n, BLOCK, False)[None, :])
    sums = tl.sum(tl.where(rows[:, None] <= rows[None, :], received, 0.0), 1)
    full = n // BLOCK * BLOCK
    for after in range(start + BLOCK, full, BLOCK):
        logits = _logits(mine, queries, after, n, query_token, scale, D, WIDE, BLOCK, True)
        sums += tl.sum(tl.exp2(logits - _norms(log_sums, after, n, BLOCK, True)[None, :]), 1)
    if full < n and start < full:  # the last queries, fewer than a tile
        logits = _logits(mine, queries, full, n, query_token, scale, D, WIDE, BLOCK, False)
        sums += tl.sum(tl.exp2(logits - _norms(log_sums, full, n, BLOCK, False)[None, :]), 1)
    tl.store(result + head * n + start + rows, sums, mask=start + rows < n)


@triton.jit
def _norms(log_sums, start, n, BLOCK: tl.constexpr, FULL: tl.constexpr):
    """Log-sum-exp of BLOCK queries to the base 2; infinite beyond the last, whose probabilities then are zero."""
    rows = start + tl.arange(0, BLOCK)
    if FULL:
        return tl.load(log_sums + rows) * LOG2_E
    return tl.load(log_sums + rows, mask=rows < n, other=float("inf")) * LOG2_E
