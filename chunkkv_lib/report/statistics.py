"""Intervals, paired tests and rank correlations. What is resampled is the document.

Pure functions of arrays: no files, no global random state. NaN means "not measured" (a sequence whose evidence is not
marked keeps none of it): such sequences are left out, and `n` says how many stayed. Random numbers come from `seed`.

Sequences that were made from one document are not independent, so documents are drawn, each with all its sequences.
Which they are is said by `groups`, or by the level "document" of a pandas index, as `records.sequence_means` and
`records.layer_values` give it; without either, every sequence is a document of its own.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ..errors import InputError

LEVEL = 0.95
RESAMPLES = 4000
FEWEST_BEYOND = 5  # resamples that must lie beyond an end; an end with fewer is not a percentile but an extreme


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval: numbers, or arrays of one shape.

    low, high are NaN where no interval exists (fewer than 2 documents); n counts the sequences used.
    """

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    n: int

    @classmethod
    def of(cls, drawn: np.ndarray, documents: int, n: int, level: float = LEVEL) -> "Interval":
        """Of a statistic `drawn` [1 + resamples] from n sequences of so many documents, as `ends` says."""
        return cls(*map(float, ends(drawn, documents, level)), n)

    def excludes(self, value: float = 0.0) -> bool | np.ndarray:
        """True where the whole interval lies beyond `value`; an end that equals it, up to rounding, does not."""
        low, high = np.asarray(self.low, dtype=float), np.asarray(self.high, dtype=float)
        rounding = 1e-9 * np.fmax(np.abs(low), np.abs(high))
        return (low - value > rounding) | (value - high > rounding)


def interval(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean over sequences with a bootstrap interval over documents, widened for few of them.

    values  [n, ...] one row per sequence. Further axes (layers) share the resamples: dependence stays.
    groups  [n] the document of each sequence; None: of the index of `values`, else each sequence is its own.
    return  Interval of shape [...]. A column that is NaN throughout stays NaN; a sequence with a NaN in any other
            column is left out as a whole. One document: the mean without an interval. None: NaN, n = 0.
    raises  InputError: infinite values, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level={level} must lie between 0 and 1, for example 0.95.")
    groups = documents_of(values) if groups is None else np.asarray(groups)
    values = _measured(values)
    shape = values.shape[1:]
    columns = values.reshape(len(values), int(np.prod(shape)))
    present = ~np.isnan(columns).all(axis=0)
    complete = ~np.isnan(columns[:, present]).any(axis=1) & present.any()
    result = np.full((3, columns.shape[1]), np.nan)
    if complete.any():
        members = members_of(groups, complete)
        drawn = resampled_means(columns[:, present], members, resamples, seed)
        result[:, present] = ends(drawn, len(members), level)
    estimate, low, high = (row.reshape(shape) if shape else float(row[0]) for row in result)
    return Interval(estimate, low, high, int(complete.sum()))


def members_of(documents: ArrayLike | None, used: np.ndarray) -> list[np.ndarray]:
    """The used rows of each document, in order of appearance; documents None: every row is one of its own."""
    if documents is not None and len(documents) != len(used):
        raise InputError(f"{len(documents)} documents were given for {len(used)} sequences: pass one for each.")
    rows = np.flatnonzero(used)
    codes = np.arange(len(rows)) if documents is None else pd.factorize(np.asarray(documents)[rows])[0]
    return [rows[codes == code] for code in range(codes.max() + 1)]


def resampled_means(
    columns: np.ndarray, members: list[np.ndarray], resamples: int = RESAMPLES, seed: int | tuple[int, int] = 0
) -> np.ndarray:
    """Means of columns [n, c] over the rows of `members`, then over resamples of its groups: [1 + resamples, c]."""
    times, sizes = times_drawn(len(members), resamples, seed), np.array([len(rows) for rows in members])
    rows = np.concatenate(members)
    # How often each group was drawn, times the group's sum: all resamples in one matrix product.
    sums = np.add.reduceat(columns[rows], np.cumsum(sizes) - sizes, axis=0)
    means = times @ sums / (times @ sizes)[:, None]
    constant = np.ptp(columns[rows], axis=0) == 0
    means[:, constant] = columns[rows[0], constant]  # exactly, or rounding would pass for a difference
    return means


@lru_cache(maxsize=16)
def times_drawn(groups: int, resamples: int, seed: int) -> np.ndarray:
    """How often each group is drawn into each resample: [1 + resamples, groups]; row 0, all ones, is the sample."""
    picked = np.random.default_rng(seed).integers(groups, size=(resamples, groups))
    places = groups * np.arange(resamples)[:, None] + picked
    drawn = np.bincount(places.ravel(), minlength=resamples * groups).reshape(resamples, groups)
    found = np.concatenate([np.ones((1, groups)), drawn])
    found.flags.writeable = False  # shared by all who ask for the same resamples
    return found


def ends(drawn: np.ndarray, groups: int, level: float = LEVEL) -> np.ndarray:
    """Rows estimate, low, high of a statistic `drawn` [1 + resamples, ...] from resamples of so many groups.

    A percentile bootstrap of few values is too narrow: its spread lacks a factor sqrt(n / (n - 1)), and it takes normal
    tails where Student's are due. Percentiles further out repair both (T. Hesterberg, The American Statistician 69,
    2015: the expanded percentile interval); with 100 values nothing changes that a reader could see. Where they would
    be so far out that the resamples end there, as for 6 values at 99.5 %, the interval is Student's, from the
    resamples' standard deviation: the largest and the smallest resample are no percentiles.
    """
    estimate = drawn[0]
    if groups < 2:
        return np.stack([estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)])
    wider, student = np.sqrt(groups / (groups - 1)), stats.t.ppf((1 + level) / 2, groups - 1)
    tail = stats.norm.cdf(-wider * student)
    if tail * (len(drawn) - 1) >= FEWEST_BEYOND:
        return np.stack([estimate, *np.nanquantile(drawn[1:], [tail, 1 - tail], axis=0)])
    reach = student * wider * np.nanstd(drawn[1:] - estimate, axis=0)
    return np.stack([estimate, estimate - reach, estimate + reach])


def documents_of(values: ArrayLike) -> np.ndarray | None:
    """The level "document" of a pandas index, or None."""
    if isinstance(values, pd.Series | pd.DataFrame) and "document" in values.index.names:
        return values.index.get_level_values("document").to_numpy()
    return None


def smallest_margin(difference: ArrayLike) -> float:
    """The margin within which a mean difference is equivalent to none: two one-sided tests at 5 % pass from here on.

    That is the farther end of the 90 % interval; NaN where there is none.
    """
    found = interval(difference, level=0.9)
    return float(max(abs(found.low), abs(found.high)))


def paired_test(difference: ArrayLike) -> float:
    """Wilcoxon's two-sided p-value of "the paired differences [n] are none"; pairs with a NaN are left out.

    Where the index names documents, each counts once, with the mean of its differences.
    return  1.0 where all pairs are equal or of one document. The smallest value n pairs can give is 2 / 2**n.
    """
    documents, values = documents_of(difference), pd.Series(_measured(difference))
    values = values if documents is None else values.groupby(documents, sort=False).mean()
    values = values.dropna().to_numpy()
    return float(stats.wilcoxon(values).pvalue) if len(values) > 1 and values.any() else 1.0


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's correction of a family of p-values, same shape; NaN stays NaN and is not of the family."""
    p_values = np.asarray(p_values, dtype=float)
    corrected = np.full(p_values.shape, np.nan)
    present = ~np.isnan(p_values)
    if present.any():
        corrected[present] = multipletests(p_values[present], method="holm")[1]
    return corrected


def cohen_d(difference: ArrayLike) -> float:
    """Effect size of paired differences [n]: their mean over their standard deviation; pairs with a NaN are left out.

    return  0 if all pairs are equal; plus or minus infinity if all differ by the same amount.
    """
    values = pd.Series(_measured(difference)).dropna()
    if np.ptp(values) == 0:
        return float(np.sign(values.iloc[0]) * np.inf) if values.iloc[0] else 0.0
    return float(values.mean() / values.std())


def rank_biserial(difference: ArrayLike) -> float:
    """Rank-biserial correlation of paired differences [n]: the rank sum's share above zero less that below."""
    values = _measured(difference)
    values = values[(values != 0) & ~np.isnan(values)]
    ranks = stats.rankdata(np.abs(values))
    return float((np.sign(values) * ranks).sum() / ranks.sum()) if len(values) else 0.0


def rank_correlation(x: ArrayLike, y: ArrayLike) -> Interval:
    """Spearman's correlation of two columns [n], one value per sequence; NaN pairs are left out.

    This is the test of a metric against damage that carries information: x is the difference of the metric between two
    methods, y that of the damage. A constant x or y gives NaN.
    """
    documents, x, y = documents_of(x), _measured(x), _measured(y)
    used = ~(np.isnan(x) | np.isnan(y))
    n = int(used.sum())
    nothing = Interval(np.nan, np.nan, np.nan, n)
    if n < 3:  # two always correlate
        return nothing
    members = members_of(documents, used)
    found = resampled_rank_correlation(x, y, members)
    return nothing if np.isnan(found[0]) else Interval.of(found, len(members), n)


def resampled_rank_correlation(x: np.ndarray, y: np.ndarray, members: list[np.ndarray]) -> np.ndarray:
    """Spearman's correlation of x and y [n] over the rows of `members` and over resamples of its groups.

    return  [1 + RESAMPLES // 4]; NaN where a resample is constant
    """
    rows = np.concatenate(members)
    held = times_drawn(len(members), RESAMPLES // 4, 0).repeat([len(one) for one in members], axis=1)
    ranks = (_weighted_ranks(values[rows], held) for values in (x, y))
    a, b = (one - (held * one).sum(axis=1, keepdims=True) / held.sum(axis=1, keepdims=True) for one in ranks)
    scale = np.sqrt((held * a**2).sum(axis=1) * (held * b**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 1e-9, (held * a * b).sum(axis=1) / scale, np.nan)


def within_sequence_rank_correlation(x: ArrayLike, y: ArrayLike) -> Interval:
    """Mean over sequences of Spearman's correlation over the methods: does x rank the methods as y does?

    x, y    [sequences, methods]. A sequence counts if 3 methods or more are measured (two always correlate) and neither
            is constant. Where x ranks the methods alike in every sequence, this is the correlation of one order with
            the damage, and says nothing about the values of x.
    """
    documents, x, y = documents_of(x), _measured(x), _measured(y)
    both = ~(np.isnan(x) | np.isnan(y))
    x, y = (pd.DataFrame(one).where(both).rank(axis=1) for one in (x, y))
    return interval(x.corrwith(y, axis=1).where(both.sum(axis=1) > 2).to_numpy(), documents)


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ranks of values [n] in samples that hold each of them weights[r, n] times, equal ones sharing theirs: [r, n]."""
    levels = np.unique(values, return_inverse=True)[1]
    order = np.argsort(levels, kind="stable")
    starts = np.searchsorted(levels[order], np.arange(levels.max() + 1))
    held = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(held, axis=1) - held / 2 + 0.5)[:, levels]


def _measured(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim == 0:
        raise InputError(f"one number ({values}) is no sample: pass an array with one row per sequence.")
    if np.isinf(values).any():
        raise InputError(f"{np.isinf(values).sum()} infinite value(s) have no mean: leave them out or set them to NaN.")
    return values
