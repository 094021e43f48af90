"""The shape of Paper Table 11, read off the paper's values and off a run's by the same rules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from chunkkv_lib.report.records import METHODS, METRICS, PAIRS, PRIMARY, averages, choose, sequence_means
from chunkkv_lib.report.resampling import honest_interval
from chunkkv_lib.report.tables.layout import MISSING, minus, myst_table

PAPER = "Paper"


def signature(means: pd.DataFrame) -> dict[str, str]:
    """What marks a table of means: order of the methods, size of the gaps, the odd row, the spread over rows.

    means   columns category, method and the two primary metrics, as of `paper_table_11`
    return  what -> value, the same keys for every table; gaps are "ChunkKV against SnapKV / against H2O"
    """
    wide = {metric: _wide(means, metric) for metric in PRIMARY}
    lines = {}
    for metric, table in wide.items():
        lines[f"{_words(metric)}: order, best first (rows that have it)"] = _usual_order(table, METRICS[metric].sign)
    for metric, table in wide.items():
        gaps = [f"{_gap(table, pair).mean():+.2f} %" for pair in PAIRS]
        lines[f"{_words(metric)}: mean gap to SnapKV / to H2O"] = minus(" / ".join(gaps))
    for metric, table in wide.items():
        for pair in PAIRS:
            gain = METRICS[metric].sign * _gap(table, pair)
            lines[f"{_words(metric)}: row with the smallest gain over {pair[1]}"] = str(gain.idxmin())
    cosine, l1 = wide[PRIMARY[1]], wide[PRIMARY[0]]
    lines["attention cosine: highest row"] = str(cosine.mean(axis=1).idxmax())
    spread = [f"{l1[method].std(ddof=0):.4f}" for method in METHODS]
    lines["L1 loss: standard deviation over rows, ChunkKV / SnapKV / H2O"] = " / ".join(spread)
    return lines


def signature_table(paper: pd.DataFrame, runs: Mapping[str, Any], caption: str, name: str = "") -> str:
    """The signature of the paper's table beside that of each run; label -> run, labels as in `table_11`."""
    columns = {PAPER: signature(paper)} | {label: signature(_means(run.records)) for label, run in runs.items()}
    rows = [
        {"What": what} | {label: tint(found[what], label) for label, found in columns.items()}
        for what in columns[PAPER]
    ]
    return myst_table(pd.DataFrame(rows), caption, name)


def orders_table(
    paper: pd.DataFrame,
    runs: Mapping[str, Any],
    caption: str,
    name: str = "",
    methods: Sequence[str] = METHODS,
    metrics: Sequence[str] = PRIMARY,
) -> str:
    """The order of the methods, best first, by category: the paper's beside each run's.

    "=" in a run's order: not distinguishable from the next better method (paired, widened 95 % interval).
    """
    categories = list(
        dict.fromkeys([*paper["category"], *(c for run in runs.values() for c in run.records["category"])])
    )
    rows = []
    for metric in metrics:
        printed = _wide(paper, metric) if metric in paper else pd.DataFrame()
        for category in categories:
            row = {"Metric": METRICS[metric].short, "Sub-category": category}
            known = category in printed.index
            text = ", ".join(_order(printed.loc[category], METRICS[metric].sign)) if known else MISSING
            row[PAPER] = tint(text, PAPER)
            for label, run in runs.items():
                row[label] = tint(order_text(run.records, metric, category, methods), label)
            rows.append(row)
    return myst_table(pd.DataFrame(rows), caption, name)


def order_text(records: pd.DataFrame, metric: str, category: str, methods: Sequence[str] = METHODS) -> str:
    """The methods of one category, best first; "=" before one that is not distinguishable from the one before.

    A category that was not measured gives "–".
    """
    if category not in set(records["category"]):
        return MISSING
    values = sequence_means(choose(records, category, methods), metric)
    order = _order(values.mean(), METRICS[metric].sign)
    text = order[0]
    for better, worse in pairwise(order):
        clear = honest_interval(values[better] - values[worse]).excludes(0)
        text += f"{', ' if clear else ' = '}{worse}"
    return text


def tint(text: str, label: str) -> str:
    """A cell in the colour of its source, free to wrap: labels "Paper", "Published" and "Live" have a colour."""
    name = re.sub("[^a-z0-9]+", "-", label.lower())  # a class must not have the dots that a run's name may have
    return f"[{text}]{{.{name} .wraps}}"


def _means(records: pd.DataFrame) -> pd.DataFrame:
    found = averages(records, methods=METHODS)
    return found.pivot(index=["category", "method"], columns="metric", values="estimate").reset_index()


def _wide(means: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows in the table's order, a column per method."""
    wide = means.pivot(index="category", columns="method", values=metric)
    return wide.loc[means["category"].unique(), list(METHODS)]


def _words(metric: str) -> str:
    return METRICS[metric].short


def _gap(table: pd.DataFrame, pair: tuple[str, str]) -> pd.Series:
    """ChunkKV against a baseline by row, in per cent of the baseline."""
    return 100 * (table[pair[0]] - table[pair[1]]) / table[pair[1]]


def _order(values: pd.Series, sign: int) -> list[str]:
    """The index, best value first; equal values keep their order."""
    return list(values.index[np.argsort(-sign * values.to_numpy(), kind="stable")])


def _usual_order(table: pd.DataFrame, sign: int) -> str:
    orders = Counter(", ".join(_order(row, sign)) for _, row in table.iterrows())
    order, rows = orders.most_common(1)[0]
    return f"{order} ({rows} of {len(table)})"
