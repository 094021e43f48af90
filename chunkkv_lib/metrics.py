"""What a compressed KV cache lost: pure functions of tensors and kept positions. The recorded columns are these.

Shapes: x `[Hkv, n, d]` one layer's keys (after RoPE) or values; `kept [S, b]` int64 ascending, S = Hkv, Hq or 1;
probe queries q `[Hq, probes, d]` with their absolute `positions [probes]`, each seeing the prompt's keys 0..position.
Everything is computed in float32 or better.

The ChunkKV paper (arXiv 2502.00299) names a "KV cache L1 loss" and an "attention cosine similarity"; its appendix A.1
prints no formula for either. The definitions here are ours; the chapter on metrics compares the plausible ones.

Functions whose first argument is a `mass` or `rows` take what another step has already computed, and do not look for
NaN: a measurement of many methods computes it once.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .attention import PromptAttention, attention_rows, check_finite, check_heads, output_rows
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
    check_cache(x, kept)
    return lost_share(token_mass(x), kept)


def kv_l1_absolute(x: Tensor, kept: Tensor) -> Tensor:
    """Mean absolute difference between a cache and its zero-filled compressed copy, per entry.

    x [Hkv, n, d], kept [S, b] -> [S] float32, in the cache's own unit, so it follows each layer's scale.
    """
    check_cache(x, kept)
    return lost_mean(token_mass(x), kept, x.shape[2])


def cache_cosine(x: Tensor, kept: Tensor) -> Tensor:
    """Cosine between a flattened cache and its zero-filled compressed copy.

    x [Hkv, n, d], kept [S, b] -> [S] float32: the root of the kept share of the squared norm.
    Anchor: random positions give about sqrt(b/n), 0.316 at 10 %.
    """
    check_cache(x, kept)
    return (1 - lost_share(token_mass(x, power=2), kept)).sqrt()


def token_mass(x: Tensor, power: int = 1) -> Tensor:
    """Sum of |x| ** power over the head dimension: [Hkv, n, d] -> [Hkv, n], power 1 or 2."""
    wide = torch.promote_types(x.dtype, torch.float32)
    # The norm converts and sums in one sweep; of absolute values it is slow on the CPU.
    return x.abs().sum(-1, dtype=wide) if power == 1 else torch.linalg.vector_norm(x, dim=-1, dtype=wide).square()


def lost_share(mass: Tensor, kept: Tensor) -> Tensor:
    """Share of the mass on evicted positions: mass [Hkv, n], kept [S, b] -> [S] in 0..1."""
    mass = _mass_of_sets(mass, kept)
    return (1 - mass.gather(1, kept).sum(-1) / mass.sum(-1)).clamp(min=0)  # rounding can fall below 0


def lost_mean(mass: Tensor, kept: Tensor, head_dim: int) -> Tensor:
    """Mass on evicted positions per entry of the cache: mass [Hkv, n], kept [S, b] -> [S]."""
    lost = lost_share(mass, kept) * _mass_of_sets(mass, kept).sum(-1)
    return lost / (max(1, len(mass) // len(kept)) * mass.shape[1] * head_dim)  # entries of the heads that share a set


def _mass_of_sets(mass: Tensor, kept: Tensor) -> Tensor:
    """Mass per kept set, that of heads which share one added up: [Hkv, n] -> [S, n]; InputError if S does not fit."""
    heads, sets = len(mass), len(kept)
    if sets and heads % sets == 0:
        return mass.unflatten(0, (sets, -1)).sum(1)
    if sets and sets % heads == 0:
        return mass.repeat_interleave(sets // heads, 0)
    raise _misfit(sets, f"{heads} KV heads")


def check_cache(x: Tensor, kept: Tensor) -> None:
    """Raise InputError unless x [Hkv, n, d] is finite and `kept` a kept set of its n positions."""
    if x.dim() != 3:
        raise InputError(f"the cache has shape {tuple(x.shape)}; expected [KV heads, tokens, head dimension].")
    check_finite("the cache's entries", x)
    check_kept(kept, x.shape[1])


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
    return row_cosine(_checked_rows(q, keys, kept, positions), kept)


def attention_mass(q: Tensor, keys: Tensor, kept: Tensor, positions: Tensor) -> Tensor:
    """Share of a probe's attention over the prompt that falls on kept positions. Shapes as above -> [Hq, probes]."""
    return row_mass(_checked_rows(q, keys, kept, positions), kept)


def attention_output_cosine(q: Tensor, keys: Tensor, values: Tensor, kept: Tensor, positions: Tensor) -> Tensor:
    """Cosine between the attention outputs over the full prompt and over its kept positions.

    values [Hkv, n, d]; the rest as above -> [Hq, probes] in -1..1. NaN where a probe attends to nothing that stays.
    """
    rows = _checked_rows(q, keys, kept, positions)
    if values.shape[:2] != keys.shape[:2] or values.dim() != 3:
        both = f"values have shape {tuple(values.shape)} and keys {tuple(keys.shape)}"
        raise InputError(f"{both}; pass both [KV heads, tokens, head dimension] from the same layer.")
    check_finite("values", values)
    return output_cosine(output_rows(rows, values), kept_outputs(rows, values, kept))


def row_cosine(rows: Tensor, kept: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Cosine of each row of attention (or logits) with its zero-filled copy: rows [Hq, r, n], kept [S, b] -> [Hq, r].

    It is the length of the kept part over that of the whole, lengths [Hq, r], computed if None.
    """
    lengths = rows.norm(dim=-1) if lengths is None else lengths
    return (kept_entries(rows, kept).norm(dim=-1) / lengths).clamp(max=1)  # rounding can exceed 1


def row_mass(rows: Tensor, kept: Tensor) -> Tensor:
    """Sum of each row over its kept positions: rows [Hq, r, n], kept [S, b] -> [Hq, r]."""
    return kept_entries(rows, kept).sum(-1)


def output_cosine(full: Tensor, compressed: Tensor) -> Tensor:
    """Cosine of attention outputs: [Hq, r, d] twice -> [Hq, r]. It does not see that the rows are not renormalised."""
    return (full * compressed).sum(-1) / (full.norm(dim=-1) * compressed.norm(dim=-1))


def kept_outputs(rows: Tensor, values: Tensor, kept: Tensor) -> Tensor:
    """Attention outputs over kept positions alone: rows [Hq, r, n], values [Hkv, n, d], kept [S, b] -> [Hq, r, d]."""
    some = kept_entries(rows, kept)
    heads = max(len(values), len(kept))  # as many as differ in their values or in what they keep
    mine = kept.repeat_interleave(heads // len(kept), 0)  # [heads, b]
    owner = torch.arange(heads, device=rows.device)[:, None] // (heads // len(values))
    stacked = some.reshape(heads, -1, kept.shape[1])
    return torch.matmul(stacked, values[owner, mine].to(rows.dtype)).view(*rows.shape[:2], -1)


def kept_entries(rows: Tensor, kept: Tensor) -> Tensor:
    """The entries of rows at each head's kept positions: rows [Hq, r, n], kept [S, b] -> [Hq, r, b]."""
    heads, r, n = rows.shape
    sets, tokens = kept.shape
    if sets == 0 or heads % sets:
        raise _misfit(sets, f"{heads} query heads")
    of_sets = rows.reshape(sets, -1, n)
    return of_sets.gather(2, kept[:, None].expand(-1, of_sets.shape[1], -1)).view(heads, r, tokens)


def with_later(outputs: Tensor, mass: Tensor, share: Tensor, later: Tensor) -> Tensor:
    """Attention outputs of probes that read what is there of the prompt, and all tokens after it up to their own.

    outputs  [Hq, r, d] sum of the values of the prompt's tokens that are there, weighted by attention over the prompt
    mass     [Hq, r] the weights' sum: 1 where the whole prompt is there
    share    [Hq, r] part of a probe's attention over everything that falls on the prompt, when all of it is there
    later    [Hq, r, d] the probe's output over the later tokens alone
    """
    share = share[..., None]
    return (share * outputs + (1 - share) * later) / (share * mass[..., None] + 1 - share)


def injected_error(full: Tensor, compressed: Tensor, output_weight: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """How far eviction moves the residual stream: |W_O (o_full - o_compressed)| / |residual|.

    full, compressed  [Hq, r, d] the probes' attention outputs, `with_later`
    output_weight     [hidden, Hq * d]
    residual          [r, hidden] the stream that the layer's output is added to (some models, such as Gemma 2 and
                      Granite, normalise or scale it first; that is left out)
    return            [r] for all heads together, and [Hq, r] for each head alone
    """
    per_head = output_weight.to(full.dtype).unflatten(1, (len(full), -1)).permute(1, 2, 0)  # [Hq, d, hidden]
    moved = torch.bmm(full - compressed, per_head)  # [Hq, r, hidden]
    size = residual.to(full.dtype).norm(dim=-1)
    return moved.sum(0).norm(dim=-1) / size, moved.norm(dim=-1) / size


def prompt_cosine(attention: PromptAttention, kept_sets: Sequence[Tensor], rows: int = 64) -> Tensor:
    """Attention cosine averaged over all prompt queries, for M kept sets: a second sweep over the causal attention.

    return [M, Hq] float32
    """
    queries, keys, n = attention.queries, attention.keys, attention.n
    total = torch.zeros(len(kept_sets), len(queries), dtype=torch.float32, device=keys.device)
    for tile, positions in zip(queries.split(rows, 1), torch.arange(n, device=keys.device).split(rows)):
        seen = attention_rows(tile, keys, positions)
        total += torch.stack([row_cosine(seen, kept).sum(-1) for kept in kept_sets])
    return total / n


def _checked_rows(q: Tensor, keys: Tensor, kept: Tensor, positions: Tensor) -> Tensor:
    check_heads(q, keys)
    if q.shape[1] == 0:
        raise InputError("there are 0 probe queries; at least 1 is needed. Pass the queries that will read the cache.")
    check_finite("probe queries", q)
    check_finite("keys", keys)
    if not isinstance(positions, Tensor) or positions.dtype != torch.int64 or positions.shape != q.shape[1:2]:
        raise InputError(f"positions must be an int64 tensor, an absolute one for each of {q.shape[1]} probe queries.")
    if int(positions.min()) < 0:
        raise InputError(f"a probe has position {int(positions.min())}; positions start at 0.")
    check_kept(kept, keys.shape[1])
    return attention_rows(q, keys, positions)


def _misfit(sets: int, heads: str) -> InputError:
    return InputError(f"{sets} kept sets do not fit {heads}; give one per KV head, one per query head, or one for all.")


# --- kept sets themselves -----------------------------------------------------------------------------------------


def overlap(kept: Tensor, other: Tensor) -> Tensor:
    """Jaccard index of two kept sets, row by row: [S, b], [S, b'] -> [S] in 0..1."""
    if not kept.numel() or not other.numel():
        raise InputError("a kept set is empty; an overlap needs at least one position in each.")
    at = torch.searchsorted(other.contiguous(), kept.contiguous()).clamp(max=other.shape[1] - 1)  # both ascend
    both = (other.gather(1, at) == kept).float().sum(-1)
    return both / (kept.shape[1] + other.shape[1] - both)


def pages_freed(kept: Tensor, n: int, page: int = 16) -> Tensor:
    """Share of a layer's pages of `page` tokens in which no set keeps anything, so that a paged cache can free them.

    kept [S, b], n prompt tokens (the last page may be short) -> a number in 0..1
    """
    used = torch.zeros(-(-n // page), dtype=torch.float32, device=kept.device)
    return 1 - used.index_fill_(0, (kept // page).flatten(), 1.0).mean()


def passage_survival(kept: Tensor, spans: Iterable[tuple[int, int]], n: int) -> tuple[Tensor, Tensor]:
    """What is left of passages of the prompt, such as the sentences that hold the answer.

    kept    [S, b]
    spans   passages as token positions (start, end), end exclusive; at least one
    n       prompt tokens
    return  [S] share of the passages' tokens that stay, and [S] share of the passages that stay whole; float32
    raises InputError: no passage, an empty one, or one outside 0..n.
    """
    spans = list(spans)
    for start, end in spans:
        if not 0 <= start < end <= n:
            raise InputError(f"passage {start}..{end} does not fit {n} prompt tokens; give 0 <= start < end <= {n}.")
    if not spans:
        raise InputError("no passage was given; at least one (start, end) is needed.")
    stays = torch.stack([((kept >= start) & (kept < end)).sum(-1) for start, end in spans])
    whole = torch.stack([count == end - start for count, (start, end) in zip(stays, spans)])
    return stays.float().sum(0) / sum(end - start for start, end in spans), whole.float().mean(0)
