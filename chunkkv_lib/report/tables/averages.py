"""Paper Table 11: the paper's values, a published run and the reader's own, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from chunkkv_lib.errors import InputError, unknown
from chunkkv_lib.report.records import CONTROLS, METHODS, METRICS, PRIMARY, averages
from chunkkv_lib.report.statistics import Interval
from chunkkv_lib.report.tables.layout import MISSING, myst_table, number, row_name
from chunkkv_lib.report.tables.provenance import budget_text, data_source
from chunkkv_lib.report.tables.signature import PAPER, tint

PAPER_SETTING = "Llama-3-8B-Instruct, LongBench, 100 sequences per row, 10 % kept"


def table_11(
    paper: pd.DataFrame,
    runs: Mapping[str, Any],
    methods: Sequence[str] = METHODS,
    controls: Sequence[str] | None = None,
    metrics: Sequence[str] = PRIMARY,
    ranks: bool = False,
    caption: str | None = None,
    name: str = "table-11",
    tinted: bool = False,
) -> str:
    """Paper Table 11: a row per category and method, the paper's value beside each run's mean and interval.

    paper     `paper_table_11()`; runs: label -> run with `.records` and `.manifest`
    controls  extra rows, never bold; None: those that any run measured
    metrics   both fit a page beside one run; beside two or more, give each metric a table of its own
    ranks     adds the rank (1 best) among `methods` in brackets
    tinted    gives each source's cells its colour: for labels "Published" and "Live"
    Bold: the best of `methods` in its column and category, equal at the printed digits included.
    raises    InputError: a run labelled "Paper", an unknown method.
    """
    if PAPER in runs:
        raise InputError(f"a run cannot be labelled {PAPER!r}, which names the printed values: choose another label.")
    controls = _measured_controls(runs) if controls is None else list(controls)
    for method in [*methods, *controls]:
        known = [
            *paper["method"].unique(),
            *(m for run in runs.values() for m in run.records["method"].unique()),
        ]
        if method not in known:
            raise unknown("method", method, dict.fromkeys(known))
    cells = {PAPER: _paper_cells(paper)} | {label: _run_cells(run.records, metrics) for label, run in runs.items()}
    categories = list(
        dict.fromkeys([*paper["category"], *(c for run in runs.values() for c in run.records["category"])])
    )
    rows = []
    for category in categories:
        block = {m: {"Sub-category": category, "Method": row_name(m)} for m in [*methods, *controls]}
        for label, found in cells.items():
            _fill_block(block, found, category, label, methods, metrics, ranks)
        rows += block.values()
    table = pd.DataFrame(rows)
    for column in table.columns[2:] if tinted else ():
        label = column.split(":")[0]
        table[column] = [tint(text, label) for text in table[column]]
    return myst_table(table, caption or _table_11_caption(runs, metrics), name, right=table.columns[2:])


def _paper_cells(paper: pd.DataFrame) -> dict[tuple[str, str, str], Interval]:
    long = paper.melt(["category", "method"], var_name="metric", value_name="value")
    return {(row.category, row.method, row.metric): Interval(row.value, np.nan, np.nan, 0) for row in long.itertuples()}


def _run_cells(records: pd.DataFrame, metrics: Sequence[str]) -> dict[tuple[str, str, str], Interval]:
    found = averages(records, metrics)
    return {
        (row.category, row.method, row.metric): Interval(row.estimate, row.low, row.high, row.n)
        for row in found.itertuples()
    }


def _fill_block(block: dict, cells: Mapping, category: str, label: str, methods, metrics, ranks: bool) -> None:
    """Write one source's columns into the rows of one category."""
    nothing = Interval(np.nan, np.nan, np.nan, 0)
    for metric in metrics:
        best = _rank_of(cells, category, methods, metric)
        for method, row in block.items():
            found = cells.get((category, method, metric), nothing)
            text = number(found)
            if ranks and method in best:
                text += f" ({best[method]})"
            row[f"{label}: {METRICS[metric].short}"] = (
                f"**{text}**" if best.get(method) == 1 and len(best) > 1 else text
            )
    if label != PAPER:
        for method, row in block.items():
            row[f"{label}: n"] = max(cells.get((category, method, metric), nothing).n for metric in metrics)


def _rank_of(cells: Mapping, category: str, methods: Sequence[str], metric: str) -> dict[str, int]:
    """Rank of each method that has a value, 1 best, at the printed four digits."""
    values = {
        method: round(float(cells[key].estimate), 4)
        for method in methods
        if (key := (category, method, metric)) in cells
    }
    values = {method: -METRICS[metric].sign * value for method, value in values.items() if not np.isnan(value)}
    return {method: 1 + sum(other < value for other in values.values()) for method, value in values.items()}


def _measured_controls(runs: Mapping[str, Any]) -> list[str]:
    return [control for control in CONTROLS if any(control in set(run.records["method"]) for run in runs.values())]


def _table_11_caption(runs: Mapping[str, Any], metrics: Sequence[str]) -> str:
    directions = ", ".join(f"{METRICS[name].short}: {METRICS[name].better} is better" for name in metrics)
    settings = [f"{PAPER}: {PAPER_SETTING}."]
    for label, run in runs.items():
        model = run.manifest.get("model", {}).get("name", "model not recorded")
        budget = budget_text(run.manifest.get("parameters", {}).get("budget"))
        settings.append(f"{label}: {model}, data {data_source(run.manifest)}, budget {budget}.")
    return (
        "Paper Table 11. Mean over layers, then over sequences, with 95 % bootstrap interval over sequences; "
        f"{directions}. Bold: best of the compared methods. {MISSING}: not measured. " + " ".join(settings)
    )
