"""Layer by layer: the curves of Paper Figure 6, the differences behind them, who leads where, and the paper's layers.

Tables first; the figures draw these tables, and what a page publishes beside a figure is the table that it drew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike

from ..errors import InputError
from .records import CONTROLS, METHODS, METRICS, PAIRS, PRIMARY, choose, layer_values, present
from .statistics import interval
from .style import (
    FAINT,
    GREY,
    INK,
    SMALL,
    brief,
    headline,
    label_ends,
    legible,
    line_panel,
    look,
    panels,
    say_start,
    styled,
)

Pairs = Sequence[tuple[str, str]]
PAPER_LAYERS = 32  # of Llama-3-8B
PAPER_BANDS = {"kv_l1_loss": ((5, 25),), "attention_cosine_similarity": ((0, 5), (20, 30))}
LAYER_AXIS = "Layer (0 is next to the input)"
BANDS_NOTE = f"Grey bands: layers of {PAPER_LAYERS} that the paper singles out, at equal depth."
PALE = 0.22  # opacity of a lead that is not clear


# --- tables -------------------------------------------------------------------------------------------------------


def layer_means(
    records: pd.DataFrame,
    category: str | None = None,
    metrics: Sequence[str] = PRIMARY,
    methods: Iterable[str] | None = None,
) -> pd.DataFrame:
    """What Paper Figure 6 draws: columns metric, method, layer, estimate, low, high, n.

    records   layers with a category; category None: all together
    methods   None: ChunkKV, SnapKV, H2O and the controls, as far as they were measured
    raises    InputError: unknown category, method or metric; nothing measured.
    """
    records = choose(records, category)
    methods = present(records, methods, METHODS + CONTROLS)
    if not methods:
        raise InputError(f"none of {', '.join(METHODS + CONTROLS)} was measured here: pass `methods`.")
    return pd.concat(
        [
            _by_layer(layer_values(records, metric, method), metric=metric, method=method)
            for metric in metrics
            for method in methods
        ],
        ignore_index=True,
    )


def layer_gaps(
    records: pd.DataFrame, category: str | None = None, metrics: Sequence[str] = PRIMARY, pairs: Pairs = PAIRS
) -> pd.DataFrame:
    """Paired differences "method - baseline" by layer.

    return  columns metric, method, baseline, layer, estimate, low, high, n, clear (the interval excludes zero)
    """
    records = choose(records, category)
    rows = []
    for metric in metrics:
        for method, baseline in pairs:
            values = layer_values(records, metric, method) - layer_values(records, metric, baseline)
            rows.append(_by_layer(values, metric=metric, method=method, baseline=baseline))
    return pd.concat(rows, ignore_index=True)


def _by_layer(values: pd.DataFrame, **names: str) -> pd.DataFrame:
    found = interval(values)
    columns = names | {"layer": values.columns} | vars(found)
    return pd.DataFrame(columns | ({"clear": found.excludes(0)} if "baseline" in names else {}))


def gap_counts(gaps: pd.DataFrame) -> pd.DataFrame:
    """In how many layers the first method of a pair is better, and clearly so.

    gaps    of `layer_gaps`
    return  columns metric, method, baseline, layers, better, clearly_better, worse, clearly_worse
    """
    rows = []
    for (metric, method, baseline), group in gaps.groupby(["metric", "method", "baseline"], sort=False):
        ahead, clear = METRICS[metric].sign * group["estimate"], group["clear"]
        rows.append(
            {"metric": metric, "method": method, "baseline": baseline, "layers": len(group)}
            | {"better": int((ahead > 0).sum()), "clearly_better": int(((ahead > 0) & clear).sum())}
            | {"worse": int((ahead < 0).sum()), "clearly_worse": int(((ahead < 0) & clear).sum())}
        )
    return pd.DataFrame(rows)


def leaders(records: pd.DataFrame, metrics: Sequence[str] = PRIMARY, methods: Sequence[str] = METHODS) -> pd.DataFrame:
    """The best method of every layer, by metric and category, and whether it is clearly ahead of the second.

    return  columns metric, category, layer, leader, second, margin (at least 0, in the better direction), low, high,
            clear
    raises  InputError: unknown metric or method.
    """
    records, rows = choose(records, methods=methods), []
    for metric in metrics:
        for category, group in records.groupby("category", sort=False):
            values = {method: METRICS[metric].sign * layer_values(group, metric, method) for method in methods}
            means = pd.DataFrame({method: found.mean() for method, found in values.items()}).dropna()
            for layer, row in means.iterrows():
                leader, second = row.sort_values(ascending=False, kind="stable").index[:2]
                margin = interval(values[leader][layer] - values[second][layer])
                rows.append((metric, category, layer, leader, second, margin.estimate, margin.low, margin.high,
                             bool(margin.excludes(0))))  # fmt: skip
    columns = ["metric", "category", "layer", "leader", "second", "margin", "low", "high", "clear"]
    return pd.DataFrame(rows, columns=columns)


def in_band(layers: ArrayLike, count: int, band: tuple[int, int]) -> np.ndarray:
    """Which layers of a model with `count` lie at the depth of layers band[0]..band[1] of the paper's model."""
    depth = (np.asarray(layers) + 0.5) * PAPER_LAYERS / count
    return (depth > band[0]) & (depth < band[1] + 1)


def band_contrasts(
    records: pd.DataFrame, category: str | None = None, metrics: Sequence[str] = PRIMARY, pairs: Pairs = PAIRS
) -> pd.DataFrame:
    """Is a gap larger in the layers that the paper singles out, and larger than in other bands of as many layers?

    return  columns metric, method, baseline, band (of the paper's layers), layers (of this model), then the mean paired
            gap `inside` and `outside`, their difference `contrast` and `behind`, the best band's contrast less this
            one's, in the better direction, each an `Interval`; rank (1: the gain stands out most in this band) of
            `bands` contiguous bands of its width, and best (the layers of the first of them)
    """
    records, rows = choose(records, category), []
    for metric in metrics:
        for method, baseline in pairs:
            gap = layer_values(records, metric, method) - layer_values(records, metric, baseline)
            names = {"metric": metric, "method": method, "baseline": baseline}
            rows += [names | _contrast(gap, band, METRICS[metric].sign) for band in PAPER_BANDS[metric]]
    return pd.DataFrame(rows)


def _contrast(gap: pd.DataFrame, band: tuple[int, int], sign: int) -> dict[str, object]:
    """Of one pair's gaps [sequences, layers]."""
    count = gap.shape[1]
    chosen = in_band(gap.columns, count, band)
    first, width = int(chosen.argmax()), int(chosen.sum())
    here, others = width or np.nan, count - width or np.nan  # a model of two layers may have none inside or outside
    reached = np.cumsum(np.insert(gap.to_numpy(), 0, 0, axis=1), axis=1)  # sums over the layers below each

    def contrast(start: int) -> pd.Series:
        inside = reached[:, start + width] - reached[:, start]
        return pd.Series(inside / here - (reached[:, -1] - inside) / others, gap.index)

    ours = contrast(first)
    gains = [sign * contrast(start).mean() for start in range(count - width + 1)]
    best = int(np.argmax(gains))
    return {
        "band": f"{band[0]}–{band[1]} of {PAPER_LAYERS}",
        "layers": f"{gap.columns[first]}–{gap.columns[first + width - 1]} of {count}",
        "inside": interval(gap.loc[:, chosen].mean(axis=1)),
        "outside": interval(gap.loc[:, ~chosen].mean(axis=1)),
        "contrast": interval(ours),
        "behind": interval(sign * (contrast(best) - ours)),
        "rank": 1 + sum(gain > gains[first] for gain in gains),
        "bands": len(gains),
        "best": f"{gap.columns[best]}–{gap.columns[best + width - 1]}",
    }


# --- figures ------------------------------------------------------------------------------------------------------


@styled
def figure_6(
    means: pd.DataFrame, subject: str = "", budget: float | None = 0.1, bands: bool = True, view: str = "lines"
) -> Figure:
    """Paper Figure 6: each metric against layer, a panel per metric, means over sequences with 95 % bands.

    means    of `layer_means`; the three methods are drawn in colour, controls as thin grey lines without a band
    budget   kept share for the line "1 - budget" in the L1 panel; None or a token count: no line
    bands    shade the layers the paper singles out, at the same relative depth
    view     the y axes: "lines" fits all lines; "methods" fits the methods and names the controls that lie outside;
             "whole" runs from 0 to 1
    """
    figure, axes = panels(means["metric"].nunique(), height=3.5, sharex=True)
    for ax, (metric, table) in zip(axes, means.groupby("metric", sort=False), strict=True):
        control = table["method"].isin(CONTROLS)
        ends = line_panel(ax, table[control].drop(columns=["low", "high"]), "layer", marker="", linewidth=1.1)
        ends += line_panel(ax, table[~control], "layer", markevery=2)
        if metric.startswith("kv_l1_loss") and isinstance(budget, float) and budget < 1:
            ax.axhline(1 - budget, color=INK, linewidth=0.8, zorder=1)
            ends.append((1 - budget, f"1 − budget = {1 - budget:.2f}", INK))
        note = ""
        if view == "whole":
            ax.set_ylim(0, 1.02)
        elif view == "methods" and not control.all():
            drawn = table.loc[~control, ["estimate", "low", "high"]].to_numpy()
            low, high = np.nanmin(drawn), np.nanmax(drawn)
            margin = 0.08 * (high - low) or 0.01
            ax.set_ylim(low - margin, high + margin)
            outside = [name for y, name, colour in ends if colour == GREY and not low - margin <= y <= high + margin]
            ends = [end for end in ends if low - margin <= end[0] <= high + margin]
            averages = table.groupby("method")["estimate"].mean()
            note = ", ".join(f"{name} {averages[name]:.2f}" for name in outside)
        _dress(ax, metric, table["layer"].max() + 1, bands)
        say_start(ax, note=f"outside (mean): {note}" if note else "")
        label_ends(ax, table["layer"].max(), ends)
    axes[-1].set_xlabel(LAYER_AXIS)
    headline(figure, subject, int(means["n"].max()), BANDS_NOTE if bands else "")
    return figure


@styled
def layer_differences(gaps: pd.DataFrame, subject: str = "", bands: bool = True) -> Figure:
    """Paired differences "method - baseline" against layer with 95 % bands; filled where the interval excludes zero.

    gaps  of `layer_gaps`
    """
    figure, axes = panels(gaps["metric"].nunique(), height=3.2, sharex=True)
    for ax, (metric, table) in zip(axes, gaps.groupby("metric", sort=False), strict=True):
        table = table.assign(pair=table["method"] + " − " + table["baseline"])
        line_panel(ax, table, "layer", by="pair", marker="", label="_")
        for pair, points in table.groupby("pair", sort=False):
            style = look(pair)
            ax.plot([], [], color=style.colour, marker=style.marker, label=brief(pair))
            for clear, face in ((True, style.colour), (False, "white")):
                some = points[points["clear"] == clear]
                ax.plot(some["layer"], some["estimate"], style.marker, color=style.colour, markerfacecolor=face)
        ax.axhline(0, color=INK, linewidth=0.8, zorder=1)
        _dress(ax, metric, table["layer"].max() + 1, bands)
        ax.set_ylabel(f"Difference in {METRICS[metric].short}\n{METRICS[metric].direction}")
    axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    axes[-1].set_xlabel(LAYER_AXIS)
    note = "Filled marker: the 95 % interval excludes zero."
    headline(figure, subject, int(gaps["n"].max()), f"{note}\n{BANDS_NOTE}" if bands else note)
    return figure


def paper_bands(metric: str, layers: int) -> list[tuple[float, float, str]]:
    """The paper's bands for a metric at equal depth in a model of `layers` layers: left, right, label."""
    scale = layers / PAPER_LAYERS
    return [
        (first * scale - 0.5, min((last + 1) * scale, layers) - 0.5, f"{first}–{last} of {PAPER_LAYERS}")
        for first, last in PAPER_BANDS.get(metric, ())
    ]


def _dress(ax: Axes, metric: str, layers: int, bands: bool) -> None:
    """Labels, limits and the paper's bands."""
    ax.set(ylabel=METRICS[metric].axis, xlim=(-0.6, layers - 0.4))
    ax.xaxis.get_major_locator().set_params(integer=True)
    if not bands:
        return
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.09 * (high - low))  # room for the bands' names
    for left, right, label in paper_bands(metric, layers):
        ax.axvspan(left, right, color=FAINT, alpha=0.5, linewidth=0, zorder=0)
        ax.text((left + right) / 2, 0.98, label, transform=ax.get_xaxis_transform(), ha="center", va="top",
                fontsize=SMALL, color=GREY)  # fmt: skip


@styled
def leads_figure(leads: pd.DataFrame, sequences: int | None = None) -> Figure:
    """Who leads where: a panel per metric, a row per category, a cell per layer.

    leads      of `leaders`
    sequences  for the headline
    A full colour says that the paired 95 % interval between the first and the second method excludes zero; a pale one
    that it does not. The letter in the cell is the method's first.
    """
    categories, last = list(leads["category"].unique()), leads["layer"].max()
    figure, axes = panels(leads["metric"].nunique(), height=0.42 * len(categories) + 1.0, sharex=True)
    for ax, (metric, table) in zip(axes, leads.groupby("metric", sort=False), strict=True):
        for row in table.itertuples():
            x, y, colour = row.layer, categories.index(row.category), look(row.leader).colour
            cell = Rectangle(
                (x - 0.46, y - 0.42), 0.92, 0.84, color=colour, alpha=1 if row.clear else PALE, linewidth=0
            )
            ax.add_patch(cell)
            ink = "white" if row.clear else legible(colour)
            ax.text(x, y, row.leader[0], ha="center", va="center", fontsize=7, color=ink, fontweight="bold")
        ax.set(xlim=(-0.6, last + 0.6), ylim=(len(categories) - 0.45, -0.55))
        ax.set_yticks(range(len(categories)), [fill(category, 14) for category in categories], fontsize=SMALL)
        ax.set_title(METRICS[metric].label, fontsize=10)
        ax.grid(visible=False)
        ax.tick_params(length=0)
        ax.spines[["left", "bottom"]].set_visible(False)
    axes[-1].set_xlabel(LAYER_AXIS)
    shown = set(leads["leader"])
    order = [*(method for method in METHODS if method in shown), *sorted(shown - set(METHODS))]
    handles = [Patch(color=look(method).colour, label=f"{method[0]}  {brief(method)}") for method in order]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(order), fontsize=SMALL)
    headline(figure, "The leader of each layer", sequences, "Full colour: clearly ahead of the second. Pale: not.")
    return figure


def reuse_by_layer(runs: Mapping[int, pd.DataFrame], metric: str, method: str) -> pd.DataFrame:
    """What sharing kept sets costs in each layer: a run per number of layers N that share a set, N = 1 the first.

    runs    N -> records on the same sequences; those that all measured are compared
    return  columns reuse, method, layer, estimate, low, high, n: mean at N less mean at 1, paired
    """
    values = {count: layer_values(records, metric, method) for count, records in runs.items()}
    shared = values[1].index
    for found in values.values():
        shared = shared.intersection(found.index, sort=False)
    plain = values[1].loc[shared]
    rows = [
        _by_layer(found.loc[shared] - plain, reuse=count, method=method) for count, found in values.items() if count > 1
    ]
    return pd.concat(rows, ignore_index=True)
