"""The worked example of twelve tokens: its table of attention, and what each rule keeps of it."""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from .style import GREY, INK, SMALL, bare, headline, legible, look, panels, styled, text_on

EVICTED = "#f2f2f2", "#595959", "normal"  # ground, text and weight of a cell


@styled
def attention_table(table: ArrayLike, words: Sequence[str], window: int) -> Figure:
    """A causal table of attention [n, n] with its numbers written in; a frame around the window's rows."""
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
    scores: Mapping[str, ArrayLike],
    kept_by_method: Mapping[str, ArrayLike],
    chunk_size: int | None = None,
    window: int = 0,
    what: str = "Number: the token's score.",
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """A short prompt, one row of cells per method: a number in each, coloured and bold where the token stays.

    tokens      n strings; scores: method -> [n], whole numbers (NaN where a method gives none, as in the window)
    kept_by_method  method -> kept positions [b]
    chunk_size  draws the chunks' borders in ChunkKV's row; window: the last tokens, which always stay
    what        says what the numbers are; notes: method -> a remark below its name
    """
    n, methods = len(tokens), list(kept_by_method)
    figure, (ax,) = panels(height=0.5 * len(methods) + 1.3)
    for row, method in enumerate(methods):
        stays, colour = set(np.ravel(kept_by_method[method]).tolist()), look(method).colour
        for column, score in enumerate(np.asarray(scores[method], dtype=float)):
            face, ink, weight = (colour, text_on(colour), "bold") if column in stays else EVICTED
            ax.add_patch(Rectangle((column + 0.04, row + 0.08), 0.92, 0.84, facecolor=face, edgecolor="none"))
            text = "–" if np.isnan(score) else f"{score:.0f}"
            ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=SMALL, color=ink, weight=weight)
        for start in range(0, n - window, chunk_size) if method == "ChunkKV" and chunk_size else ():
            width = min(chunk_size, n - window - start)
            ax.add_patch(Rectangle((start, row + 0.02), width, 0.96, fill=False, edgecolor=INK, linewidth=1.3))
    ax.set(xlim=(-0.1, n + 0.1), ylim=(len(methods) + (0.5 if window else 0.05), -0.05))
    names = [f"{method}\n{notes[method]}" for method in methods] if notes else methods
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(n) + 0.5, tokens, rotation=40, ha="left", rotation_mode="anchor", fontsize=SMALL)
    ax.set_yticks(np.arange(len(methods)) + 0.5, names, fontsize=SMALL)
    for tick, method in zip(ax.get_yticklabels(), methods, strict=True):
        tick.set(color=legible(look(method).colour), fontweight="bold")
    bare(ax)
    if window:
        ax.plot([n - window + 0.05, n - 0.05], [len(methods) + 0.12] * 2, color=GREY, linewidth=1.5)
        ax.text(n - 0.05, len(methods) + 0.2, "window: always kept", ha="right", va="top", fontsize=SMALL, color=GREY)
    headline(figure, f"{what} Coloured and bold: kept." + (" Boxes: chunks." if chunk_size else ""))
    return figure
