"""The paper's statements as claims: each is a statistic with an interval, and the interval gives the verdict.

    supported            the whole interval lies on the side that the paper claims
    not supported        the whole interval lies on the other side
    cannot be told here  it does not: too few sequences, or no difference worth the name

A claim about several comparisons at once ("in every sub-category") is supported if each comparison is, at 95 %; it is
not supported if one of them lies on the other side even in an interval that allows for their number (Bonferroni).
All intervals are widened for few sequences (`resampling`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .layerwise import band_contrasts
from .records import METHODS, METRICS, PAIRS, PRIMARY, damage, sequence_means
from .resampling import Draws, draws, honest_level
from .statistics import LEVEL, Interval, within_sequence_rank_correlation
from .tables import VERDICTS, Claim, myst_table, number

SUPPORTED, NOT_SUPPORTED, CANNOT_TELL = VERDICTS
L1, COSINE = PRIMARY
FEW_SHOT = "Few-shot Learning"
Comparisons = Sequence[tuple[str, Interval, Interval]]  # label, interval at 95 %, interval that allows for their number


def claims(run: Any, paper: pd.DataFrame) -> list[Claim]:
    """Every statement of the paper that this project can put to its own measurements, judged by one run.

    run    `load_run(...)`; only the rows of Table 11 that it measured count
    paper  `paper_table_11()`
    """
    records, answers = run.records, run.answer_records
    return [*table_claims(records, paper), *layer_claims(records), *damage_claims(records, answers)]


def table_claims(records: pd.DataFrame, paper: pd.DataFrame) -> list[Claim]:
    """What Paper Table 11 shows: the order of the methods, the size of the gaps, and the odd row."""
    every = "in every sub-category"
    found = []
    for pair in PAIRS:
        found.append(every_row(f"ChunkKV loses less L1 mass than {pair[1]}, {every}", records, L1, [pair]))
    for pair in PAIRS:
        statement = f"ChunkKV has a higher attention cosine than {pair[1]}, {every}"
        found.append(every_row(statement, records, COSINE, [pair]))
    found += [
        every_row(f"H2O loses less L1 mass than SnapKV, {every}", records, L1, [("H2O", "SnapKV")]),
        every_row(f"SnapKV has a higher attention cosine than H2O, {every}", records, COSINE, [("SnapKV", "H2O")]),
    ]
    for metric, words in ((L1, "L1 loss is about 2 % below"), (COSINE, "attention cosine is about 1.5 % above")):
        found += [gap_size(f"ChunkKV's {words} {b}'s", records, paper, metric, (a, b)) for a, b in PAIRS]
    found.append(flat_rows("SnapKV's and H2O's L1 losses hardly move with the task, ChunkKV's do", records))
    if FEW_SHOT in set(records["category"]) and records["category"].nunique() > 1:
        found += [
            few_shot_gap("ChunkKV gains least L1 loss in few-shot learning", records, L1),
            few_shot_gap("ChunkKV gains least attention cosine in few-shot learning", records, COSINE),
            few_shot_cosine("The attention cosine is highest in few-shot learning", records),
        ]
    if "Random" in set(records["method"]):
        random = [(method, "Random") for method in METHODS]
        found.append(every_row("All three lose a smaller share of L1 mass than of tokens", records, L1, random))
    return found


def layer_claims(records: pd.DataFrame) -> list[Claim]:
    """What is said of Paper Figure 6, and the overlap of neighbouring layers (Paper Table 2)."""
    found = []
    where = {L1: "L1 loss is larger in layers 5–25", COSINE: "cosine is larger in layers 0–5 and 20–30"}
    for metric, words in where.items():
        for pair in PAIRS:
            statement = f"ChunkKV's gain over {pair[1]} in {words} of 32 than outside"
            found.append(bands(statement, records, metric, pair))
    overlap = "ChunkKV's kept sets change least from layer to layer"
    return [*found, every_row(overlap, records, "overlap_layer_below", PAIRS, side=1)]


def damage_claims(records: pd.DataFrame, answers: pd.DataFrame) -> list[Claim]:
    """What the two metrics are meant to stand for: a smaller loss in the cache, a better answer."""
    hurt = damage(answers)
    found = []
    for metric, words in ((L1, "less L1 loss"), (COSINE, "a higher attention cosine")):
        for methods, who in ((METHODS, "the three methods"), (None, "all methods and controls")):
            statement = f"Among {who}, {words} goes with less damage to the answer"
            found.append(predicts(statement, records, hurt, metric, methods))
    for pair in PAIRS:
        statement = f"With ChunkKV the answer suffers less than with {pair[1]}"
        found.append(on_average(statement, hurt, "nll_increase", [pair]))
    return found


# --- verdicts -----------------------------------------------------------------------------------------------------


def verdict(found: Interval, side: int) -> str:
    """The verdict on "the number lies above zero" (side +1) or "below zero" (side -1)."""
    if not found.excludes(0):
        return CANNOT_TELL
    return SUPPORTED if np.sign(found.estimate) == side else NOT_SUPPORTED


def verdict_range(found: Interval, low: float, high: float) -> str:
    """The verdict on "the number lies between low and high": the interval inside, apart, or neither."""
    if np.isnan(found.low):
        return CANNOT_TELL
    if low <= found.low and found.high <= high:
        return SUPPORTED
    return NOT_SUPPORTED if found.high < low or found.low > high else CANNOT_TELL


def say(found: Interval, below: str, above: str, neither: str) -> str:
    """A word for an interval: where it lies against zero, or that it holds zero."""
    if not found.excludes(0):
        return neither
    return above if found.estimate > 0 else below


def _all_of(statement: str, comparisons: Comparisons, side: int, digits: int = 4) -> Claim:
    """The claim that every comparison lies on one side of zero; it shows the comparison that decides."""
    against = [one for one in comparisons if verdict(one[2], side) == NOT_SUPPORTED]
    agree = sum(verdict(found, side) == SUPPORTED for _, found, _ in comparisons)
    result = NOT_SUPPORTED if against else SUPPORTED if agree == len(comparisons) else CANNOT_TELL
    label, found, _ = min(against or comparisons, key=lambda one: side * one[1].estimate)
    count = f"clearly so in {agree} of {len(comparisons)}; " if len(comparisons) > 1 else ""
    return Claim(statement, result, f"{count}{'worst: ' if count else ''}{label}", found, digits)


def _both(table: Draws, drawn: np.ndarray, comparisons: int) -> tuple[Interval, Interval]:
    return table.interval(drawn), table.interval(drawn, 1 - (1 - LEVEL) / comparisons)


# --- statistics of Table 11 ---------------------------------------------------------------------------------------


def every_row(
    statement: str, records: pd.DataFrame, metric: str, pairs: Sequence[tuple[str, str]], side: int | None = None
) -> Claim:
    """The claim that the first method of each pair is better in every category; side +1: larger, None: the metric's."""
    table = draws(records, metric, _named(pairs))
    rows = [(table.row(category), a, b) for category in table.categories for a, b in pairs]
    found = [(f"{a} − {b}, {row.categories[0]}", *_both(row, (row[a] - row[b])[:, 0], len(rows))) for row, a, b in rows]
    return _all_of(statement, found, METRICS[metric].sign if side is None else side)


def on_average(statement: str, records: pd.DataFrame, metric: str, pairs: Sequence[tuple[str, str]]) -> Claim:
    """The claim that the first method of each pair is better in the mean over categories."""
    table = draws(records, metric, _named(pairs))
    found = [
        (f"{a} − {b}, mean of the rows", *_both(table, (table[a] - table[b]).mean(axis=1), len(pairs)))
        for a, b in pairs
    ]
    return _all_of(statement, found, METRICS[metric].sign, digits=3)


def relative_gap(table: Draws, pair: tuple[str, str]) -> np.ndarray:
    """The first method against the second in per cent of the second's mean: [1 + resamples, categories]."""
    return 100 * (table[pair[0]] - table[pair[1]]) / table[pair[1]]


def paper_gap(paper: pd.DataFrame, metric: str, pair: tuple[str, str]) -> np.ndarray:
    """The same of the paper's table: [categories], in per cent."""
    first, second = (paper[paper["method"] == name].set_index("category")[metric] for name in pair)
    return (100 * (first - second) / second).to_numpy()


def gap_size(statement: str, records: pd.DataFrame, paper: pd.DataFrame, metric: str, pair: tuple[str, str]) -> Claim:
    """The claim that our mean gap is about the paper's: between half and one and a half times its mean gap."""
    table, printed = draws(records, metric, METHODS), paper_gap(paper, metric, pair).mean()
    found = table.interval(relative_gap(table, pair).mean(axis=1))
    low, high = sorted((printed / 2, 3 * printed / 2))
    evidence = f"mean gap of the rows in %; the paper's: {printed:.2f}, “about” reaches from {low:.2f} to {high:.2f}"
    return Claim(statement, verdict_range(found, low, high), evidence.replace("-", "−"), found, 2)


def few_shot_gap(statement: str, records: pd.DataFrame, metric: str) -> Claim:
    """The claim that few-shot learning has a smaller relative gain of ChunkKV than every other row."""
    table, found = draws(records, metric, METHODS), []
    for pair in PAIRS:
        gain = METRICS[metric].sign * relative_gap(table, pair)
        found += _few_shot_against(table, gain, f"gain over {pair[1]} in %", comparisons=len(PAIRS))
    return _all_of(statement, found, side=-1, digits=2)


def few_shot_cosine(statement: str, records: pd.DataFrame) -> Claim:
    """The claim that the three methods' mean cosine is higher in few-shot learning than in every other row."""
    table = draws(records, COSINE, METHODS)
    mean = np.mean([table[method] for method in METHODS], axis=0)
    return _all_of(statement, _few_shot_against(table, mean, "cosine"), side=1)


def flat_rows(statement: str, records: pd.DataFrame) -> Claim:
    """The claim that ChunkKV's L1 loss varies more between rows than SnapKV's and H2O's (standard deviation)."""
    table = draws(records, L1, METHODS)
    spread = {method: table[method].std(axis=1) for method in METHODS}
    found = [(f"spread over rows, {a} − {b}", *_both(table, spread[a] - spread[b], len(PAIRS))) for a, b in PAIRS]
    return _all_of(statement, found, side=1)


def _few_shot_against(table: Draws, values: np.ndarray, what: str, comparisons: int = 1) -> Comparisons:
    at = table.categories.index(FEW_SHOT)
    others = [i for i in range(len(table.categories)) if i != at]
    comparisons *= len(others)
    return [
        (f"{what}, few-shot − {table.categories[i]}", *_both(table, values[:, at] - values[:, i], comparisons))
        for i in others
    ]


# --- statistics of layers and of answers --------------------------------------------------------------------------


def bands(statement: str, records: pd.DataFrame, metric: str, pair: tuple[str, str]) -> Claim:
    """The claim that the gap is larger in the paper's layers than in the others, over all categories."""
    found = [
        (f"{pair[0]} − {pair[1]}, inside less outside {row.band}", row.contrast, row.contrast)
        for row in band_contrasts(records, None, [metric], [pair]).itertuples()
    ]
    return _all_of(statement, found, METRICS[metric].sign)


def predicts(
    statement: str, records: pd.DataFrame, hurt: pd.DataFrame, metric: str, methods: Iterable[str] | None = None
) -> Claim:
    """The claim that a metric ranks the methods as the damage to the answer does, within a sequence."""
    found = within_sequence(records, hurt, metric, methods=methods)
    return Claim(statement, verdict(found, -METRICS[metric].sign), "rank correlation within a sequence", found, 2)


def within_sequence(
    records: pd.DataFrame,
    hurt: pd.DataFrame,
    metric: str,
    outcome: str = "nll_increase",
    methods: Iterable[str] | None = None,
) -> Interval:
    """Rank correlation over methods of a metric with the damage, within a sequence, averaged over sequences.

    hurt  of `records.damage`; methods None: all
    """  # fmt: skip
    x = sequence_means(records, metric)
    x = x if methods is None else x[list(methods)]
    y = sequence_means(hurt, outcome).reindex(index=x.index, columns=x.columns)
    n = within_sequence_rank_correlation(x, y).n
    return within_sequence_rank_correlation(x, y, level=honest_level(n))


def _named(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for pair in pairs for name in pair))


# --- as a table ---------------------------------------------------------------------------------------------------


def claims_side_by_side(judged: Mapping[str, Sequence[Claim]], caption: str, name: str = "") -> str:
    """A row per statement: each run's verdict, and its number with interval and n; MyST text.

    judged  label of the run -> its claims; statements that a run could not judge show "–"
    """
    statements = list(dict.fromkeys(claim.statement for found in judged.values() for claim in found))
    rows = []
    for statement in statements:
        row = {"Claim": statement}
        for label, found in judged.items():
            claim = next((one for one in found if one.statement == statement), None)
            row |= {f"{label}: verdict": "–", f"{label}: rests on": "–"} if claim is None else _cells(label, claim)
        rows.append(row)
    return myst_table(pd.DataFrame(rows), caption, name)


def _cells(label: str, claim: Claim) -> dict[str, str]:
    value = "–" if claim.number is None else f"{number(claim.number, claim.digits)}, n = {claim.number.n}"
    return {f"{label}: verdict": f"**{claim.verdict}**", f"{label}: rests on": f"{value} ({claim.evidence})"}
