"""A gap between two methods by relative depth, one line per run: models of different depth on one axis."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.figures.style import GREY, INK, SMALL, Look, headline, panels, styled
from chunkkv_lib.report.records import METRICS

#: Runs are told apart by colour, marker and dashes; the colours are none of the three methods'.
LINES = (
    Look("#222222", "o", "-"),
    Look("#CC79A7", "D", (0, (5, 1.5))),
    Look("#E69F00", "s", (0, (1, 1))),
    Look("#56B4E9", "^", (0, (3, 1, 1, 1))),
)


@styled
def depth_figure(gaps: pd.DataFrame, subject: str) -> Figure:
    """Paired differences of one pair of methods against relative depth, a panel per metric and a line per run.

    gaps    of `replication.depth_gaps`; bands are 95 % intervals over each run's own sequences
    raises  InputError: more runs than can be told apart.
    """
    runs = list(gaps["run"].unique())
    if len(runs) > len(LINES):
        raise InputError(f"{len(runs)} runs cannot be told apart in one figure; choose at most {len(LINES)}.")
    metrics = list(gaps["metric"].unique())
    figure, axes = panels(len(metrics), height=2.9, sharex=True)
    for ax, metric in zip(axes, metrics, strict=True):
        for run, style in zip(runs, LINES):
            _line(ax, gaps[(gaps["metric"] == metric) & (gaps["run"] == run)], style, run)
        _finish(ax, metric, *gaps.iloc[0][["method", "baseline"]])
    axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    axes[-1].set_xlabel("Relative depth (0: next to the input, 1: next to the output)")
    headline(figure, subject)
    return figure


def _line(ax: Axes, gaps: pd.DataFrame, style: Look, run: str) -> None:
    ax.fill_between(gaps["depth"], gaps["low"], gaps["high"], color=style.colour, alpha=0.15, linewidth=0)
    label = f"{run}, n = {gaps['n'].max()}"
    ax.plot(
        gaps["depth"], gaps["estimate"], color=style.colour, linestyle=style.line, marker=style.marker,
        markevery=3, label=label,
    )  # fmt: skip


def _finish(ax: Axes, metric: str, method: str, baseline: str) -> None:
    ax.axhline(0, color=INK, linewidth=0.8, zorder=1)
    ax.set_xlim(0, 1)
    ax.set_ylabel(f"{method} − {baseline}\nin {METRICS[metric].short}")
    if METRICS[metric].sign:
        height, side = (0.97, "top") if METRICS[metric].sign > 0 else (0.03, "bottom")
        ax.text(
            0.99, height, f"{method} better", transform=ax.transAxes, ha="right", va=side, fontsize=SMALL, color=GREY
        )
