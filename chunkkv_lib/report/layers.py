"""Layer by layer: the curves of Paper Figure 6, the paired differences behind them, and the paper's layers.

Tables first; the figures draw these tables, and what a page publishes beside a figure is the table that it drew.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ..errors import InputError
from .records import CONTROLS, METHODS, METRICS, PAIRS, PRIMARY, choose, layer_values
from .statistics import interval
from .style import FAINT, GREY, INK, headline, label_ends, line_panel, panels, say_start, styled

Pairs = Sequence[tuple[str, str]]
PAPER_LAYERS = 32  # of Llama-3-8B
PAPER_BANDS = {"kv_l1_loss": ((5, 25),), "attention_cosine_similarity": ((0, 5), (20, 30))}
LAYER_AXIS = "Layer (0 is next to the input)"
BANDS_NOTE = "Grey: the paper's layers, 5–25 of 32 for L1 loss,\n0–5 and 20–30 for cosine, at equal depth."


def layer_means(
    records: pd.DataFrame, category: str | None = None, methods: Iterable[str] | None = None
) -> pd.DataFrame:
    """What Paper Figure 6 draws: columns metric, method, layer, estimate, low, high, n.

    methods  None: ChunkKV, SnapKV, H2O and the controls, as far as they were measured
    """
    records = choose(records, category)
    measured = set(records["method"])
    methods = list(methods or (name for name in METHODS + CONTROLS if name in measured))
    if not methods:
        raise InputError(f"none of {', '.join(METHODS + CONTROLS)} was measured here: pass `methods`.")
    rows = [_by_layer(layer_values(records, metric, method), metric=metric, method=method)
            for metric in PRIMARY for method in methods]  # fmt: skip
    return pd.concat(rows, ignore_index=True).drop(columns="clear")


def layer_gaps(
    records: pd.DataFrame, category: str | None = None, metrics: Sequence[str] = PRIMARY, pairs: Pairs = PAIRS
) -> pd.DataFrame:
    """Paired differences "method - baseline" by layer.

    return  columns metric, method, baseline, layer, estimate, low, high, n, clear (the interval excludes zero)
    """
    records, rows = choose(records, category), []
    for metric in metrics:
        for method, baseline in pairs:
            values = layer_values(records, metric, method) - layer_values(records, metric, baseline)
            rows.append(_by_layer(values, metric=metric, method=method, baseline=baseline))
    return pd.concat(rows, ignore_index=True)


def _by_layer(values: pd.DataFrame, **names: str) -> pd.DataFrame:
    found = interval(values)
    return pd.DataFrame(names | {"layer": values.columns} | vars(found) | {"clear": found.excludes(0)})


def in_band(layers: ArrayLike, count: int, band: tuple[int, int]) -> np.ndarray:
    """Which layers of a model with `count` lie at the depth of layers band[0]..band[1] of the paper's model."""
    depth = (np.asarray(layers) + 0.5) * PAPER_LAYERS / count
    return (depth > band[0]) & (depth < band[1] + 1)


def band_contrasts(records: pd.DataFrame, metrics: Sequence[str] = PRIMARY, pairs: Pairs = PAIRS) -> pd.DataFrame:
    """Is a gap larger in the layers that the paper singles out, and larger than in other bands of as many layers?

    return  columns metric, method, baseline, band (of the paper's layers), layers (of this model), then the mean paired
            gap `inside` and `outside`, their difference `contrast` and `behind`, the best band's contrast less this
            one's, in the better direction, each an `Interval`; rank (1: the gain stands out most in this band) of
            `bands` contiguous bands of its width, and best (the layers of the first of them)
    """
    rows = []
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


@styled
def figure_6(means: pd.DataFrame, subject: str = "", whole: bool = False) -> Figure:
    """Paper Figure 6: each metric against layer, a panel per metric, means over sequences with 95 % bands.

    means  of `layer_means`; the three methods are drawn in colour, controls as thin grey lines without a band
    whole  y axes from 0 to 1; otherwise they fit the methods, and controls that lie outside are named
    Shaded: the layers that the paper singles out for this metric, at the same relative depth.
    """
    figure, axes = panels(means["metric"].nunique(), height=2.9, sharex=True)
    for ax, (metric, table) in zip(axes, means.groupby("metric", sort=False), strict=True):
        control = table["method"].isin(CONTROLS)
        ends = line_panel(ax, table[control].drop(columns=["low", "high"]), "layer", marker="", linewidth=1.1)
        ends += line_panel(ax, table[~control], "layer", markevery=2)
        shown = table if control.all() else table[~control]
        low, high = np.nanmin(shown[["estimate", "low", "high"]]), np.nanmax(shown[["estimate", "low", "high"]])
        margin = 0.08 * (high - low) or 0.01
        low, high = (0, 1) if whole else (low - margin, min(high + margin, 1) if high <= 1 else high + margin)
        ax.set_ylim(low, high)
        outside = [name for y, name, colour in ends if colour == GREY and not low <= y <= high]
        averages = table.groupby("method")["estimate"].mean()
        note = ", ".join(f"{name} {averages[name]:.2f}" for name in outside)
        _dress(ax, metric, table["layer"].max() + 1)
        say_start(ax, f"outside (mean): {note}" if note else "")
        label_ends(ax, table["layer"].max(), [end for end in ends if end[1] not in outside])
    headline(figure, subject, int(means["n"].max()), BANDS_NOTE)
    axes[-1].set_xlabel(LAYER_AXIS)
    return figure


@styled
def layer_differences(gaps: pd.DataFrame, subject: str = "") -> Figure:
    """Paired differences of one pair of methods against layer with 95 % bands, and the layers the paper singles out.

    gaps  of `layer_gaps`; a marker stands where the interval excludes zero
    """
    method, baseline = gaps.iloc[0][["method", "baseline"]]
    figure, axes = panels(gaps["metric"].nunique(), height=2.6, sharex=True)
    for ax, (metric, table) in zip(axes, gaps.groupby("metric", sort=False), strict=True):
        table = table.assign(pair=f"{method} − {baseline}")
        line_panel(ax, table, "layer", by="pair", markevery=np.flatnonzero(table["clear"]).tolist())
        ax.axhline(0, color=INK, linewidth=0.8, zorder=1)
        _dress(ax, metric, table["layer"].max() + 1)
        ax.set_ylabel(f"Difference in {METRICS[metric].short}\n{METRICS[metric].direction}")
    axes[-1].set_xlabel(LAYER_AXIS)
    subject = f"{method} − {baseline}" + (f", {subject}" if subject else "")
    headline(figure, subject, int(gaps["n"].max()), f"A marker: the 95 % interval excludes zero.\n{BANDS_NOTE}")
    return figure


def _dress(ax: Axes, metric: str, layers: int) -> None:
    """Labels, limits, and the paper's bands at equal depth in a model of `layers` layers."""
    ax.set(ylabel=METRICS[metric].axis, xlim=(-0.6, layers - 0.4))
    ax.xaxis.get_major_locator().set_params(integer=True)
    scale = layers / PAPER_LAYERS
    for first, last in PAPER_BANDS[metric]:
        start, stop = first * scale - 0.5, min((last + 1) * scale, layers) - 0.5
        ax.axvspan(start, stop, color=FAINT, alpha=0.5, linewidth=0, zorder=0)
