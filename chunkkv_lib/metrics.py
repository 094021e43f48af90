"""What a compressed KV cache lost: pure functions of tensors and kept positions.

Shapes: x `[Hkv, n, d]` one layer's keys (after RoPE) or values; `kept [S, b]` int64 ascending, S = Hkv, Hq or 1;
probe queries q `[Hq, probes, d]` with their absolute `positions [probes]`, each seeing the prompt's keys 0..position.
Everything is computed in float32 or better.

The ChunkKV paper (arXiv 2502.00299, appendix A.1) names a "KV cache L1 loss" and an "attention cosine similarity" but
no formula is known. The definitions here are ours; the chapter on metrics compares the plausible ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .attention import PromptAttention, attention_logits, attention_rows, output_rows
from .attention.checks import check_finite, check_heads
from .compressors import check_kept
from .errors import InputError

# --- the cache: keys or values ------------------------------------------------------------------------------------


def kv_l1_loss(x: Tensor, kept: Tensor) -> Tensor:
    """Share of a cache's L1 mass that eviction removes, evicted entries reading as zero.

    x       [Hkv, n, d] all keys or all values of one layer
    kept    [S, b] positions that stay
    return  [S] float32, no unit: sum of |x| over evicted positions / sum of |x| over all. 0: nothing lost, 1: all.
            Anchor: random positions lose about 1 - b/n, 0.90 at a 10 % budget, whatever the model. NaN if x is all 0.
    raises InputError: shapes that do not fit, NaN or infinity, a position outside 0..n-1.
    """
    return lost_share(token_mass(x), kept)


def kv_l1_absolute(x: Tensor, kept: Tensor) -> Tensor:
    """Mean absolute difference between a cache and its zero-filled compressed copy, per entry.

    x [Hkv, n, d], kept [S, b] -> [S] float32, in the cache's own unit, so it follows each layer's scale.
    """
    return lost_mean(token_mass(x), kept, x.shape[2])


def cache_cosine(x: Tensor, kept: Tensor) -> Tensor:
    """Cosine between a flattened cache and its zero-filled compressed copy.

    x [Hkv, n, d], kept [S, b] -> [S] float32: the root of the kept share of the squared norm.
    Anchor: random positions give about sqrt(b/n), 0.316 at 10 %.
    """
    return (1 - lost_share(token_mass(x, power=2), kept)).clamp(min=0).sqrt()


def token_mass(x: Tensor, power: int = 1) -> Tensor:
    """Sum of |x| ** power over the head dimension: [Hkv, n, d] -> [Hkv, n], power 1 or 2."""
    if x.dim() != 3:
        raise InputError(f"the cache has shape {tuple(x.shape)}; expected [KV heads, tokens, head dimension].")
    check_finite("the cache's entries", x)
    wide = x if x.dtype == torch.float64 else x.float()
    return wide.abs().sum(-1) if power == 1 else wide.square().sum(-1)


def lost_share(mass: Tensor, kept: Tensor) -> Tensor:
    """Share of the mass on evicted positions: mass [Hkv, n], kept [S, b] -> [S]."""
    mass, mask = _per_set(mass, kept)
    return (mass * ~mask).sum((1, 2)) / mass.sum((1, 2))


def lost_mean(mass: Tensor, kept: Tensor, head_dim: int) -> Tensor:
    """Mass on evicted positions per entry of the cache: mass [Hkv, n], kept [S, b] -> [S]."""
    mass, mask = _per_set(mass, kept)
    return (mass * ~mask).sum((1, 2)) / (mass[0].numel() * head_dim)


def _per_set(mass: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Mass of the heads that share a kept set, and its mask: [S, heads per set, n] and [S, 1, n]."""
    heads, n = mass.shape
    sets = kept.shape[0]
    mask = kept_mask(kept, n)[:, None]
    if 0 < sets <= heads and heads % sets == 0:
        return mass.view(sets, heads // sets, n), mask
    if sets == 0 or sets % heads:
        raise _misfit(sets, f"{heads} KV heads")
    return mass.repeat_interleave(sets // heads, 0)[:, None], mask


def _misfit(sets: int, heads: str) -> InputError:
    return InputError(
        f"{sets} kept sets do not fit {heads}; there must be one per KV head, one per query head, or a single one. "
        "Pass the kept set of the same layer and model."
    )


def kept_mask(kept: Tensor, n: int) -> Tensor:
    """Kept positions as a mask: [S, b] -> [S, n] bool. InputError if `kept` is not a kept set of n positions."""
    check_kept(kept, n)
    return torch.zeros(kept.shape[0], n, dtype=torch.bool, device=kept.device).scatter_(1, kept, True)


def overlap(kept: Tensor, other: Tensor) -> Tensor:
    """Jaccard index of two kept sets, row by row: [S, b], [S, b'] -> [S] in 0..1."""
    n = int(max(kept.max(), other.max())) + 1
    a, b = kept_mask(kept, n), kept_mask(other, n)
    return (a & b).sum(-1) / (a | b).sum(-1)


def passage_survival(kept: Tensor, spans: Iterable[tuple[int, int]], n: int) -> tuple[Tensor, Tensor]:
    """What is left of passages of the prompt, such as the sentences that hold the answer.

    kept    [S, b]
    spans   passages as token positions (first, behind the last), at least one
    n       prompt tokens
    return  [S] share of the passages' tokens that stay, and [S] share of the passages that stay whole; float32
    raises InputError: no passage, an empty one, or one outside 0..n.
    """
    spans = list(spans)
    for first, stop in spans:
        if not 0 <= first < stop <= n:
            raise InputError(f"passage {first}..{stop} does not fit {n} prompt tokens; give 0 <= first < stop <= {n}.")
    if not spans:
        raise InputError("no passage was given; at least one (first, stop) is needed.")
    mask = kept_mask(kept, n).float()
    shares = torch.stack([mask[:, first:stop].mean(-1) for first, stop in spans])
    lengths = torch.tensor([stop - first for first, stop in spans], dtype=shares.dtype, device=shares.device)
    return lengths @ shares / lengths.sum(), (shares == 1).float().mean(0)


# --- attention: what probe queries still see ----------------------------------------------------------------------


def attention_cosine_similarity(q: Tensor, keys: Tensor, kept: Tensor, positions: Tensor) -> Tensor:
    """Cosine between a probe's attention over the prompt with the full cache and with the compressed one.

    Evicted positions have zero attention; renormalising the rest would not change a cosine.

    q          [Hq, probes, d], after RoPE
    keys       [Hkv, n, d], the prompt's, after RoPE
    kept       [S, b]
    positions  [probes] int64: absolute position of each probe; it sees keys 0..position
    return     [Hq, probes] float32 in 0..1: 1 nothing lost
    raises InputError: shapes that do not fit, NaN or infinity, a kept position outside 0..n-1.
    """
    return row_cosine(_rows(q, keys, positions), [kept])[0]


def attention_mass(q: Tensor, keys: Tensor, kept: Tensor, positions: Tensor) -> Tensor:
    """Share of a probe's attention over the prompt that falls on kept positions. Shapes as above -> [Hq, probes]."""
    return row_mass(_rows(q, keys, positions), [kept])[0]


def attention_output_cosine(q: Tensor, keys: Tensor, values: Tensor, kept: Tensor, positions: Tensor) -> Tensor:
    """Cosine between the attention outputs over the full prompt and over its kept positions.

    values [Hkv, n, d]; the rest as above -> [Hq, probes] in -1..1. NaN where a probe attends to nothing that stays.
    """
    rows = _rows(q, keys, positions)
    if values.shape[:2] != keys.shape[:2] or values.dim() != 3:
        raise InputError(
            f"values have shape {tuple(values.shape)} and keys {tuple(keys.shape)}; both must be [KV heads, tokens, "
            "head dimension] of the same heads and tokens. Pass both from the same layer."
        )
    check_finite("values", values)
    return row_output_cosine(rows, values, [kept])[0]


def attention_logit_cosine(q: Tensor, keys: Tensor, kept: Tensor, positions: Tensor) -> Tensor:
    """Cosine of the scaled logits before the softmax, evicted ones zero. Shapes as above -> [Hq, probes]."""
    _check_probes(q, keys, positions)
    return row_cosine(visible(attention_logits(q, keys, positions)), [kept])[0]


def _rows(q: Tensor, keys: Tensor, positions: Tensor) -> Tensor:
    _check_probes(q, keys, positions)
    return attention_rows(q, keys, positions)


def _check_probes(q: Tensor, keys: Tensor, positions: Tensor) -> None:
    check_heads(q, keys)
    if q.shape[1] == 0:
        raise InputError("there are 0 probe queries; at least 1 is needed. Pass the queries that will read the cache.")
    check_finite("probe queries", q)
    check_finite("keys", keys)
    if not isinstance(positions, Tensor) or positions.dtype != torch.int64 or positions.shape != q.shape[1:2]:
        raise InputError(
            f"positions must be an int64 tensor with one absolute position for each of the {q.shape[1]} probe queries."
        )
    if int(positions.min()) < 0:
        raise InputError(f"a probe has position {int(positions.min())}; positions start at 0.")


# --- the same on rows already computed, for several kept sets at once ---------------------------------------------


def visible(logits: Tensor) -> Tensor:
    """Logits with the invisible keys' -inf replaced by zero, so that they carry no energy."""
    return logits.masked_fill(logits == -torch.inf, 0.0)


def row_cosine(rows: Tensor, kepts: list[Tensor], sink: bool = True) -> Tensor:
    """Cosine of each row with its zero-filled copies: rows [Hq, r, n], M kept sets -> [M, Hq, r].

    sink  False leaves position 0 out: as the attention sink it dominates the full cosine
    """
    start = 0 if sink else 1
    energy = rows[..., start:].square()
    masks = _per_head(kepts, rows)[..., start:]
    return (_kept_sums(energy, masks) / energy.sum(-1)).clamp(max=1).sqrt()  # rounding can exceed 1


def row_mass(rows: Tensor, kepts: list[Tensor]) -> Tensor:
    """Share of each row on its kept positions: rows [Hq, r, n], M kept sets -> [M, Hq, r]."""
    return _kept_sums(rows, _per_head(kepts, rows))


def row_output_cosine(rows: Tensor, values: Tensor, kepts: list[Tensor]) -> Tensor:
    """Cosine of the outputs of full and compressed rows: rows [Hq, r, n], values [Hkv, n, d] -> [M, Hq, r]."""
    full = output_rows(rows, values)
    group = rows.shape[0] // values.shape[0]
    cosines = []
    for kept in kepts:
        check_kept(kept, rows.shape[-1])
        _check_sets(kept, rows.shape[0])
        mine = kept.repeat_interleave(rows.shape[0] // kept.shape[0], 0)  # one row per query head: [Hq, b]
        some = rows.gather(2, mine[:, None].expand(-1, rows.shape[1], -1))
        heads = torch.arange(rows.shape[0], device=rows.device)[:, None] // group
        # A cosine does not see the missing renormalisation.
        compressed = torch.bmm(some, values[heads, mine].to(rows.dtype))
        cosines.append((full * compressed).sum(-1) / (full.norm(dim=-1) * compressed.norm(dim=-1)))
    return torch.stack(cosines)


def prompt_cosine(attention: PromptAttention, kepts: list[Tensor], rows: int = 64) -> Tensor:
    """Attention cosine averaged over all prompt queries: a second sweep over the causal attention.

    return [M, Hq] float32
    """
    queries, keys, n = attention.queries, attention.keys, attention.n
    masks = _per_head(kepts, queries, n)
    total = torch.zeros(masks.shape[:2], device=keys.device)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        positions = torch.arange(start, stop, device=keys.device)
        energy = attention_rows(queries[:, start:stop], keys[:, :stop], positions).square()
        total += (_kept_sums(energy, masks[..., :stop]) / energy.sum(-1)).clamp(max=1).sqrt().sum(-1)
    return total / n


def _per_head(kepts: list[Tensor], rows: Tensor, n: int | None = None) -> Tensor:
    """M kept sets as masks per query head: [M, Hq, n] in the rows' dtype."""
    heads, n = rows.shape[0], n or rows.shape[-1]
    masks = []
    for kept in kepts:
        mask = kept_mask(kept, n)
        _check_sets(kept, heads)
        masks.append(mask.repeat_interleave(heads // kept.shape[0], 0))
    dtype = rows.dtype if rows.dtype == torch.float64 else torch.float32
    return torch.stack(masks).to(dtype)


def _check_sets(kept: Tensor, query_heads: int) -> None:
    if kept.shape[0] == 0 or query_heads % kept.shape[0]:
        raise _misfit(kept.shape[0], f"{query_heads} query heads")


def _kept_sums(x: Tensor, masks: Tensor) -> Tensor:
    """Sums of x over the kept positions of each mask, in one pass: x [H, r, n], masks [M, H, n] -> [M, H, r]."""
    return torch.bmm(x, masks.permute(1, 2, 0)).permute(2, 0, 1)
