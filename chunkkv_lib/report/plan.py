"""The plan's statements, judged: `data/plan.yml` against the runs that it names."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from ..errors import InputError
from ..files import DATA
from ..sequences.needles import SOURCE as NEEDLES
from ..sequences.needles import needle_setting
from .records import METRICS
from .statistics import Interval, members_of, resampled_means, resampled_rank_correlation
from .tables import myst_table, number

PLAN = DATA / "plan.yml"
CONFIRMED, REFUTED, OPEN = "confirmed", "refuted", "left open"
#: What a family of rules keeps together, by its label in a run of variants.
REACHES = {
    "SnapKV": {"SnapKV, kernel 1": 1, "SnapKV": 7, "SnapKV, kernel 15": 15, "SnapKV, kernel 25": 25},
    "ChunkKV": {"ChunkKV, chunk_size 5": 5, "ChunkKV": 10, "ChunkKV, chunk_size 20": 20, "ChunkKV, chunk_size 40": 40},
}
REACH_ANSWERS = (5, 9, 16)  # tokens; shorter answers are within nearly every rule's reach


def statements() -> list[dict[str, Any]]:
    """The plan's statements, in its order."""
    return yaml.safe_load(PLAN.read_text(encoding="utf-8"))["statements"]


def judged(load: Callable[[str], Any]) -> pd.DataFrame:
    """Every statement that the plan can compute, on every run that is there: a row each.

    load    name -> run; raises InputError where there is none, and the row is left out
    return  columns id, says, run, known (whether the data had been looked at before), verdict, estimate, low, high, n
    """
    rows = []
    for one in statements():
        for name in [*one.get("runs", ()), *one.get("replicated", ())] if "value" in one else ():
            try:
                found = compute(load(name), one["value"])
            except InputError:
                continue
            known = name in one.get("replicated", ())
            verdict = judge(found, one["direction"], one["smallest"])
            rows.append((one["id"], one["says"], name, known, verdict, found.estimate, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["id", "says", "run", "known", "verdict", "estimate", "low", "high", "n"])


def judged_table(table: pd.DataFrame, caption: str, name: str = "") -> str:
    """Rows of `judged` as a table: the statement with its id, the verdict, the number, from where on it counts, n."""
    known = {one["id"]: one for one in statements()}
    # The smallest difference that counts; no line breaks after the sign
    signs = {"above": ">\u00a0{:g}", "below": "<\u00a0−{:g}", "within": "within ±{:g}"}
    limits = [signs[one["direction"]].format(one["smallest"]) for one in map(known.get, table["id"])]
    numbers = [
        number(Interval(row.estimate, row.low, row.high, row.n), 4 if 0 < abs(row.estimate) < 0.02 else 2)
        for row in table.itertuples()
    ]
    columns = {
        "Statement": [f"{row.says} (`{row.id}`)" for row in table.itertuples()],
        **({"Run": table["run"]} if table["run"].nunique() > 1 else {}),
        "Verdict": [f"**{row.verdict}**" + (", on known data" if row.known else "") for row in table.itertuples()],
        "Difference [95 %]": numbers,
        "Counts": [limit.replace("−0", "0") if limit.endswith("−0") else limit for limit in limits],
        "n": table["n"],
    }
    return myst_table(pd.DataFrame(columns), caption, name, ["Difference [95 %]", "Counts", "n"])


def judge(found: Interval, direction: str, smallest: float) -> str:
    """Confirmed where the whole interval is beyond the smallest difference that counts, refuted where none of it is.

    direction  "above" +smallest, "below" -smallest, or "within" the two
    """
    low, high = (found.low, found.high) if direction != "below" else (-found.high, -found.low)
    if direction == "within":
        inside, outside = -smallest < low and high < smallest, low > smallest or high < -smallest
    else:
        inside, outside = low > smallest, high < smallest
    return CONFIRMED if inside else REFUTED if outside else OPEN


def compute(run: Any, value: dict[str, Any]) -> Interval:
    """A statement's number on one run; its keys are explained at the top of the plan.

    raises InputError: the run lacks a column, a method or sequences that the statement needs.
    """
    if "reach" in value:
        rules = REACHES[value["reach"]]
        found, sequences = column(run, "score", rules)
        reach, wanted = np.array([*rules.values()]), sequences["answer_tokens"].to_numpy()[:, None]
        enough = found.where(reach >= wanted).mean(axis=1) - found.where(reach < wanted).mean(axis=1)
        return over_documents([enough.where(sequences["answer_tokens"].isin(REACH_ANSWERS))], sequences)
    if "kendall" in value:
        return _same_order(run, value["kendall"], value["column"], value["between"])
    if "spearman" in value:
        return _foretells(run, value)
    methods = [value[key] for key in ("of", "minus") if key in value]
    found, sequences = column(run, value["column"], methods)
    difference = found[methods[0]] - found[methods[1]] if methods[1:] else found[methods[0]]
    parts = []
    for place in (value.get("where", {}), *([value["split"]] if "split" in value else [])):
        among = sequences.isin(place)[list(place)].all(axis=1)
        parts.append(difference.where(among))
    return over_documents(parts, sequences)


def column(run: Any, name: str, methods: Iterable[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A recorded column by sequence and method (layers averaged), and what is known of the same sequences."""
    table = next((table for table in (run.answers, run.layers) if name in table), None)
    if table is None:
        raise InputError(f"run {run.name!r} has no column {name!r}; measure it again.")
    found = table.groupby(["sequence", "method"], sort=False)[name].mean().unstack("method")
    for method in methods:
        if method not in found:
            raise InputError(f"run {run.name!r} has no method {method!r}; measure it with that one.")
    sequences = run.sequences.set_index("sequence").reindex(found.index)
    if run.manifest["parameters"]["source"] == NEEDLES:
        settings = pd.DataFrame([needle_setting(id) for id in found.index], index=found.index)
        sequences = sequences.drop(columns=settings.columns, errors="ignore").join(settings)
    return found[list(methods)], sequences


def over_documents(parts: list[pd.Series], sequences: pd.DataFrame) -> Interval:
    """Mean of the first part, less that of the second if there is one, with an interval from resampled documents.

    parts  values by sequence, NaN where a sequence does not belong to the part
    """
    columns = [column for part in parts for column in (part.fillna(0), part.notna().astype(float))]
    used = pd.concat(parts, axis=1).notna().any(axis=1).to_numpy()
    if not all(part.notna().any() for part in parts):
        raise InputError("no sequence of this run belongs to what the statement compares.")
    members = members_of(sequences["document"], used)
    with np.errstate(invalid="ignore"):  # a resample may miss a small part altogether: NaN, which `ends` leaves out
        drawn = resampled_means(np.stack(columns, axis=1), members)
        means = drawn[:, ::2] / drawn[:, 1::2]
    return Interval.of(means[:, 0] - (means[:, 1] if parts[1:] else 0), len(members), int(used.sum()))


def _same_order(run: Any, methods: list[str], name: str, between: list[str]) -> Interval:
    """Kendall's tau between two orders of methods: by the column's mean under one window, and under another."""
    found, sequences = column(run, name, methods)
    used = sequences["category"].isin(between).to_numpy()
    inside = [(sequences["category"] == one).to_numpy(dtype=float)[:, None] for one in between]
    members = members_of(sequences["document"], used)
    drawn = resampled_means(np.hstack([part for one in inside for part in (found.fillna(0) * one, one)]), members)
    first, second = np.split(drawn, 2, axis=1)
    tau = [stats.kendalltau(a[:-1] / a[-1], b[:-1] / b[-1]).statistic for a, b in zip(first, second)]
    return Interval.of(np.array(tau), len(members), int(used.sum()))


def _foretells(run: Any, value: dict[str, Any]) -> Interval:
    """Spearman over sequences: difference of a metric against difference of the damage, mean over pairs of methods.

    A metric that is better when higher is turned round, so that a positive number foretells.
    """
    metric, damage = value["spearman"]
    pairs = value.get("pairs") or list(itertools.combinations(value["among"], 2))
    methods = sorted({method for pair in pairs for method in pair})
    names = [metric, damage, *([value["minus"]] if "minus" in value else [])]
    (first, sequences), *others = (column(run, name, methods) for name in names)
    tables = []
    for name, found in zip(names, [first, *(found.reindex(first.index) for found, _ in others)]):
        turn = -1 if METRICS[name].sign > 0 else 1
        tables.append(turn * np.stack([found[a] - found[b] for a, b in pairs]))
    used = ~np.isnan(tables).any(axis=(0, 1))
    if used.sum() < 3:
        raise InputError(f"run {run.name!r} has too few sequences for a correlation.")
    members = members_of(sequences["document"], used)
    x, y, *other = tables
    told = [
        np.mean([resampled_rank_correlation(*pair, members) for pair in zip(one, y)], axis=0) for one in (x, *other)
    ]
    return Interval.of(told[0] - sum(told[1:]), len(members), int(used.sum()))
