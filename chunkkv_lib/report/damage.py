"""Could a metric have told what happens to the answer? Differences against differences, and rules side by side."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .records import METRICS, PAIRS, PRIMARY, metric_and_damage
from .statistics import rank_correlation
from .style import GREY, SMALL, headline, look, panels, styled
from .tables import MISSING, myst_table, number

NLL = "nll_increase"


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
                right = (gain * less).dropna().gt(0).mean()
                row = {"metric": metric, "outcome": outcome, "method": method, "baseline": baseline}
                rows.append(row | vars(rank_correlation(gain, less)) | {"right": right})
    return pd.DataFrame(rows)


def pairwise_table(found: Mapping[str, pd.DataFrame], caption: str, name: str = "") -> str:
    """`pairwise` of several runs side by side, for one pair of methods: a row per metric and outcome."""
    columns = {}
    for label, table in found.items():
        texts = [f"{number(row, 2)}, n = {row.n}" for row in table.itertuples()]
        columns[label] = pd.Series(texts, pd.MultiIndex.from_frame(table[["metric", "outcome"]]))
    table = pd.DataFrame(columns).fillna(MISSING).sort_index(key=lambda names: names.map(list(METRICS).index))
    labels = [tuple(METRICS[name].label for name in names) for names in table.index]
    table.index = pd.MultiIndex.from_tuples(labels, names=["Definition", "Damage"])
    return myst_table(table.reset_index(), caption, name, right=list(columns))


@styled
def rules_figure(table: pd.DataFrame, named: Mapping[str, str]) -> Figure:
    """Share of the codes found against each metric: a marker per rule, in the look of the method it is a variant of.

    table  of `answers.rules`, of one budget
    named  rule -> the text beside its marker; only the first panel, which has the room, names variants
    """
    metrics = [name for name in table if name in METRICS]
    figure, axes = panels(len(metrics), height=3.1)
    for ax, name in zip(axes, metrics):
        worst, best = (table[name].min(), table[name].max())[:: METRICS[name].sign]
        for row in table.itertuples():
            x, style = getattr(row, name), look(row.rule.partition(",")[0])
            ax.vlines(x, row.low, row.high, color=style.colour, linewidth=0.8, alpha=0.5)
            size = 10 if style.marker == "*" else 7
            ax.plot(x, row.estimate, style.marker, color=style.colour, markersize=size, clip_on=False)
            if row.rule in named and (ax is axes[0] or "," not in row.rule):
                right = (x - worst) / (best - worst) > 0.6
                ax.annotate(  # a variant's name above its marker, a method's below
                    named[row.rule], (x, row.estimate), xytext=(-7 if right else 7, 5 if "," in row.rule else -11),
                    textcoords="offset points", ha="right" if right else "left", fontsize=SMALL, color=GREY,
                )  # fmt: skip
        if METRICS[name].sign < 0:
            ax.invert_xaxis()  # better is to the right in every panel
        else:
            ax.set_xlim(right=1)  # no cosine is larger
        ax.set(xlabel=f"{METRICS[name].label}: better to the right", ylabel="Share of codes found", ylim=(-0.13, 1.05))
        ax.xaxis.set_major_locator(MaxNLocator(6))
    headline(figure, f"What a metric says of {len(table)} rules, and what the model finds")
    return figure
