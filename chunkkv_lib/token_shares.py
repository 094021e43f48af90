"""From a survey of kept tokens to shares with intervals: what stays of each group, and what two methods disagree about.

A share is taken per sequence, over all layers and heads together; intervals and tests are over sequences. `survey` is
what `measure.token_survey.load_survey` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .errors import unknown
from .records import METHODS, PAIRS, choose
from .resampling import honest_interval
from .statistics import Interval, compare, holm
from .token_counts import GROUPS, SINK, columns

PIECES = ("words", "sentences")


def shares(survey: Any, group: str, methods: Iterable[str] = METHODS, category: str | None = None) -> pd.DataFrame:
    """What share of a prompt's tokens of each kind a method keeps.

    group   "class", "place" or "near"
    return  columns sequence, method, value (name of the class, place, ...), share in 0..1; NaN where a prompt has no
            token of the kind
    raises  InputError: an unknown group, method or category.
    """
    _check(group, survey.sequences)
    kept = _sums(survey, methods, category)
    totals = survey.sequences.set_index("sequence")[columns(group)]
    there = totals.reindex(kept.index.get_level_values("sequence")).set_axis(kept.index).mul(kept["heads"], axis=0)
    return _long((kept[columns(group)] / there.where(there > 0)).set_axis(GROUPS[group], axis="columns"))


def composition(survey: Any, group: str, sets: Iterable[str] = METHODS, category: str | None = None) -> pd.DataFrame:
    """What the tokens of a set are: of what a method keeps, or of what one keeps and another drops.

    group   as in `shares`, or "run": the runs that a method's kept tokens stand in, by length
    sets    methods, or names such as "ChunkKV, not SnapKV"
    return  as `shares`; per sequence and set the shares add up to 1
    """
    _check(group, survey.tokens)
    kept = _sums(survey, sets, category)
    found = kept[columns(group)].div(kept["tokens"].where(kept["tokens"] > 0), axis=0)
    return _long(found.set_axis(GROUPS[group], axis="columns"))


def whole_shares(
    survey: Any, piece: str, methods: Iterable[str] = METHODS, category: str | None = None
) -> pd.DataFrame:
    """Words (of two tokens or more) or sentences that stay whole.

    piece   "words" or "sentences"
    return  as `shares`; value is "of all", or "of those touched": that have at least one kept token
    """
    if piece not in PIECES:
        raise unknown("kind of piece", piece, PIECES)
    kept = _sums(survey, methods, category)
    every = survey.sequences.set_index("sequence")[piece].reindex(kept.index.get_level_values("sequence")).to_numpy()
    every = pd.Series(every, kept.index) * kept["heads"]
    touched, whole = kept[f"{piece}_touched"], kept[f"{piece}_whole"]
    found = {"of all": whole / every.where(every > 0), "of those touched": whole / touched.where(touched > 0)}
    return _long(pd.DataFrame(found))


def disagreement(survey: Any, pairs: Sequence[tuple[str, str]] = PAIRS, category: str | None = None) -> pd.DataFrame:
    """What one method keeps and another drops, per sequence, both ways round.

    return  columns sequence, method, baseline, part (of the method's kept tokens that the baseline drops), oracle (part
            of these that the Oracle keeps), lift (the answer's attention to one of these, 1: to an average token; the
            first tokens left aside)
    """
    rows = []
    length = survey.sequences.set_index("sequence")["prompt_tokens"]
    for one, other in [*pairs, *((b, a) for a, b in pairs)]:
        name = f"{one}, not {other}"
        sums = _sums(survey, [one, name], category).unstack("method")
        tokens, kv_heads = sums["tokens"], sums["heads"][name] / sums["layers"][name]
        behind = (length.reindex(sums.index) - SINK) * kv_heads / (tokens[name] - sums["place_0"][name])
        found = {"part": tokens[name] / tokens[one], "oracle": sums["oracle"][name] / tokens[name],
                 "lift": sums["attention"][name] * behind}  # fmt: skip
        rows.append(pd.DataFrame(found).assign(method=one, baseline=other).reset_index())
    return pd.concat(rows, ignore_index=True)[["sequence", "method", "baseline", "part", "oracle", "lift"]]


def mean_run(survey: Any, methods: Iterable[str] = METHODS, category: str | None = None) -> pd.DataFrame:
    """Mean length of the runs of neighbouring kept tokens: columns sequence, method, value ("mean"), share (tokens)."""
    kept = _sums(survey, methods, category)
    return _long(pd.DataFrame({"mean": kept["tokens"] / kept["runs"]}))


# --- over sequences ------------------------------------------------------------------------------------------------


def means(found: pd.DataFrame) -> pd.DataFrame:
    """Means over sequences with 95 % intervals: columns method, value, estimate, low, high, n; `found`: of `shares`."""
    rows = []
    for (method, value), group in found.groupby(["method", "value"], sort=False):
        rows.append((method, value, *_numbers(honest_interval(group["share"].to_numpy()))))
    return pd.DataFrame(rows, columns=["method", "value", "estimate", "low", "high", "n"])


def gaps(found: pd.DataFrame, pairs: Sequence[tuple[str, str]] = PAIRS) -> pd.DataFrame:
    """Paired differences "method - baseline" with Wilcoxon's test, Holm-corrected over all rows, and effect sizes.

    return  columns value, method, baseline, difference, low, high, n, p, p_holm, cohen_d; NaN where n is below 2
    """
    rows = []
    for value, group in found.groupby("value", sort=False):
        wide = group.pivot(index="sequence", columns="method", values="share")
        rows += [{"value": value, "method": a, "baseline": b} | _compared(wide, a, b) for a, b in pairs]
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"]))
    return table


def gap(found: pd.DataFrame, value: str, pair: tuple[str, str]) -> Interval:
    """The paired difference of two methods in one value, as an interval; `found`: of `shares` or `whole_shares`."""
    wide = found[found["value"] == value].pivot(index="sequence", columns="method", values="share")
    return honest_interval((wide[pair[0]] - wide[pair[1]]).to_numpy())


def _compared(wide: pd.DataFrame, method: str, baseline: str) -> dict[str, float]:
    pair = wide[[method, baseline]].dropna()
    empty = dict.fromkeys(("difference", "low", "high"), np.nan) | {"n": len(pair)}
    if len(pair) < 2:
        return empty | {"p": np.nan, "cohen_d": np.nan}
    found = compare(pair[method], pair[baseline], method="expanded")
    return dict(zip(empty, _numbers(found.difference))) | {"p": found.p_value, "cohen_d": found.cohen_d}


def _check(group: str, table: pd.DataFrame) -> None:
    known = [name for name in GROUPS if columns(name)[0] in table]
    if group not in known:
        raise unknown("group of tokens", group, known)


def _numbers(found: Interval) -> tuple[float, float, float, int]:
    return found.estimate, found.low, found.high, found.n


def _sums(survey: Any, methods: Iterable[str], category: str | None) -> pd.DataFrame:
    """All counts added up over layers: index sequence, method in the order asked for; `layers` says over how many."""
    methods = list(methods)
    records = choose(survey.records, category, methods).drop(columns=["category", "dataset"])
    keys = ["sequence", "method"]
    found = records.groupby(keys, sort=False).sum().assign(layers=records.groupby(keys, sort=False)["layer"].size())
    order = pd.MultiIndex.from_product([records["sequence"].unique(), methods], names=keys)
    return found.reindex(order)


def _long(found: pd.DataFrame) -> pd.DataFrame:
    """Index sequence, method and a column per value -> a row for each of them; order kept."""
    found.columns.name = "value"
    return found.stack(future_stack=True).rename("share").reset_index()
