"""How much attention each key receives from all queries of the prompt: H2O's score, in tiles.

With a row's log-sum-exp at hand, exp(logit - lse) is the final probability, so tiles of rows can be added up in one
sweep. The flash-attention kernel returns the log-sum-exp with its output, and appending it as one more channel
(q' = [q / sqrt(d), -lse], k' = [k, 1]) lets the matrix product subtract it.

On a GPU `triton_kernels.py` does both, where it can; the PyTorch code here is its reference and takes all other cases.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from .checks import check_heads
from .flash import causal_attention
from .gpu import kernels
from .rows import attention_logits
from .threads import in_threads

TILE_BYTES = 2 << 20  # a tile of probabilities should stay in the cache between its product, exp and sum
PARTS = 4  # a head's tiles are dealt to this many pieces of work, so that many cores find one each


def log_sum_exp(queries: Tensor, keys: Tensor) -> Tensor:
    """Log-sum-exp of every query's causal logits.

    queries  [Hq, n, d]
    keys     [Hkv, n, d]
    return   [Hq, n] float32 (float64 for float64 inputs)
    """
    check_heads(queries, keys)
    if triton := _kernels(queries, keys):
        return triton.log_sum_exp(queries, keys)
    if queries.device.type == "cpu" and (found := causal_attention(queries[None], keys[None], keys[None])):
        return found[1]
    rows = _rows_per_tile(queries, keys)
    tiles = []
    for start in range(0, queries.shape[1], rows):
        stop = min(start + rows, queries.shape[1])
        positions = torch.arange(start, stop, device=keys.device)
        tiles.append(attention_logits(queries[:, start:stop], keys[:, :stop], positions).logsumexp(-1))
    return torch.cat(tiles, 1)


@torch.no_grad()
def column_sums(queries: Tensor, keys: Tensor, lse: Tensor | None = None) -> Tensor:
    """Attention that each key receives, summed over all causal queries of the prompt (H2O, arXiv 2306.14048).

    queries  [Hq, n, d]
    keys     [Hkv, n, d]
    lse      [Hq, n], `log_sum_exp(queries, keys)`; computed if None
    return   [Hq, n] float32 (float64 for float64 inputs); a head's sums add up to n
    """
    lse = log_sum_exp(queries, keys) if lse is None else lse
    if triton := _kernels(queries, keys):
        return triton.column_sums(queries, keys, lse)
    wide = torch.promote_types(queries.dtype, torch.float32)
    q = torch.cat([queries.to(wide) * queries.shape[2] ** -0.5, -lse.to(wide)[..., None]], -1)
    k = torch.cat([keys.to(wide), torch.ones_like(keys[..., :1], dtype=wide)], -1)
    rows, group = _rows_per_tile(queries[:1], keys), queries.shape[0] // keys.shape[0]
    pieces = [(head, part) for head in range(queries.shape[0]) for part in range(PARTS)]
    sums = in_threads(
        lambda piece: _sums_of_tiles(q[piece[0]], k[piece[0] // group], rows, piece[1]), pieces, queries.device
    )
    return torch.stack(sums).view(-1, PARTS, keys.shape[1]).sum(1)


def _sums_of_tiles(q: Tensor, k: Tensor, rows: int, part: int) -> Tensor:
    """One head's column sums [n] over every PARTS-th tile of rows, from q', k' [n, d + 1]."""
    n = len(k)
    sums = torch.zeros(n, dtype=k.dtype, device=k.device)
    buffer = torch.empty(min(rows, n) * n, dtype=k.dtype, device=k.device)
    for start in range(part * rows, n, PARTS * rows):
        stop = min(start + rows, n)
        tile = buffer[: (stop - start) * stop].view(-1, stop)
        torch.mm(q[start:stop], k[:stop].t(), out=tile).exp_()
        tile[:, start:].tril_()  # the diagonal block: no query sees the keys after it
        sums[:stop] += tile.sum(0)
    return sums


def uncausal_column_sums(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Column sums as KVCache-Factory took them until June 2026: only the last window x window corner is masked.

    Every query but the last `window` sees all keys, later ones too. For the appendix on that error only.
    Shapes as in `column_sums`; window >= 1.
    """
    check_heads(queries, keys)
    n = keys.shape[1]
    rows = _rows_per_tile(queries, keys)
    sums = torch.zeros(queries.shape[:2], dtype=torch.promote_types(queries.dtype, torch.float32), device=keys.device)
    for start in range(0, n, rows):
        positions = torch.arange(start, min(start + rows, n), device=keys.device)
        sees = torch.where(positions < n - window, n - 1, positions)
        sums += attention_logits(queries[:, start : start + rows], keys, sees).softmax(-1).sum(1)
    return sums


def _kernels(queries: Tensor, keys: Tensor) -> ModuleType | None:
    """The Triton kernels, where they can take these tensors: on a GPU with bfloat16 arithmetic, in 16 or 32 bits."""
    if not (found := kernels("attention.triton_kernels", queries, keys)):
        return None
    fits = {queries.dtype, keys.dtype} <= set(found.DTYPES) and keys.shape[2] <= found.MAX_HEAD_DIM
    return found if fits else None


def _rows_per_tile(queries: Tensor, keys: Tensor) -> int:
    """Rows of queries per tile, a multiple of 16, so that a tile has about TILE_BYTES (a GPU's may be larger)."""
    size = TILE_BYTES if queries.device.type == "cpu" else 64 * TILE_BYTES
    return max(16, size // (4 * queries.shape[0] * keys.shape[1]) // 16 * 16)
