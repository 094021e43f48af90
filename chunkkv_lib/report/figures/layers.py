"""Metrics against layer: Paper Figure 6, and the paired differences behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.figures.style import (
    FAINT,
    GREY,
    INK,
    SMALL,
    headline,
    label_ends,
    look,
    panels,
    say_start,
    styled,
)
from chunkkv_lib.report.records import CONTROLS, METHODS, METRICS, PAIRS, PRIMARY, choose, layer_values, present
from chunkkv_lib.report.statistics import Interval, mean_interval

PAPER_LAYERS = 32  # of Llama-3-8B
PAPER_BANDS = {"kv_l1_loss": ((5, 25),), "attention_cosine_similarity": ((0, 5), (20, 30))}
LAYER_AXIS = "Layer (0 is next to the input)"
BANDS_NOTE = f"Grey bands: layers of {PAPER_LAYERS} that the paper singles out, at equal depth."


@styled
def figure_6(
    records: pd.DataFrame,
    category: str = "Single-Document QA",
    methods: Iterable[str] | None = None,
    controls: Iterable[str] | None = None,
    metrics: Sequence[str] = PRIMARY,
    budget: float | None = 0.1,
    bands: bool = True,
    zoom: bool = False,
) -> Figure:
    """Each metric against layer, one panel per metric: means over sequences with a 95 % bootstrap band.

    records    layers with a category column (`run.records`)
    methods    lines in colour; None: those of ChunkKV, SnapKV, H2O that were measured
    controls   thin grey lines without a band; None: those that were measured, (): none
    budget     kept share for the line "1 - budget" in the L1 panel; None or a token count: no line
    bands      shade the layers the paper singles out, at the same relative depth
    zoom       fit the y axes to the methods and name the controls that lie outside
    raises     InputError: unknown category, method or metric; no method measured
    """
    chosen = choose(records, category)
    methods, controls = present(chosen, methods, METHODS), present(chosen, controls, CONTROLS)
    if not methods:
        raise InputError(f"none of the methods {', '.join(METHODS)} was measured for {category}: pass `methods`.")
    figure, axes = panels(len(metrics), height=3.5, sharex=True)
    for ax, metric in zip(axes, metrics, strict=True):
        _metric_panel(ax, chosen, metric, methods, controls, budget, bands, zoom)
    axes[-1].set_xlabel(LAYER_AXIS)
    headline(figure, category, chosen["sequence"].nunique(), BANDS_NOTE if bands else "")
    return figure


@styled
def layer_differences(
    records: pd.DataFrame,
    category: str = "Single-Document QA",
    metrics: Sequence[str] = PRIMARY,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    bands: bool = True,
) -> Figure:
    """Paired difference "first - second" against layer with a 95 % band; filled where it excludes zero.

    raises  InputError: unknown category, method or metric.
    """
    chosen = choose(records, category, dict.fromkeys(name for pair in pairs for name in pair))
    figure, axes = panels(len(metrics), height=3.2, sharex=True)
    for ax, metric in zip(axes, metrics, strict=True):
        for method, baseline in pairs:
            _difference_line(ax, chosen, metric, method, baseline)
        _finish_differences(ax, metric, chosen, pairs, bands)
    axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    axes[-1].set_xlabel(LAYER_AXIS)
    note = "Filled marker: the 95 % interval excludes zero."
    headline(figure, category, chosen["sequence"].nunique(), f"{note}\n{BANDS_NOTE}" if bands else note)
    return figure


def paper_bands(metric: str, layers: int) -> list[tuple[float, float, str]]:
    """The paper's bands for a metric at equal depth in a model of `layers` layers: left, right, label."""
    scale = layers / PAPER_LAYERS
    return [
        (first * scale - 0.5, min((last + 1) * scale, layers) - 0.5, f"{first}–{last} of {PAPER_LAYERS}")
        for first, last in PAPER_BANDS.get(metric, ())
    ]


def _metric_panel(ax: Axes, records, metric: str, methods, controls, budget, bands: bool, zoom: bool) -> None:
    ends = []
    for control in controls:
        values = layer_values(records, metric, control)
        _line(ax, values.columns, values.mean().to_numpy(), control, linewidth=1.1)
        ends.append((values.mean().iloc[-1], control, GREY))
    shown = [_method_line(ax, layer_values(records, metric, method), method) for method in methods]
    ends += [(mean.estimate[-1], method, look(method).colour) for method, mean in zip(methods, shown, strict=True)]
    if metric.startswith("kv_l1_loss") and isinstance(budget, float) and budget < 1:
        ax.axhline(1 - budget, color=INK, linewidth=0.8, zorder=1)
        ends.append((1 - budget, f"1 − budget = {1 - budget:.2f}", INK))
    ends, outside = _zoom(ax, shown, ends) if zoom else (ends, [])
    _dress(ax, metric, records["layer"].nunique(), bands)
    means = [f"{name} {layer_values(records, metric, name).to_numpy().mean():.2f}" for name in outside]
    say_start(ax, note="outside (mean): " + ", ".join(means) if means else "")
    label_ends(ax, records["layer"].max(), ends)


def _method_line(ax: Axes, values: pd.DataFrame, method: str) -> Interval:
    found = mean_interval(values.to_numpy(), method="expanded")
    ax.fill_between(values.columns, found.low, found.high, color=look(method).colour, alpha=0.2, linewidth=0)
    _line(ax, values.columns, found.estimate, method, marker=look(method).marker, markevery=2)
    return found


def _line(ax: Axes, x, y, method: str, **options) -> None:
    style = look(method)
    ax.plot(x, y, color=style.colour, linestyle=style.line, label=method, **options)


def _difference_line(ax: Axes, records: pd.DataFrame, metric: str, method: str, baseline: str) -> None:
    pair = layer_values(records, metric, method) - layer_values(records, metric, baseline)
    found, style = mean_interval(pair.to_numpy(), method="expanded"), look(baseline)
    ax.fill_between(pair.columns, found.low, found.high, color=style.colour, alpha=0.2, linewidth=0)
    ax.plot(pair.columns, found.estimate, color=style.colour)
    ax.plot([], [], color=style.colour, marker=style.marker, label=f"{method} − {baseline}")
    clear = found.excludes(0)
    for chosen, face in ((clear, style.colour), (~clear, "white")):
        ax.plot(
            pair.columns[chosen],
            found.estimate[chosen],
            style.marker,
            color=style.colour,
            markerfacecolor=face,
        )


def _finish_differences(ax: Axes, metric: str, records: pd.DataFrame, pairs, bands: bool) -> None:
    ax.axhline(0, color=INK, linewidth=0.8, zorder=1)
    _dress(ax, metric, records["layer"].nunique(), bands)
    ax.set_ylabel(f"Difference in {METRICS[metric].short}")
    first, *others = dict.fromkeys(method for method, _ in pairs)
    if METRICS[metric].sign and not others:
        better, worse = (0.9, 0.02) if METRICS[metric].sign > 0 else (0.02, 0.9)
        for height, verdict in ((better, "better"), (worse, "worse")):
            ax.text(
                0.99,
                height,
                f"{first} {verdict}",
                transform=ax.transAxes,
                ha="right",
                va="bottom" if height < 0.5 else "top",
                fontsize=SMALL,
                color=GREY,
            )


def _dress(ax: Axes, metric: str, layers: int, bands: bool) -> None:
    """Labels, limits and the paper's bands."""
    about = METRICS[metric]
    ax.set_ylabel("\n".join(part for part in (about.label, about.direction) if part))
    ax.set_xlim(-0.6, layers - 0.4)
    ax.xaxis.get_major_locator().set_params(integer=True)
    if bands:
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.09 * (high - low))  # room for the bands' names
        _draw_bands(ax, paper_bands(metric, layers))


def _draw_bands(ax: Axes, bands: Iterable[tuple[float, float, str]]) -> None:
    for left, right, label in bands:
        ax.axvspan(left, right, color=FAINT, alpha=0.5, linewidth=0, zorder=0)
        ax.text(
            (left + right) / 2,
            0.98,
            label,
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=SMALL,
            color=GREY,
        )


def _zoom(ax: Axes, shown: Sequence[Interval], ends: list) -> tuple[list, list[str]]:
    """Limits from the methods; the labels of lines that end inside, and the controls that end outside."""
    values = np.concatenate([np.ravel([band.estimate, band.low, band.high]) for band in shown])
    low, high = np.nanmin(values), np.nanmax(values)
    margin = 0.08 * (high - low) or 0.01
    ax.set_ylim(low - margin, high + margin)
    inside = [end for end in ends if low - margin <= end[0] <= high + margin]
    kept = {label for _, label, _ in inside}
    return inside, [name for _, name, colour in ends if colour == GREY and name not in kept]
