"""One metric by layer as an SVG panel whose lines a script can move: see `figures.sliders`."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from .layers import LAYER_AXIS
from .records import METHODS, METRICS
from .sliders_data import Grid, ticks
from .style import look

WIDTH, HEIGHT = 360, 250  # of a panel, in the units in which its text has 12: about CSS pixels
FRAME = {"left": 46, "right": 350, "top": 32, "bottom": 212}  # of a panel's axes
STEP = 5  # layers from one marker of a line to the next
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}


def panel(grid: Grid, field: str, metric: int, category: int, name: str) -> str:
    """One metric by layer: axes that span what the slider can show, then a line per method with its band."""
    about = METRICS[grid.metrics[metric]]
    better = f" ({about.better} is better)" if about.better else ""
    title = html.escape(about.label)
    scale = ticks(grid, field, metric)
    curves = grid.layers[category, metric]
    start, *_ = now = grid.at(field, grid.base[field])
    # controls first, so that the compared methods lie on top of them
    order = sorted(range(len(now)), key=lambda k: grid.methods[k] in METHODS)
    lines = "".join(_method(grid.methods[k], k, curves[now[k]], scale, f"{name}-{metric}-{k}") for k in order)
    left, right, top, bottom = FRAME.values()
    return (
        f'<div class="sliders-plot" data-metric="{metric}" tabindex="0" role="group" aria-label="{title} by layer. '
        f'Left and right arrow keys read the values of a layer.">'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title} against layer, one line for each of '
        f'{html.escape(", ".join(grid.methods))}. The tables below hold the averages.">'
        f'<text x="0" y="12"><tspan class="sliders-title">{title}</tspan>{better}</text>{_y_axis(scale)}{_x_axis(grid)}'
        f'<clipPath id="{name}-{metric}"><rect x="{left - 5}" y="{top - 5}" width="{right - left + 10}" '
        f'height="{bottom - top + 10}"/></clipPath><g clip-path="url(#{name}-{metric})">'
        f'<polyline class="sliders-start" points="{_points(curves[start, :, 0], scale)}"/>{lines}</g>'
        f'<line class="sliders-rule" y1="{top}" y2="{bottom}" x1="{left}" x2="{left}" visibility="hidden"/></svg></div>'
    )


def _y_axis(marks: Sequence[float]) -> str:
    """Grid lines with their numbers; the script changes them by copying the first of each."""
    left, right, top, _ = FRAME.values()
    drawn = "".join(
        f'<line class="sliders-grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>'
        for mark, y in zip(marks, _heights(marks, marks), strict=True)
    )
    seen = "visible" if marks[0] > 0 or marks[-1] < 0 else "hidden"
    note = f'<text class="sliders-note" x="{right}" y="{top - 7}" text-anchor="end" visibility="{seen}">'
    return f'<g class="sliders-marks">{drawn}{note}y axis does not start at 0</text></g>'


def _x_axis(grid: Grid) -> str:
    left, right, _, bottom = FRAME.values()
    last = grid.layers.shape[3] - 1
    marks = [int(mark) for mark in MaxNLocator(nbins=6, integer=True).tick_values(0, max(last, 1)) if 0 <= mark <= last]
    places = zip(marks, _across(last + 1)[marks], strict=True)
    drawn = "".join(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{mark}</text>' for mark, x in places)
    return (
        f'<line class="sliders-axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>{drawn}'
        f'<text x="{(left + right) / 2:.0f}" y="{bottom + 34}" text-anchor="middle">{LAYER_AXIS}</text>'
    )


def _method(method: str, place: int, curve: np.ndarray, scale: Sequence[float], name: str) -> str:
    """A method's band, line and markers; curve [L, 3]. Markers of different methods stand at different layers."""
    style = look(method)
    estimate, low, high = curve.T
    band = "" if np.isnan(low).any() else f"{_points(low, scale)} {' '.join(_points(high, scale).split()[::-1])}"
    dots = " ".join(_points(estimate, scale).split()[place % STEP :: STEP])
    tail = "".join(f' marker-{where}="url(#{name})"' for where in ("start", "mid", "end"))
    return (
        f'<g class="sliders-method{kind(method)}" data-method="{place}" style="--colour: {style.colour}">'
        f'<marker id="{name}" markerUnits="userSpaceOnUse" overflow="visible">'
        f'<path class="sliders-mark" d="{marker_path(style.marker)}"/></marker>'
        f'<polygon class="sliders-band" points="{band}"/>'
        f'<polyline class="sliders-line" points="{_points(estimate, scale)}"{dashes(method)}/>'
        f'<polyline class="sliders-dots" points="{dots}"{tail}/></g>'
    )


def _across(layers: int) -> np.ndarray:
    return np.linspace(FRAME["left"], FRAME["right"], max(layers, 2))[:layers]


def _heights(values: Sequence[float] | np.ndarray, scale: Sequence[float]) -> np.ndarray:
    part = (np.asarray(values) - scale[0]) / (scale[-1] - scale[0])
    return FRAME["bottom"] - part * (FRAME["bottom"] - FRAME["top"])


def _points(values: np.ndarray, scale: Sequence[float]) -> str:
    """A value per layer as "x,y x,y ..."; nothing where values are missing."""
    if np.isnan(values).any():
        return ""
    pairs = zip(_across(len(values)), _heights(values, scale), strict=True)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def kind(method: str) -> str:
    """A further class for controls, whose lines are thinner."""
    return "" if method in METHODS else " sliders-thin"


def dashes(method: str) -> str:
    """The method's line style as an attribute, nothing for a solid line."""
    line = look(method).line
    return "" if isinstance(line, str) else f' stroke-dasharray="{" ".join(f"{1.4 * part:g}" for part in line[1])}"'


def marker_path(marker: str, size: float = 7) -> str:
    """A matplotlib marker as an SVG path around 0, `size` wide."""
    style = MarkerStyle(marker)
    path = style.get_transform().transform_path(style.get_path())
    scale = np.array([size, -size])  # SVG's y axis points down
    drawn = ""
    for points, code in path.iter_segments(simplify=False):
        numbers = (points.reshape(-1, 2) * scale).flat
        drawn += LETTERS[code] + ("" if code == Path.CLOSEPOLY else " ".join(f"{v:.2f}" for v in numbers))
    return drawn
