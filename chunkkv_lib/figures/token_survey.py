"""Shares of kept tokens along an axis of names: places of a prompt, distances, lengths of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from chunkkv_lib.figures.style import GREY, SMALL, headline, label_ends, look, panels, styled


@styled
def shares_figure(
    tables: Mapping[str, pd.DataFrame],
    values: Sequence[str],
    label: str,
    subject: str = "",
    chance: float | None = None,
    note: str = "",
) -> Figure:
    """A panel per table, a line with a 95 % band per method; shares in per cent.

    tables  label of the y axis -> columns method, value, estimate, low, high, n (`token_shares.means`)
    values  what stands on the x axis, in this order, at equal distances; label: of the x axis
    chance  share that a random choice would have, a dotted line
    """
    figure, axes = panels(len(tables), height=3.0, sharex=True)
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        _lines(ax, table, list(values))
        if chance is not None:
            ax.axhline(chance, color=GREY, linewidth=1, linestyle=(0, (1, 1)), zorder=1)
        ax.set(ylabel=name, ylim=(0, None), xlim=(-0.3, len(values) - 0.7))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        _name_ends(ax, table, values[-1], len(values) - 1)
    crowded = len(values) > 7
    axes[-1].set_xticks(range(len(values)), values, fontsize=SMALL, rotation=40 if crowded else 0,
                        ha="right" if crowded else "center")  # fmt: skip
    axes[-1].set_xlabel(label)
    headline(figure, subject, int(next(iter(tables.values()))["n"].max()), note)
    return figure


def _lines(ax: Axes, table: pd.DataFrame, values: list[str]) -> None:
    for method, points in table.groupby("method", sort=False):
        points, style = points.set_index("value").reindex(values), look(method)
        x = range(len(values))
        ax.fill_between(x, points["low"], points["high"], color=style.colour, alpha=0.16, linewidth=0)
        ax.plot(x, points["estimate"], color=style.colour, linestyle=style.line, marker=style.marker)


def _name_ends(ax: Axes, table: pd.DataFrame, last: str, x: int) -> None:
    ends = table[table["value"] == last].set_index("method")["estimate"].dropna()
    label_ends(ax, x, [(y, method, look(method).colour) for method, y in ends.items()], gap=0.09)
