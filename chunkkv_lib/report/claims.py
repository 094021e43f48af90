"""Statements of the paper, and a few of ours, as claims: a statistic with an interval, which gives the verdict.

    supported                the whole interval lies where the statement says
    smaller, larger than claimed   the sign is right, or there is hardly any difference; the size is not
    not in every row         said of every row, and clearly otherwise in at least one
    the other way round      the whole interval lies on the other side
    not seen on these models clearly not as stated, in another way than those above
    not comparable           the metric has no room here for what is claimed
    cannot be told here      too few sequences, or no difference worth the name

A statement about several comparisons at once ("in every sub-category") is supported if each comparison is, at 95 %; it
fails if one of them lies on the other side even in an interval that allows for their number (Bonferroni). A verdict by
sign carries the size: `number` is the interval that decides. Documents are resampled (`statistics`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from .damage import CONSTANT, NLL, pairwise
from .layers import band_contrasts, in_band
from .records import (
    METHODS,
    METRICS,
    PAIRS,
    PRIMARY,
    Draws,
    choose,
    damage,
    draws,
    layer_values,
    metric_and_damage,
    sequence_means,
)
from .statistics import LEVEL, Interval, constant_order, interval, within_sequence_rank_correlation
from .tables import MISSING, minus, myst_table, number

SUPPORTED, SMALLER, LARGER, NOT_EVERY, OTHER_WAY, NOT_SEEN, NOT_COMPARABLE, CANNOT_TELL = VERDICTS = (
    "supported",
    "smaller than claimed",
    "larger than claimed",
    "not in every row",
    "the other way round",
    "not seen on these models",
    "not comparable",
    "cannot be told here",
)
SILENT = (NOT_COMPARABLE, CANNOT_TELL)  # verdicts that speak neither for nor against a statement
L1, COSINE = PRIMARY
FEW_SHOT = "Few-shot Learning"
FIGURE_6_ROW = "Single-Document QA"
CONSISTENT = 0.9  # share of the sequences from which on an improvement is "consistent"
MIDDLE = (11, 20)  # of the paper's 32 layers: the middle third
Comparison = tuple[str, Callable[[float], Interval]]  # label, and the interval at a level


@dataclass(frozen=True)
class Claim:
    """A statement, what our measurements say to it, and the number the verdict rests on.

    id     short and fixed; l1-1, cos-2, size-1, ... are the statements of the paper's appendix A.1
    ours   the paper does not say it: a condition that would have to hold
    """

    id: str
    statement: str
    verdict: str  # one of VERDICTS
    evidence: str = ""  # what the number is, in words
    number: Interval | None = None
    digits: int = 4
    ours: bool = False


def claims(run: Any, paper: pd.DataFrame) -> list[Claim]:
    """Every statement of the paper that this project can put to its own measurements, judged by one run.

    run    `load_run(...)`; only the rows of Table 11 that it measured count
    paper  `paper_table_11()`
    """
    records = run.records
    return [*table_claims(records, paper), *layer_claims(records), *damage_claims(records, run.answer_records)]


def table_claims(records: pd.DataFrame, paper: pd.DataFrame) -> list[Claim]:
    """What Paper Table 11 and the text beside it say: the order of the methods, the size of the gaps, the odd row."""
    every, found = "in every sub-category", []
    for a, b in PAIRS:
        said = f"ChunkKV loses less L1 mass than {b}, {every}"
        found.append(every_row(f"l1-1-{b.lower()}", said, records, L1, [(a, b)]))
        said = f"ChunkKV has a higher attention cosine than {b}, {every}"
        found.append(every_row(f"avg-1-{b.lower()}", said, records, COSINE, [(a, b)]))
    found.append(every_row("table-h2o-l1", f"H2O loses less L1 mass than SnapKV, {every}", records, L1,
                           [("H2O", "SnapKV")]))  # fmt: skip
    found.append(every_row("table-snapkv-cosine", f"SnapKV has a higher attention cosine than H2O, {every}", records,
                           COSINE, [("SnapKV", "H2O")]))  # fmt: skip
    for pair in PAIRS:
        key, b = pair[1].lower(), pair[1]
        said = f"ChunkKV's L1 loss is about 2 % below {b}'s"
        found.append(gap_size(f"size-1-{key}", said, records, paper, L1, pair))
        said = f"ChunkKV's attention cosine is about 1.5 % above {b}'s"
        found.append(gap_size(f"size-2-{key}", said, records, paper, COSINE, pair))
        for metric, word in ((L1, "L1 loss"), (COSINE, "attention cosine")):
            said = f"ChunkKV's better {word} than {b}'s is consistent across sequences"
            found.append(consistent(f"seq-1-{word.split()[-1].lower()}-{key}", said, records, metric, pair))
    found.append(flat_rows("table-flat-rows", "SnapKV's and H2O's L1 losses hardly move with the task, ChunkKV's do",
                           records))  # fmt: skip
    if FEW_SHOT in set(records["category"]) and records["category"].nunique() > 1:
        bound = no_room(records, COSINE, PAIRS[0], abs(paper_gap(paper, COSINE, PAIRS[0]).mean()))
        found += [
            few_shot_gap("table-few-shot-l1", "ChunkKV gains least L1 loss in few-shot learning", records, L1),
            unless(bound, few_shot_gap("table-few-shot-cosine",
                    "ChunkKV gains least attention cosine in few-shot learning", records, COSINE)),
            unless(bound, few_shot_level("table-few-shot-level",
                    "The attention cosine is highest in few-shot learning", records)),
        ]  # fmt: skip
    if "Random" in set(records["method"]):
        said, random = "All three lose a smaller share of L1 mass than of tokens", [(m, "Random") for m in METHODS]
        found.append(every_row("table-random-l1", said, records, L1, random))
    return found


def layer_claims(records: pd.DataFrame) -> list[Claim]:
    """What is said of Paper Figure 6, and the overlap of neighbouring layers (Paper Table 2)."""
    found = []
    if FIGURE_6_ROW in set(records["category"]):
        row = choose(records, FIGURE_6_ROW)
        parts = [(metric, pair) for metric in PRIMARY for pair in PAIRS]
        better = [(f"{METRICS[m].short}, {a} − {b}", _mean(METRICS[m].sign * _paired(row, m, a, b)))
                  for m, (a, b) in parts]  # fmt: skip
        said = f"In {FIGURE_6_ROW}, ChunkKV is better than both by both metrics, on average over layers"
        found.append(_all_of("fig-0", said, better, side=1))
    for pair in PAIRS:
        key = pair[1].lower()
        said = f"ChunkKV's attention cosine is above {pair[1]}'s in most layers"
        found.append(most_layers(f"cos-1-{key}", said, records, COSINE, pair))
        said = f"ChunkKV's gain over {pair[1]} in L1 loss is larger in layers 5–25 of 32 than elsewhere"
        found.append(bands(f"l1-2-{key}", said, records, L1, pair))
        said = f"ChunkKV's gain over {pair[1]} in cosine is larger in layers 0–5 and 20–30 of 32 than elsewhere"
        found.append(bands(f"cos-2-{key}", said, records, COSINE, pair))
        found.append(middle(f"mid-1-{key}", f"ChunkKV's gain over {pair[1]} is most evident in the middle layers",
                            records, pair))  # fmt: skip
    said = "ChunkKV's kept sets change least from layer to layer"
    return [*found, every_row("table-2-overlap", said, records, "overlap_layer_below", PAIRS, side=1)]


def damage_claims(records: pd.DataFrame, answers: pd.DataFrame) -> list[Claim]:
    """What the two metrics are said to stand for: a smaller loss in the cache, a better answer."""
    hurt, found = damage(answers), []
    for key, metric, words in (("why-1", L1, "Less L1 loss"), ("why-2", COSINE, "A higher attention cosine")):
        for pair in PAIRS:
            said = f"{words} than {pair[1]}'s goes with a smaller damage to the answer, sequence by sequence"
            one = pairwise(records, hurt, [metric], [NLL], [pair]).iloc[0]
            number_ = Interval(one["estimate"], one["low"], one["high"], int(one["n"]))
            evidence = f"rank correlation of the differences, {pair[0]} − {pair[1]}"
            found.append(Claim(f"{key}-{pair[1].lower()}", said, verdict(number_, 1), evidence, number_, 2))
        said = f"Among all methods and controls, {words[0].lower()}{words[1:]} goes with less damage to the answer"
        ours = "order-l1" if metric == L1 else "order-cosine"
        x, y = metric_and_damage(records, hurt, metric, NLL)
        found.append(order_claim(ours, said, metric, within_sequence_rank_correlation(x, y), constant_order(x)))
    for pair in PAIRS:
        said = f"With ChunkKV the answer suffers less than with {pair[1]}"
        found.append(on_average(f"why-4-{pair[1].lower()}", said, hurt, NLL, pair))
    return found


# --- verdicts -----------------------------------------------------------------------------------------------------


def verdict(found: Interval, side: int) -> str:
    """The verdict on "the number lies above zero" (side +1) or "below zero" (side -1)."""
    if not found.excludes(0):
        return CANNOT_TELL
    return SUPPORTED if np.sign(found.estimate) == side else OTHER_WAY


def verdict_range(found: Interval, low: float, high: float) -> str:
    """The verdict on "the number lies between low and high", both of one sign."""
    if np.isnan(found.low):
        return CANNOT_TELL
    if low <= found.low and found.high <= high:
        return SUPPORTED
    sign = 1 if low > 0 else -1
    near, far = sorted((sign * low, sign * high))  # as if the claim were of a positive number
    least, most = sorted((sign * found.low, sign * found.high))
    if most < 0 and found.excludes(0):
        return OTHER_WAY
    return SMALLER if most < near else LARGER if least > far else CANNOT_TELL


def say(found: Interval, below: str, above: str, neither: str) -> str:
    """A word for an interval: where it lies against zero, or that it holds zero."""
    return (above if found.estimate > 0 else below) if found.excludes(0) else neither


def _all_of(
    id: str, statement: str, comparisons: Sequence[Comparison], side: int, digits: int = 4, fails: str = NOT_SEEN
) -> Claim:
    """The claim that every comparison lies on one side of zero; it shows the comparison that decides."""
    at_95 = {label: at(LEVEL) for label, at in comparisons}
    strict = {label: at(1 - (1 - LEVEL) / len(comparisons)) for label, at in comparisons}
    against = [label for label in at_95 if verdict(strict[label], side) == OTHER_WAY]
    if not comparisons:
        return Claim(id, statement, CANNOT_TELL, "nothing to compare here", Interval(np.nan, np.nan, np.nan, 0), digits)
    agree = sum(verdict(found, side) == SUPPORTED for found in at_95.values())
    result = CANNOT_TELL
    if agree == len(comparisons):
        result = SUPPORTED
    elif against:
        result = OTHER_WAY if len(against) == len(comparisons) else fails
    worst = min(against or at_95, key=lambda label: side * at_95[label].estimate)
    count = f"clearly so in {agree} of {len(comparisons)}; worst: " if len(comparisons) > 1 else ""
    return Claim(id, statement, result, count + worst, at_95[worst], digits)


def unless(reason: str, claim: Claim) -> Claim:
    """The claim, or "not comparable" for the reason."""
    if not reason:
        return claim
    return replace(claim, verdict=NOT_COMPARABLE, evidence=reason)


def _mean(values: pd.Series) -> Callable[[float], Interval]:
    return lambda level: interval(values, level=level)


def _drawn(table: Draws, drawn: np.ndarray) -> Callable[[float], Interval]:
    return lambda level: table.interval(drawn, level)


def _paired(records: pd.DataFrame, metric: str, method: str, baseline: str) -> pd.Series:
    wide = sequence_means(records, metric)
    return wide[method] - wide[baseline]


# --- statistics of Table 11 ---------------------------------------------------------------------------------------


def every_row(
    id: str,
    statement: str,
    records: pd.DataFrame,
    metric: str,
    pairs: Sequence[tuple[str, str]],
    side: int | None = None,
) -> Claim:
    """The claim that the first method of each pair is better in every category; side +1: larger, None: the metric's."""
    table = draws(records, metric, dict.fromkeys(name for pair in pairs for name in pair))
    rows = [(table.row(category), a, b) for category in table.categories for a, b in pairs]
    found = [(f"{a} − {b}, {row.categories[0]}", _drawn(row, (row[a] - row[b])[:, 0])) for row, a, b in rows]
    return _all_of(id, statement, found, METRICS[metric].sign if side is None else side, fails=NOT_EVERY)


def on_average(
    id: str, statement: str, records: pd.DataFrame, metric: str, pair: tuple[str, str], ours: bool = False
) -> Claim:
    """The claim that the first method of a pair is better in the mean over categories."""
    table = draws(records, metric, pair)
    found = table.interval((table[pair[0]] - table[pair[1]]).mean(axis=1))
    result, evidence = verdict(found, METRICS[metric].sign), f"{pair[0]} − {pair[1]}, mean of the rows"
    if result == CANNOT_TELL and not np.isnan(found.low):
        narrow = table.interval((table[pair[0]] - table[pair[1]]).mean(axis=1), level=0.9)
        evidence += f"; equivalent within ±{max(abs(narrow.low), abs(narrow.high)):.2g}"
    return Claim(id, statement, result, evidence, found, 3, ours)


def relative_gap(table: Draws, pair: tuple[str, str]) -> np.ndarray:
    """The first method against the second in per cent of the second's mean: [1 + resamples, categories]."""
    return 100 * (table[pair[0]] - table[pair[1]]) / table[pair[1]]


def paper_gap(paper: pd.DataFrame, metric: str, pair: tuple[str, str]) -> np.ndarray:
    """The same of the paper's table: [categories], in per cent."""
    first, second = (paper[paper["method"] == name].set_index("category")[metric] for name in pair)
    return (100 * (first - second) / second).to_numpy()


def no_room(records: pd.DataFrame, metric: str, pair: tuple[str, str], claimed: float) -> str:
    """Why a gain of `claimed` per cent cannot show here: it takes over half of what the Oracle gains; "" if it can."""
    if METRICS[metric].sign < 0 or "Oracle" not in set(records["method"]):
        return ""
    table = draws(records, metric, [pair[1], "Oracle"])
    room = relative_gap(table, ("Oracle", pair[1]))[0].mean()
    return f"the Oracle itself is only {room:.1f} % above {pair[1]}" if claimed > room / 2 else ""


def gap_size(
    id: str, statement: str, records: pd.DataFrame, paper: pd.DataFrame, metric: str, pair: tuple[str, str]
) -> Claim:
    """The claim that our mean gap is about the paper's: between half and one and a half times its mean gap."""
    table, printed = draws(records, metric, METHODS), paper_gap(paper, metric, pair).mean()
    found = table.interval(relative_gap(table, pair).mean(axis=1))
    low, high = sorted((printed / 2, 3 * printed / 2))
    evidence = f"mean gap of the rows in %; the paper's: {printed:.2f}, “about” reaches from {low:.2f} to {high:.2f}"
    claim = Claim(id, statement, verdict_range(found, low, high), minus(evidence), found, 2)
    return unless(no_room(records, metric, pair, abs(printed)), claim)


def consistent(id: str, statement: str, records: pd.DataFrame, metric: str, pair: tuple[str, str]) -> Claim:
    """The claim that the first method of a pair is better in nearly every sequence."""
    gain = METRICS[metric].sign * _paired(records, metric, *pair).dropna()
    found = interval((gain > 0).astype(float).where(gain != 0, 0.5))
    result = CANNOT_TELL
    if found.low >= CONSISTENT:
        result = SUPPORTED
    elif found.high < 0.5:
        result = OTHER_WAY
    elif found.high < CONSISTENT:
        result = SMALLER
    evidence = f"share of the sequences; “consistent”: at least {100 * CONSISTENT:.0f} %"
    return Claim(id, statement, result, evidence, found, 2)


def few_shot_gap(id: str, statement: str, records: pd.DataFrame, metric: str) -> Claim:
    """The claim that few-shot learning has a smaller relative gain of ChunkKV than every other row."""
    table, found = draws(records, metric, METHODS), []
    for pair in PAIRS:
        found += _few_shot_against(table, METRICS[metric].sign * relative_gap(table, pair), f"gain over {pair[1]} in %")
    return _all_of(id, statement, found, side=-1, digits=2)


def few_shot_level(id: str, statement: str, records: pd.DataFrame) -> Claim:
    """The claim that the three methods' mean cosine is higher in few-shot learning than in every other row."""
    table = draws(records, COSINE, METHODS)
    return _all_of(
        id, statement, _few_shot_against(table, np.mean([table[m] for m in METHODS], axis=0), "cosine"), side=1
    )


def _few_shot_against(table: Draws, values: np.ndarray, what: str) -> list[Comparison]:
    at = table.categories.index(FEW_SHOT)
    others = [i for i in range(len(table.categories)) if i != at]
    return [(f"{what}, few-shot − {table.categories[i]}", _drawn(table, values[:, at] - values[:, i])) for i in others]


def flat_rows(id: str, statement: str, records: pd.DataFrame) -> Claim:
    """The claim that ChunkKV's L1 loss varies more between rows than SnapKV's and H2O's (standard deviation)."""
    table = draws(records, L1, METHODS)
    spread = {method: table[method].std(axis=1) for method in METHODS}
    found = [(f"spread over rows, {a} − {b}", _drawn(table, spread[a] - spread[b])) for a, b in PAIRS]
    return _all_of(id, statement, found, side=1)


# --- statistics of layers and of answers --------------------------------------------------------------------------


def bands(id: str, statement: str, records: pd.DataFrame, metric: str, pair: tuple[str, str]) -> Claim:
    """The claim that the gain is larger in the paper's layers than elsewhere, and stands out most there.

    Over all categories. A gain that is larger there, but clearly larger still in another band of as many layers, is
    "smaller than claimed", and the evidence names the other band.
    """
    rows = list(band_contrasts(records, None, [metric], [pair]).itertuples())
    sign = METRICS[metric].sign
    judged = [verdict(row.contrast, sign) for row in rows]
    row = min(rows, key=lambda one: sign * one.contrast.estimate)
    result = SUPPORTED if set(judged) == {SUPPORTED} else NOT_SEEN if OTHER_WAY in judged else CANNOT_TELL
    if judged == [OTHER_WAY] * len(rows):
        result = OTHER_WAY
    elif result == SUPPORTED and any(one.behind.excludes(0) for one in rows):
        result, row = SMALLER, max(rows, key=lambda one: one.rank)
    evidence = (
        f"{pair[0]} − {pair[1]}, inside less outside {row.band}, here {row.layers}; rank {row.rank} of {row.bands} "
        f"bands of its width, the first is {row.best}"
    )
    return Claim(id, statement, result, evidence, row.contrast)


def middle(id: str, statement: str, records: pd.DataFrame, pair: tuple[str, str]) -> Claim:
    """The claim that the gain by both metrics is larger in the middle third of the layers than in the other two."""
    found = []
    for metric in PRIMARY:
        gain = METRICS[metric].sign * (layer_values(records, metric, pair[0]) - layer_values(records, metric, pair[1]))
        chosen = in_band(gain.columns, gain.shape[1], MIDDLE)
        if chosen.any() and not chosen.all():
            less = gain.loc[:, chosen].mean(axis=1) - gain.loc[:, ~chosen].mean(axis=1)
            found.append((f"gain in {METRICS[metric].short}, middle third less the rest", _mean(less)))
    return _all_of(id, statement, found, side=1)


def most_layers(id: str, statement: str, records: pd.DataFrame, metric: str, pair: tuple[str, str]) -> Claim:
    """The claim that the first method is clearly better in more than half of the layers."""
    gain = METRICS[metric].sign * (layer_values(records, metric, pair[0]) - layer_values(records, metric, pair[1]))
    found = interval(gain)
    clear = np.atleast_1d(found.excludes(0))
    better, worse = int((clear & (found.estimate > 0)).sum()), int((clear & (found.estimate < 0)).sum())
    half = gain.shape[1] / 2
    result = SUPPORTED if better > half else OTHER_WAY if worse > half else NOT_SEEN
    if result == NOT_SEEN and better + gain.shape[1] - better - worse > half:
        result = CANNOT_TELL
    evidence = f"clearly better in {better} and clearly worse in {worse} of {gain.shape[1]} layers; mean over layers"
    return Claim(id, statement, result, evidence, interval(_paired(records, metric, *pair)))


def order_claim(id: str, statement: str, metric: str, found: Interval, one_order: float) -> Claim:
    """The claim that a metric ranks the methods as an outcome does; one of ours.

    found      of `within_sequence_rank_correlation`; one_order of `constant_order`, for the metric
    """
    evidence = "rank correlation within a sequence"
    if one_order >= CONSTANT:
        evidence += f", of one order that {100 * one_order:.0f} % of the sequences have"
    return Claim(id, statement, verdict(found, -METRICS[metric].sign), evidence, found, 2, ours=True)


# --- several runs, and tables -------------------------------------------------------------------------------------

ALL, NONE, CONTRADICTION, SOME, UNTOLD = AGREEMENTS = (
    "all support it",
    "none supports it",
    "they contradict each other",
    "only some can tell",
    "none can tell",
)  #: What several runs can say of one claim together, the clearest first.


def claims_frame(judged: Mapping[str, Sequence[Claim]]) -> pd.DataFrame:
    """Claims as rows: run, id, statement, ours, verdict, evidence, digits, estimate, low, high, n.

    judged  label of the run -> its claims
    raises  InputError: no run.
    """
    if not judged:
        raise InputError("no run was given; pass at least one, as label -> claims.")
    nothing = Interval(np.nan, np.nan, np.nan, 0)
    return pd.DataFrame(
        {"run": run, "id": one.id, "statement": one.statement, "ours": one.ours, "verdict": one.verdict}
        | {"evidence": one.evidence, "digits": one.digits}
        | vars(one.number or nothing)
        for run, found in judged.items()
        for one in found
    )


def agreement(verdicts: Iterable[str]) -> str:
    """What the verdicts of several runs on one claim say together, one of AGREEMENTS.

    "All support it" and "none supports it" need a clear verdict of every run that was asked.
    """
    verdicts = list(verdicts)
    told = [one for one in verdicts if one not in SILENT]
    if not told:
        return UNTOLD
    if SUPPORTED in told and set(told) != {SUPPORTED}:
        return CONTRADICTION
    if len(told) < len(verdicts):
        return SOME
    return ALL if SUPPORTED in told else NONE


def claims_table(found: pd.DataFrame, caption: str, name: str = "") -> str:
    """A row per statement: each run's verdict, and its number with interval and n; found: of `claims_frame`."""
    rows = {}
    for one in found.itertuples():
        row = rows.setdefault(one.id, {"Claim": one.statement + (" (ours)" if one.ours else "")})
        value = MISSING if np.isnan(one.estimate) else f"{number(one, one.digits)}, n = {one.n}"
        row[f"{one.run}: verdict"] = f"**{one.verdict}**"
        row[f"{one.run}: rests on"] = f"{value} ({one.evidence})"
    return myst_table(pd.DataFrame(list(rows.values())).fillna(MISSING), caption, name)


def agreement_table(found: pd.DataFrame, caption: str, name: str = "") -> str:
    """A row per statement with every run's verdict, and what they say together; found: of `claims_frame`."""
    wide = found.pivot(index="id", columns="run", values="verdict").loc[found["id"].unique(), found["run"].unique()]
    together = [f"**{agreement(row.dropna())}**" for _, row in wide.iterrows()]
    said = found.drop_duplicates("id").set_index("id")
    statements = said["statement"] + said["ours"].map({True: " (ours)", False: ""})
    table = wide.fillna(MISSING).assign(Together=together)
    table.insert(0, "Claim", statements.loc[wide.index])
    return myst_table(table, caption, name)
