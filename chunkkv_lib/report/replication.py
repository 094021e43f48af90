"""The same question put to several runs: other data, another model. Do they give the same answer?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ..errors import InputError
from .layerwise import layer_gaps
from .records import METHODS, PRIMARY, damage, sequence_means
from .resampling import honest_interval
from .tables import VERDICTS, Claim, myst_table
from .tables.layout import MISSING

SUPPORTED, NOT_SUPPORTED, CANNOT_TELL = VERDICTS
ALL, NONE, CONTRADICTION, SOME, UNTOLD = (
    "all support it",
    "none supports it",
    "they contradict each other",
    "only some can tell",
    "none can tell",
)
#: What several runs can say of one claim together, the clearest first.
AGREEMENTS = (ALL, NONE, CONTRADICTION, SOME, UNTOLD)


def verdicts(judged: Mapping[str, Sequence[Claim]]) -> pd.DataFrame:
    """A row per statement, a column per run with its verdict; None where a run could not be asked.

    judged  label of the run -> its claims
    raises  InputError: no run.
    """
    if not judged:
        raise InputError("no run was given; pass at least one, as label -> claims.")
    columns = {label: {one.statement: one.verdict for one in found} for label, found in judged.items()}
    statements = dict.fromkeys(statement for column in columns.values() for statement in column)
    return pd.DataFrame(
        {label: [column.get(statement) for statement in statements] for label, column in columns.items()},
        index=pd.Index(list(statements), name="statement"),
        dtype=object,
    )


def agreement(given: Iterable[str | None]) -> str:
    """What the verdicts of several runs on one claim say together, one of AGREEMENTS; None: a run was not asked.

    "All support it" and "none supports it" need a clear verdict of every run that was asked.
    """
    told = [verdict for verdict in given if verdict in VERDICTS]
    kinds = set(told)
    if kinds == {SUPPORTED}:
        return ALL
    if kinds == {NOT_SUPPORTED}:
        return NONE
    if {SUPPORTED, NOT_SUPPORTED} <= kinds:
        return CONTRADICTION
    return SOME if kinds - {CANNOT_TELL} else UNTOLD


def agreement_table(judged: Mapping[str, Sequence[Claim]], caption: str, name: str = "") -> str:
    """A row per statement with every run's verdict, and what they say together; MyST text."""
    found = verdicts(judged)
    together = found.apply(agreement, axis=1)
    table = found.fillna(MISSING).assign(Together=together.map("**{}**".format))
    return myst_table(table.reset_index(names="Claim of the paper"), caption, name)


def depth_gaps(
    runs: Mapping[str, Any],
    category: str | None = None,
    metrics: Sequence[str] = PRIMARY,
    pair: tuple[str, str] = METHODS[:2],
) -> pd.DataFrame:
    """Paired differences by relative depth, so that models with different numbers of layers share an axis.

    runs    label -> run; those without the category are left out
    return  columns run, depth (0 next to the input, 1 next to the output), and those of `layerwise.layer_gaps`
    raises  InputError: no run has the category; an unknown method or metric.
    """
    tables = []
    for label, run in runs.items():
        if category is not None and category not in set(run.records["category"]):
            continue
        gaps = layer_gaps(run.records, category, metrics, [pair])
        depth = (gaps["layer"] + 0.5) / run.records["layer"].nunique()
        tables.append(gaps.assign(run=label, depth=depth))
    if not tables:
        raise InputError(f"none of the {len(runs)} runs has sequences of {category!r}; choose another category.")
    found = pd.concat(tables, ignore_index=True)
    return found[["run", "depth", *found.columns.drop(["run", "depth"])]]


def same_sign(gaps: pd.DataFrame, bins: int = 8) -> pd.DataFrame:
    """Where in depth the runs' gaps point the same way: per metric and slice of depth, the mean gap of each run.

    gaps    of `depth_gaps`
    bins    slices of equal depth
    return  columns metric, slice (from 0), one per run with its mean gap, and `same`: all have the same sign
    """
    sliced = gaps.assign(slice=(gaps["depth"] * bins).astype(int).clip(upper=bins - 1))
    wide = sliced.pivot_table("estimate", ["metric", "slice"], "run", "mean", sort=False, observed=True)
    same = (wide > 0).all(axis=1) | (wide < 0).all(axis=1)
    return wide.assign(same=same).reset_index()


def measured_twice(first: Any, second: Any, methods: Sequence[str] = METHODS) -> pd.DataFrame:
    """Two runs on the same texts, over the sequences that both measured: the same numbers in another arithmetic, say.

    first, second  runs; of their metrics the primary ones are compared, and the damage to the answer, nll_increase
    return         columns metric, method, n (sequences that have both values), first, second (means), and the paired
                   difference second - first: estimate, low, high, and its standard deviation: spread
    raises         InputError: no sequence in common.
    """
    rows = []
    for metric in (*PRIMARY, "nll_increase"):
        one, other = (
            sequence_means(damage(run.answers) if metric == "nll_increase" else run.records, metric)
            for run in (first, second)
        )
        common = one.index.intersection(other.index)
        if common.empty:
            raise InputError(f"runs {first.name!r} and {second.name!r} have no sequence in common; compare others.")
        for method in methods:
            both = pd.DataFrame({"first": one.loc[common, method], "second": other.loc[common, method]}).dropna()
            found = honest_interval(both["second"] - both["first"])
            row = {"metric": metric, "method": method, "n": len(both), **both.mean()}
            row |= {"estimate": found.estimate, "low": found.low, "high": found.high}
            rows.append(row | {"spread": (both["second"] - both["first"]).std()})
    return pd.DataFrame(rows)
