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

from .attention import PromptAttention, attention_logits, attention_rows, kept_outputs, output_rows
from .attention.checks import check_finite, check_heads
from .attention.gpu import kernels
from .errors import InputError
from .kept_sets import KeptSets, jaccard, misfit

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
    return mass(x, power)


def mass(x: Tensor, power: int = 1) -> Tensor:
    """The same without looking for NaN and infinity."""
    wide = torch.promote_types(x.dtype, torch.float32)
    # The norm converts and sums in one sweep; of absolute values it is slow on the CPU.
    return x.abs().sum(-1, dtype=wide) if power == 1 else torch.linalg.vector_norm(x, dim=-1, dtype=wide).square()


def masses(x: Tensor) -> Tensor:
    """`mass` for power 1 and power 2: [Hkv, n, d] -> [2, Hkv, n]."""
    if x.dtype != torch.float64 and (triton := kernels("attention.triton_rows", x)):
        return triton.masses(x)
    return torch.stack([mass(x, 1), mass(x, 2)])


def lost_share(mass: Tensor, kept: Tensor) -> Tensor:
    """Share of the mass on evicted positions: mass [Hkv, n], kept [S, b] -> [S]."""
    evicted, everything = evicted_mass(mass[None], kept_mask(kept, mass.shape[1])[None])
    return evicted[0, 0] / everything[0]


def lost_mean(mass: Tensor, kept: Tensor, head_dim: int) -> Tensor:
    """Mass on evicted positions per entry of the cache: mass [Hkv, n], kept [S, b] -> [S]."""
    evicted, _ = evicted_mass(mass[None], kept_mask(kept, mass.shape[1])[None])
    return evicted[0, 0] / entries_per_set(*mass.shape, len(kept), head_dim)


def evicted_mass(masses: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mass on evicted positions, of several masses under several methods at once.

    masses  [K, Hkv, n]
    masks   [M, S, n] bool, True for kept positions
    return  [M, K, S] mass on evicted positions of the heads that share a set, and [K, S] their whole mass
    raises InputError: sets that do not fit the KV heads.
    """
    heads, sets = masses.shape[1], masks.shape[1]
    if 0 < sets <= heads and heads % sets == 0:
        per_set, gone = masses.unflatten(1, (sets, -1)), ~masks[:, None, :, None]
    elif sets and sets % heads == 0:
        per_set, gone = masses.repeat_interleave(sets // heads, 1)[:, :, None], ~masks[:, None, :, None]
    else:
        raise misfit(sets, f"{heads} KV heads")
    return (per_set * gone).sum((-2, -1)), per_set.sum((-2, -1))


def entries_per_set(kv_heads: int, n: int, sets: int, head_dim: int) -> int:
    """Numbers in the cache of the KV heads that share one of `sets` kept sets."""
    return max(1, kv_heads // sets) * n * head_dim


def kept_mask(kept: Tensor, n: int) -> Tensor:
    """Kept positions as a mask: [S, b] -> [S, n] bool. InputError if `kept` is not a kept set of n positions."""
    return KeptSets([kept], n).groups[0][1][0]


def overlap(kept: Tensor, other: Tensor) -> Tensor:
    """Jaccard index of two kept sets, row by row: [S, b], [S, b'] -> [S] in 0..1."""
    n = int(max(kept.max(), other.max())) + 1
    return jaccard(kept_mask(kept, n), kept_mask(other, n))


def passage_survival(kept: Tensor, spans: Iterable[tuple[int, int]], n: int) -> tuple[Tensor, Tensor]:
    """What is left of passages of the prompt, such as the sentences that hold the answer.

    kept    [S, b]
    spans   passages as token positions (first, behind the last), at least one
    n       prompt tokens
    return  [S] share of the passages' tokens that stay, and [S] share of the passages that stay whole; float32
    raises InputError: no passage, an empty one, or one outside 0..n.
    """
    return survival(kept_mask(kept, n), spans)


def survival(mask: Tensor, spans: Iterable[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """The same for masks of kept positions: [..., n] bool -> [...] and [...]."""
    spans, n = list(spans), mask.shape[-1]
    for first, stop in spans:
        if not 0 <= first < stop <= n:
            raise InputError(f"passage {first}..{stop} does not fit {n} prompt tokens; give 0 <= first < stop <= {n}.")
    if not spans:
        raise InputError("no passage was given; at least one (first, stop) is needed.")
    stays = torch.stack([mask[..., first:stop].sum(-1) for first, stop in spans])
    whole = torch.stack([count == stop - first for count, (first, stop) in zip(stays, spans)])
    return stays.sum(0) / sum(stop - first for first, stop in spans), whole.float().mean(0)


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


class RowSums:
    """Sums of attention rows over what every method keeps; the metrics of rows are quotients of them.

    rows    [Hq, r, n] attention, or logits
    kepts   M kept sets; they may be those of a longer prompt
    """

    def __init__(self, rows: Tensor, kepts: KeptSets | list[Tensor]) -> None:
        self.rows, self.sets = rows, _sets(kepts, rows.shape[2])
        triton = kernels("attention.triton_rows", rows)
        if triton and rows.dtype == torch.float32 and triton.fits(rows.shape[1], 2 * len(self.sets) + 2):
            self._found = triton.kept_sums(rows, self.sets.masks(len(rows))[..., : rows.shape[2]])
        else:
            self._found = None

    def cosine(self, sink: bool = True) -> Tensor:
        """Cosine of each row with its zero-filled copies: [M, Hq, r]. `sink` as in `row_cosine`."""
        return cosine_of_sums(*self.sums(power=2, first=0 if sink else 1))

    def mass(self) -> Tensor:
        """Sum of each row over its kept positions: [M, Hq, r]."""
        return self.sums()[0]

    def sums(self, power: int = 1, first: int = 0) -> tuple[Tensor, Tensor]:
        """Of rows ** power from position `first` (0 or 1) on, over kept and over all: [M, Hq, r] and [Hq, r]."""
        if self._found is not None:
            sums = self._found[power - 1, first]
            return sums[:-1], sums[-1]
        x = self.rows[..., first:] if power == 1 else self.rows[..., first:].square()
        masks = self.sets.per_head(len(x), x.dtype)[..., first : self.rows.shape[2]]
        return torch.bmm(x, masks.permute(1, 2, 0)).permute(2, 0, 1), x.sum(-1)


def cosine_of_sums(kept: Tensor, everything: Tensor) -> Tensor:
    """Cosine of rows with their zero-filled copies, from sums of squares: [..., M, Hq, r] and [..., Hq, r]."""
    return (kept / everything.unsqueeze(-3)).clamp(max=1).sqrt()  # rounding can exceed 1


def row_cosine(rows: Tensor, kepts: KeptSets | list[Tensor], sink: bool = True) -> Tensor:
    """Cosine of each row with its zero-filled copies: rows [Hq, r, n], M kept sets -> [M, Hq, r].

    sink  False leaves position 0 out: as the attention sink it dominates the full cosine
    """
    return RowSums(rows, kepts).cosine(sink)


def row_mass(rows: Tensor, kepts: KeptSets | list[Tensor]) -> Tensor:
    """Share of each row on its kept positions: rows [Hq, r, n], M kept sets -> [M, Hq, r]."""
    return RowSums(rows, kepts).mass()


def row_output_cosine(rows: Tensor, values: Tensor, kepts: KeptSets | list[Tensor]) -> Tensor:
    """Cosine of the outputs of full and compressed rows: rows [Hq, r, n], values [Hkv, n, d] -> [M, Hq, r]."""
    full, sets, cosines = output_rows(rows, values), _sets(kepts, rows.shape[2]), []
    sets.masks(len(rows))  # says what does not fit
    for kept, _ in sets.groups:
        compressed = kept_outputs(rows, values, kept)
        # A cosine does not see the missing renormalisation.
        cosines.append((full * compressed).sum(-1) / (full.norm(dim=-1) * compressed.norm(dim=-1)))
    return sets.in_order(cosines)


def prompt_cosine(attention: PromptAttention, kepts: KeptSets | list[Tensor], rows: int = 64) -> Tensor:
    """Attention cosine averaged over all prompt queries: a second sweep over the causal attention.

    return [M, Hq] float32
    """
    queries, keys, n = attention.queries, attention.keys, attention.n
    sets = _sets(kepts, n)
    total = torch.zeros(len(sets), len(queries), device=keys.device)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        positions = torch.arange(start, stop, device=keys.device)
        total += row_cosine(attention_rows(queries[:, start:stop], keys[:, :stop], positions), sets).sum(-1)
    return total / n


def _sets(kepts: KeptSets | list[Tensor], n: int) -> KeptSets:
    return kepts if isinstance(kepts, KeptSets) else KeptSets(kepts, n)
