"""Which tokens stay: over layers and positions, in a prompt short enough to read, compared between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from ..errors import InputError
from .records import METRICS
from .style import GREY, INK, SMALL, headline, label_ends, legible, line_panel, look, panels, styled, text_on

READABLE = 40  # tokens that fit as tick labels
COLUMNS = 400  # of the raster; longer prompts are averaged into this many


@styled
def kept_raster(kept_by_method: Mapping[str, Sequence[ArrayLike]], tokens: int | Sequence[str]) -> Figure:
    """Layers against prompt positions for each method: the darker, the more of the heads keep a position.

    kept_by_method  method -> per layer the kept positions [S, b] (or [b])
    tokens          the prompt's number of tokens, or the tokens themselves (written out if they are few)
    raises          InputError: no method, or a position outside the prompt.
    """
    if not kept_by_method:
        raise InputError("no kept positions to draw: pass at least one method.")
    words = None if isinstance(tokens, int) else list(tokens)
    n = tokens if words is None else len(words)
    figure, axes = panels(len(kept_by_method), height=1.5, sharex=True, sharey=True)
    for ax, (method, layers) in zip(axes, kept_by_method.items(), strict=True):
        share = np.stack([kept_share(kept, n) for kept in layers])
        _raster(ax, share, method)
    if words is not None and n <= READABLE:
        axes[-1].set_xticks(
            range(n),
            [_printable(word) for word in words],
            rotation=60,
            ha="right",
            fontsize=SMALL,
        )
    axes[-1].set_xlabel("Prompt position (tokens)")
    headline(figure, "The darker, the more of a layer's heads keep the position")
    return figure


def kept_share(kept: ArrayLike, n: int) -> np.ndarray:
    """Share of the heads that keep each of n positions: kept [S, b] or [b] -> [n].

    raises  InputError: a position outside 0..n-1.
    """
    kept = np.atleast_2d(np.asarray(kept, dtype=int))
    if kept.size and not 0 <= kept.min() <= kept.max() < n:
        raise InputError(f"kept positions run from {kept.min()} to {kept.max()}, the prompt from 0 to {n - 1}.")
    share = np.zeros(n)
    for row in kept:
        share[np.unique(row)] += 1 / len(kept)
    return share


def _raster(ax: Axes, share: np.ndarray, method: str) -> None:
    colours = LinearSegmentedColormap.from_list(method, ["#f4f4f4", look(method).colour])
    n = share.shape[1]
    ax.imshow(
        _binned(share),
        cmap=colours,
        vmin=0,
        vmax=max(share.max() * (1 if n <= COLUMNS else 0.6), 1e-9),
        aspect="auto",
        extent=(-0.5, n - 0.5, len(share) - 0.5, -0.5),
        interpolation="nearest",
    )
    ax.set_title(method, color=legible(look(method).colour), fontweight="bold", fontsize=10)
    ax.set_ylabel("Layer")
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.grid(visible=False)


def _binned(share: np.ndarray) -> np.ndarray:
    """Mean over neighbouring positions, so that a raster has at most COLUMNS columns."""
    n = share.shape[1]
    if n <= COLUMNS:
        return share
    starts = np.arange(COLUMNS) * n // COLUMNS
    return np.add.reduceat(share, starts, axis=1) / np.diff(np.append(starts, n))


def _printable(token: str) -> str:
    """A token as it can stand in a label: line breaks and tabs as signs, nothing empty."""
    return token.replace("\n", "⏎").replace("\t", "⇥").strip(" ") or "␣"


@styled
def kept_by_position(kept_by_method: Mapping[str, Sequence[ArrayLike]], n: int, parts: int = 20) -> Figure:
    """Share of the positions that stay in each of `parts` equal stretches of the prompt, mean over layers and heads.

    kept_by_method  method -> per layer the kept positions [S, b]
    n               prompt tokens
    """
    table = position_shares(kept_by_method, n, parts)
    figure, (ax,) = panels(height=3.2)
    centres = 100 * (np.arange(parts) + 0.5) / parts
    drawn = table.assign(at=centres).melt("at", var_name="method", value_name="estimate")
    ends = line_panel(ax, drawn, "at", markersize=4)
    ax.set(xlabel="Place in the prompt (% of its tokens)", ylabel="Share that stays", xlim=(0, 100), ylim=(0, None))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
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
    means = layers[layers["layer"] > 0].groupby(["method", "layer"])["overlap_layer_below"].mean().loc[list(methods)]
    ends = line_panel(ax, means.rename("estimate").reset_index(), "layer", markersize=4)
    if chance is not None:
        ax.axhline(chance, color=GREY, linewidth=1, linestyle=(0, (1, 1)))
        ax.text(0.5, chance, "two random sets", fontsize=SMALL, color=GREY, va="bottom")
    ax.set(xlabel="Layer", ylabel="Jaccard index with the layer below", xlim=(0, None), ylim=(0, 1))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    label_ends(ax, layers["layer"].max(), ends)
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
        ends = line_panel(ax, table.sort_values(x, kind="stable"), x, y=metric)
        if marked is not None:
            ax.axvline(marked, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
        ax.set(xscale="log", ylabel=METRICS[metric].axis)
        ax.minorticks_off()
        label_ends(ax, table[x].max(), ends, gap=0.12)
    ticks = sorted(table[x].unique())
    axes[-1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[-1].set_xlabel(label)
    return figure
