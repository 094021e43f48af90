"""Written answers and needles of a run: can the model do the task, what compression costs, what foretells it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..sequences.needles import depth_of
from .claims import on_average, verdict
from .records import CONTROLS, METHODS, METRICS, PAIRS, PRIMARY, damage, present, sequence_means
from .resampling import honest_interval
from .statistics import Interval, partial_rank_correlation, proportion_interval, within_sequence_rank_correlation
from .tables import Claim, myst_table, number

FULL = "Full"
FLOOR = "Floor"  # somebody else's right answer, in this one's place
OUTCOMES = ("score_loss", "answer_change", "nll_increase", "kl")
EVERYTHING = "All"


# --- scores -------------------------------------------------------------------------------------------------------


def scores(run: Any) -> pd.DataFrame:
    """Scores by sequence: columns category and sequence, then the floor and every cache, "Full" first.

    raises  InputError: a run without written answers.
    """
    _check(run)
    wide = _wide(run, "score")
    ours = run.sequences.set_index("sequence")
    wide.insert(0, FLOOR, ours["chance_score"].reindex(wide.index))
    wide.insert(0, "category", ours["category"].reindex(wide.index))
    return wide.reset_index()


def ability(run: Any) -> pd.DataFrame:
    """Can the model do the task with its full cache? A row per category, then one for all of them.

    return  columns category, full and floor (mean scores), gap (full - floor, paired), each an `Interval`, and forced,
            the share of sequences in which the model wanted to end at once
    """
    table = scores(run)
    forced = _wide(run, "forced_opening")[FULL].reindex(table["sequence"]).to_numpy(dtype=float)
    rows = []
    for category in [*table["category"].unique(), EVERYTHING]:
        here = (table["category"] == category) if category != EVERYTHING else np.ones(len(table), dtype=bool)
        full, floor = table.loc[here, FULL], table.loc[here, FLOOR]
        gap = honest_interval(full - floor)
        rows.append((category, honest_interval(full), honest_interval(floor), gap, forced[here].mean()))
    return pd.DataFrame(rows, columns=["category", "full", "floor", "gap", "forced"])


def able(run: Any) -> list[str]:
    """The categories in which the full cache's answers are clearly better than somebody else's."""
    found = ability(run)
    clear = [row.category for row in found.itertuples() if row.gap.excludes(0) and row.gap.estimate > 0]
    return [category for category in clear if category != EVERYTHING]


def score_dots(run: Any, methods: Iterable[str]) -> pd.DataFrame:
    """Mean scores by category and for all, in the columns of `figures.dots.dots_figure`; source is the run's name."""
    table = scores(run)
    rows = []
    for category, group in [*table.groupby("category", sort=False), (EVERYTHING, table)]:
        for method in [FLOOR, FULL, *methods]:
            found = honest_interval(group[method])
            rows.append((category, method, run.name, found.estimate, found.low, found.high))
    return pd.DataFrame(rows, columns=["row", "method", "source", "estimate", "low", "high"])


def outcome_table(run: Any, outcomes: Sequence[str], caption: str, name: str = "", digits: int = 3) -> str:
    """What each cache costs, mean over all sequences with interval: a row per method, a column per outcome."""
    hurt = damage(run.answer_records)
    methods = present(hurt, None, METHODS + CONTROLS)
    wide = {outcome: sequence_means(hurt, outcome) for outcome in outcomes}
    rows = []
    for method in methods:
        cells = {outcome: honest_interval(wide[outcome][method]) for outcome in outcomes}
        row = {"Method": f"{method} (control)" if method in CONTROLS else method}
        rows.append(row | {_head(outcome): number(found, digits) for outcome, found in cells.items()})
    table = pd.DataFrame(rows)
    return myst_table(table, caption, name, table.columns[1:])


# --- what foretells the outcome -----------------------------------------------------------------------------------


def relations(
    run: Any,
    metrics: Sequence[str] = PRIMARY,
    outcomes: Sequence[str] = OUTCOMES,
    methods: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Rank correlation of each metric with each outcome, in two ways.

    methods  whose values are compared; None: all methods and controls
    return   columns metric, outcome, within (over methods in each sequence, averaged over sequences) and partial (over
             sequences, the method's mean rank taken out), each an `Interval`; the n of `within` counts the sequences
             in which the outcome differs between methods
    """
    hurt = damage(run.answer_records)
    methods = present(hurt, methods, METHODS + CONTROLS)
    rows = []
    for metric in metrics:
        x = sequence_means(run.records, metric)[methods]
        for outcome in outcomes:
            y = sequence_means(hurt, outcome).reindex(index=x.index, columns=methods)
            within = within_sequence_rank_correlation(x, y, method="expanded")
            rows.append((metric, outcome, within, partial_rank_correlation(x, y, method="expanded")))
    return pd.DataFrame(rows, columns=["metric", "outcome", "within", "partial"])


def relations_table(found: pd.DataFrame, caption: str, name: str = "") -> str:
    """`relations` as a MyST table, with the sign that one would hope for."""
    table = pd.DataFrame(
        {
            "Metric": [METRICS[name].label for name in found["metric"]],
            "Outcome": [METRICS[name].label for name in found["outcome"]],
            "Hoped for": ["+" if METRICS[name].sign < 0 else "−" for name in found["metric"]],
            "Over methods, within a sequence": [number(one, 2) for one in found["within"]],
            "n": [one.n for one in found["within"]],
            "Over sequences, method taken out": [number(one, 2) for one in found["partial"]],
        }
    )
    return myst_table(table, caption, name, table.columns[3:])


# --- needles ------------------------------------------------------------------------------------------------------


def hit_rates(run: Any, methods: Iterable[str] | None = None) -> pd.DataFrame:
    """Needles found by depth: columns method, depth, hits, n, estimate, low, high (Wilson); "Full" first."""
    _check(run)
    records = run.answer_records.assign(depth=run.answer_records["category"].map(depth_of))
    chosen = [FULL, *present(records, methods, METHODS + CONTROLS)]
    rows = []
    for method in chosen:
        for depth, group in records[records["method"] == method].groupby("depth"):
            found = proportion_interval(int(group["score"].sum()), len(group))
            hits = int(group["score"].sum())
            rows.append((method, depth, hits, found.n, found.estimate, found.low, found.high))
    return pd.DataFrame(rows, columns=["method", "depth", "hits", "n", "estimate", "low", "high"])


def depth_means(run: Any, metrics: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
    """Means by depth, for `figures.sensitivity.axis_figure`: columns metric, method, depth, estimate, low, high, n.

    metrics  columns of the layers, or outcomes of `damage`
    """
    hurt = damage(run.answer_records)
    rows = []
    for metric in metrics:
        records = hurt if metric in hurt else run.records
        for category, group in records.groupby("category", sort=False):
            wide = sequence_means(group, metric)
            for method in methods:
                found = honest_interval(wide[method])
                rows.append((metric, method, depth_of(category), found.estimate, found.low, found.high, found.n))
    table = pd.DataFrame(rows, columns=["metric", "method", "depth", "estimate", "low", "high", "n"])
    order = table["method"].map({method: i for i, method in enumerate(methods)})
    return table.assign(_order=order).sort_values(["_order", "depth"], kind="stable").drop(columns="_order")


def found_gap(run: Any, method: str, baseline: str) -> Interval:
    """Share of needles that one cache finds, less that of another; paired by needle."""
    wide = _wide(run, "score")
    return honest_interval(wide[method] - wide[baseline])


# --- verdicts -----------------------------------------------------------------------------------------------------


def answer_claims(run: Any) -> list[Claim]:
    """What would have to hold if the metrics stood for written answers: score, likeness to the full cache's answer."""
    hurt = damage(run.answer_records)
    found = []
    gaps = ability(run).set_index("category")["gap"].drop(EVERYTHING)
    clear = [name for name, gap in gaps.items() if verdict(gap, 1) == "supported"]
    worst = min(gaps.index, key=lambda name: gaps[name].estimate)
    result = _for_all([verdict(gap, 1) for gap in gaps])
    evidence = f"full cache − another's answer; clearly so in {len(clear)} of {len(gaps)} rows; worst: {worst}"
    found.append(Claim("With its full cache the model can do every sub-category", result, evidence, gaps[worst], 3))
    for outcome, words in (("score_loss", "the score falls less"), ("answer_change", "the answer changes less")):
        for pair in PAIRS:
            found.append(on_average(f"With ChunkKV {words} than with {pair[1]}", hurt, outcome, [pair]))
    for metric, words in ((PRIMARY[0], "less L1 loss"), (PRIMARY[1], "a higher attention cosine")):
        for methods, who in ((METHODS, "the three methods"), (None, "all methods and controls")):
            table = relations(run, [metric], OUTCOMES[:2], methods).set_index("outcome")["within"]
            for outcome, end in zip(OUTCOMES[:2], ("a smaller loss of score", "a smaller change of the answer")):
                one = table[outcome]
                side = verdict(one, -METRICS[metric].sign)
                statement = f"Among {who}, {words} goes with {end}"
                found.append(Claim(statement, side, "rank correlation within a sequence", one, 2))
    return found


def needle_claims(run: Any, method: str = "ChunkKV") -> list[Claim]:
    """Whether one method finds more needles than the others and than the plain rules, all depths together."""
    found = []
    for baseline in [name for name in ("SnapKV", "H2O", "StreamingLLM", "Random") if name != method]:
        gap = found_gap(run, method, baseline)
        evidence = f"share found, {method} − {baseline}"
        found.append(Claim(f"{method} finds more needles than {baseline}", verdict(gap, 1), evidence, gap, 2))
    return found


# --- inside -------------------------------------------------------------------------------------------------------


def _check(run: Any) -> None:
    if "score" not in run.answers:
        raise InputError(
            f"run {run.name!r} holds no written answers; measure some: python -m chunkkv_lib measure --profile answers."
        )


def _wide(run: Any, column: str) -> pd.DataFrame:
    """A column of the answers: a row per sequence, a column per cache, "Full" first."""
    _check(run)
    wide = run.answers.pivot(index="sequence", columns="method", values=column).astype(float)
    others = [method for method in run.answers["method"].unique() if method != FULL]
    return wide.reindex(index=run.answers["sequence"].unique(), columns=[FULL, *others])


def _for_all(verdicts: Sequence[str]) -> str:
    """Supported if all are, not supported if one is not, else open."""
    for name in ("not supported", "cannot be told here"):
        if name in verdicts:
            return name
    return "supported"


def _head(outcome: str) -> str:
    about = METRICS[outcome]
    unit = f" ({about.unit})" if about.unit else ""
    return f"{about.label}{unit} {'↓' if about.sign < 0 else '↑'}"
