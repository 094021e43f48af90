"""Intervals, paired tests and rank correlations; the unit of replication is the sequence.

Pure functions of numpy arrays: no files, no global random state. NaN means "not measured" (an answer of one
token has no likelihood): such sequences are left out, and `n` says how many stayed. Every random number comes
from `seed`, so the same values give the same interval on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from chunkkv_lib.errors import InputError, unknown

LEVEL = 0.95
RESAMPLES = 4000
METHODS = ("percentile", "expanded", "BCa")
_NUMBERS_AT_ONCE = 4_000_000  # of one batch of resamples: 32 MB


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval: numbers, or arrays of one shape.

    low, high are NaN where no interval exists (fewer than 2 sequences); n counts the sequences used.
    """

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    n: int

    def excludes(self, value: float = 0.0) -> bool | np.ndarray:
        """True where the whole interval lies on one side of `value`; False where there is no interval."""
        return (np.asarray(self.low) > value) | (np.asarray(self.high) < value)


@dataclass(frozen=True)
class Comparison:
    """A paired comparison a - b: mean difference with interval, two-sided p, and two effect sizes."""

    difference: Interval
    p_value: float
    cohen_d: float
    rank_biserial: float


# -------------------------------------------------------------------------------- intervals
def mean_interval(
    values: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    method: str = "percentile",
    seed: int = 0,
) -> Interval:
    """Mean over sequences with a bootstrap interval.

    values  [n, ...] one row per sequence. Further axes (layers) share the resamples: dependence stays.
    level   coverage, e.g. 0.95.
    method  "percentile"; "expanded": percentiles further out for few sequences (Hesterberg, The American
            Statistician 69, 2015); "BCa": bias-corrected and accelerated.
    anchor  nominal 95 % intervals of 6 normal values cover 86 % by percentiles, 94 % expanded; of 6 strongly
            skewed ones 75 % and 83 %. With 100 values the two agree.
    return  Interval of shape [...]. A column that is NaN throughout stays NaN; a sequence with a NaN in any
            other column is left out as a whole. One sequence: the mean without an interval. None: NaN, n = 0.
    raises  InputError: infinite values, a level outside (0, 1), an unknown method.
    """
    _check_options(level, resamples, method)
    values = _measured(values)
    shape = values.shape[1:]
    columns = values.reshape(len(values), int(np.prod(shape)))
    present = ~np.isnan(columns).all(axis=0)
    complete = columns[~np.isnan(columns[:, present]).any(axis=1)] if present.any() else columns[:0]
    result = np.full((3, columns.shape[1]), np.nan)
    if len(complete):
        result[:, present] = _bootstrap_mean(complete[:, present], level, resamples, method, seed)
    estimate, low, high = (row.reshape(shape) if shape else float(row[0]) for row in result)
    return Interval(estimate, low, high, len(complete))


def proportion_interval(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Share of n independent trials that succeeded, with Wilson's score interval: it also holds at 0 and at n.

    raises  InputError: more successes than trials, or a negative number.
    """
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n} trials are not possible; give 0 to {n}.")
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return Interval(successes / n, float(low), float(high), n)


def expanded_level(n: int, level: float = LEVEL) -> float:
    """The nominal level at which percentiles of n resampled values cover about `level`: 0.9951 for n = 6.

    A percentile bootstrap lacks the factor sqrt(n / (n - 1)) and takes normal tails where Student's are due.
    """
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1))
    return float(min(1 - 2 * tail, 1 - 1e-6))  # 2 or 3 values: from the smallest resample to the largest


def paired_difference(a: ArrayLike, b: ArrayLike, **options) -> Interval:
    """Mean of a - b over sequences, with the options of `mean_interval`.

    a, b    [n, ...], row i of both from the same sequence.
    raises  InputError: different shapes, or fewer than 2 pairs without NaN.
    """
    difference = _paired(a, b)
    result = mean_interval(difference, **options)
    _check_pairs(result.n, len(difference))
    return result


# -------------------------------------------------------------------------------- tests
def paired_test(a: ArrayLike, b: ArrayLike, kind: str = "wilcoxon", *, resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of "a and b do not differ", a and b [n] paired by sequence.

    kind    "wilcoxon": signed ranks, pairs without a difference left out;
            "permutation": the mean difference under random signs, exact where 2**n <= resamples.
    return  1.0 where all pairs are equal. The smallest value n pairs can give is 2 / 2**n.
    raises  InputError: different shapes, fewer than 2 pairs, unknown kind.
    """
    difference = _pairs(a, b)
    if kind not in ("wilcoxon", "permutation"):
        raise unknown("paired test", kind, ("wilcoxon", "permutation"))
    if not difference.any():
        return 1.0
    if kind == "wilcoxon":
        return float(stats.wilcoxon(difference).pvalue)
    test = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", vectorized=True, n_resamples=resamples, rng=seed
    )
    return float(test.pvalue)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's correction of a family of p-values, same shape; NaN stays NaN and is not of the family."""
    p_values = np.asarray(p_values, dtype=float)
    corrected = np.full(p_values.shape, np.nan)
    present = ~np.isnan(p_values)
    if present.any():
        corrected[present] = multipletests(p_values[present], method="holm")[1]
    return corrected


def cohen_d(a: ArrayLike, b: ArrayLike) -> float:
    """Paired effect size: mean of a - b over its standard deviation.

    return  0 if all pairs are equal; plus or minus infinity if all differ by the same amount.
    """
    difference = _pairs(a, b)
    spread, mean = difference.std(ddof=1), difference.mean()
    if np.ptp(difference) == 0:
        return float(np.sign(mean) * np.inf) if mean else 0.0
    return float(mean / spread)


def rank_biserial(a: ArrayLike, b: ArrayLike) -> float:
    """Rank-biserial correlation of pairs: the rank sum's share with a > b minus that with a < b."""
    difference = _pairs(a, b)
    difference = difference[difference != 0]
    if not len(difference):
        return 0.0
    ranks = stats.rankdata(np.abs(difference))
    return float((np.sign(difference) * ranks).sum() / ranks.sum())


def compare(a: ArrayLike, b: ArrayLike, kind: str = "wilcoxon", **options) -> Comparison:
    """One paired comparison of a and b [n], with the options of `mean_interval`; p is not yet corrected."""
    return Comparison(paired_difference(a, b, **options), paired_test(a, b, kind), cohen_d(a, b), rank_biserial(a, b))


# -------------------------------------------------------------------------------- correlations
def rank_correlation(x: ArrayLike, y: ArrayLike, **options) -> Interval:
    """Spearman's correlation over all sequences and methods together.

    x, y    [sequences, methods]; NaN pairs are left out. The interval resamples whole sequences: values of
            one sequence are not independent. It mixes differences between methods with those between
            sequences: read it beside the other two. A constant x or y gives NaN.
    options level, resamples, seed and method ("percentile" or "expanded"), as in `mean_interval`.
    raises  InputError: shapes that differ or are not 2-D.
    """
    return _over_sequences(_spearman, x, y, **options)


def partial_rank_correlation(x: ArrayLike, y: ArrayLike, **options) -> Interval:
    """Spearman's correlation with the method's mean rank taken out: sequences compared within methods.

    x, y    [sequences, methods], as in `rank_correlation`.
    """
    return _over_sequences(_partial_spearman, x, y, **options)


def within_sequence_rank_correlation(x: ArrayLike, y: ArrayLike, **options) -> Interval:
    """Mean over sequences of Spearman's correlation over the methods: does x rank the methods as y does?

    x, y    [sequences, methods]. A sequence counts if 3 methods or more are measured and neither is constant.
    """
    x, y = _matrices(x, y)
    return mean_interval([_spearman(*pair) for pair in zip(x, y, strict=True)], **options)


def jaccard(a: Iterable[int], b: Iterable[int]) -> float:
    """Shared over all distinct elements of two sets, in [0, 1]; two empty sets are equal: 1."""
    a, b = set(np.asarray(a).ravel().tolist()), set(np.asarray(b).ravel().tolist())
    return len(a & b) / len(a | b) if a | b else 1.0


# -------------------------------------------------------------------------------- inside
def _bootstrap_mean(sample: np.ndarray, level: float, resamples: int, method: str, seed: int) -> np.ndarray:
    """Rows mean, low, high of sample [n, c] without NaN."""
    mean = sample.mean(axis=0)
    if len(sample) < 2:
        return np.stack([mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)])
    if method == "expanded":
        level, method = expanded_level(len(sample), level), "percentile"
    low, high = mean.copy(), mean.copy()
    varies = np.ptp(sample, axis=0) > 0  # BCa has no answer for a constant column; its interval is the value
    if varies.any():
        batch = max(1, _NUMBERS_AT_ONCE // sample.size)
        low[varies], high[varies] = stats.bootstrap(
            (sample[:, varies],),
            np.mean,
            axis=0,
            n_resamples=resamples,
            batch=batch,
            confidence_level=level,
            method=method,
            rng=seed,
        ).confidence_interval
    return np.stack([mean, low, high])


def _over_sequences(
    statistic: Callable,
    x: ArrayLike,
    y: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES // 4,
    method: str = "percentile",
    seed: int = 0,
) -> Interval:
    """statistic(x, y) of matrices, with an interval from resampled rows, each ranked anew; no BCa."""
    _check_options(level, resamples, method, METHODS[:2])
    x, y = _matrices(x, y)
    rows = np.flatnonzero((~np.isnan(x) & ~np.isnan(y)).any(axis=1))
    estimate, low, high = statistic(x[rows], y[rows]), np.nan, np.nan
    if len(rows) >= 2 and not np.isnan(estimate):
        drawn = np.random.default_rng(seed).choice(rows, size=(resamples, len(rows)))
        level = expanded_level(len(rows), level) if method == "expanded" else level
        found = [statistic(x[draw], y[draw]) for draw in drawn]  # NaN where a resample happens to be constant
        low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), len(rows))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    both = ~(np.isnan(x) | np.isnan(y))
    return _pearson(stats.rankdata(x[both]), stats.rankdata(y[both]))


def _partial_spearman(x: np.ndarray, y: np.ndarray) -> float:
    both = ~(np.isnan(x) | np.isnan(y))
    ranks = [np.full(x.shape, np.nan), np.full(x.shape, np.nan)]
    for rank, values in zip(ranks, (x, y), strict=True):
        rank[both] = stats.rankdata(values[both])
        rank -= np.where(both, rank, 0).sum(axis=0) / np.maximum(both.sum(axis=0), 1)
    return _pearson(ranks[0][both], ranks[1][both])


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Of ranks; NaN for fewer than 3 values (two always correlate) and for a constant, up to rounding."""
    if len(x) < 3 or min(np.ptp(x), np.ptp(y)) < 1e-9:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _measured(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim == 0:
        raise InputError(f"one number ({values}) is no sample: pass an array with one row per sequence.")
    if np.isinf(values).any():
        raise InputError(f"{np.isinf(values).sum()} infinite value(s) have no mean: leave them out or set them to NaN.")
    return values


def _paired(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    a, b = _measured(a), _measured(b)
    if a.shape != b.shape:
        raise InputError(f"paired values need equal shapes, got {a.shape} and {b.shape}: align them by sequence first.")
    return a - b


def _pairs(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Differences of the complete pairs, 1-D."""
    difference = _paired(a, b)
    if difference.ndim != 1:
        raise InputError(
            f"a test needs one value per sequence, got shape {difference.shape}: average over layers first."
        )
    complete = difference[~np.isnan(difference)]
    _check_pairs(len(complete), len(difference))
    return complete


def _matrices(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = _measured(x), _measured(y)
    if x.ndim != 2 or x.shape != y.shape:
        raise InputError(f"need two arrays [sequences, methods] of one shape, got {x.shape} and {y.shape}.")
    return x, y


def _check_pairs(complete: int, given: int) -> None:
    if complete < 2:
        raise InputError(
            f"{complete} complete pair(s) of {given}: a paired comparison needs at least 2. Measure more sequences."
        )


def _check_options(level: float, resamples: int, method: str, known: tuple[str, ...] = METHODS) -> None:
    if not 0 < level < 1:
        raise InputError(f"level={level} must lie between 0 and 1, for example 0.95.")
    if resamples < 1:
        raise InputError(f"resamples={resamples} must be at least 1, for example {RESAMPLES}.")
    if method not in known:
        raise unknown("bootstrap method", method, known)
