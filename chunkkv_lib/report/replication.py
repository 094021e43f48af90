"""Several runs on one question: layers on a common axis of depth, and the same texts measured twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..errors import InputError
from .layers import layer_gaps
from .records import METHODS, METRICS, PRIMARY, damage, sequence_means
from .statistics import interval
from .style import GREY, INK, SERIES, SMALL, headline, line_panel, panels, styled


def depth_gaps(
    runs: Mapping[str, Any],
    category: str | None = None,
    metrics: Sequence[str] = PRIMARY,
    pair: tuple[str, str] = METHODS[:2],
) -> pd.DataFrame:
    """Paired differences by relative depth, so that models with different numbers of layers share an axis.

    runs    label -> run; those without the category are left out
    return  columns run, depth (0 next to the input, 1 next to the output), and those of `layers.layer_gaps`
    raises  InputError: no run has the category; an unknown method or metric.
    """
    tables = []
    for label, run in runs.items():
        if category is not None and category not in set(run.records["category"]):
            continue
        gaps = layer_gaps(run.records, category, metrics, [pair])
        depth = (gaps["layer"] + 0.5) / run.records["layer"].nunique()
        tables.append(gaps.assign(run=label, depth=depth))
    if not tables:
        raise InputError(f"none of the {len(runs)} runs has sequences of {category!r}; choose another category.")
    found = pd.concat(tables, ignore_index=True)
    return found[["run", "depth", *found.columns.drop(["run", "depth"])]]


def same_sign(gaps: pd.DataFrame, bins: int = 8) -> pd.DataFrame:
    """Where in depth the runs' gaps point the same way: per metric and slice of depth, the mean gap of each run.

    gaps    of `depth_gaps`
    bins    slices of equal depth
    return  columns metric, slice (from 0), one per run with its mean gap, and `same`: all have the same sign
    """
    sliced = gaps.assign(slice=(gaps["depth"] * bins).astype(int).clip(upper=bins - 1))
    wide = sliced.pivot_table("estimate", ["metric", "slice"], "run", "mean", sort=False, observed=True)
    same = (wide > 0).all(axis=1) | (wide < 0).all(axis=1)
    return wide.assign(same=same).reset_index()


def measured_twice(first: Any, second: Any, methods: Sequence[str] = METHODS) -> pd.DataFrame:
    """Two runs on the same texts, over the sequences that both measured: the same numbers in another arithmetic, say.

    first, second  runs; of their metrics the primary ones are compared, and the damage to the answer, nll_increase
    return         columns metric, method, n (sequences that have both values), first, second (means), and the paired
                   difference second - first: estimate, low, high, and its standard deviation: spread
    raises         InputError: no sequence in common.
    """
    rows = []
    for metric in (*PRIMARY, "nll_increase"):
        one, other = (
            sequence_means(damage(run.answer_records) if metric == "nll_increase" else run.records, metric)
            for run in (first, second)
        )
        common = one.index.intersection(other.index)
        if common.empty:
            raise InputError(f"runs {first.name!r} and {second.name!r} have no sequence in common; compare others.")
        for method in methods:
            both = pd.DataFrame({"first": one.loc[common, method], "second": other.loc[common, method]}).dropna()
            moved = both["second"] - both["first"]
            row = {"metric": metric, "method": method, **both.mean(), **vars(interval(moved))}
            rows.append(row | {"spread": moved.std()})
    return pd.DataFrame(rows)


@styled
def depth_figure(gaps: pd.DataFrame, subject: str) -> Figure:
    """Paired differences of one pair of methods against relative depth, a panel per metric and a line per run.

    gaps    of `depth_gaps`; bands are 95 % intervals over each run's own documents
    raises  InputError: more runs than can be told apart.
    """
    runs = list(gaps["run"].unique())
    if len(runs) > len(SERIES):
        raise InputError(f"{len(runs)} runs cannot be told apart in one figure; choose at most {len(SERIES)}.")
    counts = gaps.groupby("run")["n"].max()
    gaps = gaps.assign(run=[f"{run}, n = {counts[run]}" for run in gaps["run"]])
    looks = dict(zip(gaps["run"].unique(), SERIES))
    figure, axes = panels(gaps["metric"].nunique(), height=2.9, sharex=True)
    for ax, (metric, table) in zip(axes, gaps.groupby("metric", sort=False), strict=True):
        line_panel(ax, table, "depth", by="run", looks=looks, markevery=3)
        ax.axhline(0, color=INK, linewidth=0.8, zorder=1)
        method, baseline = table.iloc[0][["method", "baseline"]]
        ax.set(xlim=(0, 1), ylabel=f"{method} − {baseline}\nin {METRICS[metric].short}")
        if METRICS[metric].sign:
            height, side = (0.97, "top") if METRICS[metric].sign > 0 else (0.03, "bottom")
            ax.text(0.99, height, f"{method} better", transform=ax.transAxes, ha="right", va=side, fontsize=SMALL,
                    color=GREY)  # fmt: skip
    axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    axes[-1].set_xlabel("Relative depth (0: next to the input, 1: next to the output)")
    headline(figure, subject)
    return figure
