"""Does the answer suffer, and could the metric have told? Paired tests, outcomes, correlations, the pairwise test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .answers import EVERY, beside, found
from .records import CONTROLS, METHODS, METRICS, PAIRS, PRIMARY, metric_and_damage, present, sequence_means
from .statistics import (
    Interval,
    constant_order,
    documents_of,
    interval,
    partial_rank_correlation,
    rank_correlation,
    within_sequence_rank_correlation,
)
from .style import GREY, SMALL, brief, headline, look, panels, styled
from .tables import MISSING, minus, myst_table, number, p_text, row_name

NLL = "nll_increase"
CONSTANT = 0.9  # from this share of sequences with one order on, a correlation within sequences rests on that order
FROM_ONE_ORDER = "†"


# --- differences and outcomes -------------------------------------------------------------------------------------


def significance_table(found: pd.DataFrame, source: str = "", name: str = "", digits: int = 4) -> str:
    """Paired differences of one metric by row: mean, trimmed mean, n, p, p after Holm, effect sizes.

    found   of `records.comparisons`, by category or by data set
    source  says whose numbers these are, for the caption
    """
    by, about = found.columns[0], METRICS[found["metric"].iloc[0]]
    table = pd.DataFrame(
        {
            {"category": "Sub-category"}.get(by, "Data set"): found[by],
            "Difference": found["method"] + " − " + found["baseline"],
            "Mean [95 % interval]": [
                number(Interval(row.difference, row.low, row.high, row.n), digits) for row in found.itertuples()
            ],
            "Trimmed mean": [number(one, digits) for one in found["trimmed"]],
            "n": found["n"],
            "p": found["p"].map(p_text),
            "p, Holm": found["p_holm"].map(p_text),
            "Cohen's d": [MISSING if np.isnan(value) else minus(f"{value:.2f}") for value in found["cohen_d"]],
            "Rank-biserial": [MISSING if np.isnan(one) else minus(f"{one:.2f}") for one in found["rank_biserial"]],
        }
    )
    side = {-1: "Below zero: the first method loses less. ", 1: "Above zero: the first method is closer to the full "
            "cache. ", 0: ""}[about.sign]  # fmt: skip
    caption = (
        f"{about.label}{f' ({about.unit})' if about.unit else ''}: paired differences between methods"
        f"{f' ({source})' if source else ''}. {side}Wilcoxon's signed-rank test over documents, two-sided; Holm's "
        f"correction over the {len(found)} rows of this table; intervals from a bootstrap over documents; the trimmed "
        "mean leaves out a tenth of the sequences at either end; effect sizes are paired."
    )
    return myst_table(table, caption, name, right=table.columns[2:])


def outcomes(
    hurt: pd.DataFrame,
    names: Sequence[str] = (NLL, "kl", "top1_agreement"),
    methods: Iterable[str] | None = None,
    category: str | None = None,
) -> pd.DataFrame:
    """What each cache costs, mean over sequences: columns method, outcome, estimate, low, high, n.

    hurt     of `records.damage`; methods None: all; category None: all sequences together
    """
    hurt = hurt if category is None else hurt[hurt["category"] == category]
    methods = present(hurt, methods, dict.fromkeys([*METHODS, *CONTROLS, *hurt["method"]]))
    wide = {name: sequence_means(hurt, name) for name in names}
    return pd.DataFrame(
        {"method": method, "outcome": name} | vars(interval(wide[name][method])) for method in methods for name in names
    )


def outcomes_table(found: pd.DataFrame, caption: str = "", name: str = "", digits: int = 3, source: str = "") -> str:
    """`outcomes` as a table: a row per method, a column per outcome, the smallest n."""
    rows = []
    for method, group in found.groupby("method", sort=False):
        texts = {METRICS[row.outcome].header: number(row, digits) for row in group.itertuples()}
        rows.append({"Method": row_name(method), **texts, "n": group["n"].min()})
    table = pd.DataFrame(rows)
    default = (
        f"The answer decoded from a compressed cache{f' ({source})' if source else ''}: mean over sequences with 95 % "
        "bootstrap interval over documents. NLL in nats per scored answer token; n counts the sequences that have one."
    )
    return myst_table(table, caption or default, name, right=table.columns[1:])


# --- could the metric have told? ----------------------------------------------------------------------------------


def pairwise(
    records: pd.DataFrame,
    hurt: pd.DataFrame,
    metrics: Sequence[str] = PRIMARY,
    names: Sequence[str] = (NLL, "kl"),
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> pd.DataFrame:
    """Does the difference of a metric between two methods foretell that of the damage, sequence by sequence?

    Spearman's correlation over sequences, documents resampled. Unlike a correlation over methods within a sequence it
    is not helped by an order of the methods that never changes.

    hurt    of `records.damage`
    return  columns metric, outcome, method, baseline, estimate, low, high, n, and `right`, the share of sequences in
            which the metric points to the method whose answer suffers less. Signs are turned so that positive means
            "a better metric goes with less damage".
    """
    rows = []
    for metric in metrics:
        for outcome in names:
            x, y = metric_and_damage(records, hurt, metric, outcome)
            for method, baseline in pairs:
                gain = METRICS[metric].sign * (x[method] - x[baseline])
                less = METRICS[outcome].sign * (y[method] - y[baseline])
                found = rank_correlation(gain, less)
                told = (gain * less).dropna()
                right = (told > 0).mean() if len(told) else np.nan
                names_ = {"metric": metric, "outcome": outcome, "method": method, "baseline": baseline}
                rows.append(names_ | vars(found) | {"right": right})
    return pd.DataFrame(rows)


def pairwise_table(
    found: Mapping[str, pd.DataFrame], outcome: str | None, pair: tuple[str, str], caption: str, name: str = ""
) -> str:
    """`pairwise` of several runs side by side, for one pair: a row per metric and outcome (None: every outcome)."""
    columns = {}
    for label, table in found.items():
        mine = table[(table["method"] == pair[0]) & (table["baseline"] == pair[1])]
        mine = mine if outcome is None else mine[mine["outcome"] == outcome]
        texts = [f"{number(row, 2)}, n = {row.n}" for row in mine.itertuples()]
        columns[label] = pd.Series(texts, pd.MultiIndex.from_frame(mine[["metric", "outcome"]]))
    table = pd.DataFrame(columns).fillna(MISSING)
    table = table.sort_index(key=lambda names: names.map(list(METRICS).index)).reset_index()
    heads = {"metric": "Definition", "outcome": "Damage"}
    table = table.assign(**{name: table[name].map(lambda one: METRICS[one].label) for name in heads}).rename(
        columns=heads
    )
    return myst_table(table if outcome is None else table.drop(columns="Damage"), caption, name, right=list(columns))


def relations(
    records: pd.DataFrame,
    hurt: pd.DataFrame,
    metrics: Sequence[str] = PRIMARY,
    names: Sequence[str] = (NLL,),
    methods: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Rank correlation of each metric with each outcome over the methods, and over the sequences.

    methods  whose values are compared; None: all methods and controls
    return   columns metric, outcome, within (over methods in each sequence, averaged over sequences) and partial (over
             sequences, the method's mean rank taken out), each an `Interval`; the n of `within` counts the sequences
             in which the outcome differs between methods; one_order: share of sequences in which the metric ranks the
             methods in its most frequent order. From CONSTANT on, `within` says what that order is worth, not the
             metric.
    """
    methods, rows = present(hurt, methods, METHODS + CONTROLS), []
    for metric in metrics:
        for outcome in names:
            x, y = metric_and_damage(records, hurt, metric, outcome, methods)
            within, partial = within_sequence_rank_correlation(x, y), partial_rank_correlation(x, y)
            rows.append((metric, outcome, within, partial, constant_order(x)))
    return pd.DataFrame(rows, columns=["metric", "outcome", "within", "partial", "one_order"])


def relations_table(found: pd.DataFrame, caption: str, name: str = "") -> str:
    """`relations` with the sign that one would hope for; a dagger marks correlations of a constant order."""
    marks = [f" {FROM_ONE_ORDER}" if share >= CONSTANT else "" for share in found["one_order"]]
    table = pd.DataFrame(
        {
            "Metric": [METRICS[metric].label for metric in found["metric"]],
            "Outcome": [METRICS[outcome].label for outcome in found["outcome"]],
            "Hoped for": ["+" if METRICS[metric].sign < 0 else "−" for metric in found["metric"]],
            "Over methods, within a sequence": [number(one, 2) + mark for one, mark in zip(found["within"], marks)],
            "n": [one.n for one in found["within"]],
            "Over sequences, method taken out": [number(one, 2) for one in found["partial"]],
        }
    )
    if any(marks):
        caption += (
            f" {FROM_ONE_ORDER}: the metric ranks the methods alike in at least {100 * CONSTANT:.0f} % of the "
            "sequences, so this is the worth of one order and carries no information about the metric's values."
        )
    return myst_table(table, caption, name, table.columns[3:])


def damage_points(
    records: pd.DataFrame,
    hurt: pd.DataFrame,
    metrics: Sequence[str] = PRIMARY,
    outcome: str = NLL,
    methods: Iterable[str] | None = None,
) -> pd.DataFrame:
    """What `damage_scatter` draws: columns metric, outcome, method, sequence, document (if known), value, damage."""
    methods, tables = present(records, methods, METHODS + CONTROLS), []
    for metric in metrics:
        x, y = metric_and_damage(records, hurt, metric, outcome, methods)
        for method in methods:
            pair = pd.DataFrame({"value": x[method], "damage": y[method]}).reset_index()
            tables.append(pair.assign(metric=metric, outcome=outcome, method=method))
    return pd.concat(tables, ignore_index=True)


@styled
def damage_scatter(points: pd.DataFrame) -> Figure:
    """The answer's damage against each metric: a faint dot per sequence and method, a large marker per mean.

    points   of `damage_points`. The y axis ends at the 99th percentile of the dots and says how many lie above.
    """
    about = METRICS[points["outcome"].iloc[0]]
    figure, axes = panels(points["metric"].nunique(), height=3.6)
    for ax, (metric, table) in zip(axes, points.groupby("metric", sort=False), strict=True):
        for method, mine in table.groupby("method", sort=False):
            style = look(method)
            ax.plot(mine["value"], mine["damage"], style.marker, color=style.colour, alpha=0.25, markersize=3,
                    markeredgewidth=0.5, rasterized=len(mine) > 500)  # fmt: skip
            both = mine.dropna(subset=["value", "damage"]).set_index([c for c in ("sequence", "document") if c in mine])
            across, up = (interval(both[axis], documents_of(both)) for axis in ("value", "damage"))
            ax.hlines(up.estimate, across.low, across.high, color=style.colour, zorder=4)
            ax.vlines(across.estimate, up.low, up.high, color=style.colour, zorder=4)
            cross = style.marker == "x"
            ax.plot(across.estimate, up.estimate, style.marker, color=style.colour, zorder=5, label=brief(method),
                    markersize=12 if style.marker == "*" else 8, markeredgewidth=2 if cross else 0.8,
                    markeredgecolor=style.colour if cross else "white")  # fmt: skip
        low, high = np.nanpercentile(table["damage"], [0, 99])
        ax.set_ylim(min(low, 0) - 0.04 * (high - low), high + 0.04 * (high - low))
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set(xlabel=f"{METRICS[metric].label}   {METRICS[metric].direction}", ylabel=about.axis)
        above = int((table["damage"] > ax.get_ylim()[1]).sum())
        if above:
            ax.text(0.99, 0.985, f"{above} dot{'s' * (above > 1)} above this axis", transform=ax.transAxes, ha="right",
                    va="top", fontsize=SMALL, color=GREY)  # fmt: skip
    axes[-1].legend(loc="upper left", bbox_to_anchor=(-0.1, -0.2), ncols=4)
    measured = points.dropna(subset="damage")["sequence"].nunique()
    headline(figure, "Damage to the answer against what the metrics see", measured)
    return figure


# --- rules side by side --------------------------------------------------------------------------------------------


def rules(run: Any, metrics: Sequence[str] = PRIMARY, budget: float = 0.1) -> pd.DataFrame:
    """Every rule of a needle run at one budget: columns method, rule, found (share of all), low, high, the metrics."""
    table = found(run)
    table = table[(table["depth"] == EVERY) & (table["budget"] == budget)].set_index("method")
    seen = beside(run, table.index, metrics)
    return table[["rule", "estimate", "low", "high"]].rename(columns={"estimate": "found"}).join(seen).reset_index()


@styled
def rules_figure(table: pd.DataFrame, named: Mapping[str, str]) -> Figure:
    """Share of the codes found against each metric: a marker per rule, in the look of the method it is a variant of.

    table  of `rules`
    named  rule -> the text beside its marker; only the first panel, which has the room, names variants
    """
    metrics = [name for name in table if name in METRICS]
    figure, axes = panels(len(metrics), height=3.1)
    for ax, name in zip(axes, metrics):
        worst, best = (table[name].min(), table[name].max())[:: METRICS[name].sign]
        for row in table.itertuples():
            x, style = getattr(row, name), look(row.rule.partition(",")[0])
            ax.vlines(x, row.low, row.high, color=style.colour, linewidth=0.8, alpha=0.5)
            ax.plot(x, row.found, style.marker, color=style.colour, markersize=10 if style.marker == "*" else 7)
            if row.rule in named and (ax is axes[0] or "," not in row.rule):
                right = (x - worst) / (best - worst) > 0.6
                ax.annotate(
                    named[row.rule], (x, row.found), xytext=(-8 if right else 8, 4), textcoords="offset points",
                    ha="right" if right else "left", fontsize=SMALL, color=GREY,
                )  # fmt: skip
        if METRICS[name].sign < 0:
            ax.invert_xaxis()  # better is to the right in every panel
        ax.set(xlabel=f"{METRICS[name].label}: better to the right", ylabel="Share of codes found", ylim=(-0.05, 1.05))
        ax.xaxis.set_major_locator(MaxNLocator(6))
    headline(figure, f"What a metric says of {len(table)} rules, and what the model finds")
    return figure
