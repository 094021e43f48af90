"""Written answers and needles of a run: can the model do the task, what compression costs, what is still found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import InputError
from ..sequences.needles import depth_of
from .claims import CANNOT_TELL, NOT_EVERY, OTHER_WAY, SUPPORTED, Claim, on_average, order_claim, unless, verdict
from .damage import relations
from .records import CONTROLS, METHODS, PAIRS, PRIMARY, damage, present, sequence_means
from .statistics import Interval, interval, proportion_interval
from .style import SMALL, brief, headline, panels, styled, text_on

FULL = "Full"
FLOOR = "Floor"  # the gold answer to another question, in this one's place
OUTCOMES = ("score_loss", "answer_change", "nll_increase", "kl")
EVERYTHING = "All"


# --- scores -------------------------------------------------------------------------------------------------------


def scores(run: Any) -> pd.DataFrame:
    """Scores by sequence: a column per cache, "Full" and the floor first; the index as of `sequence_means`.

    raises  InputError: a run without written answers.
    """
    _check(run)
    wide = sequence_means(run.answer_records, "score").astype(float)
    floor = run.sequences.set_index("sequence")["chance_score"]
    wide.insert(0, FLOOR, floor.reindex(wide.index.get_level_values("sequence")).to_numpy())
    return wide[[FLOOR, FULL, *wide.columns.drop([FLOOR, FULL])]]


def ability(run: Any) -> pd.DataFrame:
    """Can the model do the task with its full cache? A row per category, then one for all of them.

    return  columns category, full and floor (mean scores), gap (full - floor, paired), each an `Interval`, and forced,
            the share of sequences in which the model wanted to end at once
    """
    table, rows = scores(run), []
    full = run.answer_records[run.answer_records["method"] == FULL].set_index("sequence")
    names = table.index.get_level_values("sequence")
    forced, category = (full[column].reindex(names).to_numpy() for column in ("forced_opening", "category"))
    for name in [*dict.fromkeys(category), EVERYTHING]:
        here = (category == name) | (name == EVERYTHING)
        mine = table[here]
        gap = interval(mine[FULL] - mine[FLOOR])
        rows.append((name, interval(mine[FULL]), interval(mine[FLOOR]), gap, forced[here].astype(float).mean()))
    return pd.DataFrame(rows, columns=["category", "full", "floor", "gap", "forced"])


def able(run: Any) -> list[str]:
    """The categories in which the full cache's answers are clearly better than the floor."""
    found = ability(run)
    clear = [row.category for row in found.itertuples() if row.gap.excludes(0) and row.gap.estimate > 0]
    return [category for category in clear if category != EVERYTHING]


# --- needles ------------------------------------------------------------------------------------------------------


def hit_rates(run: Any, methods: Iterable[str] | None = None) -> pd.DataFrame:
    """Needles found by depth: columns method, depth, hits, n, estimate, low, high (Wilson); "Full" first."""
    _check(run)
    records = run.answer_records.assign(depth=run.answer_records["category"].map(depth_of))
    rows = []
    for method in [FULL, *present(records, methods, METHODS + CONTROLS)]:
        for depth, group in records[records["method"] == method].groupby("depth"):
            hits = int(group["score"].sum())
            found = proportion_interval(hits, len(group))
            rows.append({"method": method, "depth": depth, "hits": hits} | vars(found))
    return pd.DataFrame(rows)


def depth_means(run: Any, metrics: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
    """Means by depth, for `sensitivity.axis_figure`: columns metric, method, depth, estimate, low, high, n.

    metrics  columns of the layers, or outcomes of `damage`
    """
    hurt, rows = damage(run.answer_records), []
    for metric in metrics:
        records = hurt if metric in hurt else run.records
        groups = {depth_of(name): sequence_means(group, metric) for name, group in records.groupby("category")}
        for method in methods:
            for depth in sorted(groups):
                rows.append(
                    {"metric": metric, "method": method, "depth": depth} | vars(interval(groups[depth][method]))
                )
    return pd.DataFrame(rows)


def found_gap(run: Any, method: str, baseline: str) -> Interval:
    """Share of needles that one cache finds, less that of another; paired by needle."""
    wide = scores(run)
    return interval(wide[method] - wide[baseline])


@styled
def needle_map(found: pd.DataFrame) -> Figure:
    """A row per cache, a column per depth: how many needles were found, as a count and as a shade.

    found  columns method, depth (0 to 1), hits, n, in the order of the rows (`hit_rates`)
    The last column adds up the depths.
    """
    methods, depths = list(found["method"].unique()), sorted(found["depth"].unique())
    figure, (ax,) = panels(height=0.36 * len(methods) + 0.95)
    for row, method in enumerate(methods):
        mine = found[found["method"] == method].set_index("depth")
        for column, depth in enumerate(depths):
            _cell(ax, column, row, int(mine.loc[depth, "hits"]), int(mine.loc[depth, "n"]))
        _cell(ax, len(depths) + 0.25, row, int(mine["hits"].sum()), int(mine["n"].sum()))
    ax.set_xticks([*range(len(depths)), len(depths) + 0.25], [*(f"{100 * depth:.0f} %" for depth in depths), "all"])
    ax.set_yticks(range(len(methods)), map(brief, methods))
    ax.set(xlim=(-0.5, len(depths) + 0.75), ylim=(len(methods) - 0.5, -0.5))
    ax.set_xlabel("Depth of the needle (100 %: right before the question)", fontsize=SMALL)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    total = int(found[found["method"] == methods[0]]["n"].sum())
    headline(figure, f"Needles found, {total} hidden", note="Number found of number hidden; the darker, the more")
    return figure


def _cell(ax: Axes, x: float, y: int, hits: int, n: int) -> None:
    colour = mpl.colormaps["Blues"](0.9 * hits / n) if n else (1.0, 1.0, 1.0, 1.0)  # from nothing to everything found
    ax.add_patch(mpl.patches.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, edgecolor="#c8c8c8"))
    text = f"{hits}/{n}" if n else "–"
    ax.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=text_on(colour[:3]))


# --- verdicts -----------------------------------------------------------------------------------------------------


def answer_claims(run: Any) -> list[Claim]:
    """What would have to hold if the metrics stood for written answers: score, likeness to the full cache's answer.

    Scores say nothing where the full cache's own are not clearly above the floor in every sub-category.
    """
    gaps = ability(run).set_index("category")["gap"].drop(EVERYTHING)
    clear = [name for name, gap in gaps.items() if verdict(gap, 1) == SUPPORTED]
    judged = {verdict(gap, 1) for gap in gaps}
    result = SUPPORTED if judged == {SUPPORTED} else NOT_EVERY if OTHER_WAY in judged else CANNOT_TELL
    worst = min(gaps.index, key=lambda name: gaps[name].estimate)
    evidence = f"full cache − floor; clearly above it in {len(clear)} of {len(gaps)} rows; worst: {worst}"
    said = "With its full cache the model can do every sub-category"
    found = [Claim("able", said, result, evidence, gaps[worst], 3, ours=True)]
    below = (
        "" if result == SUPPORTED else f"the full cache is clearly above the floor in {len(clear)} of {len(gaps)} rows"
    )

    hurt = damage(run.answer_records)
    for outcome, words in (("score_loss", "the score falls less"), ("answer_change", "the answer changes less")):
        void = below if outcome == "score_loss" else ""
        for pair in PAIRS:
            id = f"{outcome.replace('_', '-')}-{pair[1].lower()}"
            found.append(
                unless(void, on_average(id, f"With ChunkKV {words} than with {pair[1]}", hurt, outcome, pair, True))
            )
    table = relations(run.records, hurt, PRIMARY, OUTCOMES[:2])
    ends = {"score_loss": "a smaller loss of score", "answer_change": "a smaller change of the answer"}
    for _, row in table.iterrows():
        short, words = (
            ("l1", "less L1 loss") if row["metric"] == PRIMARY[0] else ("cosine", "a higher attention cosine")
        )
        said = f"Among all methods and controls, {words} goes with {ends[row['outcome']]}"
        id = f"order-{short}-{row['outcome'].replace('_', '-')}"
        claim = order_claim(id, said, row["metric"], row["within"], row["one_order"])
        found.append(unless(below if row["outcome"] == "score_loss" else "", claim))
    return found


def needle_claims(run: Any, method: str = "ChunkKV") -> list[Claim]:
    """Whether one method finds more needles than the others and than the plain rules, all depths together."""
    found = []
    for baseline in [name for name in ("SnapKV", "H2O", "StreamingLLM", "Random") if name != method]:
        gap = found_gap(run, method, baseline)
        id, said = f"needles-{baseline.lower()}", f"{method} finds more needles than {baseline}"
        found.append(Claim(id, said, verdict(gap, 1), f"share found, {method} − {baseline}", gap, 2, ours=True))
    return found


def _check(run: Any) -> None:
    if "score" not in run.answers:
        raise InputError(
            f"run {run.name!r} holds no written answers; measure some: python -m chunkkv_lib measure --profile answers."
        )
