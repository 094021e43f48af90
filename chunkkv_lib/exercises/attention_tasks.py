"""Tasks about one layer: attention, the choice of what stays, and what was lost."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..attention import PromptAttention, attention_rows, column_sums, output_rows
from ..compressors import H2O, ChunkKV, SnapKV
from ..metrics import attention_cosine_similarity, attention_mass, kv_l1_loss, overlap
from . import inputs
from .task import Task

# --- pieces of right and of wrong answers -------------------------------------------------------------------------


def _rows(queries: Tensor, keys: Tensor, positions: Tensor | None = None, scale: bool = True, order=None) -> Tensor:
    """Attention rows [Hq, r, n] the plain way, with a mistake on request; `order` maps query heads to KV heads."""
    group, d = len(queries) // len(keys), keys.shape[2]
    heads = torch.arange(len(queries))
    logits = queries @ keys[heads // group if order is None else order(heads)].mT / (d**0.5 if scale else 1)
    if positions is not None:
        logits = logits.masked_fill(torch.arange(keys.shape[1]) > positions[:, None], -torch.inf)
    return logits.softmax(-1)


def _last(n: int, count: int) -> Tensor:
    return torch.arange(n - count, n)


def _window_rows(queries: Tensor, keys: Tensor, window: int, **mistake: object) -> Tensor:
    n = keys.shape[1]
    return _rows(queries[:, n - window :], keys, _last(n, window), **mistake)


def _all_rows(queries: Tensor, keys: Tensor, **mistake: object) -> Tensor:
    return _rows(queries, keys, torch.arange(keys.shape[1]), **mistake)


def _kept_mask(kept: Tensor, heads: int, n: int) -> Tensor:
    mask = torch.zeros(len(kept), n, dtype=torch.bool).scatter_(1, kept, True)
    return mask.repeat_interleave(heads // len(kept), 0)


def _window_attention(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    n = keys.shape[1]
    return attention_rows(queries[:, n - window :], keys, _last(n, window))


def _after(queries: Tensor, keys: Tensor) -> Tensor:
    """Positions of queries that come after the prompt."""
    return torch.arange(keys.shape[1], keys.shape[1] + queries.shape[1])


def _evicted_attention(query: Tensor, keys: Tensor, values: Tensor, kept: Tensor, again: bool = True) -> Tensor:
    rows = attention_rows(query[:, None], keys)[:, 0] * _kept_mask(kept, len(query), keys.shape[1])
    rows = rows / rows.sum(-1, keepdim=True) if again else rows
    return output_rows(rows[:, None], values)[:, 0]


def _wrong_head(heads: Tensor, count: int) -> Tensor:
    return heads % count


def _top(scores: Tensor, count: int) -> Tensor:
    """Positions of the `count` highest scores of each row, ascending; ties to the lower position."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :count].sort(dim=-1).values


def _with_window(scores: Tensor, n: int, budget: int, window: int = 8) -> Tensor:
    """The best of the positions before the window, and the window."""
    past = _top(scores[:, : n - window], budget - window)
    return torch.cat([past, _last(n, window).expand(len(scores), -1)], 1)


def _both_votes(queries: Tensor, keys: Tensor, budget: int, scaled: bool = True) -> Tensor:
    votes = [method.scores(PromptAttention(queries, keys)) for method in (H2O(), SnapKV())]
    if scaled:
        votes = [vote / vote.sum(-1, keepdim=True) for vote in votes]
    return _with_window(votes[0] + votes[1], keys.shape[1], budget)


def _largest(keys: Tensor, values: Tensor, budget: int) -> Tensor:
    sizes = [x.abs().sum(-1) for x in (keys, values)]
    return _top(sum(size / size.sum(-1, keepdim=True) for size in sizes), budget)


def _small_keys(queries: Tensor, keys: Tensor, budget: int, sign: int = -1) -> Tensor:
    return _with_window(sign * keys.norm(dim=-1), keys.shape[1], budget)


def _mass(x: Tensor, kept: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """Size of every token, and of the evicted ones, to a power: [Hkv, n] each."""
    size = x.abs().pow(power).sum(-1)
    return size, size * ~_kept_mask(kept, len(x), x.shape[1])


def _mean_of_ratios(x: Tensor, kept: Tensor) -> Tensor:
    size, gone = _mass(x, kept, 1)
    return (gone / size).mean(-1)


def _squared_loss(x: Tensor, kept: Tensor) -> Tensor:
    size, gone = _mass(x, kept, 2)
    return gone.sum(-1) / size.sum(-1)


# --- the tasks ----------------------------------------------------------------------------------------------------

NOT_SCALED = "the logits are not divided by the root of d."
NOT_CAUSAL = "queries look at later tokens: the causal mask is missing."
OTHER_HEAD = "query heads read the wrong KV head: h reads h // group (repeat_interleave, not repeat)."
_LAYER = "queries [Hq, n, d], keys [Hkv, n, d]"
_SELECTION = "-> kept [Hkv, budget], int64, ascending; window 8, the mean over the query heads of a KV head"
_CHOICE = {"draw": inputs.selection, "names": ("queries", "keys", "budget"), "tolerance": 0}

ATTENTION_TASKS: dict[str, Task] = {
    "evicted_attention": Task(
        "(query [Hq, d] of a new token, keys [Hkv, n, d], values [Hkv, n, d], kept [Hkv, b]) -> [Hq, d], what "
        "attention gives the new token when only the kept tokens are left",
        _evicted_attention, inputs.decoding_step, ("query", "keys", "values", "kept"),
        mistakes={
            "the shares of the kept tokens must add up to 1 again.": lambda *a: _evicted_attention(*a, again=False),
            "evicted tokens still take part.":
                lambda q, k, v, kept: output_rows(attention_rows(q[:, None], k), v)[:, 0],
        },
    ),
    "window_attention": Task(
        f"({_LAYER}, window) -> [Hq, window, n], causal attention of the last queries",
        _window_attention, inputs.window, ("queries", "keys", "window"),
        mistakes={
            NOT_CAUSAL: lambda q, k, w: _rows(q[:, -w:], k),
            NOT_SCALED: lambda q, k, w: _window_rows(q, k, w, scale=False),
            OTHER_HEAD: lambda q, k, w: _window_rows(q, k, w, order=lambda h: _wrong_head(h, len(k))),
        },
    ),
    "column_sums": Task(
        f"({_LAYER}) -> [Hq, n], causal attention that each key receives from all queries",
        column_sums, inputs.grouped_layer, ("queries", "keys"), tolerance=1e-3,
        mistakes={
            NOT_CAUSAL: lambda q, k: _rows(q, k).sum(1),
            NOT_SCALED: lambda q, k: _all_rows(q, k, scale=False).sum(1),
            OTHER_HEAD: lambda q, k: _all_rows(q, k, order=lambda h: _wrong_head(h, len(k))).sum(1),
            "this adds up over the keys, so each query gives 1; add up over the queries.":
                lambda q, k: _all_rows(q, k).sum(2),
            "this is the mean over the queries, not the sum.": lambda q, k: _all_rows(q, k).mean(1),
        },
    ),
    "tiled_sums": Task(
        f"({_LAYER}, lse [Hq, n], the log-sum-exp of each query's causal logits) -> [Hq, n], the column sums",
        column_sums, inputs.normalised, ("queries", "keys", "lse"), tolerance=1e-3,
        mistakes={
            NOT_CAUSAL: lambda q, k, lse: (
                q @ k.repeat_interleave(len(q) // len(k), 0).mT / q.shape[2] ** 0.5 - lse[..., None]
            ).exp().sum(1),
        },
    ),
    "snapkv": Task(
        f"(queries, keys, budget) {_SELECTION}; max-pool over 7 positions",
        lambda q, k, b: SnapKV(budget=b).select(q, k), **_CHOICE,
        mistakes={
            "neighbours are not pooled.": lambda q, k, b: SnapKV(budget=b, kernel=1).select(q, k),
            "this pools by the mean; take the maximum.": lambda q, k, b: SnapKV(budget=b, pooling="avg").select(q, k),
            "the window is not kept; it always stays.":
                lambda q, k, b: _top(attention_rows(q[:, -8:], k, _last(k.shape[1], 8)).sum(1).unflatten(
                    0, (len(k), -1)).mean(1), b),
        },
    ),
    "chunkkv": Task(
        f"(queries, keys, budget) {_SELECTION}; chunks of 10 by their sum",
        lambda q, k, b: ChunkKV(budget=b).select(q, k), **_CHOICE, rounds=30,
        mistakes={
            "these are the best single tokens; choose whole chunks.":
                lambda q, k, b: ChunkKV(budget=b, chunk_size=1).select(q, k),
            "a chunk's score is the sum of its tokens, not their mean: the last chunk may be short.":
                lambda q, k, b: ChunkKV(budget=b, aggregate="mean").select(q, k),
            "these are the scores of all queries; ask the window's alone.": lambda q, k, b: _with_window(
                _chunk_scores(column_sums(q, k)[:, :-8].unflatten(0, (len(k), -1)).mean(1)), k.shape[1], b),
        },
    ),
    "h2o": Task(
        f"(queries, keys, budget) {_SELECTION}; scores are the column sums of all prompt queries",
        lambda q, k, b: H2O(budget=b).select(q, k), **_CHOICE,
        mistakes={
            "only the window's queries vote; H2O asks all of them.":
                lambda q, k, b: SnapKV(budget=b, kernel=1).select(q, k),
            NOT_CAUSAL: lambda q, k, b: _with_window(
                _rows(q, k).sum(1).unflatten(0, (len(k), -1)).mean(1), k.shape[1], b),
            "the window is not kept; it always stays.":
                lambda q, k, b: _top(column_sums(q, k).unflatten(0, (len(k), -1)).mean(1), b),
        },
    ),
    "both_votes": Task(
        f"(queries, keys, budget) {_SELECTION}; scores are H2O's plus SnapKV's, each scaled to add up to 1",
        _both_votes, **_CHOICE,
        mistakes={
            "the scores are not scaled, so H2O's, which are larger, decide.":
                lambda q, k, b: _both_votes(q, k, b, scaled=False),
            "only H2O votes.": lambda q, k, b: H2O(budget=b).select(q, k),
            "only SnapKV votes.": lambda q, k, b: SnapKV(budget=b).select(q, k),
        },
    ),
    "small_keys": Task(
        "(queries, keys, budget) -> kept [Hkv, budget], int64, ascending; the last 8 positions, and before them those "
        "whose keys have the smallest L2 norm",
        _small_keys, **_CHOICE,
        mistakes={
            "these are the largest keys.": lambda q, k, b: _small_keys(q, k, b, sign=1),
            "the window is not kept; it always stays.": lambda q, k, b: _top(-k.norm(dim=-1), b),
            "this is the L1 norm.": lambda q, k, b: _with_window(-k.abs().sum(-1), k.shape[1], b),
        },
    ),
    "largest": Task(
        "(keys [Hkv, n, d], values [Hkv, n, d], budget) -> kept [Hkv, budget], int64, ascending: the positions with "
        "the largest share of the L1 mass of the head's keys plus that of its values",
        _largest, inputs.sized_cache, ("keys", "values", "budget"), tolerance=0,
        mistakes={
            "only the keys count.": lambda k, v, b: _top(k.abs().sum(-1), b),
            "only the values count.": lambda k, v, b: _top(v.abs().sum(-1), b),
            "keys and values are not divided by their sums, so the larger ones decide.":
                lambda k, v, b: _top(k.abs().sum(-1) + v.abs().sum(-1), b),
        },
    ),
    "kv_l1_loss": Task(
        "(x [Hkv, n, d], kept [Hkv, b]) -> [Hkv], share of the sum of |x| that is evicted",
        kv_l1_loss, inputs.cache, ("x", "kept"),
        mistakes={
            "this is the share that stays; the loss is what is gone.": lambda x, kept: 1 - kv_l1_loss(x, kept),
            "this adds up squares; take absolute values.": _squared_loss,
            "add up first and divide then: this gives every token the same weight.": _mean_of_ratios,
        },
    ),
    "attention_cosine": Task(
        "(queries [Hq, m, d] of the m tokens after the prompt, keys [Hkv, n, d], kept [Hkv, b]) -> [Hq, m], cosine "
        "of the attention over the prompt with the full and with the compressed cache",
        lambda q, k, kept: attention_cosine_similarity(q, k, kept, _after(q, k)),
        inputs.probes, ("queries", "keys", "kept"),
        mistakes={
            "this is the attention mass, the sum of the kept shares.":
                lambda q, k, kept: attention_mass(q, k, kept, _after(q, k)),
            "a root is missing: this is the square of the cosine.":
                lambda q, k, kept: attention_cosine_similarity(q, k, kept, _after(q, k)) ** 2,
            "this compares the logits; take the softmax first.": lambda q, k, kept: _logit_cosine(q, k, kept),
        },
    ),
    "overlap": Task(
        "(kept [S, b], other [S, b']) -> [S], Jaccard index of each pair of rows",
        overlap, inputs.two_sets, ("kept", "other"),
        mistakes={
            "divide by how many different positions both have together, not by the size of one set.":
                lambda a, b: _shared(a, b) / a.shape[1],
            "shared positions are counted twice below the line.":
                lambda a, b: _shared(a, b) / (a.shape[1] + b.shape[1]),
            "this is Dice's coefficient; its denominator counts shared positions twice.":
                lambda a, b: 2 * _shared(a, b) / (a.shape[1] + b.shape[1]),
        },
    ),
}  # fmt: skip


def _shared(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, :, None] == b[:, None, :]).sum((1, 2)).float()


def _logit_cosine(queries: Tensor, keys: Tensor, kept: Tensor) -> Tensor:
    logits = queries @ keys.repeat_interleave(len(queries) // len(keys), 0).mT
    mask = _kept_mask(kept, len(queries), keys.shape[1])[:, None]
    return cosine_similarity(logits, logits * mask, dim=-1)


def _chunk_scores(scores: Tensor, size: int = 10) -> Tensor:
    """Each position's chunk's sum: what a choice of whole chunks ranks by."""
    chunks = scores.split(size, dim=-1)
    return torch.cat([chunk.sum(-1, keepdim=True).expand_as(chunk) for chunk in chunks], -1)
