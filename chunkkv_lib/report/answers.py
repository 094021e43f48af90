"""What the model still answers from a compressed cache: the codes that it finds."""

from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .plan import column
from .records import METRICS, PRIMARY, sequence_means
from .statistics import interval
from .style import SMALL, bare, brief, headline, panels, styled, text_on

FULL = "Full"
EVERY = "all"


def found(run: Any, by: str = "", methods: Iterable[str] | None = None) -> pd.DataFrame:
    """Hidden codes that the model finds from every cache, by one of their settings and in all.

    by       "depth", "answer_tokens" or "form"; "": only in all
    methods  labels of the records, in the order wanted; None: every cache of the run
    return   a row per method and value, EVERY last: columns method, rule (the label without its budget), budget (NaN
             for the full cache), `by`, hits, estimate (share found), low, high (95 %, documents resampled), n
    """
    scores, needles = column(run, "score", run.answers["method"].unique() if methods is None else list(methods))
    budgets = {name: method.budget for name, method in run.parameters.compressors.items()}
    rows = []
    settings = needles.groupby(by, sort=True).groups.items() if by else ()
    for value, ids in [*settings, (EVERY, needles.index)]:
        for method, mine in scores.loc[ids].items():
            about = {"method": method, "rule": method.partition(", budget")[0], "budget": budgets.get(method)}
            share = vars(interval(mine, needles.loc[ids, "document"]))
            rows.append(about | {by: value, "hits": int(mine.sum())} | share)
    return pd.DataFrame(rows)


def rules(run: Any, metrics: Sequence[str] = PRIMARY) -> pd.DataFrame:
    """Every cache of a run of needles: the rows of `found` for all codes, and beside them the means of metrics."""
    table = found(run).drop(columns="")
    return table.join(beside(run, table["method"], metrics), on="method")


def beside(run: Any, methods: Iterable[str], metrics: Sequence[str] = PRIMARY) -> pd.DataFrame:
    """Means of metrics over a run, a row per method, to stand beside what it finds; the full cache has none (NaN)."""
    return pd.DataFrame({name: sequence_means(run.records, name).mean() for name in metrics}).reindex(list(methods))


@styled
def needle_map(table: pd.DataFrame, axis: str, metrics: pd.DataFrame | None = None) -> Figure:
    """A row per cache, a column per setting of the codes: how many were found, as a count and as a shade.

    table    of `found`
    axis     what the columns are, in words
    metrics  of `beside`: further columns, from white for the worst value to orange for the best, as that metric sees it
    """
    by, methods = table.columns[3], list(table["method"].unique())
    values = list(table[by].unique())
    metrics = pd.DataFrame(index=methods) if metrics is None else metrics.reindex(methods)
    # a gap stands before the column of all codes, and another one before the metrics
    places = [*range(len(values) - 1), len(values) - 0.75]
    aside = [len(values) + 0.95 + 1.8 * k for k in range(metrics.shape[1])]
    figure, (ax,) = panels(height=0.33 * len(methods) + 1.3)
    cells = []  # x, y, text, share of the full colour, colours, width
    for row in table.itertuples(index=False):
        x, y = places[values.index(row[3])], methods.index(row.method)
        cells.append((x, y, str(row.hits), row.estimate, "Blues", 0.96))
    for x, (name, of_method) in zip(aside, metrics.items()):
        worst, best = (of_method.min(), of_method.max())[:: METRICS[name].sign]
        for y, value in enumerate(of_method):
            if not np.isnan(value):
                cells.append((x, y, f"{value:.3f}", (value - worst) / (best - worst), "Oranges", 1.74))
    for x, y, text, share, colours, width in cells:
        colour = mpl.colormaps[colours](0.9 * share)
        ax.add_patch(Rectangle((x - width / 2, y - 0.46), width, 0.92, facecolor=colour, edgecolor="#c8c8c8"))
        ax.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=text_on(colour[:3]))
    texts = [f"{100 * value:.0f}" if by == "depth" and value != EVERY else str(value) for value in values]
    texts += [METRICS[name].short for name in metrics]
    ax.set_xticks([*places, *aside], [fill(text, 6, break_long_words=False) for text in texts], fontsize=SMALL)
    ax.set_yticks(range(len(methods)), [brief(name.replace("chunk_size", "chunks of")) for name in methods])
    ax.set(xlim=(-0.5, [*places, *aside][-1] + 0.9), ylim=(len(methods) - 0.5, -0.5))
    ax.set_xlabel(fill(axis, 44), fontsize=SMALL)
    bare(ax)
    each = " to ".join(map(str, np.unique(table.loc[table[by] != EVERY, "n"].agg(["min", "max"]))))
    note = "Orange: the stronger, the better by that metric" if aside else ""
    headline(figure, f"Codes found, of {each} in a column and {table['n'].max()} in all", note=note)
    return figure
