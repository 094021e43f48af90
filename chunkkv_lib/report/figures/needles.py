"""Needles by depth: which cache still finds a number that was hidden in a long text."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chunkkv_lib.report.figures.style import SMALL, headline, panels, styled, text_on

COLOURS = "Blues"  # from white, nothing found, to dark blue, everything found
ALL = "all"


@styled
def needle_map(found: pd.DataFrame) -> Figure:
    """A row per cache, a column per depth: how many needles were found, as a count and as a shade.

    found  columns method, depth (0 to 1), hits, n, in the order of the rows (`answers.hit_rates`)
    The last column adds up the depths.
    """
    methods, depths = list(found["method"].unique()), sorted(found["depth"].unique())
    figure, (ax,) = panels(height=0.36 * len(methods) + 0.95)
    for row, method in enumerate(methods):
        mine = found[found["method"] == method].set_index("depth")
        for column, depth in enumerate(depths):
            _cell(ax, column, row, int(mine.loc[depth, "hits"]), int(mine.loc[depth, "n"]))
        _cell(ax, len(depths) + 0.25, row, int(mine["hits"].sum()), int(mine["n"].sum()))
    ax.set_xticks([*range(len(depths)), len(depths) + 0.25], [*(f"{100 * depth:.0f} %" for depth in depths), ALL])
    ax.set_yticks(range(len(methods)), methods)
    ax.set_xlim(-0.5, len(depths) + 0.75)
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.set_xlabel("Depth of the needle (100 %: right before the question)", fontsize=SMALL)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    total = int(found[found["method"] == methods[0]]["n"].sum())
    headline(figure, f"Needles found, {total} hidden", note="Number found of number hidden; the darker, the more")
    return figure


def _cell(ax: Axes, x: float, y: int, hits: int, n: int) -> None:
    share = hits / n if n else float("nan")
    colour = mpl.colormaps[COLOURS](0.9 * share) if n else "white"
    ax.add_patch(mpl.patches.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, edgecolor="#c8c8c8"))
    text = f"{hits}/{n}" if n else "–"
    ax.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=text_on(colour[:3] if n else colour))
