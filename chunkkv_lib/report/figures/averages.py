"""Averages over layers: Paper Table 11 as dots, and its gaps between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from chunkkv_lib.report.figures.style import GREY, INK, SMALL, look, panels, say_start, styled
from chunkkv_lib.report.records import METHODS, METRICS, PAIRS, PRIMARY, averages, choose, comparisons, present

FILLS = (
    "full",
    "left",
    "bottom",
    "top",
)  # how a run's markers are filled, by its place; the paper's are hollow
LEGEND_LETTERS = 24  # of the runs' labels that fit one line


@styled
def table_11_figure(
    paper: pd.DataFrame,
    runs: Mapping[str, Any],
    methods: Sequence[str] = METHODS,
    metrics: Sequence[str] = PRIMARY,
) -> Figure:
    """Paper Table 11 as dots: one line per category and method, the paper's value hollow, each run's filled.

    paper   columns category, method and the metrics (`tables.paper_table_11()`)
    runs    label -> run with `.records`; bars are 95 % bootstrap intervals over sequences
    """
    rows = _rows(paper, runs)
    figure, axes = panels(len(metrics), height=0.62 * len(rows) + 0.9)
    for ax, metric in zip(axes, metrics, strict=True):
        for label, source in _sources(paper, runs, methods, metric).items():
            _dots(ax, source, rows, methods, label, list(runs))
        _finish_rows(ax, rows)
        ax.set_xlabel("\n".join(filter(None, [METRICS[metric].label, METRICS[metric].direction])))
        say_start(ax, "x")
    _legend(figure, methods, runs)
    _say_missing(figure, paper, runs)
    return figure


@styled
def gaps_figure(
    paper: pd.DataFrame,
    runs: Mapping[str, Any],
    pairs: Sequence[tuple[str, str]] = PAIRS,
    metrics: Sequence[str] = PRIMARY,
) -> Figure:
    """The gaps between methods in per cent of the baseline's mean, the paper's beside each run's.

    A gap is comparable between models where a value is not. Bars: the paired 95 % interval over sequences.
    """
    rows = _rows(paper, runs)
    figure, axes = panels(len(metrics), height=0.55 * len(rows) + 0.9)
    baselines = [baseline for _, baseline in pairs]
    for ax, metric in zip(axes, metrics, strict=True):
        sources = {"Paper": _paper_gaps(paper, metric, pairs)}
        sources |= {label: run_gaps(run.records, metric, pairs) for label, run in runs.items()}
        for label, source in sources.items():
            _dots(ax, source, rows, baselines, label, list(runs))
        _finish_rows(ax, rows)
        ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
        ax.set_xlabel(
            "\n".join(filter(None, [f"Gap in {METRICS[metric].short}, % of the baseline", METRICS[metric].direction]))
        )
    _legend(figure, baselines, runs, [f"{method} − {baseline}" for method, baseline in pairs])
    _say_missing(figure, paper, runs)
    return figure


def _rows(paper: pd.DataFrame, runs: Mapping[str, Any]) -> list[str]:
    """The paper's categories in its order, then any that only a run has."""
    measured = [category for run in runs.values() for category in run.records["category"].unique()]
    return list(dict.fromkeys([*paper["category"], *measured]))


def _sources(
    paper: pd.DataFrame, runs: Mapping[str, Any], methods: Sequence[str], metric: str
) -> dict[str, pd.DataFrame]:
    printed = paper[["category", "method", metric]].rename(columns={metric: "estimate"}).assign(low=np.nan, high=np.nan)
    found = {"Paper": printed[printed["method"].isin(methods)]}
    for label, run in runs.items():
        found[label] = averages(choose(run.records, methods=present(run.records, None, methods)), [metric])
    return found


def _paper_gaps(paper: pd.DataFrame, metric: str, pairs) -> pd.DataFrame:
    wide = paper.pivot(index="category", columns="method", values=metric).loc[paper["category"].unique()]
    gaps = [
        (category, b, 100 * (row[a] - row[b]) / row[b], np.nan, np.nan)
        for category, row in wide.iterrows()
        for a, b in pairs
    ]
    return pd.DataFrame(gaps, columns=["category", "method", "estimate", "low", "high"])


def run_gaps(records: pd.DataFrame, metric: str, pairs) -> pd.DataFrame:
    """Paired differences of one metric as a percentage of the baseline's mean.

    return  columns category, method (the baseline of the pair), estimate, low, high
    """
    found = comparisons(records, [metric], pairs)
    mean = averages(records, [metric]).set_index(["category", "method"])["estimate"]
    share = 100 / mean.reindex(pd.MultiIndex.from_frame(found[["category", "baseline"]])).to_numpy()
    return pd.DataFrame(
        {
            "category": found["category"],
            "method": found["baseline"],
            "estimate": found["difference"] * share,
            "low": found["low"] * share,
            "high": found["high"] * share,
        }
    )


def _dots(ax: Axes, source: pd.DataFrame, rows: list[str], methods: Sequence[str], label: str, runs: list[str]) -> None:
    slots = len(methods) * (1 + len(runs))
    place = 0 if label == "Paper" else 1 + runs.index(label)
    for found in source.itertuples():
        slot = list(methods).index(found.method) * (1 + len(runs)) + place
        y = rows.index(found.category) + 0.76 * ((slot + 0.5) / slots - 0.5)
        style = look(found.method)
        ax.hlines(y, found.low, found.high, color=style.colour, linewidth=1.4)
        ax.plot(found.estimate, y, color=style.colour, linestyle="none", **_marker(found.method, label, runs))


def _marker(method: str, label: str, runs: list[str]) -> dict:
    style = "none" if label == "Paper" else FILLS[runs.index(label) % len(FILLS)]
    return {
        "marker": look(method).marker,
        "fillstyle": style,
        "markersize": 5.5,
        "markerfacecoloralt": "white",
    }


def _finish_rows(ax: Axes, rows: list[str]) -> None:
    ax.set_yticks(range(len(rows)), [fill(row, 13) for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(7))
    ax.grid(visible=False, axis="y")
    for edge in range(1, len(rows)):
        ax.axhline(edge - 0.5, color="#c8c8c8", linewidth=0.7)


def _legend(
    figure: Figure, methods: Sequence[str], runs: Mapping[str, Any], names: Sequence[str] | None = None
) -> None:
    """The methods by colour and shape, and below them the sources by how a marker is filled."""

    def entry(method: str, label: str, colour: str, name: str) -> Line2D:
        return Line2D([], [], color=colour, linestyle="none", label=name, **_marker(method, label, list(runs)))

    shapes = [
        entry(method, next(iter(runs), "Paper"), look(method).colour, name)
        for method, name in zip(methods, names or methods, strict=True)
    ]
    fills = [entry("ChunkKV", label, GREY, label) for label in ("Paper", *runs)]
    wide = sum(map(len, runs)) > LEGEND_LETTERS  # then the sources take two lines, not one that is cut off
    half = (len(fills) + 1) // 2 if wide else len(fills)
    nothing = Line2D([], [], linestyle="none", label=" ")
    lines = [shapes, fills[:half], fills[half:]] if wide else [shapes, fills]
    columns = zip_longest(*lines, fillvalue=nothing)  # a legend fills its columns first
    figure.legend(
        handles=list(chain.from_iterable(columns)),
        loc="outside upper left",
        ncols=max(map(len, lines)),
    )


def _say_missing(figure: Figure, paper: pd.DataFrame, runs: Mapping[str, Any]) -> None:
    rows = _rows(paper, runs)
    gaps = {label: [row for row in rows if row not in set(run.records["category"])] for label, run in runs.items()}
    lines = [fill(f"Not measured in {label}: {', '.join(names)}.", 80) for label, names in gaps.items() if names]
    if lines:
        figure.supxlabel("\n".join(lines), fontsize=SMALL, color=GREY, x=0.01, ha="left")
