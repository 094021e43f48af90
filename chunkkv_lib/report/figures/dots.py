"""Dots with intervals: a quantity by row and method, one run filled, another hollow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from chunkkv_lib.report.figures.style import GREY, INK, SMALL, headline, look, panels, styled

COLUMNS = ("row", "method", "source", "estimate", "low", "high")
FILLS = {0: "full", 1: "none", 2: "left", 3: "bottom"}


@styled
def dots_figure(
    tables: Mapping[str, pd.DataFrame],
    subject: str,
    note: str = "",
    zero: str = "",
    sequences: int | None = None,
    spacing: float = 0.17,
) -> Figure:
    """A panel per quantity, a line per row, a dot with its interval per method and source.

    tables   label of the x axis -> table with COLUMNS; low and high are NaN where there is no interval
    subject, note, sequences   the figure's first lines; zero  what the line at 0 stands for, "" draws none
    spacing  inches from one dot to the next
    """
    first = next(iter(tables.values()))
    methods, sources = _in_order(tables, "method"), _in_order(tables, "source")
    slots, rows = len(methods) * len(sources), first["row"].nunique()
    own_rows = set(methods) == set(first["row"])  # a row is a method: no need to keep places for the others
    height = rows * (len(sources) if own_rows else slots) * spacing + rows * 0.08 + 0.75
    figure, axes = panels(len(tables), height=height)
    for ax, (label, table) in zip(axes, tables.items(), strict=True):
        for entry in table.itertuples():
            slot = 0 if own_rows else methods.index(entry.method) * len(sources)
            slot += sources.index(entry.source)
            places = len(sources) if own_rows else slots
            y = list(table["row"].unique()).index(entry.row) + 0.8 * ((slot + 0.5) / places - 0.5)
            _dot(ax, entry, y, sources.index(entry.source))
        _finish(ax, label, list(table["row"].unique()), zero)
    _legend(figure, [] if own_rows else methods, sources)
    headline(figure, subject, sequences, note)
    return figure


def _in_order(tables: Mapping[str, pd.DataFrame], column: str) -> list[str]:
    return list(dict.fromkeys(value for table in tables.values() for value in table[column]))


def _dot(ax: Axes, entry: tuple, y: float, source: int) -> None:
    style = look(entry.method)
    ax.hlines(y, entry.low, entry.high, color=style.colour, linewidth=1.4)
    ax.plot(entry.estimate, y, color=style.colour, linestyle="none", **_marker(style.marker, source))


def _marker(shape: str, source: int) -> dict:
    return {"marker": shape, "fillstyle": FILLS[source], "markersize": 5.5, "markerfacecoloralt": "white"}


def _finish(ax: Axes, label: str, rows: Sequence[str], zero: str) -> None:
    ax.set_yticks(range(len(rows)), [fill(row, 14) for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(visible=False, axis="y")
    for edge in range(1, len(rows)):
        ax.axhline(edge - 0.5, color="#d8d8d8", linewidth=0.7)
    if zero:
        ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
        ax.text(0, 1.005, zero, transform=ax.get_xaxis_transform(), ha="center", fontsize=SMALL, color=GREY)


def _legend(figure: Figure, methods: Iterable[str], sources: Sequence[str]) -> None:
    def entry(name: str, colour: str, shape: str, source: int) -> Line2D:
        return Line2D([], [], color=colour, linestyle="none", label=name, **_marker(shape, source))

    handles = [entry(name, look(name).colour, look(name).marker, 0) for name in methods]
    if len(sources) > 1:
        handles += [entry(name, GREY, "o", place) for place, name in enumerate(sources)]
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=min(len(handles), 4), fontsize=SMALL)
