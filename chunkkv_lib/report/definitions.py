"""The ranking of the methods under every recorded definition of the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import rankdata

from .records import CONTROLS, DEFINITIONS, METHODS, METRICS, choose, present, sequence_means
from .statistics import interval
from .style import SMALL, brief, headline, legible, look, panels, styled, text_on


def definition_ranks(
    records: pd.DataFrame,
    category: str | None = None,
    methods: Iterable[str] | None = None,
    definitions: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Rank of each method (1 best) under every recorded definition.

    category     one row of Table 11, or None for all sequences together
    definitions  metric columns; None: all recorded ones that hold values
    return       columns metric, method, rank, estimate, low, high, n, tied: not distinguishable from the next better
                 method, whose paired 95 % interval to it contains zero
    raises       InputError: unknown category or method.
    """
    chosen, rows = choose(records, category), []
    methods = present(chosen, methods, METHODS + CONTROLS)
    for metric in definitions or [d for d in DEFINITIONS if d in chosen and chosen[d].notna().any()]:
        wide, sign = sequence_means(chosen, metric)[methods], METRICS[metric].sign
        worth = -sign * wide.mean().to_numpy()
        order, tied = np.argsort(worth, kind="stable"), np.zeros(len(methods), dtype=bool)
        for better, worse in pairwise(order):
            tied[worse] = not interval(wide.iloc[:, better] - wide.iloc[:, worse]).excludes(0)
        for method, rank, same in zip(methods, rankdata(worth, method="min"), tied, strict=True):
            row = {"metric": metric, "method": method, "rank": int(rank)} | vars(interval(wide[method]))
            rows.append(row | {"tied": bool(same)})
    return pd.DataFrame(rows)


@styled
def definitions_figure(ranks: pd.DataFrame, subject: str = "All categories") -> Figure:
    """Rank of each method (large) and its mean (small) under every definition, from a table of `definition_ranks`."""
    methods, definitions = list(ranks["method"].unique()), list(ranks["metric"].unique())
    shades = sns.color_palette("Blues_r", len(methods) + 3)[1:]  # of rank 1, 2, ...
    figure, (ax,) = panels(height=0.46 * len(definitions) + 1.5, width=6.0)
    cells = ranks.pivot(index="metric", columns="method", values="rank").loc[definitions, methods]
    sns.heatmap(cells.to_numpy(), ax=ax, cmap=shades[: len(methods)], vmin=0.5, vmax=len(methods) + 0.5, cbar=False,
                linewidths=1.5, linecolor="white")  # fmt: skip
    for cell in ranks.itertuples():
        x, y = methods.index(cell.method) + 0.5, definitions.index(cell.metric) + 0.5
        options = {"ha": "center", "va": "center", "color": text_on(shades[cell.rank - 1])}
        ax.text(x, y - 0.17, f"{cell.rank}{' =' if cell.tied else ''}", fontsize=11, fontweight="bold", **options)
        ax.text(x, y + 0.23, f"{cell.estimate:.4f}", fontsize=SMALL, **options)
    labels = [fill(METRICS[d].label, 26) + {1: " ↑", -1: " ↓", 0: ""}[METRICS[d].sign] for d in definitions]
    ax.set_yticks(np.arange(len(definitions)) + 0.5, labels, rotation=0, fontsize=SMALL)
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(len(methods)) + 0.5, map(brief, methods), rotation=35, ha="left", fontsize=10)
    for tick, method in zip(ax.get_xticklabels(), methods, strict=True):
        tick.set_color(legible(look(method).colour))
    ax.tick_params(length=0)
    note = "Large: rank, 1 best; small: mean. “=”: not distinguishable from the next better.\n"
    headline(figure, subject, int(ranks["n"].max()), f"{note}↓ lower is better, ↑ higher is better.")
    return figure
