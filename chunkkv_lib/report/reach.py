"""What rules of different reach find, and what is left when the question comes after the compression."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .plan import column
from .statistics import interval

FULL = "Full"


def found(run: Any, by: str = "answer_tokens") -> pd.DataFrame:
    """Share of a run's needles that every cache finds, by one of their settings.

    by      "answer_tokens", "form" or "depth"
    return  a row per method and value: columns method (without its budget), budget (NaN for the full cache), `by`,
            found, low, high (documents resampled), n
    raises InputError: a run without written answers.
    """
    scores, needles = column(run, "score", run.answers["method"].unique())
    budgets = {name: method.budget for name, method in run.parameters.compressors.items()}
    rows = []
    for value, ids in needles.groupby(by, sort=True).groups.items():
        for method in scores:
            one = interval(scores.loc[ids, method], needles.loc[ids, "document"])
            name = method.partition(", budget")[0]
            rows.append((name, budgets.get(method), value, one.estimate, one.low, one.high, one.n))
    return pd.DataFrame(rows, columns=["method", "budget", by, "found", "low", "high", "n"])


def asked(run: Any, name: str = "nll") -> pd.DataFrame:
    """A column of a run of second questions, by method and by what the window saw.

    name    of an answer's column: the difference from the full cache under the same window; of a layers' column: itself
    return  a row per method and window: columns method, asks, mean, low, high (documents resampled), n
    raises InputError: a run without that column.
    """
    in_answers = name in run.answers
    values, sequences = column(run, name, (run.answers if in_answers else run.layers)["method"].unique())
    if in_answers:
        values = values.drop(columns=FULL).sub(values[FULL], axis=0)
    rows = []
    for ask in run.parameters.asks:
        ids = sequences.index[sequences["category"] == ask]
        for method in values:
            one = interval(values.loc[ids, method], sequences.loc[ids, "document"])
            rows.append((method, ask, one.estimate, one.low, one.high, one.n))
    return pd.DataFrame(rows, columns=["method", "asks", "mean", "low", "high", "n"])
