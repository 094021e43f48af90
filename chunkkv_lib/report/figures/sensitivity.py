"""Metrics along one hyper-parameter: a panel per metric, a line per method, bands or bars for the intervals."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chunkkv_lib.report.figures.style import GREY, headline, label_ends, look, panels, say_start, styled
from chunkkv_lib.report.records import METRICS


@styled
def axis_figure(means: pd.DataFrame, field: str, label: str, marked: object = None, subject: str = "") -> Figure:
    """Metrics against one hyper-parameter, with 95 % intervals.

    means   columns metric, method, <field>, estimate, low, high, n (`sensitivity.axis_means`)
    label   of the x axis, with its unit
    marked  the value that the rest of the book uses
    The values stand at equal distances; numbers are joined by lines, names are not.
    """
    metrics, values = list(means["metric"].unique()), list(means[field].unique())
    if all(isinstance(value, int | float) for value in values):
        values = sorted(values)
    figure, axes = panels(len(metrics), height=2.3, sharex=True)
    for ax, metric in zip(axes, metrics, strict=True):
        _panel(ax, means[means["metric"] == metric], metric, field, values, marked)
    axes[-1].set_xticks(range(len(values)), [_tick(value) for value in values])
    axes[-1].set_xlabel(label)
    headline(figure, subject or METRICS[metrics[0]].label, int(means["n"].max()))
    return figure


def _panel(ax: Axes, means: pd.DataFrame, metric: str, field: str, values: list, marked: object) -> None:
    numbers = not any(isinstance(value, str | bool) for value in values)
    methods, ends = list(means["method"].unique()), []
    for i, (method, points) in enumerate(means.groupby("method", sort=False)):
        points, style = points.set_index(field).reindex(values).dropna(subset="estimate"), look(method)
        shift = 0 if numbers else 0.12 * (i - (len(methods) - 1) / 2)
        x = [values.index(value) + shift for value in points.index]
        if numbers:
            ax.fill_between(x, points["low"], points["high"], color=style.colour, alpha=0.18, linewidth=0)
            ax.plot(x, points["estimate"], color=style.colour, linestyle=style.line, marker=style.marker)
        else:
            ax.vlines(x, points["low"], points["high"], color=style.colour, linewidth=1.4)
            ax.plot(x, points["estimate"], color=style.colour, linestyle="none", marker=style.marker)
        ends.append((points["estimate"].iloc[-1], method, style.colour))
    if marked in values:
        ax.axvline(values.index(marked), color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
    ax.set_xlim(-0.4, len(values) - 0.6)
    about = METRICS[metric]
    ax.set_ylabel("\n".join(filter(None, [about.short + (f" ({about.unit})" if about.unit else ""), about.direction])))
    say_start(ax)
    label_ends(ax, len(values) - 1, ends, gap=0.12)


def _tick(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
