"""Does a loss in the cache predict a loss in the answer? Scatter and calibration of the two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from chunkkv_lib.report.figures.style import GREY, SMALL, headline, look, panels, styled
from chunkkv_lib.report.records import CONTROLS, METHODS, METRICS, PRIMARY, damage, present, sequence_means
from chunkkv_lib.report.statistics import Interval, mean_interval, within_sequence_rank_correlation


@styled
def damage_scatter(
    records: pd.DataFrame,
    answers: pd.DataFrame,
    metrics: Sequence[str] = PRIMARY,
    outcome: str = "nll_increase",
    methods: Iterable[str] | None = None,
) -> Figure:
    """The answer's damage against each metric: a faint dot per sequence and method, a large marker per mean.

    records  layers of any categories; answers: with "Full" rows
    outcome  "nll_increase" or "kl", nats per token
    Each panel states the rank correlation over methods within a sequence, averaged over sequences. The y axis
    ends at the 99th percentile of the dots and says how many lie above.
    """
    methods = present(records, methods, METHODS + CONTROLS)
    hurt = sequence_means(damage(answers), outcome)
    figure, axes = panels(len(metrics), height=3.6)
    for ax, metric in zip(axes, metrics, strict=True):
        x = sequence_means(records, metric)[methods]
        y = hurt.reindex(index=x.index, columns=methods)
        for method in methods:
            _cloud(ax, x[method], y[method], method)
        _means(ax, x, y)
        _finish(ax, metric, outcome, y.to_numpy())
        ax.set_title(
            _correlation_text(within_sequence_rank_correlation(x, y, method="expanded")),
            fontsize=SMALL,
            color=GREY,
            loc="left",
        )
    axes[-1].legend(loc="upper left", bbox_to_anchor=(-0.1, -0.2), ncols=4)
    headline(figure, "Damage to the answer against what the metrics see", int(hurt.notna().any(axis=1).sum()))
    return figure


@styled
def calibration_figure(
    records: pd.DataFrame,
    answers: pd.DataFrame,
    metrics: Sequence[str] = PRIMARY,
    outcome: str = "nll_increase",
    methods: Iterable[str] | None = None,
    bins: int = 5,
) -> Figure:
    """Mean damage in bins of equal count of each metric, per method.

    If the methods' curves are one, the metric is calibrated: its value says what damage to expect. Bars are
    95 % bootstrap intervals over the sequences of a bin.
    """
    methods = present(records, methods, METHODS)
    hurt = sequence_means(damage(answers), outcome)
    figure, axes = panels(len(metrics), height=3.3)
    for ax, metric in zip(axes, metrics, strict=True):
        x = sequence_means(records, metric)[methods]
        y = hurt.reindex(index=x.index, columns=methods)
        for method in methods:
            _binned(ax, x[method], y[method], method, bins)
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set_xlabel(_across(metric))
        ax.set_ylabel(_upright(outcome))
    axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(methods), borderaxespad=0.2)
    headline(
        figure,
        "Calibration",
        int(hurt.notna().any(axis=1).sum()),
        f"Mean in {bins} bins of equal count, bars: 95 % interval",
    )
    return figure


def _cloud(ax: Axes, x: pd.Series, y: pd.Series, method: str) -> None:
    style = look(method)
    ax.plot(
        x,
        y,
        style.marker,
        color=style.colour,
        alpha=0.25,
        markersize=3,
        markeredgewidth=0.5,
        rasterized=len(x) > 500,
    )


def _means(ax: Axes, x: pd.DataFrame, y: pd.DataFrame) -> None:
    """Mean of each method, with the two intervals as a cross."""
    for method in x:
        style, both = look(method), pd.concat([x[method], y[method]], axis=1, keys=["x", "y"]).dropna()
        across, up = (mean_interval(both[axis], method="expanded") for axis in "xy")
        ax.hlines(up.estimate, across.low, across.high, color=style.colour, zorder=4)
        ax.vlines(across.estimate, up.low, up.high, color=style.colour, zorder=4)
        edge = style.colour if style.marker == "x" else "white"
        ax.plot(
            across.estimate,
            up.estimate,
            style.marker,
            color=style.colour,
            markersize=12 if style.marker == "*" else 8,
            markeredgecolor=edge,
            markeredgewidth=2 if style.marker == "x" else 0.8,
            zorder=5,
            label=method,
        )


def _finish(ax: Axes, metric: str, outcome: str, y: np.ndarray) -> None:
    low, high = np.nanpercentile(y, [0, 99])
    ax.set_ylim(min(low, 0) - 0.04 * (high - low), high + 0.04 * (high - low))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlabel(_across(metric))
    ax.set_ylabel(_upright(outcome))
    above = int((y > ax.get_ylim()[1]).sum())
    if above:
        ax.text(
            0.99,
            0.985,
            f"{above} dot{'s' * (above > 1)} above this axis",
            transform=ax.transAxes,
            ha="right",
            va="top",
            fontsize=SMALL,
            color=GREY,
        )


def _binned(ax: Axes, x: pd.Series, y: pd.Series, method: str, bins: int) -> None:
    both = pd.concat([x, y], axis=1, keys=["x", "y"]).dropna().sort_values("x")
    parts = [part for part in np.array_split(both.to_numpy(), bins) if len(part)]
    means = [(part[:, 0].mean(), mean_interval(part[:, 1], method="expanded")) for part in parts]
    style = look(method)
    at = [centre for centre, _ in means]
    ax.vlines(
        at,
        [found.low for _, found in means],
        [found.high for _, found in means],
        color=style.colour,
        linewidth=1,
    )
    ax.plot(
        at,
        [found.estimate for _, found in means],
        color=style.colour,
        marker=style.marker,
        linestyle=style.line,
        label=method,
    )


def _correlation_text(found: Interval) -> str:
    if not found.n or np.isnan(found.estimate):
        return "rank correlation over methods: not defined"
    interval = "" if np.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"rank correlation within a sequence: {found.estimate:.2f}{interval}".replace("-", "−")


def _across(metric: str) -> str:
    return f"{METRICS[metric].label}   {METRICS[metric].direction}"


def _upright(metric: str) -> str:
    """Two lines: a panel is not high enough for one."""
    about = METRICS[metric]
    return f"{about.label}\n{f'({about.unit}) ' if about.unit else ''}{about.direction}"
