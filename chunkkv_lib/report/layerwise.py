"""Layer by layer, as tables: the curves of Paper Figure 6, who leads where, and the layers the paper singles out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .figures.layers import PAPER_BANDS, PAPER_LAYERS
from .records import METHODS, METRICS, PAIRS, PRIMARY, choose, layer_values
from .resampling import honest_interval
from .statistics import Interval, mean_interval

Pairs = Sequence[tuple[str, str]]


def layer_means(
    records: pd.DataFrame,
    category: str | None = None,
    metrics: Sequence[str] = PRIMARY,
    methods: Iterable[str] | None = None,
) -> pd.DataFrame:
    """What Paper Figure 6 draws: columns metric, method, layer, estimate, low, high, n.

    records   layers with a category; category None: all together; methods None: all that were measured
    The intervals are those that the figure draws, not widened for few sequences.
    """
    records = choose(records, category, methods)
    rows = []
    for metric in metrics:
        for method in records["method"].unique():
            values = layer_values(records, metric, method)
            rows.append(_by_layer(values, mean_interval(values.to_numpy()), metric=metric, method=method))
    return pd.concat(rows, ignore_index=True)


def layer_gaps(
    records: pd.DataFrame, category: str | None = None, metrics: Sequence[str] = PRIMARY, pairs: Pairs = PAIRS
) -> pd.DataFrame:
    """Paired differences "method - baseline" by layer.

    return  columns metric, method, baseline, layer, estimate, low, high, n, clear; low and high are what the figure
            draws, clear says that the interval excludes zero even when widened for few sequences
    """
    records = choose(records, category)
    rows = []
    for metric in metrics:
        for method, baseline in pairs:
            values = layer_values(records, metric, method) - layer_values(records, metric, baseline)
            table = _by_layer(values, mean_interval(values.to_numpy()), metric=metric, method=method, baseline=baseline)
            rows.append(table.assign(clear=honest_interval(values.to_numpy()).excludes(0)))
    return pd.concat(rows, ignore_index=True)


def gap_counts(gaps: pd.DataFrame) -> pd.DataFrame:
    """In how many layers the first method of a pair is better, and clearly so.

    gaps    of `layer_gaps`
    return  columns metric, method, baseline, layers, better, clearly_better, worse, clearly_worse
    """
    rows = []
    for (metric, method, baseline), group in gaps.groupby(["metric", "method", "baseline"], sort=False):
        ahead, clear = METRICS[metric].sign * group["estimate"], group["clear"]
        rows.append(
            {"metric": metric, "method": method, "baseline": baseline, "layers": len(group)}
            | {"better": int((ahead > 0).sum()), "clearly_better": int(((ahead > 0) & clear).sum())}
            | {"worse": int((ahead < 0).sum()), "clearly_worse": int(((ahead < 0) & clear).sum())}
        )
    return pd.DataFrame(rows)


def leaders(
    records: pd.DataFrame, metric: str, category: str | None = None, methods: Sequence[str] = METHODS
) -> pd.DataFrame:
    """The best method of every layer, and whether it is clearly ahead of the second.

    return  columns layer, leader, second, margin (at least 0, in the better direction), low, high, clear
    raises  InputError: unknown metric, category or method.
    """
    records = choose(records, category, methods)
    values = {method: METRICS[metric].sign * layer_values(records, metric, method) for method in methods}
    means = pd.DataFrame({method: found.mean() for method, found in values.items()}).dropna()
    rows = []
    for layer, row in means.iterrows():
        leader, second = row.sort_values(ascending=False, kind="stable").index[:2]
        margin = honest_interval((values[leader][layer] - values[second][layer]).to_numpy())
        rows.append((layer, leader, second, margin.estimate, margin.low, margin.high, bool(margin.excludes(0))))
    return pd.DataFrame(rows, columns=["layer", "leader", "second", "margin", "low", "high", "clear"])


def in_band(layers: ArrayLike, count: int, band: tuple[int, int]) -> np.ndarray:
    """Which layers of a model with `count` lie at the depth of layers band[0]..band[1] of the paper's model."""
    depth = (np.asarray(layers) + 0.5) * PAPER_LAYERS / count
    return (depth > band[0]) & (depth < band[1] + 1)


def band_contrasts(
    records: pd.DataFrame, category: str | None = None, metrics: Sequence[str] = PRIMARY, pairs: Pairs = PAIRS
) -> pd.DataFrame:
    """Is a gap larger in the layers that the paper singles out? Mean paired gap inside, outside, and their difference.

    return  columns metric, method, baseline, band (of the paper's layers), layers (of this model), then
            inside, outside and contrast, each an `Interval`; contrast is inside - outside, paired by sequence
    """
    records = choose(records, category)
    rows = []
    for metric in metrics:
        for method, baseline in pairs:
            gap = layer_values(records, metric, method) - layer_values(records, metric, baseline)
            rows += [
                {"metric": metric, "method": method, "baseline": baseline} | _contrast(gap, band)
                for band in PAPER_BANDS[metric]
            ]
    return pd.DataFrame(rows)


def _contrast(gap: pd.DataFrame, band: tuple[int, int]) -> dict[str, object]:
    """Of one pair's gaps [sequences, layers]."""
    chosen = in_band(gap.columns, gap.shape[1], band)
    inside, outside = gap.loc[:, chosen].mean(axis=1), gap.loc[:, ~chosen].mean(axis=1)
    at = gap.columns[chosen]
    return {
        "band": f"{band[0]}–{band[1]} of {PAPER_LAYERS}",
        "layers": f"{at.min()}–{at.max()} of {gap.shape[1]}",
        "inside": honest_interval(inside),
        "outside": honest_interval(outside),
        "contrast": honest_interval(inside - outside),
    }


def _by_layer(values: pd.DataFrame, found: Interval, **names: str) -> pd.DataFrame:
    numbers = {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n}
    return pd.DataFrame(names | {"layer": values.columns} | numbers)
