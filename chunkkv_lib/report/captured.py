"""What one forward pass shows: attention by position, its shares by layer, norms of the cache, and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import ArrayLike

from ..errors import InputError
from .costs import readable
from .style import GREY, INK, SERIES, SMALL, headline, label_ends, panels, styled

COLUMNS = 300  # points of a line over positions; longer prompts are binned
PARTS = {"sink": "#882255", "middle": "#bdbdbd", "window": "#8a5a00"}


@styled
def attention_by_position(rows: Mapping[int, ArrayLike], window: int, floor: float = 1e-7) -> Figure:
    """Attention over the prompt's positions, a panel per layer, on a logarithmic axis.

    rows    layer -> mean attention of the last queries, [n]
    window  the last tokens, marked
    floor   smaller values are drawn here
    """
    figure, axes = panels(len(rows), height=1.35, sharex=True, sharey=True)
    for ax, (layer, row) in zip(axes, rows.items(), strict=True):
        row = np.asarray(row, dtype=float)
        at, top = _binned(row, np.maximum)
        ax.fill_between(at, floor, np.maximum(top, floor), step="mid", color="#8a8a8a", linewidth=0)
        ax.plot(0, row[0], "o", color=PARTS["sink"], markersize=7, clip_on=False, zorder=5)
        ax.axvspan(len(row) - window - 0.5, len(row) - 0.5, color=PARTS["window"], alpha=0.35, linewidth=0)
        ax.set(yscale="log", ylim=(floor, 1.5), xlim=(-0.01 * len(row), 1.01 * len(row)))
        ax.set_title(f"Layer {layer}", loc="left", fontsize=10)
        ax.set_title(f"position 0: {100 * row[0]:.0f} %", loc="right", fontsize=SMALL, color=PARTS["sink"])
    axes[len(rows) // 2].set_ylabel("Share of attention (logarithmic)")
    axes[-1].set_xlabel("Prompt position (tokens)")
    note = "Dot: position 0. Band at the right: the window itself."
    headline(figure, f"Attention of the last {window} queries, largest of neighbouring positions", note=note)
    return figure


@styled
def attention_parts(rows: Sequence[ArrayLike], window: int) -> Figure:
    """Where the attention of the last queries goes, layer by layer: position 0, the window, and all the rest.

    rows  one per layer: mean attention of the last `window` queries, [n]
    """
    shares = attention_shares(rows, window)
    figure, (ax,) = panels(height=3)
    layers, below = np.arange(len(rows)), np.zeros(len(rows))
    names = {"sink": "position 0", "middle": "all between", "window": f"the last {window} tokens"}
    for part, label in names.items():
        ax.bar(layers, shares[part], bottom=below, width=1, color=PARTS[part], edgecolor="white", linewidth=0.4,
               label=label)  # fmt: skip
        below = below + shares[part]
    ax.set(xlabel="Layer", ylabel="Share of attention", xlim=(-0.5, len(rows) - 0.5), ylim=(0, 1))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    ax.grid(visible=False)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3)
    return figure


def attention_shares(rows: Sequence[ArrayLike], window: int) -> dict[str, np.ndarray]:
    """Shares of the parts "sink", "middle" and "window", each [layers]; they add up to 1."""
    rows = np.stack([np.asarray(row, dtype=float) for row in rows])
    last = max(rows.shape[1] - window, 1)
    total = rows.sum(1)
    shares = {"sink": rows[:, 0] / total, "window": rows[:, last:].sum(1) / total}
    return {"sink": shares["sink"], "middle": 1 - shares["sink"] - shares["window"], "window": shares["window"]}


@styled
def attention_memory(sizes: Mapping[str, ArrayLike], lengths: Sequence[int], marked: int | None = None) -> Figure:
    """Bytes against prompt length for several things that could be kept, both axes logarithmic.

    sizes   what -> bytes, one per length
    marked  a prompt length to point out
    raises  InputError: nothing to draw, or not one size per length.
    """
    if not sizes or any(len(values) != len(lengths) for values in sizes.values()):
        raise InputError(f"give at least one series, with one size for each of the {len(lengths)} prompt lengths.")
    figure, (ax,) = panels(height=3.6)
    ax.set(xscale="log", yscale="log", xlabel="Prompt length (tokens)", ylabel="Memory")
    ends = []
    for style, line, (what, values) in zip(SERIES, ("-", "--", "-.", ":"), sizes.items(), strict=False):
        ax.plot(lengths, values, color=style.colour, linestyle=line, marker="o", markersize=4)
        ends.append((values[-1], what, style.colour))
    if marked:
        ax.axvline(marked, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
        ax.set_title(f"dashed: this prompt, {marked:,} tokens", loc="left", fontsize=SMALL, color=GREY)
    ax.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=30)
    ax.yaxis.set_major_locator(LogLocator(base=8, numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda size, _: readable(size)))
    ax.minorticks_off()
    label_ends(ax, lengths[-1], ends, gap=0.1)
    return figure


def _binned(row: np.ndarray, combine: np.ufunc) -> tuple[np.ndarray, np.ndarray]:
    """At most COLUMNS points of a row: their positions, and the maximum or (np.add) the mean of each bin."""
    bins = min(len(row), COLUMNS)
    starts = np.arange(bins) * len(row) // bins
    widths = np.diff(np.append(starts, len(row)))
    values = combine.reduceat(row, starts)
    return starts + (widths - 1) / 2, values / widths if combine is np.add else values
