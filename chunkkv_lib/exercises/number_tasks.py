"""Tasks about numbers: budgets, sizes, the cut of a prompt, averages and tests."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy import stats

from ..compressors import budget_tokens
from ..report.statistics import paired_test
from ..sequences.encoding import truncate_middle
from . import inputs
from .task import Task


def _cache_bytes(tokens: int, layers: int, kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 2 * layers * kv_heads * head_dim * bytes_per_number * tokens  # figures.kv_cache_bytes without matplotlib


def _layers_first(values: np.ndarray) -> float:
    return float(np.nanmean(values, axis=1).mean())


def _rank_agreement(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean([stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]))


def _sign_flips(difference: np.ndarray) -> np.ndarray:
    """The mean of the differences under all signs, [2 ** n]."""
    return np.array(list(product((-1, 1), repeat=len(difference)))) @ difference / len(difference)


def _holm_steps(p: np.ndarray) -> np.ndarray:
    """Each p-value times its step, neither made monotone nor cut at 1."""
    steps = np.empty(len(p))
    steps[np.argsort(p)] = np.arange(len(p), 0, -1)
    return p * steps


def _holm(p: np.ndarray) -> np.ndarray:
    """`statistics.holm`, which is slow on small families; a test holds the two together."""
    order = np.argsort(p)
    return np.minimum(1, np.maximum.accumulate(_holm_steps(p)[order]))[np.argsort(order)]


NUMBER_TASKS: dict[str, Task] = {
    "budget_tokens": Task(
        "(budget, n) -> how many of n tokens stay: round(n * budget) of a float, at least 1; an int is a count",
        budget_tokens, inputs.budget_and_length, ("budget", "n"), tolerance=0, rounds=40,
        mistakes={
            "a float is rounded to the nearest whole number, not down.":
                lambda budget, n: max(1, int(n * budget)) if isinstance(budget, float) else budget,
            "something always stays: at least 1 token.":
                lambda budget, n: round(n * budget) if isinstance(budget, float) else budget,
            "an int is a count of tokens, not a fraction; look at the type.":
                lambda budget, n: max(1, round(n * budget)),
        },
    ),
    "kv_cache_bytes": Task(
        "(tokens, layers, kv_heads, head_dim, bytes_per_number) -> bytes of one sequence's KV cache",
        _cache_bytes, inputs.cache_sizes, ("tokens", "layers", "kv_heads", "head_dim", "bytes_per_number"),
        tolerance=0,
        mistakes={
            "keys *and* values are stored: a factor of 2 is missing.": lambda *sizes: int(np.prod(sizes)),
            "these are bits; a byte has 8.": lambda *sizes: 16 * int(np.prod(sizes)),
            "every layer has a cache of its own.":
                lambda tokens, layers, *sizes: 2 * tokens * int(np.prod(sizes)),
        },
    ),
    "truncate_middle": Task(
        "(ids, limit) -> the ids that stay: all if they fit, else the first and the last half of `limit`; an odd "
        "limit gives its extra token to the first half",
        truncate_middle, inputs.tokens_and_limit, ("ids", "limit"), tolerance=0, rounds=40,
        mistakes={
            "this drops the end; what goes is the middle.": lambda ids, limit: ids[:limit],
            "this drops the beginning; what goes is the middle.": lambda ids, limit: ids[-limit:],
            "a prompt that fits stays as it is.":
                lambda ids, limit: (*ids[: limit - limit // 2], *ids[-(limit // 2) :]),
            "an odd limit loses a token when both halves are rounded down.":
                lambda ids, limit: ids if len(ids) <= limit else (*ids[: limit // 2], *ids[-(limit // 2) :]),
            "the extra token of an odd limit belongs to the first half.":
                lambda ids, limit: ids if len(ids) <= limit else (*ids[: limit // 2], *ids[-(limit - limit // 2) :]),
        },
    ),
    "layers_first": Task(
        "(values [sequences, layers], some of them nan) -> the mean over layers, then over sequences",
        _layers_first, inputs.values_with_gaps, ("values",), tolerance=1e-6,
        mistakes={
            "this averages everything at once: sequences with more values count more.":
                lambda values: float(np.nanmean(values)),
            "this averages over sequences first; the mean over layers comes first.":
                lambda values: float(np.nanmean(np.nanmean(values, axis=0))) if not _empty_layer(values) else 0.0,
            "missing values count as 0; leave them out.":
                lambda values: float(np.nan_to_num(values).mean()),
            "one missing value makes everything nan; leave it out (np.nanmean).": lambda values: float(values.mean()),
        },
    ),
    "holm": Task(
        "(p [m]) -> [m], Holm's corrected p-values in the order given, none above 1",
        _holm, inputs.p_values, ("p",), tolerance=1e-6,
        mistakes={
            "this is Bonferroni's correction: only the smallest p-value is multiplied by m.":
                lambda p: np.minimum(1, len(p) * p),
            "the corrected values are in ascending order; put them back where the p-values stood.":
                lambda p: np.sort(_holm(p)),
            "a corrected value may neither exceed 1 nor fall below that of a smaller p-value.": _holm_steps,
            "a corrected value may not fall below that of a smaller p-value.": lambda p: np.minimum(1, _holm_steps(p)),
            "a p-value above 1 makes no sense; cut it there.":
                lambda p: np.maximum.accumulate(_holm_steps(p)[np.argsort(p)])[np.argsort(np.argsort(p))],
        },
    ),
    "sign_flip": Task(
        "(difference [n]) -> two-sided p: the share of random signs under which the mean is at least as far from 0",
        lambda difference: paired_test(difference, np.zeros(len(difference)), kind="permutation"),
        inputs.differences, ("difference",), tolerance=0.02,  # room for ten thousand random signs instead of all
        mistakes={
            "this counts one side only; compare absolute values.":
                lambda x: float((_sign_flips(x) >= x.mean() - 1e-12).mean()),
            "as far from 0 counts too: at least, not more than.":
                lambda x: float((np.abs(_sign_flips(x)) > abs(x.mean()) + 1e-12).mean()),
            "this is the share of means that are nearer to 0.":
                lambda x: float((np.abs(_sign_flips(x)) < abs(x.mean()) - 1e-12).mean()),
        },
    ),
    "rank_agreement": Task(
        "(x [sequences, settings], y [sequences, settings]) -> Spearman's correlation of x and y over the settings, "
        "for each sequence by itself, then the mean",
        _rank_agreement, inputs.two_tables, ("x", "y"), tolerance=1e-6,
        mistakes={
            "this ranks all sequences together; rank within each.":
                lambda x, y: float(stats.spearmanr(x.ravel(), y.ravel()).statistic),
            "this correlates the values; Spearman correlates their ranks.":
                lambda x, y: float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])),
            "this ranks the sequences for each setting; rank the settings for each sequence.":
                lambda x, y: _rank_agreement(x.T, y.T),
        },
    ),
}  # fmt: skip


def _empty_layer(values: np.ndarray) -> bool:
    return bool(np.isnan(values).all(axis=0).any())
