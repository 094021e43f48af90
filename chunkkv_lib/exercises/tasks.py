"""The tasks: what is right, written out the plain way in double precision, and which mistakes are common.

Every right answer is a function with keywords; a mistake is one keyword set wrong, so that two at once are told, too.
The tests hold every one of these functions against the library's own.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from scipy import stats
from torch import Tensor

from . import inputs


@dataclass(frozen=True)
class Task:
    """Something a student can write."""

    right: Callable  # the arguments of one round -> the right answer; its keywords make mistakes
    draw: Callable[[torch.Generator], tuple]  # the arguments of one round
    # explanation -> keywords of `right`, or a function; told when a wrong answer is what these give
    mistakes: Mapping[str, Mapping | Callable]
    tolerance: float = 1e-4  # relative and absolute; 0 for whole numbers, which must agree exactly
    rounds: int = 5  # how many inputs a check tries; more where a mistake shows on few of them
    # where positions are chosen: the arguments -> scores [S, p], so that another choice of equal scores passes, too
    scores: Callable | None = None
    no_table: bool = False  # whether a tensor with two dimensions of n is refused

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arguments: those of the right answer that are no mistakes."""
        parameters = inspect.signature(self.right).parameters.values()
        return tuple(one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD)


TASKS: dict[str, Task] = {}


def task(draw: Callable, mistakes: Mapping[str, Mapping | Callable], **options: object) -> Callable:
    """Decorate the right answer of the task of its name; what is given are fields of `Task`."""

    def add(right: Callable) -> Callable:
        TASKS[right.__name__] = Task(right, draw, mistakes, **options)
        return right

    return add


def chosen_by_scores(mistakes: Mapping[str, Mapping | Callable]) -> Callable:
    """Decorate the scores of a rule: its task is to keep the best by them, and the last 8 positions besides."""

    def add(scores: Callable) -> Callable:
        def right(queries: Tensor, keys: Tensor, budget: int, **mistake: object) -> Tensor:
            return with_window(best(scores(queries, keys, budget, **mistake), budget - 8), keys.shape[1])

        name = scores.__name__.removesuffix("_scores")
        TASKS[name] = Task(right, inputs.layer_and_budget, mistakes, tolerance=0, rounds=20, scores=scores)
        return scores

    return add


@cache
def texts() -> dict[str, dict]:
    """Of each task: what its function takes and returns (`asks`), and three `hints`, each nearer to the code."""
    return yaml.safe_load(files(__package__).joinpath("tasks.yml").read_text(encoding="utf-8"))


# --- mistakes that several tasks share ----------------------------------------------------------------------------

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


@task(inputs.long_layer, NOT_CAUSAL | MASK_LATE | WRONG_LOGITS | {
    "this adds up over the keys, so each query gives 1; add up over the queries.": {"over": 2},
    "this is the mean over the queries, not the sum.": {"mean": True},
}, tolerance=1e-3, rounds=3, no_table=True)  # fmt: skip
def column_sums(queries: Tensor, keys: Tensor, over: int = 1, mean: bool = False, **mistake: bool) -> Tensor:
    rows = window_attention(queries, keys, keys.shape[1], **mistake)
    return rows.mean(over) if mean else rows.sum(over)


@task(inputs.normalised, NOT_CAUSAL | {
    "subtract each query's log-sum-exp before the exponential.": {"subtract": False},
}, tolerance=1e-3, rounds=3, no_table=True)  # fmt: skip
def tiled_sums(queries: Tensor, keys: Tensor, lse: Tensor, causal: bool = True, subtract: bool = True) -> Tensor:
    if causal and subtract:
        return column_sums(queries, keys)
    n, shared = keys.shape[1], keys.repeat_interleave(len(queries) // len(keys), 0)
    tables = (queries @ shared.mT / keys.shape[2] ** 0.5 - (lse[..., None] if subtract else 0)).exp()
    return (tables * (torch.ones(n, n).tril() if causal else 1)).sum(1)


def mask(kept: Tensor, heads: int, n: int) -> Tensor:
    """Kept positions [Hkv, b] as a mask of each query head [Hq, n]."""
    return torch.zeros(len(kept), n, dtype=torch.bool).scatter_(1, kept, True).repeat_interleave(heads // len(kept), 0)


@task(inputs.decoding_step, WRONG_LOGITS | {
    "the shares of the kept tokens must add up to 1 again.": {"again": False},
    "evicted tokens still take part.": {"evict": False},
})  # fmt: skip
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


@chosen_by_scores(WRONG_LOGITS | WINDOW_NOT_CAUSAL | {
    "neighbours are not pooled.": {"kernel": 1},
    "this pools by the mean; take the maximum.": {"pool": F.avg_pool1d},
    "cut the window off before pooling, else it lends its scores to its neighbours.": {"cut_first": False},
    LOST_WINDOW: lambda q, k, b: best(F.max_pool1d(votes(q, k, 8, None)[None], 7, 1, 3)[0], b),
})  # fmt: skip
def snapkv_scores(
    queries: Tensor, keys: Tensor, budget: int, kernel: int = 7, pool: Callable = F.max_pool1d, cut_first: bool = True,
    **mistake: bool,
) -> Tensor:  # fmt: skip
    scores = votes(queries, keys, 8, -8 if cut_first else None, **mistake)
    return pool(scores[None], kernel, stride=1, padding=kernel // 2)[0][:, : keys.shape[1] - 8]


@chosen_by_scores(WRONG_LOGITS | NOT_CAUSAL | MASK_LATE | {
    "only the window's queries vote; H2O asks all of them.": {"voters": 8},
    LOST_WINDOW: lambda q, k, b: best(votes(q, k, None, None), b),
})  # fmt: skip
def h2o_scores(queries: Tensor, keys: Tensor, budget: int, voters: int | None = None, **mistake: bool) -> Tensor:
    return votes(queries, keys, voters, **mistake)


@chosen_by_scores({
    "the scores are not scaled, so H2O's, which are larger, decide.": {"scaled": False},
    "only H2O votes.": {"parts": (1, 0)},
    "only SnapKV votes.": {"parts": (0, 1)},
})  # fmt: skip
def both_votes_scores(queries: Tensor, keys: Tensor, budget: int, scaled: bool = True, parts: tuple = (1, 1)) -> Tensor:
    found = h2o_scores(queries, keys, budget), snapkv_scores(queries, keys, budget)
    return sum(part * (x / x.sum(-1, keepdim=True) if scaled else x) for part, x in zip(parts, found))


@chosen_by_scores({
    "these are the largest keys.": {"sign": 1},
    "this is the L1 norm.": {"power": 1},
    LOST_WINDOW: lambda q, k, b: best(-k.norm(dim=-1), b),
})  # fmt: skip
def small_keys_scores(queries: Tensor, keys: Tensor, budget: int, sign: int = -1, power: int = 2) -> Tensor:
    return sign * keys[:, :-8].double().norm(power, dim=-1)


def largest_scores(keys: Tensor, values: Tensor, budget: int, scaled: bool = True, parts: tuple = (1, 1)) -> Tensor:
    sizes = [x.abs().double().sum(-1) for x in (keys, values)]
    return sum(part * (size / size.sum(-1, keepdim=True) if scaled else size) for part, size in zip(parts, sizes))


@task(inputs.sized_cache, {
    "only the keys count.": {"parts": (1, 0)},
    "only the values count.": {"parts": (0, 1)},
    "keys and values are not divided by their sums, so the larger ones decide.": {"scaled": False},
}, tolerance=0, scores=largest_scores)  # fmt: skip
def largest(keys: Tensor, values: Tensor, budget: int, **mistake: object) -> Tensor:
    return best(largest_scores(keys, values, budget, **mistake), budget)


@task(inputs.layer_and_budget, WRONG_LOGITS | WINDOW_NOT_CAUSAL | {
    "these are the best single tokens; choose whole chunks.": {"size": 1},
    "a chunk's score is the sum of its tokens, not their mean: the last chunk may be short.": {"mean": True},
    "of the chunk that does not fit whole its *first* tokens stay, not its last.": {"part": "last"},
    "of the chunk that does not fit whole its *first* tokens stay, not its best.": {"part": "best"},
    "these are whole chunks only; fill the budget with the first tokens of the next one.": {"part": "none"},
    "these are the scores of all queries; ask the window's alone.": {"voters": None},
}, tolerance=0, rounds=30)  # fmt: skip
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


@task(inputs.cache, {
    "this is the share that stays; the loss is what is gone.": {"gone": False},
    "this adds up squares; take absolute values.": {"power": 2},
    "add up first and divide then: this gives every token the same weight.": {"add_first": False},
})  # fmt: skip
def kv_l1_loss(x: Tensor, kept: Tensor, gone: bool = True, power: int = 1, add_first: bool = True) -> Tensor:
    size = x.abs().double().pow(power).sum(-1)
    lost = size * (mask(kept, len(x), x.shape[1]) != gone)
    return lost.sum(-1) / size.sum(-1) if add_first else (lost / size).mean(-1)


@task(inputs.probes, WRONG_LOGITS | {
    "this is the attention mass, the sum of the kept shares.": {"what": "mass"},
    "a root is missing: this is the square of the cosine.": {"what": "square"},
    "this compares the logits; take the softmax first.": {"what": "logits"},
})  # fmt: skip
def attention_cosine(
    queries: Tensor, keys: Tensor, kept: Tensor, what: str = "cosine", scale: bool = True, own_head: bool = True
) -> Tensor:
    rows = attention(queries, keys, scale=scale, own_head=own_head, softmax=what != "logits")
    left = rows * mask(kept, len(queries), keys.shape[1])[:, None]
    if what == "mass":
        return left.sum(-1)
    return F.cosine_similarity(rows, left, dim=-1) ** (2 if what == "square" else 1)


@task(inputs.two_sets, {
    "divide by how many different positions both have together, not by the size of one set.": {"below": "one"},
    "shared positions are counted twice below the line.": {"below": "sum"},
    "this is Dice's coefficient; its denominator counts shared positions twice.": {"below": "sum", "times": 2},
})  # fmt: skip
def overlap(kept: Tensor, other: Tensor, below: str = "union", times: int = 1) -> Tensor:
    shared, (a, b) = (kept[:, :, None] == other[:, None, :]).sum((1, 2)).double(), (kept.shape[1], other.shape[1])
    return times * shared / {"union": a + b - shared, "one": a, "sum": a + b}[below]


# --- numbers ------------------------------------------------------------------------------------------------------


@task(inputs.budget_and_length, {
    "a float is rounded to the nearest whole number, not down.": {"rounding": int},
    "a float is rounded to the nearest whole number, not up.": {"rounding": np.ceil},
    "something always stays: at least 1 token.": {"least": 0},
    "an int is a count of tokens, not a fraction; look at the type.": {"counts": False},
}, tolerance=0, rounds=40)  # fmt: skip
def budget_tokens(budget: float | int, n: int, rounding: Callable = round, least: int = 1, counts: bool = True) -> int:
    return budget if counts and isinstance(budget, int) else max(least, int(rounding(n * budget)))


@task(inputs.cache_sizes, {
    "keys *and* values are stored: a factor of 2 is missing.": {"both": 1},
    "these are bits; a byte has 8.": {"bits": 8},
    "every layer has a cache of its own.": {"every_layer": False},
}, tolerance=0)  # fmt: skip
def kv_cache_bytes(
    tokens: int, layers: int, kv_heads: int, head_dim: int, bytes_per_number: int, both: int = 2, bits: int = 1,
    every_layer: bool = True,
) -> int:  # fmt: skip
    return both * bits * tokens * (layers if every_layer else 1) * kv_heads * head_dim * bytes_per_number


@task(inputs.tokens_and_limit, {
    "this drops the end; what goes is the middle.": {"first": lambda limit: limit, "last": lambda limit: 0},
    "this drops the beginning; what goes is the middle.": {"first": lambda limit: 0, "last": lambda x: x},
    "a prompt that fits stays as it is.": {"fits": False},
    "an odd limit loses a token when both halves are rounded down.":
        {"first": lambda limit: limit // 2, "last": lambda limit: limit // 2},
    "the extra token of an odd limit belongs to the first half.":
        {"first": lambda limit: limit // 2, "last": lambda limit: limit - limit // 2},
}, tolerance=0, rounds=40)  # fmt: skip
def truncate_middle(ids: tuple, limit: int, fits: bool = True, first: int | None = None, last: int | None = None):
    if fits and len(ids) <= limit:
        return ids
    first, last = ((limit + 1) // 2, limit // 2) if first is None else (first(limit), last(limit))
    return (*ids[:first], *ids[len(ids) - last :])


@task(inputs.values_with_gaps, {
    "this averages everything at once: sequences with more values count more.": {"axis": None},
    "this averages over sequences first; the mean over layers comes first.": {"axis": 0},
    "missing values count as 0; leave them out.": {"holes": "0"},
    "one missing value makes everything nan; leave it out (np.nanmean).": {"holes": "left in"},
}, tolerance=1e-6)  # fmt: skip
def layers_first(values: np.ndarray, axis: int | None = 1, holes: str = "left out") -> float:
    if holes != "left out":
        return float((np.nan_to_num(values) if holes == "0" else values).mean())
    return float(np.nanmean(values) if axis is None else np.nanmean(values, axis=axis).mean())


@task(inputs.p_values, {
    "this is Bonferroni's correction: only the smallest p-value is multiplied by m.": {"steps": "bonferroni"},
    "this is Benjamini and Hochberg's correction, of the false discovery rate.": {"steps": "fdr"},
    "the corrected values are in ascending order; put them back where the p-values stood.": {"in_place": False},
    "a corrected value may not fall below that of a smaller p-value.": {"monotone": False},
    "a p-value above 1 makes no sense; cut it there.": {"at_most": np.inf},
}, tolerance=1e-6, rounds=10)  # fmt: skip
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


# The tolerance leaves room for ten thousand random signs.
@task(inputs.differences, {
    "this counts one side only; compare absolute values.": {"sides": 1},
    "as far from 0 counts too: at least, not more than.": {"compare": np.greater},
    "this is the share of means that are nearer to 0.": {"compare": np.less},
}, tolerance=0.02)  # fmt: skip
def sign_flip(difference: np.ndarray, sides: int = 2, compare: Callable = np.greater_equal) -> float:
    """All signs, equally likely; a little slack, so that equal means count as equal whatever was added first."""
    means = np.array(list(product((-1, 1), repeat=len(difference)))) @ difference / len(difference)
    seen, slack = difference.mean(), 1e-12 if compare is np.greater_equal else -1e-12
    means, seen = (np.abs(means), abs(seen)) if sides == 2 else (means, seen)
    return float(compare(means + slack, seen).mean())


@task(inputs.two_tables, {
    "this ranks all sequences together; rank within each.": {"within": False},
    "this correlates the values; Spearman correlates their ranks.": {"ranks": False},
    "this ranks the sequences for each setting; rank the settings for each sequence.":
        lambda x, y: rank_agreement(x.T, y.T),
}, tolerance=1e-6)  # fmt: skip
def rank_agreement(x: np.ndarray, y: np.ndarray, ranks: bool = True, within: bool = True) -> float:
    agree = (lambda a, b: stats.spearmanr(a, b).statistic) if ranks else (lambda a, b: np.corrcoef(a, b)[0, 1])
    return float(np.mean([agree(a, b) for a, b in zip(x, y, strict=True)]) if within else agree(x.ravel(), y.ravel()))
