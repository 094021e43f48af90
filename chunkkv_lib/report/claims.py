"""The scorecard: every statement of the paper's appendix A.1, judged by a run, with the number that decides.

The statements and the numbers that judge them are those of `data/plan.yml`. A statement about several comparisons at
once ("in every row") holds if each comparison does, at 95 %; it fails if one of them lies on the other side even in an
interval that allows for their number (Bonferroni). Documents are resampled (`statistics`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .damage import NLL, pairwise
from .layers import band_contrasts, in_band
from .plan import compute, statements
from .records import METHODS, METRICS, PAIRS, PRIMARY, choose, damage, draws, layer_values, sequence_means
from .statistics import LEVEL, Interval, documents_of, interval, members_of, resampled_means, smallest_margin
from .style import GREY, INK, SMALL, bare, look, panels, styled
from .tables import MISSING, data_source, minus, myst_table, number

HOLDS = "holds"  # the whole interval lies where the statement says
SMALLER, LARGER = "smaller", "larger"  # the sign is right; the size is clearly another
NOT_EVERY = "not in every row"  # said of every row, and clearly otherwise in at least one
OTHER_WAY = "the other way round"  # the whole interval lies on the other side
NOT_SEEN = "not seen on these models"  # clearly not as stated, in another way than those above
CANNOT_TELL = "cannot be told here"  # too few sequences, no room in the metric, or no difference worth the name
TINTS = {HOLDS: "#cfe3f3", CANNOT_TELL: "#eeeeee"}  # of a tile; every other verdict speaks against the statement
AGAINST = "#f6dcc4"
L1, COSINE = PRIMARY
FIGURE_6_ROW = "Single-Document QA"
CONSISTENT = 0.9  # share of the sequences from which on an improvement is consistent
MIDDLE = (11, 20)  # of the paper's 32 layers: the middle third
FORETELLS = 0.15  # rank correlation from which on a metric foretells the damage (plan: foretell-l1, foretell-cosine)
ALIKE = 0.06  # nats; within these two answers suffer alike (plan: answer-equal)
FOUND = 0.05, 0.1  # share of needles: a gap that counts, and what tuning both rules alike may leave (plan: reach-...)
Comparison = tuple[str, Callable[..., Interval]]  # label, and the interval at a `level`
NOTHING = Interval(np.nan, np.nan, np.nan, 0)


@dataclass(frozen=True)
class Claim:
    """A statement, what a run says to it, and the number that the verdict rests on."""

    id: str  # of the statement in the plan: l1-1, cos-2, size-1, ...
    verdict: str  # one of those above, or "" where the run has not measured what it takes
    evidence: str = ""  # what the number is, in words
    number: Interval = NOTHING
    digits: int = 4


def scorecard(run: Any, paper: pd.DataFrame, needles: Any = None) -> list[Claim]:
    """Every statement of appendix A.1 that can be judged, in the plan's order.

    run      `load_run(...)`; only the rows of Table 11 that it measured count
    paper    `paper_table_11()`
    needles  a run of needles, for the statements about answers; left out where it is on another model
    """
    if needles is not None and needles.manifest["model"]["name"] != run.manifest["model"]["name"]:
        needles = None
    records, hurt = run.records, damage(run.answer_records)
    drawn = choose(records, FIGURE_6_ROW) if FIGURE_6_ROW in set(records["category"]) else records
    return [
        most_layers("fig-0", drawn, PRIMARY),
        all_of("l1-1", row_gains(records, [L1]), fails=NOT_EVERY),
        bands("l1-2", records, L1),
        most_layers("cos-1", records, [COSINE]),
        bands("cos-2", records, COSINE),
        all_of("avg-1", row_gains(records, PRIMARY), fails=NOT_EVERY),
        gap_size("size-1", records, paper, L1),
        gap_size("size-2", records, paper, COSINE),
        consistent("seq-1", records),
        middle("mid-1", records),
        *answer_claims(records, hurt, needles),
    ]


def label(run: Any) -> str:
    """A run by its model and texts, as a heading."""
    model, _, _ = str(run.manifest["model"]["name"]).removesuffix(".gguf").partition("-instruct")
    source = {"open": "open texts", "longbench": "LongBench"}.get(data_source(run.manifest), run.name)
    return f"{model}, {source}"


# --- verdicts -----------------------------------------------------------------------------------------------------


def verdict(found: Interval, side: int = 1, beyond: float = 0.0) -> str:
    """The verdict on "the number lies above `beyond`" (side +1) or "below" it (side -1)."""
    if not found.excludes(beyond):
        return CANNOT_TELL
    return HOLDS if np.sign(found.estimate - beyond) == side else OTHER_WAY


def verdict_range(found: Interval, low: float, high: float) -> str:
    """The verdict on "the number lies between low and high", both of one sign."""
    sign = 1 if low > 0 else -1
    near, far = sorted((sign * low, sign * high))  # as if the claim were of a positive number
    least, most = sorted((sign * found.low, sign * found.high))  # NaN, where there is no interval, is in no order
    if near <= least and most <= far:
        return HOLDS
    if most < 0 and found.excludes(0):
        return OTHER_WAY
    return SMALLER if most < near else LARGER if least > far else CANNOT_TELL


def together(verdicts: Iterable[str]) -> str:
    """The verdict on a statement about several numbers: theirs if they agree."""
    judged = set(verdicts)
    return judged.pop() if len(judged) == 1 else NOT_SEEN if OTHER_WAY in judged else CANNOT_TELL


def all_of(id: str, comparisons: Sequence[Comparison], fails: str = NOT_SEEN) -> Claim:
    """The claim that every comparison lies above zero; it shows the one that decides."""
    if not comparisons:
        return Claim(id, "")
    at_95 = {label: at(level=LEVEL) for label, at in comparisons}
    strict = {label: at(level=1 - (1 - LEVEL) / len(comparisons)) for label, at in comparisons}
    against = [label for label in at_95 if verdict(strict[label]) == OTHER_WAY]
    agree = sum(verdict(found) == HOLDS for found in at_95.values())
    result = HOLDS if agree == len(comparisons) else CANNOT_TELL
    if against:
        result = OTHER_WAY if len(against) == len(comparisons) else fails
    worst = min(against or at_95, key=lambda label: at_95[label].estimate)
    count = f"clearly so in {agree} of {len(comparisons)}; worst: " if len(comparisons) > 1 else ""
    return Claim(id, result, count + worst, at_95[worst])


# --- averages: Paper Table 11 -------------------------------------------------------------------------------------


def row_gains(records: pd.DataFrame, metrics: Sequence[str]) -> list[Comparison]:
    """ChunkKV's gain over SnapKV and over H2O, row by row: positive where it is better."""
    found = []
    for metric in metrics:
        about = METRICS[metric]
        for category, group in records.groupby("category", sort=False):
            wide = sequence_means(group, metric).reindex(columns=METHODS).dropna()
            for a, b in PAIRS if len(wide) else ():
                label = f"gain in {about.short} over {b}, {category}"
                found.append((label, partial(interval, about.sign * (wide[a] - wide[b]))))
    return found


def relative_gap(means: Mapping[str, np.ndarray], pair: Sequence[str]) -> np.ndarray:
    """The first method against the second in per cent of the second's mean, mean over categories: [1 + resamples].

    means  of `records.draws`
    """
    a, b = (means[name] for name in pair)
    return (100 * (a - b) / b).mean(axis=1)


def gap_size(id: str, records: pd.DataFrame, paper: pd.DataFrame, metric: str) -> Claim:
    """The claim that our mean gap is about the paper's: between half and one and a half times its mean gap.

    Judged against SnapKV; the evidence says how it stands against H2O. A gain that would take over half of what the
    Oracle gains has no room here to show, so "smaller" cannot be told.
    """
    parts, (means, *counts) = [], draws(records, metric, METHODS)
    theirs = paper.pivot(index="category", columns="method", values=metric)
    for pair in PAIRS:
        printed = (100 * (theirs[pair[0]] - theirs[pair[1]]) / theirs[pair[1]]).mean()
        found = Interval.of(relative_gap(means, pair), *counts)
        parts.append((verdict_range(found, *sorted((printed / 2, 3 * printed / 2))), found, printed))
    (result, found, printed), (against_h2o, h2o, _) = parts
    evidence = f"mean gap to SnapKV in %, the paper's {printed:.2f}; to H2O {h2o.estimate:.2f}, {against_h2o}"
    if result == SMALLER and METRICS[metric].sign > 0 and "Oracle" in set(records["method"]):
        room = relative_gap(draws(records, metric, ["SnapKV", "Oracle"])[0], ("Oracle", "SnapKV"))[0]
        if printed > room / 2:
            result, evidence = CANNOT_TELL, f"{evidence}; the Oracle itself is only {room:.1f} % above SnapKV"
    return Claim(id, result, minus(evidence), found, 2)


def consistent(id: str, records: pd.DataFrame) -> Claim:
    """The claim that ChunkKV is better than SnapKV in most sequences, by each metric; "smaller" under nine in ten."""
    shares = {}
    for metric in PRIMARY:
        wide = sequence_means(records, metric)
        gain = METRICS[metric].sign * (wide["ChunkKV"] - wide["SnapKV"]).dropna()
        shares[METRICS[metric].short] = interval((gain > 0).astype(float).where(gain != 0, 0.5))
    name, least = min(shares.items(), key=lambda one: one[1].estimate)
    result = together(verdict(one, beyond=0.5) for one in shares.values())
    if result == HOLDS and least.high < CONSISTENT:
        result = SMALLER
    both = ", ".join(f"{one}: {share.estimate:.2f}" for one, share in shares.items())
    return Claim(id, result, f"share of sequences in which ChunkKV is better than SnapKV by {name} ({both})", least, 2)


# --- layers: Paper Figure 6 ---------------------------------------------------------------------------------------


def most_layers(id: str, records: pd.DataFrame, metrics: Sequence[str]) -> Claim:
    """The claim that in most layers ChunkKV's mean is better than SnapKV's and than H2O's, by each metric."""
    found = {}
    for metric in metrics:
        own = layer_values(records, metric, "ChunkKV")
        gains = [METRICS[metric].sign * (own - layer_values(records, metric, b)) for _, b in PAIRS]
        both = pd.concat(gains, axis=1)
        whole = both.notna().all(axis=1).to_numpy()
        members = members_of(documents_of(own), whole)
        drawn = resampled_means(both.to_numpy(), members)
        better = np.minimum(*np.split(drawn, 2, axis=1)) > 0
        found[METRICS[metric].short] = Interval.of(better.mean(axis=1), len(members), int(whole.sum()))
    name, least = min(found.items(), key=lambda one: one[1].estimate)
    result = together(verdict(one, beyond=0.5) for one in found.values())
    if result == OTHER_WAY:
        result = NOT_SEEN
    return Claim(id, result, f"share of layers in which ChunkKV is ahead of both, {name}", least, 2)


def bands(id: str, records: pd.DataFrame, metric: str) -> Claim:
    """The claim that the gain over SnapKV is larger in the paper's layers than elsewhere, and stands out most there.

    A gain that is larger there, but clearly larger still in another band of as many layers, is "smaller".
    """
    rows = list(band_contrasts(records, [metric], PAIRS[:1]).itertuples())
    sign = METRICS[metric].sign
    row = min(rows, key=lambda one: sign * one.contrast.estimate)
    result = together(verdict(one.contrast, sign) for one in rows)
    if result == HOLDS and any(one.behind.excludes(0) for one in rows):
        result, row = SMALLER, max(rows, key=lambda one: one.rank)
    evidence = (
        f"ChunkKV − SnapKV inside {row.band} (here {row.layers}) less outside; rank {row.rank} of {row.bands} bands of "
        f"its width, first is {row.best}"
    )
    return Claim(id, result, evidence, row.contrast)


def middle(id: str, records: pd.DataFrame) -> Claim:
    """The claim that the gain over SnapKV, by both metrics, is larger in the middle third of the layers."""
    found = []
    for metric in PRIMARY:
        gain = layer_values(records, metric, "ChunkKV") - layer_values(records, metric, "SnapKV")
        chosen = in_band(gain.columns, gain.shape[1], MIDDLE)
        if chosen.any() and not chosen.all():
            less = METRICS[metric].sign * (gain.loc[:, chosen].mean(axis=1) - gain.loc[:, ~chosen].mean(axis=1))
            found.append((f"gain in {METRICS[metric].short}, middle third less the rest", partial(interval, less)))
    return all_of(id, found)


# --- answers: the "why" statements --------------------------------------------------------------------------------


def answer_claims(records: pd.DataFrame, hurt: pd.DataFrame, needles: Any = None) -> list[Claim]:
    """What A.1 concludes from its metrics, judged by the answer: ChunkKV against SnapKV."""
    told = pairwise(records, hurt, PRIMARY, ["kl"], PAIRS[:1]).itertuples()
    l1, cosine = (Interval(one.estimate, one.low, one.high, int(one.n)) for one in told)
    wide = sequence_means(hurt, NLL)
    less = (wide["ChunkKV"] - wide["SnapKV"]).dropna()
    nll, margin = interval(less), smallest_margin(less)
    alike = f"NLL of ChunkKV − SnapKV, alike within ±{margin:.2f}"
    better = NOT_SEEN if margin <= ALIKE else verdict(nll, -1)
    foretell = "rank correlation of the differences with those in KL"

    def foretells(found: Interval) -> str:
        return {OTHER_WAY: NOT_SEEN}.get(judged := verdict(found, 1, FORETELLS), judged)

    second = foretells(cosine) if better == HOLDS else better  # the metric may be right and the gain still not there
    claims = [
        Claim("why-1", foretells(l1), f"{foretell}, L1 loss", l1, 2),
        Claim("why-2", second, f"{alike}; the cosine foretells it with {cosine.estimate:.2f}", nll, 3),
    ]
    if needles is None:
        return [*claims, Claim("why-3", better, alike, nll, 3), Claim("why-4", "", "needles not measured")]
    gap, same = (
        compute(needles, {"column": "score", "of": method, "minus": baseline})
        for method, baseline in (("ChunkKV", "SnapKV"), ("ChunkKV, kernel 15, pooling max", "SnapKV, kernel 15"))
    )
    third = HOLDS if better == HOLDS or gap.low > FOUND[0] else better if gap.high < FOUND[0] else CANNOT_TELL
    fourth = NOT_SEEN if gap.high < FOUND[0] else CANNOT_TELL
    if gap.low > FOUND[0]:
        fourth = HOLDS if same.low > FOUND[1] else NOT_SEEN if max(-same.low, same.high) < FOUND[1] else CANNOT_TELL
    evidence = f"share of needles found, ChunkKV − SnapKV; both pooled over 15: {same.estimate:.2f}"
    return [
        *claims,
        Claim("why-3", third, f"share of needles found, ChunkKV − SnapKV; {alike}", gap, 2),
        Claim("why-4", fourth, evidence, gap, 2),
    ]


# --- table and picture --------------------------------------------------------------------------------------------


def cards_frame(cards: Mapping[str, Sequence[Claim]]) -> pd.DataFrame:
    """Scorecards, by label of a run, as rows: run, id, says, verdict, evidence, digits, estimate, low, high, n."""
    says = {one["id"]: one["says"] for one in statements()}
    rows = (
        {"run": run, "id": one.id, "says": says[one.id]} | vars(one) | vars(one.number)
        for run, found in cards.items()
        for one in found
    )
    return pd.DataFrame(rows).drop(columns="number")


def cards_table(found: pd.DataFrame, caption: str, name: str = "", brief: bool = False) -> str:
    """A row per statement: each run's verdict and number; unless `brief`, with its interval and what the number is."""
    rows = {}
    for one in found.itertuples():
        row = rows.setdefault(one.id, {"Id": f"`{one.id}`", "Statement": one.says})
        shown = Interval(one.estimate, np.nan, np.nan, one.n) if brief else one
        value = f"{number(shown, one.digits)}" + ("" if brief else f" ({one.evidence})")
        row[one.run] = f"**{one.verdict}** {value}" if one.verdict else "not measured"
    return myst_table(pd.DataFrame(list(rows.values())).fillna(MISSING), caption, name)


@styled
def cards_figure(found: pd.DataFrame) -> Figure:
    """The scorecard: a row per statement, a column per run, a tile with the verdict; found: of `cards_frame`."""
    ids, runs = list(found["id"].unique()), list(found["run"].unique())
    texts = [fill(says, 58) for says in found.groupby("id", sort=False)["says"].first()]  # each above its tiles
    ends = np.cumsum([0.54 + 0.15 * (1 + text.count("\n")) for text in texts])  # inches
    figure, (ax,) = panels(height=ends[-1] + 0.5)
    for one in found.itertuples():
        x, y = runs.index(one.run) + 0.5, ends[ids.index(one.id)] - 0.31
        tint = TINTS.get(one.verdict, AGAINST) if one.verdict else "#ffffff"
        ax.barh(y, 0.96, left=x - 0.48, height=0.35, color=tint)
        ax.text(x, y, fill(one.verdict or "not measured", 48 // len(runs)), ha="center", va="center", fontsize=SMALL,
                color=INK, linespacing=1.05, fontweight="bold" if one.verdict == HOLDS else "normal")  # fmt: skip
    for text, end in zip(texts, ends):
        ax.text(0.02, end - 0.51, text, va="bottom", fontsize=SMALL, color=INK)
    ax.set_xticks([i + 0.5 for i in range(len(runs))], [fill(run, 48 // len(runs)) for run in runs], fontsize=SMALL)
    ax.set(xlim=(0, len(runs)), ylim=(ends[-1] - 0.1, 0), yticks=[])
    ax.xaxis.tick_top()
    bare(ax)
    return figure


@styled
def pairs_figure(wide: pd.DataFrame, metric: str) -> Figure:
    """Two methods on the same sequences: left a line per sequence, right the differences, their mean and interval.

    wide  two columns of values by sequence; the second minus the first is drawn
    """
    difference, (first, second) = wide.iloc[:, 1] - wide.iloc[:, 0], wide.columns
    mean = interval(difference)
    figure, (left, right) = panels(1, 2, height=3, width_ratios=(1.5, 1))
    left.plot([0, 1], wide.T, color=GREY, alpha=0.15 + 1 / len(wide), linewidth=0.8, zorder=1)
    for x, (method, values) in enumerate(wide.items()):
        left.plot([x] * len(values), values, look(method).marker, color=look(method).colour, alpha=0.6)
    left.set(xticks=[0, 1], xticklabels=wide.columns, xlim=(-0.4, 1.4), ylabel=METRICS[metric].axis)
    spots = np.random.default_rng(0).uniform(-0.2, 0.2, len(difference))
    right.plot(spots, difference, "o", color=GREY, alpha=0.5, markersize=4)
    right.errorbar(0.6, mean.estimate, [[mean.estimate - mean.low], [mean.high - mean.estimate]], fmt="s", color=INK)
    right.axhline(0, color=INK, linewidth=0.8)
    right.set(xticks=[0, 0.6], xticklabels=["each", "mean"], xlim=(-0.4, 1), xlabel=f"{second}\n− {first}")
    return figure
