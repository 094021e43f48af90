"""Drawings: how a sequence is laid out, where a layer is looked at, and the worked example of twelve tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import ArrayLike

from ..errors import InputError
from .style import GREY, INK, SMALL, bare, headline, legible, look, panels, styled, text_on

QUERY, KEY, VALUE = ("#d9ecdf", "#1d6b3a"), ("#dcd8f2", "#332288"), ("#f3d6e2", "#882255")
PLAIN, OURS = ("#f4f4f4", "#8a8a8a"), ("#fdf4e3", "#8a5a00")
EVICTED = "#f2f2f2", "#595959", "normal"  # ground, text and weight of a cell


@styled
def sequence_layout(prompt_tokens: int, answer_tokens: int, window: int = 8) -> Figure:
    """One sequence on the axis of positions, and whose queries each method and each metric reads. Not to scale."""
    figure, ax = _canvas(height=2.75, up=50)
    past, last, end = 62, 77, 99  # where the window begins, where the prompt ends, where the answer ends
    blocks = (
        (1, past, "prompt", PLAIN, 0),
        (past, last, "window", OURS, prompt_tokens - window),
        (last + 2, end, "answer", QUERY, prompt_tokens),
    )
    for left, right, text, colours, position in blocks:
        _box(ax, left, 35, right - left, 8, text, colours, bold=True)
        ax.text(left, 34, f"{position:,}", va="top", fontsize=SMALL, color=GREY)
    ax.text(end, 34, f"{prompt_tokens + answer_tokens - 1:,}", ha="right", va="top", fontsize=SMALL, color=GREY)
    ax.plot([last + 1] * 2, [1, 49], color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
    ax.text(last, 49, "here the cache is compressed", ha="right", va="top", fontsize=SMALL, color=INK)
    ax.text(1, 26, "Queries that are read by", fontsize=SMALL, color=GREY, va="top")
    readers = (
        (16, 1, last, "H2O", look("H2O").colour),
        (9, past, last, "SnapKV, ChunkKV", look("SnapKV").colour),
        (2, last + 2, end, "attention cosine, likelihood", QUERY[1]),
    )
    for y, left, right, name, colour in readers:
        ax.add_patch(Rectangle((left, y), right - left, 5, facecolor=colour, edgecolor="none"))
        if right - left > 50:  # room for the name inside
            ax.text(left + 1, y + 2.4, name, va="center", fontsize=SMALL, color=text_on(colour))
        else:
            ax.text(left - 2, y + 2.4, name, ha="right", va="center", fontsize=SMALL, color=legible(colour))
    return figure


@styled
def capture_hook() -> Figure:
    """One layer of a transformer, with the attention function that also shows its inputs to a visitor."""
    figure, ax = _canvas(height=4.6, up=80)
    _box(ax, 22, 71, 44, 7, "hidden states of layer l", PLAIN)
    for x, name, colours in ((6, "queries", QUERY), (33, "keys", KEY), (60, "values", VALUE)):
        _arrow(ax, 44, 71, x + 11, 65)
        _box(ax, x, 58, 22, 7, name, colours, bold=True)
    for x in (6, 33):
        _arrow(ax, x + 11, 58, x + 11, 54)
        _box(ax, x + 3, 48, 16, 6, "RoPE", PLAIN)
        _arrow(ax, x + 11, 48, x + 11, 42.5)
    _arrow(ax, 71, 58, 71, 42.5)
    _box(ax, 2, 22, 84, 20.5, "", OURS)
    ax.text(4, 40.8, "attention function, registered while we capture", fontsize=SMALL, color=OURS[1], va="top")
    _box(ax, 6, 25, 36, 9, "1  SDPA, as always", PLAIN, bold=True)
    _box(ax, 48, 25, 34, 9, "2  visit(layer)", OURS, bold=True)
    _arrow(ax, 24, 25, 24, 15)
    _box(ax, 6, 8, 36, 7, "rest of the layer", PLAIN)
    _arrow(ax, 24, 8, 24, 3)
    ax.text(26, 3, "layer l + 1: the same again", fontsize=SMALL, color=GREY, va="center")
    _arrow(ax, 65, 25, 65, 18)
    _box(ax, 47, 7, 51, 11, "visitor: keeps a few numbers,\nhands nothing back", QUERY)
    return figure


def _canvas(height: float, up: float) -> tuple[Figure, Axes]:
    figure, (ax,) = panels(height=height)
    ax.set(xlim=(0, 100), ylim=(0, up))
    ax.set_axis_off()
    return figure, ax


def _box(
    ax: Axes, x: float, y: float, width: float, height: float, text: str, colours: Sequence[str], bold: bool = False
) -> None:
    face, edge = colours
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=1", facecolor=face,
                                edgecolor=edge, linewidth=1.2))  # fmt: skip
    ink = INK if colours == PLAIN else legible(edge)
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10, color=ink,
            fontweight="bold" if bold else "normal")  # fmt: skip


def _arrow(ax: Axes, x: float, y: float, to_x: float, to_y: float) -> None:
    style = {"arrowstyle": "-|>", "color": "#8a8a8a", "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=(to_x, to_y), xytext=(x, y), arrowprops=style)


@styled
def attention_table(table: ArrayLike, words: Sequence[str], window: int) -> Figure:
    """A causal table of attention [n, n] with its numbers written in; a frame around the window's rows."""
    import seaborn as sns

    figure, (ax,) = panels(height=4.6)
    table, n = np.asarray(table), len(words)
    sns.heatmap(table, mask=np.triu(np.ones_like(table, dtype=bool), 1), annot=True, fmt=".0f", cbar=False, ax=ax,
                cmap="Blues", vmax=16, linewidths=1.5, linecolor="white",
                xticklabels=words, yticklabels=words)  # fmt: skip
    ax.add_patch(Rectangle((0, n - window), n, window, fill=False, linewidth=2))
    ax.grid(visible=False)
    ax.set(xlabel="Key: the token looked at", ylabel="Query: the token that looks")
    return figure


@styled
def token_strip(
    tokens: Sequence[str],
    scores_by_method: Mapping[str, ArrayLike],
    kept_by_method: Mapping[str, ArrayLike],
    chunk_size: int | None = None,
    window: int = 0,
    digits: int = 2,
    what: str = "Number: the token's score.",
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """A short prompt, one row of cells per method: a number in each, coloured and bold where the token stays.

    tokens      n strings; scores_by_method: method -> [n] (NaN where a method gives none, e.g. in the window)
    kept_by_method  method -> kept positions [b]
    chunk_size  draws the chunks' borders in ChunkKV's row; window: the last tokens, which always stay
    what        says what the numbers are; notes: method -> a remark below its name
    raises      InputError: a method without scores, or scores of another length.
    """
    n, methods = len(tokens), list(kept_by_method)
    for method in methods:
        if method not in scores_by_method or np.shape(scores_by_method[method]) != (n,):
            raise InputError(f"{method} needs one score for each of the {n} tokens: use NaN where it gives none.")
    figure, (ax,) = panels(height=0.5 * len(methods) + 1.1)
    for row, method in enumerate(methods):
        stays, colour = set(np.ravel(kept_by_method[method]).tolist()), look(method).colour
        for column, score in enumerate(np.asarray(scores_by_method[method], dtype=float)):
            face, ink, weight = (colour, text_on(colour), "bold") if column in stays else EVICTED
            ax.add_patch(Rectangle((column + 0.04, row + 0.08), 0.92, 0.84, facecolor=face, edgecolor="none"))
            text = "–" if np.isnan(score) else f"{score:.{digits}f}"
            ax.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=SMALL, color=ink, fontweight=weight
            )
        for start in range(0, n - window, chunk_size) if method == "ChunkKV" and chunk_size else ():
            width = min(chunk_size, n - window - start)
            ax.add_patch(Rectangle((start, row + 0.02), width, 0.96, fill=False, edgecolor=INK, linewidth=1.3))
    ax.set(xlim=(-0.1, n + 0.1), ylim=(len(methods) + (0.5 if window else 0.05), -0.05))
    names = [f"{method}\n{notes[method]}" for method in methods] if notes else methods
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(n) + 0.5, tokens, fontsize=SMALL)
    ax.set_yticks(np.arange(len(methods)) + 0.5, names, fontsize=SMALL)
    for tick, method in zip(ax.get_yticklabels(), methods, strict=True):
        tick.set(color=legible(look(method).colour), fontweight="bold")
    bare(ax)
    if window:
        ax.plot([n - window + 0.05, n - 0.05], [len(methods) + 0.12] * 2, color=GREY, linewidth=1.5)
        ax.text(n - 0.05, len(methods) + 0.2, "window: always kept", ha="right", va="top", fontsize=SMALL, color=GREY)
    headline(figure, f"{what} Coloured and bold: kept." + (" Boxes: chunks." if chunk_size else ""))
    return figure
