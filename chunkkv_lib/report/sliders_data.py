"""Both metrics at every setting of a sensitivity run, as arrays: what the sliders of `figures.sliders` choose from."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from ..errors import InputError
from .records import METHODS, METRICS, PRIMARY, choose, sequence_means
from .statistics import interval

ALL = "All sub-categories"
BAND_RESAMPLES = 1000  # for a band one pixel is enough; the table's intervals use the library's number
MISSING = 65535  # in packed numbers
Labels = Mapping[str, Mapping[object, str]]  # method -> value -> label in the records


@dataclass(frozen=True)
class Grid:
    """Means of the metrics for every category and setting. C categories, M metrics, S settings, L layers.

    settings  [S] method and, for every axis on which it is varied, its value (else None); compared methods first
    series    axis -> method -> index of the setting at every value of the axis
    values    axis -> its values
    base      axis -> position of the value that the run has where the other axis is varied
    means     [C, M, S, 3] mean over layers, then over sequences; low and high of its 95 % interval
    layers    [C, M, S, L, 3] mean over sequences and its 95 % interval, which controls lack (NaN)
    counts    [C, M] sequences
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    categories: tuple[str, ...]
    settings: tuple[dict[str, object], ...]
    series: dict[str, dict[str, list[int]]]
    values: dict[str, list]
    base: dict[str, int]
    means: np.ndarray
    layers: np.ndarray
    counts: np.ndarray

    def varied(self, field: str) -> list[str]:
        """The methods that the axis changes."""
        return [method for method in self.methods if len(set(self.series[field][method])) > 1]

    def at(self, field: str, value: int) -> list[int]:
        """The setting of each method at a position of an axis."""
        return [self.series[field][method][value] for method in self.methods]

    def frame(self) -> pd.DataFrame:
        """The means as a table: columns category, metric, method, one per axis, estimate, low, high, n."""
        rows = [
            {"category": category, "metric": metric, **setting}
            | dict(zip(("estimate", "low", "high"), self.means[c, m, s], strict=True))
            | {"n": int(self.counts[c, m])}
            for c, category in enumerate(self.categories)
            for m, metric in enumerate(self.metrics)
            for s, setting in enumerate(self.settings)
        ]
        return pd.DataFrame(rows)


def measured_grid(records: pd.DataFrame, axes: Mapping[str, Labels], metrics: Sequence[str] = PRIMARY) -> Grid:
    """All means that a reader can choose with one slider per axis, from the layers of a sensitivity run.

    records  layers with a category, one row per sequence, label and layer
    axes     hyper-parameter -> method -> value -> label (`sensitivity.axis_labels`); methods that no axis varies are
             left out
    raises   InputError: a label or metric that the records do not hold; no value that all axes have in common.
    """
    named = next(iter(axes.values()))
    varied = [name for name in named if any(len(set(labels[name].values())) > 1 for labels in axes.values())]
    methods = sorted(varied, key=lambda name: name not in METHODS)  # stable: compared methods first
    settings = _settings(axes, methods)
    place = {label: index for index, label in enumerate(settings)}
    chosen = choose(records, methods=place)
    groups = dict(list(chosen.groupby("category", sort=False)))
    if len(groups) > 1:
        groups[ALL] = chosen
    bands = sum(setting["method"] in METHODS for setting in settings.values())
    found = [[_measured(group, metric, list(place), bands) for metric in metrics] for group in groups.values()]
    return Grid(
        tuple(methods), tuple(metrics), tuple(groups), tuple(settings.values()),
        {field: {name: [place[label] for label in labels[name].values()] for name in methods}
         for field, labels in axes.items()},
        {field: list(labels[methods[0]]) for field, labels in axes.items()},
        {field: _base(field, labels, methods) for field, labels in axes.items()},
        *(np.array([[one[part] for one in row] for row in found]) for part in range(3)),
    )  # fmt: skip


def _settings(axes: Mapping[str, Labels], methods: Iterable[str]) -> dict[str, dict[str, object]]:
    """Label -> method and value on every axis, None where the axis does not change the method."""
    found: dict[str, dict[str, object]] = {}
    for method in methods:
        own = {field: _own(labels[method], method) for field, labels in axes.items()}
        for field, labels in axes.items():
            for value, label in labels[method].items():
                moved = {} if own[field] is None else {field: value}
                found[label] = {"method": method} | own | moved
    return found


def _own(labels: Mapping[object, str], method: str) -> object:
    """The value at which the method stands unchanged; None on an axis that does not vary it."""
    moved = len(set(labels.values())) > 1
    return next((value for value, label in labels.items() if moved and label == method), None)


def _base(field: str, labels: Labels, methods: Sequence[str]) -> int:
    values = list(labels[methods[0]])
    for position, value in enumerate(values):
        if all(labels[method][value] == method for method in methods):
            return position
    raise InputError(f"at no {field} of {values} is every method unchanged; give the run's own value too.")


def _measured(group: pd.DataFrame, metric: str, labels: list[str], bands: int) -> tuple[np.ndarray, np.ndarray, int]:
    """One category's means [S, 3] and layers [S, L, 3] of a metric, and the number of sequences."""
    average = interval(sequence_means(group, metric)[labels])
    wide = group.set_index(["sequence", "method", "layer"])[metric].unstack(["method", "layer"])
    layers = np.sort(group["layer"].unique())
    wide = wide.reindex(columns=pd.MultiIndex.from_product([labels, layers])).dropna()
    values = wide.to_numpy().reshape(len(wide), len(labels), len(layers))
    curves = np.full((len(labels), len(layers), 3), np.nan)
    if len(values):
        curves[..., 0] = values.mean(axis=0)
    band = interval(values[:, :bands], resamples=BAND_RESAMPLES)
    curves[:bands, :, 1], curves[:bands, :, 2] = band.low, band.high
    return np.stack([average.estimate, average.low, average.high], axis=1), curves, average.n


# --- what the script reads ----------------------------------------------------------------------------------------


def ticks(grid: Grid, field: str, metric: int) -> list[float]:
    """Round numbers that span everything a metric takes along an axis, in all categories: the y axis holds still."""
    used = sorted({index for method in grid.methods for index in grid.series[field][method]})
    values = grid.layers[:, metric, used]
    if np.isnan(values).all():
        raise InputError(f"no sequence has a value of {grid.metrics[metric]} at every setting; measure more sequences.")
    locator = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10])
    return [round(float(tick), 6) for tick in locator.tick_values(np.nanmin(values), np.nanmax(values))]


def value_text(field: str, value: object) -> str:
    """A value in words: budget 0.1 -> "10 %", chunk_size 1 -> "1 token"."""
    if field == "budget" and isinstance(value, float):
        return f"{100 * value:g} %"
    if field in ("budget", "chunk_size", "window"):
        return f"{value} token" + "s" * (value != 1)
    return str(value)


def payload(grid: Grid) -> dict:
    """All numbers of the grid for JSON: means with four digits, layers as two bytes each, base64.

    Two bytes are a step of 1/65534 of a metric's range, far below what a curve or three digits show.
    """
    axes = [_axis(grid, field) for field in grid.series]
    ranges = [[float(np.nanmin(part)), float(np.nanmax(part))] for part in np.moveaxis(grid.layers, 1, 0)]
    bands = sum(setting["method"] in METHODS for setting in grid.settings)
    codes = _packed(grid.layers, ranges)
    return {
        "methods": list(grid.methods),
        "compared": sum(method in METHODS for method in grid.methods),
        "categories": list(grid.categories),
        "counts": grid.counts.tolist(),
        "metrics": [
            {"name": name, "label": METRICS[name].label, "sign": METRICS[name].sign, "range": span}
            for name, span in zip(grid.metrics, ranges, strict=True)
        ],
        "axes": axes,
        "means": [_numbers(rows) for rows in grid.means],
        "settings": len(grid.settings),
        "bands": bands,
        "layers": grid.layers.shape[3],
        "curves": base64.b64encode(codes[..., 0].tobytes()).decode(),
        "edges": base64.b64encode(codes[:, :, :bands, :, 1:].tobytes()).decode(),
    }


def _packed(layers: np.ndarray, ranges: Sequence[Sequence[float]]) -> np.ndarray:
    """Values [C, M, ...] as the part of their metric's range, in steps of 1/65534."""
    shape = (-1, *[1] * (layers.ndim - 2))
    low, high = (np.array(ends).reshape(shape) for ends in zip(*ranges, strict=True))
    steps = (layers - low) / np.where(high > low, high - low, 1) * (MISSING - 1)
    return np.where(np.isnan(steps), MISSING, np.round(steps)).astype("<u2")


def _axis(grid: Grid, field: str) -> dict:
    return {
        "field": field,
        "name": field.replace("_", " "),
        "values": grid.values[field],
        "texts": [value_text(field, value) for value in grid.values[field]],
        "base": grid.base[field],
        "varied": grid.varied(field),
        "series": [grid.series[field][method] for method in grid.methods],
        "marks": [ticks(grid, field, metric) for metric in range(len(grid.metrics))],
    }


def _numbers(values: np.ndarray) -> list:
    """Nested lists with four digits; None where there is no number, which JSON cannot write."""
    return [[[None if np.isnan(x) else round(float(x), 4) for x in row] for row in block] for block in values]
