"""Kept sets compared: by position, with each other, along a hyper-parameter, and by what the answer loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.figures.style import GREY, INK, SMALL, headline, label_ends, look, panels, styled, text_on
from chunkkv_lib.report.figures.tokens import kept_share
from chunkkv_lib.report.records import METRICS


@styled
def kept_by_position(kept_by_method: Mapping[str, Sequence[ArrayLike]], n: int, parts: int = 20) -> Figure:
    """Share of the positions that stay in each of `parts` equal stretches of the prompt, mean over layers and heads.

    kept_by_method  method -> per layer the kept positions [S, b]
    n               prompt tokens
    """
    table = position_shares(kept_by_method, n, parts)
    figure, (ax,) = panels(height=3.2)
    centres = 100 * (np.arange(parts) + 0.5) / parts
    for method, shares in table.items():
        style = look(method)
        ax.plot(centres, shares, color=style.colour, linestyle=style.line, marker=style.marker, markersize=4)
    ax.set(xlabel="Place in the prompt (% of its tokens)", ylabel="Share that stays", xlim=(0, 100), ylim=(0, None))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    ends = [(shares.iloc[-1], method, look(method).colour) for method, shares in table.items()]
    label_ends(ax, centres[-1], ends, gap=0.09)
    return figure


def position_shares(kept_by_method: Mapping[str, Sequence[ArrayLike]], n: int, parts: int = 20) -> pd.DataFrame:
    """What `kept_by_position` draws: a row per stretch, a column per method, shares in 0..1."""
    if not 1 <= parts <= n:
        raise InputError(f"parts={parts} does not fit a prompt of {n} tokens; take between 1 and {n}.")
    starts = np.arange(parts) * n // parts
    widths = np.diff(np.append(starts, n))
    shares = {
        method: np.mean([np.add.reduceat(kept_share(kept, n), starts) / widths for kept in layers], axis=0)
        for method, layers in kept_by_method.items()
    }
    return pd.DataFrame(shares)


def run_lengths(kept: ArrayLike) -> np.ndarray:
    """Lengths of the runs of neighbouring positions in a kept set [S, b]: [1, 2, 3, 9] -> 3, 1."""
    lengths = []
    for row in np.atleast_2d(np.asarray(kept)):
        ends = np.flatnonzero(np.diff(row) > 1)
        lengths.append(np.diff(np.concatenate([[-1], ends, [len(row) - 1]])))
    return np.concatenate(lengths)


@styled
def overlap_matrix(overlaps: pd.DataFrame) -> Figure:
    """Mean Jaccard index between the methods' kept sets as a table of shaded cells.

    overlaps  square, methods as index and columns, values 0..1
    """
    figure, (ax,) = panels(height=0.5 * len(overlaps) + 1.3)
    ax.imshow(overlaps.to_numpy(), cmap="Greys", vmin=0, vmax=1.25, aspect="auto")
    for row, column in np.ndindex(overlaps.shape):
        share = overlaps.iat[row, column]
        if row != column:
            ax.text(column, row, f"{100 * share:.0f} %", ha="center", va="center", fontsize=SMALL,
                    color=text_on((1 - share / 1.25,) * 3))  # fmt: skip
    names = list(overlaps)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="left")
    ax.set_yticks(range(len(names)), list(overlaps.index))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return figure


@styled
def overlap_with_layer_below(layers: pd.DataFrame, methods: Sequence[str], chance: float | None = None) -> Figure:
    """Jaccard index of each layer's kept set with the layer below's, a line per method.

    layers  columns method, layer, overlap_layer_below; mean over sequences
    chance  the index that random sets would have, as a dotted line
    """
    figure, (ax,) = panels(height=3.2)
    ends = []
    for method in methods:
        values = layers[layers["method"] == method].groupby("layer")["overlap_layer_below"].mean().iloc[1:]
        style = look(method)
        ax.plot(values.index, values, color=style.colour, linestyle=style.line, marker=style.marker, markersize=4)
        ends.append((values.iloc[-1], method, style.colour))
    if chance is not None:
        ax.axhline(chance, color=GREY, linewidth=1, linestyle=(0, (1, 1)))
        ax.text(0.5, chance, "two random sets", fontsize=SMALL, color=GREY, va="bottom")
    ax.set(xlabel="Layer", ylabel="Jaccard index with the layer below", xlim=(0, None), ylim=(0, 1))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    label_ends(ax, values.index[-1], ends)
    return figure


@styled
def answer_dots(answers: pd.DataFrame) -> Figure:
    """Negative log-likelihood of the answer from each method's cache; the full cache's as a line.

    answers  columns method, nll, with a row "Full"; one sequence
    raises   InputError: no row "Full", or no likelihood, as with an answer of one token.
    """
    nll = answers.set_index("method")["nll"]
    if "Full" not in nll or nll.isna().any():
        raise InputError("the likelihood needs a row 'Full' and an answer of at least 2 tokens.")
    others = nll.drop("Full")
    figure, (ax,) = panels(height=0.36 * len(others) + 1)
    ax.axvline(nll["Full"], color=INK, linewidth=1.2)
    for y, (method, value) in enumerate(others.items()):
        style = look(method)
        ax.hlines(y, nll["Full"], value, color=style.colour, linewidth=1.4)
        ax.plot(value, y, style.marker, color=style.colour, markersize=11 if style.marker == "*" else 8)
        ax.annotate(f"{value:.2f}", (value, y), xytext=(9, 0), textcoords="offset points", va="center", fontsize=SMALL)
    ax.set_yticks(range(len(others)), list(others.index))
    ax.set(ylim=(len(others) - 0.5, -0.5), xlim=(0, 1.12 * nll.max()))
    ax.set_xlabel("Nats per answer token   ← lower is better")
    ax.grid(visible=False, axis="y")
    headline(figure, f"Line: the full cache, {nll['Full']:.2f}")
    return figure


@styled
def sweep(table: pd.DataFrame, x: str, label: str, metrics: Sequence[str], marked: float | None = None) -> Figure:
    """Metrics along a hyper-parameter, a panel per metric, a line per method.

    table   columns method, x and the metrics, one row per point; x is drawn logarithmically
    marked  the value that the rest of the chapter uses
    """
    figure, axes = panels(len(metrics), height=2.5, sharex=True)
    for ax, metric in zip(axes, metrics, strict=True):
        ends = []
        for method, points in table.groupby("method", sort=False):
            points, style = points.sort_values(x), look(method)
            ax.plot(points[x], points[metric], color=style.colour, linestyle=style.line, marker=style.marker)
            ends.append((points[metric].iloc[-1], method, style.colour))
        if marked is not None:
            ax.axvline(marked, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
        ax.set(xscale="log", ylabel=_across(metric))
        ax.minorticks_off()
        label_ends(ax, table[x].max(), ends, gap=0.12)
    ticks = sorted(table[x].unique())
    axes[-1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[-1].set_xlabel(label)
    return figure


def _across(metric: str) -> str:
    about = METRICS[metric]
    unit = f" ({about.unit})" if about.unit else ""
    return "\n".join(filter(None, [about.short + unit, about.direction]))
