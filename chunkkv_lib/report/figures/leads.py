"""Which method leads in which layer: one coloured cell per layer, one row per category."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from chunkkv_lib.report.figures.layers import LAYER_AXIS
from chunkkv_lib.report.figures.style import SMALL, headline, legible, look, panels, styled
from chunkkv_lib.report.records import METHODS, METRICS

PALE = 0.22  # opacity of a lead that is not clear


@styled
def leads_figure(leads: Mapping[str, Mapping[str, pd.DataFrame]], sequences: int | None = None) -> Figure:
    """Who leads where: a panel per metric, a row per category, a cell per layer.

    leads      metric -> category -> table of `layerwise.leaders`
    sequences  for the headline
    A full colour says that the paired 95 % interval between the first and the second method excludes zero; a pale one
    that it does not. The letter in the cell is the method's first.
    """
    rows = max(map(len, leads.values()))
    figure, axes = panels(len(leads), height=0.42 * rows + 1.0, sharex=True)
    for ax, (metric, by_category) in zip(axes, leads.items(), strict=True):
        for y, table in enumerate(by_category.values()):
            for row in table.itertuples():
                _cell(ax, row.layer, y, row.leader, row.clear)
        _finish(ax, metric, by_category)
    axes[-1].set_xlabel(LAYER_AXIS)
    _legend(figure, leads)
    headline(figure, "The leader of each layer", sequences, "Full colour: clearly ahead of the second. Pale: not.")
    return figure


def _cell(ax: Axes, layer: int, y: int, method: str, clear: bool) -> None:
    colour = look(method).colour
    ax.add_patch(Rectangle((layer - 0.46, y - 0.42), 0.92, 0.84, color=colour, alpha=1 if clear else PALE, linewidth=0))
    ink = "white" if clear else legible(colour)
    ax.text(layer, y, method[0], ha="center", va="center", fontsize=7, color=ink, fontweight="bold")


def _finish(ax: Axes, metric: str, by_category: Mapping[str, pd.DataFrame]) -> None:
    layers = max(table["layer"].max() for table in by_category.values())
    ax.set(xlim=(-0.6, layers + 0.6), ylim=(len(by_category) - 0.45, -0.55))
    ax.set_yticks(range(len(by_category)), [fill(category, 14) for category in by_category], fontsize=SMALL)
    ax.set_title(METRICS[metric].label, fontsize=10)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _legend(figure: Figure, leads: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
    shown = {leader for tables in leads.values() for table in tables.values() for leader in table["leader"]}
    order = [*(method for method in METHODS if method in shown), *sorted(shown - set(METHODS))]
    handles = [Patch(color=look(method).colour, label=f"{method[0]}  {method}") for method in order]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(order), fontsize=SMALL)
