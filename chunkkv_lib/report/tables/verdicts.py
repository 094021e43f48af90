"""Whether differences mean anything: paired comparisons, damage to the answer, correlations, claims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from chunkkv_lib.errors import InputError, unknown
from chunkkv_lib.report.records import (
    CONTROLS,
    METHODS,
    METRICS,
    PAIRS,
    PRIMARY,
    choose,
    comparisons,
    damage,
    present,
    sequence_means,
)
from chunkkv_lib.report.statistics import (
    Interval,
    mean_interval,
    partial_rank_correlation,
    rank_correlation,
    within_sequence_rank_correlation,
)
from chunkkv_lib.report.tables.layout import MISSING, header, in_unit, minus, myst_table, number, of, p_text, row_name

VERDICTS = ("supported", "not supported", "cannot be told here")


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, what our measurements say to it, and the number the verdict rests on."""

    statement: str
    verdict: str  # one of VERDICTS
    evidence: str = ""  # what the number is, in words
    number: Interval | None = None
    digits: int = 4


def significance_table(
    records: pd.DataFrame,
    metric: str = PRIMARY[0],
    pairs: Sequence[tuple[str, str]] = PAIRS,
    kind: str = "wilcoxon",
    source: str = "",
    name: str = "",
    digits: int = 4,
) -> str:
    """Paired differences of one metric by category: mean with interval, n, p, p after Holm, effect sizes.

    records  layers, or any table with sequence, category, method and the metric (`damage` with categories)
    source   says whose numbers these are, for the caption
    """
    found = comparisons(records, [metric], pairs, kind)
    table = pd.DataFrame(
        {
            "Sub-category": found["category"],
            "Difference": found["method"] + " − " + found["baseline"],
            "Mean [95 % interval]": _numbers(found, "difference", digits),
            "n": found["n"],
            "p": found["p"].map(p_text),
            "p, Holm": found["p_holm"].map(p_text),
            "Cohen's d": found["cohen_d"].map(_effect),
            "Rank-biserial": found["rank_biserial"].map(_effect),
        }
    )
    about = METRICS[metric]
    test = {"wilcoxon": "Wilcoxon's signed-rank", "permutation": "Sign-flip permutation"}[kind]
    caption = (
        f"{about.label}{in_unit(about.unit)}: paired differences between methods{of(source)}. "
        f"{_meaning(about.sign)}{test} test, two-sided; Holm's correction over the {len(found)} rows of this "
        "table; intervals from a bootstrap over sequences; effect sizes are paired."
    )
    return myst_table(table, caption, name, right=table.columns[2:])


def answers_table(
    answers: pd.DataFrame,
    sequences: pd.DataFrame | None = None,
    category: str | None = None,
    source: str = "",
    name: str = "",
) -> str:
    """What each method does to the answer: NLL increase over the full cache, KL divergence, top-1 agreement.

    sequences  the run's table, needed to choose a `category`; None takes all sequences together
    raises     InputError: unknown category, no "Full" rows.
    """
    if category is not None:
        if sequences is None:
            raise InputError(
                f"choosing {category!r} needs the run's table of sequences: pass `sequences=run.sequences`."
            )
        chosen = choose(sequences, category)["sequence"]
        answers = answers[answers["sequence"].isin(chosen)]
    hurt = damage(answers)
    outcomes = ("nll_increase", "kl", "top1_agreement")
    rows = []
    for method in present(hurt, None, dict.fromkeys([*METHODS, *CONTROLS, *hurt["method"]])):
        found = {
            outcome: mean_interval(sequence_means(hurt, outcome)[method], method="expanded") for outcome in outcomes
        }
        texts = {header(outcome): number(interval, 3) for outcome, interval in found.items()}
        rows.append({"Method": row_name(method), **texts, "n": found["nll_increase"].n})
    caption = (
        f"The answer decoded from a compressed cache{of(source)}, {category or 'all sub-categories'}: "
        "mean over sequences with 95 % bootstrap interval. NLL in nats per answer token after the first; "
        "n counts the sequences whose answer has more than one token."
    )
    table = pd.DataFrame(rows)
    return myst_table(table, caption, name, right=table.columns[1:])


def correlations_table(
    records: pd.DataFrame,
    answers: pd.DataFrame,
    metrics: Sequence[str] = PRIMARY,
    outcome: str = "nll_increase",
    source: str = "",
    name: str = "",
) -> str:
    """Spearman's correlation of each metric with the damage: pooled, within sequences, within methods."""
    hurt = sequence_means(damage(answers), outcome)
    rows = []
    for metric in metrics:
        x = sequence_means(records, metric)
        y = hurt.reindex(index=x.index, columns=x.columns)
        within = within_sequence_rank_correlation(x, y, method="expanded")
        rows.append(
            {
                "Metric": METRICS[metric].label,
                "All sequences and methods": number(rank_correlation(x, y, method="expanded"), 2),
                "Over methods, within a sequence": number(within, 2),
                "Over sequences, method taken out": number(partial_rank_correlation(x, y, method="expanded"), 2),
                "n": within.n,
            }
        )
    caption = (
        f"Spearman's rank correlation with “{METRICS[outcome].label}”{of(source)}, with 95 % bootstrap "
        "interval over sequences. n counts the sequences in which at least 3 methods could be ranked."
    )
    table = pd.DataFrame(rows)
    return myst_table(table, caption, name, right=table.columns[1:])


def claims_table(
    claims: Iterable[Claim],
    caption: str = "What the paper says, and what our measurements say to it.",
    name: str = "",
) -> str:
    """One row per claim: the paper's sentence, the verdict, the number it rests on with interval and n.

    raises  InputError: a verdict that is not one of VERDICTS, no claim.
    """
    rows = []
    for claim in claims:
        if claim.verdict not in VERDICTS:
            raise unknown("verdict", claim.verdict, VERDICTS)
        rows.append(
            {
                "Claim of the paper": claim.statement,
                "Verdict": claim.verdict,
                "Rests on": claim.evidence or MISSING,
                "Number [95 % interval]": MISSING if claim.number is None else number(claim.number, claim.digits),
                "n": 0 if claim.number is None else claim.number.n,
            }
        )
    return myst_table(pd.DataFrame(rows), caption, name, right=["Number [95 % interval]", "n"])


def _numbers(found: pd.DataFrame, column: str, digits: int) -> list[str]:
    return [number(Interval(*row), digits) for row in found[[column, "low", "high", "n"]].itertuples(index=False)]


def _effect(value: float) -> str:
    return MISSING if np.isnan(value) else minus(f"{value:.2f}")


def _meaning(sign: int) -> str:
    return {
        -1: "Below zero: the first method loses less. ",
        1: "Above zero: the first method is closer to the full cache. ",
        0: "",
    }[sign]
