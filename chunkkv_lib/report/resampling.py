"""Intervals that keep their promise for few sequences, for one mean and for anything made of many means.

A percentile bootstrap of 6 values is too narrow: its spread lacks a factor sqrt(6 / 5), and it takes the normal
distribution's tails. Widening the percentiles repairs both (T. Hesterberg, "What teachers should know about the
bootstrap", The American Statistician 69, 2015: the expanded percentile interval). With 100 values nothing changes
that a reader could see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from ..errors import InputError
from .records import choose, sequence_means
from .statistics import LEVEL, Interval, mean_interval

RESAMPLES = 4000
WIDEST = 1 - 1e-6  # for 2 or 3 values: from the smallest resample to the largest


def honest_level(n: int, level: float = LEVEL) -> float:
    """The nominal level at which a percentile bootstrap of n values covers about `level`: 0.9952 for n = 6, 0.95.

    n  values that are resampled together; fewer than 2: `level` itself, since there is no interval anyway.
    """
    if n < 2:
        return level
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1))
    return float(min(1 - 2 * tail, WIDEST))


def honest_interval(values: ArrayLike, level: float = LEVEL, **options) -> Interval:
    """`statistics.mean_interval` with its percentiles widened for few sequences; values [n, ...]."""
    values = np.asarray(values, dtype=float)
    options = {"resamples": RESAMPLES} | options
    return mean_interval(values, level=honest_level(_complete(values), level), **options)


def _complete(values: np.ndarray) -> int:
    """Rows without a NaN, columns that are NaN throughout left aside: those that `mean_interval` resamples."""
    columns = values.reshape(len(values), int(np.prod(values.shape[1:])))
    measured = columns[:, ~np.isnan(columns).all(axis=0)] if len(columns) else columns
    return int((~np.isnan(measured)).all(axis=1).sum()) if measured.shape[1] else 0


@dataclass(frozen=True)
class Draws:
    """A table of means, categories by methods, and its bootstrap resamples.

    means       method -> [1 + resamples, categories]; row 0 is the estimate, the others one resample each
    categories  names of the columns
    counts      sequences behind each category
    Sequences are drawn anew within their category, the same ones for every method: differences stay paired.
    """

    means: Mapping[str, np.ndarray]
    categories: tuple[str, ...]
    counts: tuple[int, ...]

    def __getitem__(self, method: str) -> np.ndarray:
        return self.means[method]

    def row(self, category: str) -> Draws:
        """The same draws, of one category alone."""
        at = self.categories.index(category)
        means = {method: values[:, [at]] for method, values in self.means.items()}
        return Draws(means, (category,), (self.counts[at],))

    def interval(self, drawn: np.ndarray, level: float = LEVEL) -> Interval:
        """The interval of a statistic: `drawn` [1 + resamples], computed from these means row by row.

        Widened as `honest_level` says, with as many degrees of freedom as the categories have together.
        """
        n = sum(self.counts)
        if min(self.counts) < 2:
            return Interval(float(drawn[0]), np.nan, np.nan, n)
        tail = (1 - honest_level(n - len(self.counts) + 1, level)) / 2
        low, high = np.quantile(drawn[1:], [tail, 1 - tail])
        return Interval(float(drawn[0]), float(low), float(high), n)


def draws(
    records: pd.DataFrame, metric: str, methods: Iterable[str] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Draws:
    """Means of a metric by category and method with their resamples, the base of every statement about the table.

    records  layers, or one row per sequence and method; a sequence that lacks the metric for one of the methods is
             left out, and so is a category without any sequence
    raises   InputError: a metric or method that the records do not hold, or no sequence at all.
    """
    records = choose(records, methods=methods)
    rng = np.random.default_rng(seed)
    found = {}
    for category, group in records.groupby("category", sort=False):
        values = sequence_means(group, metric).dropna()
        if len(values):
            picked = rng.integers(len(values), size=(resamples, len(values)))
            drawn = values.to_numpy()[picked].mean(axis=1)
            found[category] = values, np.concatenate([values.mean().to_numpy()[None], drawn])
    if not found:
        raise InputError(f"no sequence has a value of {metric} for every method; measure more sequences.")
    names = list(records["method"].unique())
    means = {
        name: np.stack([drawn[:, values.columns.get_loc(name)] for values, drawn in found.values()], axis=1)
        for name in names
    }
    return Draws(means, tuple(found), tuple(len(values) for values, _ in found.values()))
