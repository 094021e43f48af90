"""What the measurement starts from: the size of a KV cache, and the lengths of the sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import ArrayLike

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.figures.style import GREY, INK, SMALL, headline, label_ends, panels, styled

SERIES = ("#332288", "#882255", "#6b6b12", "#AA4499", "#222222")  # no method's colour
CUTS = (":", "--", "-")  # line styles of the places where prompts are cut
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
LENGTHS = tuple(2**power for power in range(9, 18))  # 512 to 131072 tokens


def kv_cache_bytes(
    tokens: ArrayLike, layers: int, kv_heads: int, head_dim: int, bytes_per_number: int = 2
) -> ArrayLike:
    """Bytes of one sequence's KV cache: keys and values of all layers, KV heads and tokens."""
    return 2 * layers * kv_heads * head_dim * bytes_per_number * tokens


@styled
def budget_memory(
    architectures: Mapping[str, Mapping[str, int]], lengths: Sequence[int] = LENGTHS, budget: float = 0.1
) -> Figure:
    """Size of the KV cache against prompt length: whole (solid) and at the budget (dashed).

    architectures  name -> arguments of `kv_cache_bytes`: layers, kv_heads, head_dim, perhaps bytes_per_number
    raises         InputError: a budget outside (0, 1), no architecture.
    """
    if not architectures or not 0 < budget < 1:
        raise InputError(f"budget={budget} must lie between 0 and 1, and at least one architecture is needed.")
    lengths = np.asarray(lengths)
    figure, (ax,) = panels(height=4)
    ax.set(xscale="log", yscale="log", xlabel="Prompt length (tokens)", ylabel="KV cache of one sequence")
    share, ends = f"{100 * budget:.3g} %", []
    for colour, (name, sizes) in zip(cycle(SERIES), architectures.items(), strict=False):
        whole = kv_cache_bytes(lengths, **sizes)
        ax.plot(lengths, whole, color=colour, marker="o", markersize=4)
        ax.plot(lengths, budget * whole, color=colour, linestyle="--")
        ends += [(whole[-1], name, colour), (budget * whole[-1], f"{name}, {share}", colour)]
    ax.set_xticks(lengths[::2], [f"{length:,}" for length in lengths[::2]], rotation=30)
    ax.yaxis.set_major_locator(LogLocator(base=8, numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda size, _: readable(size)))
    ax.minorticks_off()
    label_ends(ax, lengths[-1], ends, gap=0.065)
    headline(figure, f"Solid: whole cache. Dashed: {share} of its tokens. Both axes are logarithmic.")
    return figure


@styled
def sequence_lengths(sequences: pd.DataFrame | Iterable[Any], cuts: Mapping[str, int] | None = None) -> Figure:
    """Prompt length of every sequence as a dot, a row per data set, grouped by category, over a box plot.

    sequences  the run's table (columns category, dataset, prompt_tokens) or `Sequence` objects
    cuts       label -> tokens to which prompts are cut, a line each; the lengths are then those before truncation
    raises     InputError: no sequence.
    """
    table = _table(sequences)
    if table.empty:
        raise InputError("no sequences to draw: measure or load at least one.")
    table = table.assign(row=table["dataset"] + "\n" + table["category"])
    table = table.sort_values("category", kind="stable", key=lambda column: column.map(_appearance(column)))
    figure, (ax,) = panels(height=0.55 * table["row"].nunique() + 0.9)
    rows = dict(list(table.groupby("row", sort=False)))
    ax.boxplot(
        [group["prompt_tokens"] for group in rows.values()],
        positions=range(len(rows)),
        tick_labels=list(rows),
        orientation="horizontal",
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": "#e8e8e8", "edgecolor": GREY},
        medianprops={"color": INK, "linewidth": 1.6},
    )
    for y, group in enumerate(rows.values()):
        ax.plot(
            group["prompt_tokens"],
            np.full(len(group), y),
            "o",
            color=SERIES[0],
            alpha=0.35,
            markersize=3.5,
            zorder=5,
        )
        ax.text(
            1.02,
            y,
            f"n = {len(group)}",
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=SMALL,
            color=GREY,
        )
    ax.set(xlabel="Prompt length (tokens)", xlim=(0, None), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(visible=False, axis="y")
    for line, (label, tokens) in zip(cycle(CUTS), (cuts or {}).items(), strict=False):
        ax.axvline(tokens, color=SERIES[1], linestyle=line, linewidth=1.4, label=f"{label}: {tokens:,}")
    if cuts:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
        figure.legend(loc="outside lower right", ncols=2, title="Cut to, in tokens")
    headline(figure, "Prompts before truncation" if cuts else "Sequences as the model sees them", len(table))
    return figure


def readable(size: float) -> str:
    """A number of bytes with a binary unit: 1536 -> "1.5 KiB"."""
    power = min(max(int(np.log2(max(size, 1)) // 10), 0), len(UNITS) - 1)
    return f"{size / 1024**power:.3g} {UNITS[power]}"


def _table(sequences: pd.DataFrame | Iterable[Any]) -> pd.DataFrame:
    if isinstance(sequences, pd.DataFrame):
        return sequences
    rows = [(one.category, one.dataset, len(one.prompt_ids)) for one in sequences]
    return pd.DataFrame(rows, columns=["category", "dataset", "prompt_tokens"])


def _appearance(column: pd.Series) -> dict[str, int]:
    return {name: place for place, name in enumerate(column.unique())}
