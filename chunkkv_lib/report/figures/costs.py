"""What an analysis costs: ratios to the plain prefill and growth with the prompt, measured and by arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.figures.setting import SERIES, readable
from chunkkv_lib.report.figures.style import GREY, INK, SMALL, Look, headline, label_ends, look, panels, styled

OWN = "chunkkv_lib"
#: This library's steps have colours of their own; a peer's have the colour of the method that they are nearest to.
STEPS = {"prefill": Look(INK, "D", "-"), "all methods": Look("#CC79A7", "P", "-")}
NEAREST = {"ObservedAttention": "H2O"}
FEW = Look("#B07700", "X", "-")


def step_label(library: str, step: str) -> str:
    """How a step is called in figures and tables: a peer's library is named."""
    return step if library == OWN else f"{library} {step}"


def _end_label(library: str, step: str) -> str:
    """The same, short enough to stand beside a line."""
    return step_label(library, step.removesuffix("Attention"))


def step_look(library: str, step: str) -> Look:
    """How a step is drawn: solid for this library, dashed for a peer."""
    if library == OWN:
        return STEPS.get(step, FEW)
    own = STEPS.get(step) or look(NEAREST.get(step, step))
    return Look(own.colour, own.marker, (0, (4, 2)))


@styled
def cost_ratios(rows: pd.DataFrame, limit: pd.DataFrame, allowed: Mapping[str, float] | None = None) -> Figure:
    """Time and peak memory as ratios to the plain prefill, against the prompt's length.

    rows     columns tokens, library, step, time_ratio, time_ratio_low, time_ratio_high, memory_ratio
    limit    columns tokens, time_ratio: what the arithmetic of the analysis alone would cost
    allowed  a horizontal line in a panel: "time_ratio" -> value
    raises   InputError: nothing but plain prefills.
    """
    rows = rows[rows["step"] != "prefill"]
    if rows.empty:
        raise InputError("no step but the plain prefill was measured, so there is no ratio to draw.")
    figure, axes = panels(2, height=3.1, sharex=True)
    for ax, column, label in zip(axes, ("time_ratio", "memory_ratio"), ("Time", "Peak memory"), strict=True):
        ends = _lines(ax, rows.dropna(subset=column), column)
        if column == "time_ratio":
            points = limit.sort_values("tokens")
            ax.plot(points["tokens"], points["time_ratio"], color=GREY, linestyle=":", marker=".", label="arithmetic")
            ends.append((points["time_ratio"].iloc[-1], "arithmetic", GREY))
        if allowed and column in allowed:
            ax.axhline(allowed[column], color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
        ax.axhline(1, color=INK, linewidth=0.8, zorder=0)
        ax.set(xscale="log", yscale="log", ylabel=f"{label},\nratio to the plain prefill")
        _plain_ticks(ax, rows["tokens"])
        label_ends(ax, rows["tokens"].max(), ends, gap=0.085)
    axes[-1].set_xlabel("Prompt length (tokens)")
    headline(figure, _how_to_read(rows))
    return figure


@styled
def cost_growth(rows: pd.DataFrame, limit: pd.DataFrame) -> Figure:
    """Seconds and peak memory of every step against the prompt's length, on logarithmic axes.

    rows    columns tokens, library, step, seconds, peak_bytes; a peer's plain prefill is left out
    limit   columns tokens, time_ratio; drawn times the plain prefill's own seconds
    raises  InputError: no rows.
    """
    if rows.empty:
        raise InputError("no row to draw: measure at least one length.")
    figure, axes = panels(2, height=3.3, sharex=True)
    rows = rows[(rows["library"] == OWN) | (rows["step"] != "prefill")]  # the peer's prefill would hide ours
    ends = _lines(axes[0], rows, "seconds")
    plain = rows[rows["step"] == "prefill"].set_index("tokens")["seconds"]
    bound = (limit.set_index("tokens")["time_ratio"] * plain).dropna().sort_index()
    if len(bound):
        axes[0].plot(bound.index, bound, color=GREY, linestyle=":", marker=".", label="arithmetic")
        ends.append((bound.iloc[-1], "arithmetic", GREY))
    memory = rows.dropna(subset="peak_bytes")
    memory = memory[memory["peak_bytes"] > 0]
    for ax, found, label in zip(axes, (ends, _lines(axes[1], memory, "peak_bytes")), ("Seconds", "Peak memory")):
        ax.set(xscale="log", yscale="log", ylabel=f"{label} above the model" if ax is axes[1] else label)
        _plain_ticks(ax, rows["tokens"])
        label_ends(ax, rows["tokens"].max(), found, gap=0.085)
    axes[1].yaxis.set_major_locator(LogLocator(base=4, numticks=12))
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda size, _: readable(size)))
    axes[1].yaxis.set_minor_locator(NullLocator())
    axes[-1].set_xlabel("Prompt length (tokens)")
    headline(figure, _how_to_read(rows))
    return figure


@styled
def share_by_length(shares: Mapping[str, tuple[np.ndarray, np.ndarray]], label: str) -> Figure:
    """Shares in per cent against prompt length, one line per name; shares: name -> tokens, fractions."""
    figure, (ax,) = panels(height=3.2)
    ends = []
    for colour, (name, (tokens, share)) in zip(SERIES, shares.items()):
        ax.plot(tokens, 100 * np.asarray(share), color=colour, marker="o", markersize=4, label=name)
        ends.append((100 * share[-1], name, colour))
    ax.set(xscale="log", xlabel="Prompt length (tokens)", ylabel=label)
    ax.set_ylim(0)
    _plain_ticks(ax, pd.Series(tokens[::2]), numbers=False)
    label_ends(ax, tokens[-1], ends)
    headline(figure, "By formula. The horizontal axis is logarithmic.")
    return figure


def _how_to_read(rows: pd.DataFrame) -> str:
    peers = sorted(set(rows["library"]) - {OWN})
    solid = f"Solid: this book's library. Dashed: {', '.join(peers)}. " if peers else ""
    return solid + "All axes are logarithmic."


def _lines(ax: Axes, rows: pd.DataFrame, column: str) -> list[tuple[float, str, str]]:
    """A line per library and step; returns what `label_ends` needs."""
    ends = []
    for (library, step), points in rows.groupby(["library", "step"], sort=False):
        points, style, label = points.sort_values("tokens"), step_look(library, step), step_label(library, step)
        if column == "time_ratio":
            ax.fill_between(
                points["tokens"], points["time_ratio_low"], points["time_ratio_high"],
                color=style.colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
        ax.plot(
            points["tokens"], points[column], color=style.colour, linestyle=style.line, marker=style.marker, label=label
        )
        ends.append((points[column].iloc[-1], _end_label(library, step), style.colour))
    return ends


def _plain_ticks(ax: Axes, tokens: pd.Series, numbers: bool = True) -> None:
    """Ticks at the measured lengths, and plain numbers instead of powers of ten."""
    ticks = sorted(set(tokens))
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=SMALL)
    ax.xaxis.set_minor_locator(NullLocator())
    if numbers:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(FuncFormatter(_minor_tick))


def _minor_tick(value: float, _: int) -> str:
    """Few enough numbers between the powers of ten that they never touch."""
    leading = value / 10 ** np.floor(np.log10(value))
    return f"{value:g}" if np.isclose(leading, (1.2, 1.5, 2, 3, 5)).any() else ""
