"""What one forward pass shows: where the attention of a prompt's end goes, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from .style import panels, styled

PARTS = {"sink": "#882255", "middle": "#bdbdbd", "window": "#8a5a00"}


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
