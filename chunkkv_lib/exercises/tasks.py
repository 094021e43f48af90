"""The tasks: what is right, written out the plain way in double precision, and which mistakes are common.

Every right answer is a function with keywords; a mistake is one keyword set wrong, so that two at once are told, too.
The tests hold every one of these functions against the library's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from . import inputs


@dataclass(frozen=True)
class Task:
    """Something a student can write."""

    summary: str  # what the function takes and returns
    right: Callable  # the arguments of one round -> the right answer; its keywords make mistakes
    draw: Callable[[torch.Generator], tuple]  # the arguments of one round
    names: tuple[str, ...]  # of these arguments
    # explanation -> keywords of `right`, or a function; told when a wrong answer is what these give
    mistakes: Mapping[str, Mapping | Callable] = field(default_factory=dict)
    tolerance: float = 1e-4  # relative and absolute; 0 for whole numbers, which must agree exactly
    rounds: int = 5  # how many inputs a check tries; more where a mistake shows on few of them
    # where positions are chosen: the arguments -> scores [S, p], so that another choice of equal scores passes, too
    scores: Callable | None = None
    no_table: bool = False  # whether a tensor with two dimensions of n is refused


# --- attention ----------------------------------------------------------------------------------------------------


def attention(
    queries: Tensor, keys: Tensor, positions: Tensor | None = None, causal: bool = True, mask_first: bool = True,
    scale: bool = True, own_head: bool = True, softmax: bool = True,
) -> Tensor:  # fmt: skip
    """Attention rows [Hq, r, n] of queries [Hq, r, d] at these positions of a prompt; None: after it."""
    heads = torch.arange(len(queries))
    shared = heads // (len(queries) // len(keys)) if own_head else heads % len(keys)
    logits = queries.double() @ keys[shared].double().mT / (keys.shape[2] ** 0.5 if scale else 1)
    if positions is None or not causal:
        return logits.softmax(-1) if softmax else logits
    later = torch.arange(keys.shape[1]) > positions[:, None]
    if mask_first:
        return logits.masked_fill(later, -torch.inf).softmax(-1)
    return logits.softmax(-1).masked_fill(later, 0)


def window_attention(queries: Tensor, keys: Tensor, window: int, **mistake: bool) -> Tensor:
    n = keys.shape[1]
    return attention(queries[:, n - window :], keys, torch.arange(n - window, n), **mistake)


def column_sums(queries: Tensor, keys: Tensor, over: int = 1, mean: bool = False, **mistake: bool) -> Tensor:
    rows = window_attention(queries, keys, keys.shape[1], **mistake)
    return rows.mean(over) if mean else rows.sum(over)


def tiled_sums(queries: Tensor, keys: Tensor, lse: Tensor, causal: bool = True, subtract: bool = True) -> Tensor:
    if causal and subtract:
        return column_sums(queries, keys)
    n, shared = keys.shape[1], keys.repeat_interleave(len(queries) // len(keys), 0)
    tables = (queries @ shared.mT / keys.shape[2] ** 0.5 - (lse[..., None] if subtract else 0)).exp()
    return (tables * (torch.ones(n, n).tril() if causal else 1)).sum(1)


def mask(kept: Tensor, heads: int, n: int) -> Tensor:
    """Kept positions [Hkv, b] as a mask of each query head [Hq, n]."""
    return torch.zeros(len(kept), n, dtype=torch.bool).scatter_(1, kept, True).repeat_interleave(heads // len(kept), 0)


def evicted_attention(
    query: Tensor, keys: Tensor, values: Tensor, kept: Tensor, again: bool = True, evict: bool = True, **mistake: bool
) -> Tensor:
    rows = attention(query[:, None], keys, **mistake)[:, 0]
    rows = rows * mask(kept, len(query), keys.shape[1]) if evict else rows
    rows = rows / rows.sum(-1, keepdim=True) if again else rows
    return (rows[:, None] @ values.repeat_interleave(len(query) // len(values), 0).double())[:, 0]


# --- choosing what stays ------------------------------------------------------------------------------------------


def votes(queries: Tensor, keys: Tensor, voters: int | None, columns: int | None = -8, **mistake: bool) -> Tensor:
    """Attention that positions before the window receive from the last `voters` queries (None: all), [Hkv, columns]."""
    rows = window_attention(queries, keys, voters or keys.shape[1], **mistake)[..., :columns].sum(1)
    return rows.unflatten(0, (len(keys), -1)).mean(1)


def best(scores: Tensor, count: int) -> Tensor:
    """Positions of the `count` highest scores of each row, ascending; ties to the lower position."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :count].sort(dim=-1).values


def with_window(past: Tensor, n: int) -> Tensor:
    return torch.cat([past, torch.arange(n - 8, n).expand(len(past), -1)], 1)


def snapkv_scores(
    queries: Tensor, keys: Tensor, budget: int, kernel: int = 7, pool: Callable = F.max_pool1d, cut_first: bool = True,
    **mistake: bool,
) -> Tensor:  # fmt: skip
    scores = votes(queries, keys, 8, -8 if cut_first else None, **mistake)
    return pool(scores[None], kernel, stride=1, padding=kernel // 2)[0][:, : keys.shape[1] - 8]


def h2o_scores(queries: Tensor, keys: Tensor, budget: int, voters: int | None = None, **mistake: bool) -> Tensor:
    return votes(queries, keys, voters, **mistake)


def both_scores(queries: Tensor, keys: Tensor, budget: int, scaled: bool = True, parts: tuple = (1, 1)) -> Tensor:
    found = h2o_scores(queries, keys, budget), snapkv_scores(queries, keys, budget)
    return sum(part * (x / x.sum(-1, keepdim=True) if scaled else x) for part, x in zip(parts, found))


def small_scores(queries: Tensor, keys: Tensor, budget: int, sign: int = -1, power: int = 2) -> Tensor:
    return sign * keys[:, :-8].double().norm(power, dim=-1)


def largest_scores(keys: Tensor, values: Tensor, budget: int, scaled: bool = True, parts: tuple = (1, 1)) -> Tensor:
    sizes = [x.abs().double().sum(-1) for x in (keys, values)]
    return sum(part * (size / size.sum(-1, keepdim=True) if scaled else size) for part, size in zip(parts, sizes))


def choice(scores: Callable) -> Callable:
    """The rule that keeps the best by these scores, and the last 8 positions besides."""

    def right(queries: Tensor, keys: Tensor, budget: int, **mistake: object) -> Tensor:
        return with_window(best(scores(queries, keys, budget, **mistake), budget - 8), keys.shape[1])

    return right


def chunkkv(
    queries: Tensor, keys: Tensor, budget: int, size: int = 10, mean: bool = False, part: str = "first",
    voters: int | None = 8, **mistake: bool,
) -> Tensor:  # fmt: skip
    """Chunks by their score; of the last one that fits only partly its first, last or best tokens, or none."""
    scores, kept = votes(queries, keys, voters, **mistake), []
    for row in scores:
        chunks = [(float(x.mean() if mean else x.sum()), -i * size) for i, x in enumerate(row.split(size))]
        room, found = budget - 8, []
        for _, start in sorted(chunks, reverse=True):
            chunk = list(range(-start, min(size - start, len(row))))
            left = room - len(found)
            if left < len(chunk):
                ranked = {"first": chunk, "last": chunk[::-1], "best": sorted(chunk, key=lambda i: -row[i]), "none": []}
                chunk = ranked[part][:left]
            found += chunk
            if left <= len(chunk) or (part == "none" and not chunk):
                break
        kept.append(torch.tensor(sorted(found), dtype=torch.int64))
    return with_window(torch.stack(kept), keys.shape[1])


# --- what was lost ------------------------------------------------------------------------------------------------


def kv_l1_loss(x: Tensor, kept: Tensor, gone: bool = True, power: int = 1, add_first: bool = True) -> Tensor:
    size = x.abs().double().pow(power).sum(-1)
    lost = size * (mask(kept, len(x), x.shape[1]) != gone)
    return lost.sum(-1) / size.sum(-1) if add_first else (lost / size).mean(-1)


def attention_cosine(
    queries: Tensor, keys: Tensor, kept: Tensor, what: str = "cosine", scale: bool = True, own_head: bool = True
) -> Tensor:
    rows = attention(queries, keys, scale=scale, own_head=own_head, softmax=what != "logits")
    left = rows * mask(kept, len(queries), keys.shape[1])[:, None]
    if what == "mass":
        return left.sum(-1)
    return F.cosine_similarity(rows, left, dim=-1) ** (2 if what == "square" else 1)


def overlap(kept: Tensor, other: Tensor, below: str = "union", times: int = 1) -> Tensor:
    shared, (a, b) = (kept[:, :, None] == other[:, None, :]).sum((1, 2)).double(), (kept.shape[1], other.shape[1])
    return times * shared / {"union": a + b - shared, "one": a, "sum": a + b}[below]


# --- numbers ------------------------------------------------------------------------------------------------------


def budget_tokens(budget: float | int, n: int, rounding: Callable = round, least: int = 1, counts: bool = True) -> int:
    return budget if counts and isinstance(budget, int) else max(least, int(rounding(n * budget)))


def kv_cache_bytes(
    tokens: int, layers: int, kv_heads: int, head_dim: int, bytes_per_number: int, both: int = 2, bits: int = 1,
    every_layer: bool = True,
) -> int:  # fmt: skip
    return both * bits * tokens * (layers if every_layer else 1) * kv_heads * head_dim * bytes_per_number


def truncate_middle(ids: tuple, limit: int, fits: bool = True, first: int | None = None, last: int | None = None):
    if fits and len(ids) <= limit:
        return ids
    first, last = ((limit + 1) // 2, limit // 2) if first is None else (first(limit), last(limit))
    return (*ids[:first], *ids[len(ids) - last :])


def layers_first(values: np.ndarray, axis: int | None = 1, holes: str = "left out") -> float:
    if holes != "left out":
        return float((np.nan_to_num(values) if holes == "0" else values).mean())
    return float(np.nanmean(values) if axis is None else np.nanmean(values, axis=axis).mean())


def holm(
    p: np.ndarray, steps: str = "holm", in_place: bool = True, monotone: bool = True, at_most: float = 1
) -> np.ndarray:
    """Holm: the i-th smallest of m p-values times m - i + 1. Benjamini-Hochberg, from the largest down: times m / i."""
    order, m = np.argsort(p), len(p)
    factor = {"holm": np.arange(m, 0, -1), "bonferroni": np.full(m, m), "fdr": m / np.arange(1, m + 1)}[steps]
    found = p[order] * factor
    if monotone and steps == "fdr":
        found = np.minimum.accumulate(found[::-1])[::-1]
    elif monotone and steps == "holm":
        found = np.maximum.accumulate(found)
    found = np.minimum(at_most, found)
    return found[np.argsort(order)] if in_place else found


def sign_flip(difference: np.ndarray, sides: int = 2, compare: Callable = np.greater_equal) -> float:
    """All signs, equally likely; a little slack, so that equal means count as equal whatever was added first."""
    means = np.array(list(product((-1, 1), repeat=len(difference)))) @ difference / len(difference)
    seen, slack = difference.mean(), 1e-12 if compare is np.greater_equal else -1e-12
    means, seen = (np.abs(means), abs(seen)) if sides == 2 else (means, seen)
    return float(compare(means + slack, seen).mean())


def rank_agreement(x: np.ndarray, y: np.ndarray, ranks: bool = True, within: bool = True) -> float:
    agree = (lambda a, b: stats.spearmanr(a, b).statistic) if ranks else (lambda a, b: np.corrcoef(a, b)[0, 1])
    return float(np.mean([agree(a, b) for a, b in zip(x, y, strict=True)]) if within else agree(x.ravel(), y.ravel()))


# --- the tasks ----------------------------------------------------------------------------------------------------

WRONG_LOGITS = {
    "the logits are not divided by the root of d.": {"scale": False},
    "query heads read the wrong KV head: h reads h // group (repeat_interleave, not repeat).": {"own_head": False},
}
WINDOW_NOT_CAUSAL = {
    "the window's queries may not look at later tokens: mask them before the softmax.": {"causal": False}
}
NOT_CAUSAL = {"queries look at later tokens: the causal mask is missing.": {"causal": False}}
MASK_LATE = {
    "the mask comes before the softmax, so that the shares of what is left add up to 1.": {"mask_first": False}
}
LOST_WINDOW = "the window is not kept; it always stays."
_LAYER = "queries [Hq, n, d], keys [Hkv, n, d]"
_KEPT = (
    "-> kept [Hkv, budget], int64, ascending: the last 8 positions, the window, and before it the positions with the "
    "highest scores; ties go to the lower position (other positions of the same score pass, too)"
)
_VOTES = (
    "Scores of the positions before the window: attention of the window's queries, summed over them, mean over the "
)
_CHOICE = {
    "draw": inputs.layer_and_number(14, 38),
    "names": ("queries", "keys", "budget"),
    "tolerance": 0,
    "rounds": 20,
}
_NO_TABLE = "without a tensor that has two dimensions of n"

TASKS: dict[str, Task] = {
    "budget_tokens": Task(
        "(budget, n) -> how many of n tokens stay: round(n * budget) of a float, at least 1; an int is a count",
        budget_tokens, inputs.budget_and_length, ("budget", "n"), tolerance=0, rounds=40,
        mistakes={
            "a float is rounded to the nearest whole number, not down.": {"rounding": int},
            "a float is rounded to the nearest whole number, not up.": {"rounding": np.ceil},
            "something always stays: at least 1 token.": {"least": 0},
            "an int is a count of tokens, not a fraction; look at the type.": {"counts": False},
        },
    ),
    "kv_cache_bytes": Task(
        "(tokens, layers, kv_heads, head_dim, bytes_per_number) -> bytes of one sequence's KV cache",
        kv_cache_bytes, inputs.cache_sizes, ("tokens", "layers", "kv_heads", "head_dim", "bytes_per_number"),
        tolerance=0,
        mistakes={
            "keys *and* values are stored: a factor of 2 is missing.": {"both": 1},
            "these are bits; a byte has 8.": {"bits": 8},
            "every layer has a cache of its own.": {"every_layer": False},
        },
    ),
    "truncate_middle": Task(
        "(ids, limit) -> the ids that stay: all if they fit, else the first and the last half of `limit`; an odd "
        "limit gives its extra token to the first half",
        truncate_middle, inputs.tokens_and_limit, ("ids", "limit"), tolerance=0, rounds=40,
        mistakes={
            "this drops the end; what goes is the middle.": {"first": lambda limit: limit, "last": lambda limit: 0},
            "this drops the beginning; what goes is the middle.": {"first": lambda limit: 0, "last": lambda x: x},
            "a prompt that fits stays as it is.": {"fits": False},
            "an odd limit loses a token when both halves are rounded down.":
                {"first": lambda limit: limit // 2, "last": lambda limit: limit // 2},
            "the extra token of an odd limit belongs to the first half.":
                {"first": lambda limit: limit // 2, "last": lambda limit: limit - limit // 2},
        },
    ),
    "window_attention": Task(
        f"({_LAYER}, window) -> [Hq, window, n], causal attention of the last queries",
        window_attention, inputs.layer_and_number(2, 9), ("queries", "keys", "window"),
        mistakes=NOT_CAUSAL | MASK_LATE | WRONG_LOGITS,
    ),
    "evicted_attention": Task(
        "(query [Hq, d] of a new token, keys [Hkv, n, d], values [Hkv, n, d], kept [Hkv, b]) -> [Hq, d], what "
        "attention gives the new token when only the kept tokens are left",
        evicted_attention, inputs.decoding_step, ("query", "keys", "values", "kept"),
        mistakes=WRONG_LOGITS | {
            "the shares of the kept tokens must add up to 1 again.": {"again": False},
            "evicted tokens still take part.": {"evict": False},
        },
    ),
    "column_sums": Task(
        f"({_LAYER}) -> [Hq, n], causal attention that each key receives from all queries, {_NO_TABLE}",
        column_sums, inputs.long_layer, ("queries", "keys"), tolerance=1e-3, rounds=3, no_table=True,
        mistakes=NOT_CAUSAL | MASK_LATE | WRONG_LOGITS | {
            "this adds up over the keys, so each query gives 1; add up over the queries.": {"over": 2},
            "this is the mean over the queries, not the sum.": {"mean": True},
        },
    ),
    "tiled_sums": Task(
        f"({_LAYER}, lse [Hq, n], the log-sum-exp of each query's causal logits) -> [Hq, n], the column sums, "
        f"{_NO_TABLE}",
        tiled_sums, inputs.normalised, ("queries", "keys", "lse"), tolerance=1e-3, rounds=3, no_table=True,
        mistakes=NOT_CAUSAL | {"subtract each query's log-sum-exp before the exponential.": {"subtract": False}},
    ),
    "snapkv": Task(
        f"(queries, keys, budget) {_KEPT}. {_VOTES}the query heads of a KV head, then the maximum over 7 neighbouring "
        "positions, of those before the window",
        choice(snapkv_scores), **_CHOICE, scores=snapkv_scores,
        mistakes=WRONG_LOGITS | WINDOW_NOT_CAUSAL | {
            "neighbours are not pooled.": {"kernel": 1},
            "this pools by the mean; take the maximum.": {"pool": F.avg_pool1d},
            "cut the window off before pooling, else it lends its scores to its neighbours.": {"cut_first": False},
            LOST_WINDOW: lambda q, k, b: best(F.max_pool1d(votes(q, k, 8, None)[None], 7, 1, 3)[0], b),
        },
    ),
    "chunkkv": Task(
        "(queries, keys, budget) -> kept [Hkv, budget], int64, ascending: the last 8 positions, the window, and before "
        f"it the best chunks of 10 positions, counted from 0, until the budget is full; of the last one only its first "
        f"tokens that fit. {_VOTES}the query heads of a KV head; a chunk's score is the sum of its positions' scores; "
        "ties go to the lower chunk",
        chunkkv, **_CHOICE | {"rounds": 30},
        mistakes=WRONG_LOGITS | WINDOW_NOT_CAUSAL | {
            "these are the best single tokens; choose whole chunks.": {"size": 1},
            "a chunk's score is the sum of its tokens, not their mean: the last chunk may be short.": {"mean": True},
            "of the chunk that does not fit whole its *first* tokens stay, not its last.": {"part": "last"},
            "of the chunk that does not fit whole its *first* tokens stay, not its best.": {"part": "best"},
            "these are whole chunks only; fill the budget with the first tokens of the next one.": {"part": "none"},
            "these are the scores of all queries; ask the window's alone.": {"voters": None},
        },
    ),
    "h2o": Task(
        f"(queries, keys, budget) {_KEPT}. Scores: column sums of the causal attention of all prompt queries, mean "
        "over the query heads of a KV head",
        choice(h2o_scores), **_CHOICE, scores=h2o_scores,
        mistakes=WRONG_LOGITS | NOT_CAUSAL | MASK_LATE | {
            "only the window's queries vote; H2O asks all of them.": {"voters": 8},
            LOST_WINDOW: lambda q, k, b: best(votes(q, k, None, None), b),
        },
    ),
    "both_votes": Task(
        f"(queries, keys, budget) {_KEPT}. Scores: H2O's plus SnapKV's, each divided by its sum over the positions "
        "before the window",
        choice(both_scores), **_CHOICE, scores=both_scores,
        mistakes={
            "the scores are not scaled, so H2O's, which are larger, decide.": {"scaled": False},
            "only H2O votes.": {"parts": (1, 0)},
            "only SnapKV votes.": {"parts": (0, 1)},
        },
    ),
    "small_keys": Task(
        f"(queries, keys, budget) {_KEPT}. Score: minus the L2 norm of the key",
        choice(small_scores), **_CHOICE, scores=small_scores,
        mistakes={
            "these are the largest keys.": {"sign": 1},
            "this is the L1 norm.": {"power": 1},
            LOST_WINDOW: lambda q, k, b: best(-k.norm(dim=-1), b),
        },
    ),
    "largest": Task(
        "(keys [Hkv, n, d], values [Hkv, n, d], budget) -> kept [Hkv, budget], int64, ascending: the positions with "
        "the largest share of the L1 mass of the head's keys plus that of its values",
        lambda k, v, b, **mistake: best(largest_scores(k, v, b, **mistake), b),
        inputs.sized_cache, ("keys", "values", "budget"), tolerance=0, scores=largest_scores,
        mistakes={
            "only the keys count.": {"parts": (1, 0)},
            "only the values count.": {"parts": (0, 1)},
            "keys and values are not divided by their sums, so the larger ones decide.": {"scaled": False},
        },
    ),
    "kv_l1_loss": Task(
        "(x [Hkv, n, d], kept [Hkv, b]) -> [Hkv], share of the sum of |x| that is evicted",
        kv_l1_loss, inputs.cache, ("x", "kept"),
        mistakes={
            "this is the share that stays; the loss is what is gone.": {"gone": False},
            "this adds up squares; take absolute values.": {"power": 2},
            "add up first and divide then: this gives every token the same weight.": {"add_first": False},
        },
    ),
    "attention_cosine": Task(
        "(queries [Hq, m, d] of the m tokens after the prompt, keys [Hkv, n, d], kept [Hkv, b]) -> [Hq, m], cosine "
        "of the attention over the prompt with the full and with the compressed cache",
        attention_cosine, inputs.probes, ("queries", "keys", "kept"),
        mistakes=WRONG_LOGITS | {
            "this is the attention mass, the sum of the kept shares.": {"what": "mass"},
            "a root is missing: this is the square of the cosine.": {"what": "square"},
            "this compares the logits; take the softmax first.": {"what": "logits"},
        },
    ),
    "overlap": Task(
        "(kept [S, b], other [S, b']) -> [S], Jaccard index of each pair of rows",
        overlap, inputs.two_sets, ("kept", "other"),
        mistakes={
            "divide by how many different positions both have together, not by the size of one set.": {"below": "one"},
            "shared positions are counted twice below the line.": {"below": "sum"},
            "this is Dice's coefficient; its denominator counts shared positions twice.": {"below": "sum", "times": 2},
        },
    ),
    "layers_first": Task(
        "(values [sequences, layers], some of them nan) -> the mean over layers, then over sequences",
        layers_first, inputs.values_with_gaps, ("values",), tolerance=1e-6,
        mistakes={
            "this averages everything at once: sequences with more values count more.": {"axis": None},
            "this averages over sequences first; the mean over layers comes first.": {"axis": 0},
            "missing values count as 0; leave them out.": {"holes": "0"},
            "one missing value makes everything nan; leave it out (np.nanmean).": {"holes": "left in"},
        },
    ),
    "holm": Task(
        "(p [m]) -> [m], Holm's corrected p-values in the order given, none above 1",
        holm, inputs.p_values, ("p",), tolerance=1e-6, rounds=10,
        mistakes={
            "this is Bonferroni's correction: only the smallest p-value is multiplied by m.": {"steps": "bonferroni"},
            "this is Benjamini and Hochberg's correction, of the false discovery rate.": {"steps": "fdr"},
            "the corrected values are in ascending order; put them back where the p-values stood.":
                {"in_place": False},
            "a corrected value may not fall below that of a smaller p-value.": {"monotone": False},
            "a p-value above 1 makes no sense; cut it there.": {"at_most": np.inf},
        },
    ),
    "sign_flip": Task(
        "(difference [n]) -> two-sided p: the share of random signs under which the mean is at least as far from 0",
        sign_flip, inputs.differences, ("difference",), tolerance=0.02,  # room for ten thousand random signs
        mistakes={
            "this counts one side only; compare absolute values.": {"sides": 1},
            "as far from 0 counts too: at least, not more than.": {"compare": np.greater},
            "this is the share of means that are nearer to 0.": {"compare": np.less},
        },
    ),
    "rank_agreement": Task(
        "(x [sequences, settings], y [sequences, settings]) -> Spearman's correlation of x and y over the settings, "
        "for each sequence by itself, then the mean",
        rank_agreement, inputs.two_tables, ("x", "y"), tolerance=1e-6,
        mistakes={
            "this ranks all sequences together; rank within each.": {"within": False},
            "this correlates the values; Spearman correlates their ranks.": {"ranks": False},
            "this ranks the sequences for each setting; rank the settings for each sequence.":
                lambda x, y: rank_agreement(x.T, y.T),
        },
    ),
}  # fmt: skip
