"""Paper Figure 6 and Paper Table 11 with sliders: the reader moves a hyper-parameter, lines and numbers follow.

The page works without scripts and on paper: it then shows the setting from which the run started.
`book/assets/sliders.js` moves what is drawn here, from the numbers that are written beside it; nothing is fetched.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import unknown
from .records import METHODS, METRICS
from .sliders_data import Grid, payload, value_text
from .sliders_panel import FRAME, STEP, dashes, kind, marker_path, panel
from .style import look

if TYPE_CHECKING:
    from IPython.display import HTML


def sliders_view(grid: Grid, category: str | None = None, name: str = "sliders") -> HTML:
    """Both metrics by layer and their averages, at the run's own setting, with controls to change what is shown.

    grid      `sliders_data.measured_grid`
    category  what the lines show first; None: the grid's first
    name      id of the view in the page
    raises    InputError: a category that the grid does not hold.
    """
    from IPython.display import HTML

    if category is not None and category not in grid.categories:
        raise unknown("category", category, grid.categories)
    first = 0 if category is None else grid.categories.index(category)
    field = next(iter(grid.series))
    data = payload(grid) | {"first": first, "frame": FRAME, "step": STEP}
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    panels = "".join(panel(grid, field, metric, first, name) for metric in range(len(grid.metrics)))
    tables = "".join(_table(grid, field, metric) for metric in range(len(grid.metrics)))
    return HTML(
        f'<div class="sliders" id="{name}">{_controls(grid, first, name)}'
        f'<p class="sliders-told" aria-live="polite">{_told(grid)}</p>'
        f'<p class="sliders-subject">{html.escape(_subject(grid, first))}</p>{_legend(grid)}'
        f'<div class="sliders-panels">{panels}</div><p class="sliders-layer" aria-live="polite"></p>'
        f'<div class="sliders-tables">{tables}</div>'
        f'<script type="application/json" class="sliders-data">{written}</script></div>'
    )


# --- words and controls -------------------------------------------------------------------------------------------


def _told(grid: Grid) -> str:
    """The setting that is shown; the script says the same in its own words for the others."""
    parts = [
        f"{field.replace('_', ' ')} {value_text(field, grid.values[field][at])}" for field, at in grid.base.items()
    ]
    text = ", ".join(parts)
    return html.escape(f"{text[0].upper()}{text[1:]}: the run's own setting.")


def _subject(grid: Grid, category: int) -> str:
    n = int(grid.counts[category].max())
    return f"{grid.categories[category]}, n = {n} sequence" + "s" * (n != 1)


def _controls(grid: Grid, first: int, name: str) -> str:
    """Sliders, the choice of a category, two buttons; hidden until the script can answer them."""
    options = "".join(
        f'<option value="{i}"{" selected" if i == first else ""}>{html.escape(category)}</option>'
        for i, category in enumerate(grid.categories)
    )
    fitted = html.escape(", ".join(method for method in grid.methods if method in METHODS))
    return (
        '<p class="sliders-still">The sliders need JavaScript. Without it, this is the run\'s own setting.</p>'
        '<div class="sliders-controls" hidden>'
        + "".join(_slider(grid, field, name) for field in grid.series)
        + f'<div><label for="{name}-category">Sub-category</label> '
        f'<select id="{name}-category" data-control="category" autocomplete="off">{options}</select></div>'
        f'<div class="sliders-fit"><input type="checkbox" id="{name}-fit" data-control="fit" autocomplete="off">'
        f'<label for="{name}-fit">Fit the y axes to {fitted}</label>'
        '</div><div class="sliders-buttons"><button type="button" data-control="reset">Back to the start</button> '
        '<button type="button" data-control="download">Download what is shown (CSV)</button></div></div>'
    )


def _slider(grid: Grid, field: str, name: str) -> str:
    """A range input over the positions of an axis's values; its text is the value."""
    values, at, varied = grid.values[field], grid.base[field], grid.varied(field)
    title = field.replace("_", " ").capitalize() + (f" of {varied[0]}" if len(varied) == 1 else "")
    now, low, high = (html.escape(value_text(field, values[i])) for i in (at, 0, -1))
    return (
        f'<div><label for="{name}-{field}">{html.escape(title)} <output for="{name}-{field}">{now}</output></label>'
        f'<input type="range" id="{name}-{field}" data-axis="{field}" min="0" max="{len(values) - 1}" step="1" '
        f'value="{at}" autocomplete="off" aria-valuetext="{now}">'
        f'<span class="sliders-ends"><span>{low}</span><span>{high}</span></span></div>'
    )


def _legend(grid: Grid) -> str:
    """How each method is drawn, and the thin line that stays."""
    items = "".join(
        f'<li class="sliders-method{kind(method)}" style="--colour: {look(method).colour}">'
        f'<svg width="34" height="12" viewBox="0 0 34 12" aria-hidden="true"><path class="sliders-line" '
        f'd="M0 6H34"{dashes(method)}/><path class="sliders-mark" transform="translate(17 6)" '
        f'd="{marker_path(look(method).marker)}"/></svg> {html.escape(method)}</li>'
        for method in grid.methods
    )
    start = (
        '<li><svg width="34" height="12" viewBox="0 0 34 12" aria-hidden="true"><path class="sliders-start" '
        f'd="M0 6H34"/></svg> {html.escape(grid.methods[0])} at the run\'s own setting</li>'
    )
    return f'<ul class="sliders-legend">{items}{start}</ul>'


# --- the tables ---------------------------------------------------------------------------------------------------


def _table(grid: Grid, field: str, metric: int) -> str:
    """One metric's averages: a row per category, a column per method."""
    about = METRICS[grid.metrics[metric]]
    title = about.label + (f", {about.better} is better" if about.better else "")
    now = grid.at(field, grid.base[field])
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("Sub-category", *grid.methods))
    rows = "".join(
        f'<tr><th scope="row"><span>{html.escape(category)}</span> <span>n = {grid.counts[c, metric]}</span></th>'
        f"{_cells(grid.means[c, metric, now], about.sign, grid.methods)}</tr>"
        for c, category in enumerate(grid.categories)
    )
    return (
        f'<div class="sliders-scroll" tabindex="0" role="region" aria-label="{html.escape(about.label)}, averages">'
        f'<table class="sliders-table" data-metric="{metric}"><caption>{html.escape(title)}: mean over layers, '
        "then over sequences [95 % interval]. Bold: best of the compared methods.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cells(means: np.ndarray, sign: int, methods: Sequence[str]) -> str:
    """A row's numbers [methods, 3], the best of the compared methods marked, equal at four digits included."""
    rounded = np.round(means[:, 0], 4)
    compared = [value for value, method in zip(sign * rounded, methods, strict=True) if method in METHODS]
    best = np.nanmax(compared) if sign and np.isfinite(compared).any() else np.nan
    cells = []
    for method, value, (estimate, low, high) in zip(methods, rounded, means, strict=True):
        mark = ' class="best"' if method in METHODS and sign * value == best else ""
        interval = "" if np.isnan(low) else f"[{_digits(low)}, {_digits(high)}]"
        cells.append(f"<td{mark}><span>{_digits(estimate)}</span> <span>{interval}</span></td>")
    return "".join(cells)


def _digits(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}".replace("-", "−")
