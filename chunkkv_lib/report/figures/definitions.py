"""The ranking of the methods under every recorded definition of the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata

from chunkkv_lib.report.figures.style import SMALL, headline, legible, look, panels, styled, text_on
from chunkkv_lib.report.records import CONTROLS, DEFINITIONS, METHODS, METRICS, choose, present, sequence_means
from chunkkv_lib.report.statistics import mean_interval


@styled
def definitions_figure(
    records: pd.DataFrame,
    category: str | None = None,
    methods: Iterable[str] | None = None,
    definitions: Sequence[str] | None = None,
) -> Figure:
    """Rank of each method (1 best, large) and its mean (small) under every recorded definition.

    category     one row of Table 11, or None for all sequences together
    definitions  metric columns; None: all recorded ones that hold values
    A "=" marks a method whose paired 95 % interval to the next better one contains zero.
    raises       InputError: unknown category or method.
    """
    chosen = choose(records, category)
    methods = present(chosen, methods, METHODS + CONTROLS)
    definitions = [d for d in definitions or DEFINITIONS if d in chosen and chosen[d].notna().any()]
    ranked = [_ranks(sequence_means(chosen, metric)[methods], METRICS[metric].sign) for metric in definitions]
    shades = sns.color_palette("Blues_r", len(methods) + 3)[1:]  # of rank 1, 2, ...
    figure, (ax,) = panels(height=0.46 * len(definitions) + 1.5, width=6.0)
    sns.heatmap(
        np.array([ranks for ranks, _, _ in ranked]),
        ax=ax,
        cmap=shades[: len(methods)],
        vmin=0.5,
        vmax=len(methods) + 0.5,
        cbar=False,
        linewidths=1.5,
        linecolor="white",
    )
    for row, found in enumerate(ranked):
        for column, (rank, mean, tied) in enumerate(zip(*found, strict=True)):
            _rank_cell(ax, column + 0.5, row + 0.5, rank, mean, tied, text_on(shades[int(rank) - 1]))
    ax.set_yticks(
        np.arange(len(definitions)) + 0.5,
        [_definition_label(d) for d in definitions],
        rotation=0,
        fontsize=SMALL,
    )
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(len(methods)) + 0.5, methods, rotation=35, ha="left", fontsize=10)
    for tick, method in zip(ax.get_xticklabels(), methods, strict=True):
        tick.set_color(legible(look(method).colour))
    ax.tick_params(length=0)
    headline(
        figure,
        category or "All categories",
        chosen["sequence"].nunique(),
        "Large: rank, 1 best; small: mean. “=”: not distinguishable from the next better.\n"
        "↓ lower is better, ↑ higher is better.",
    )
    return figure


def _ranks(wide: pd.DataFrame, sign: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank (1 best), mean, and "not distinguishable from the next better" for each method's column."""
    means = wide.mean().to_numpy()
    order = np.argsort(-sign * means, kind="stable")
    tied = np.zeros(len(means), dtype=bool)
    for better, worse in pairwise(order):
        pair = mean_interval(wide.iloc[:, better] - wide.iloc[:, worse], method="expanded")
        tied[worse] = not pair.excludes(0)
    return rankdata(-sign * means, method="min"), means, tied


def _rank_cell(ax: Axes, x: float, y: float, rank: float, mean: float, tied: bool, colour: str) -> None:
    ax.text(
        x,
        y - 0.17,
        f"{rank:.0f}{' =' if tied else ''}",
        ha="center",
        va="center",
        fontsize=11,
        fontweight="bold",
        color=colour,
    )
    ax.text(x, y + 0.23, f"{mean:.4f}", ha="center", va="center", fontsize=SMALL, color=colour)


def _definition_label(metric: str) -> str:
    return fill(METRICS[metric].label, 26) + {1: " ↑", -1: " ↓", 0: ""}[METRICS[metric].sign]
