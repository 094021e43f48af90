"""Every recorded definition of the two metrics: how far apart they are, and how each ranks the methods."""

from itertools import pairwise
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import rankdata

from .records import CONTROLS, DEFINITIONS, METHODS, METRICS, choose, sequence_means
from .statistics import interval
from .style import INK, SMALL, brief, dots_figure, headline, legible, look, panels, styled, text_on

SIZES, ATTENTION = "look at sizes", "look at attention"  # keys and values, or what queries see


def definition_ranks(records: pd.DataFrame, category: str | None = None) -> pd.DataFrame:
    """Rank of each method (1 best) under every recorded definition that holds values.

    category  one row of Table 11, or None for all sequences together
    return    columns metric, family, method, rank, estimate, low, high, n, tied: not distinguishable from the next
              better method, whose paired 95 % interval to it contains zero
    """
    chosen, rows = choose(records, category), []
    methods = [name for name in METHODS + CONTROLS if name in set(chosen["method"])]
    for metric in [name for name in DEFINITIONS if name in chosen and chosen[name].notna().any()]:
        wide, sign = sequence_means(chosen, metric)[methods], METRICS[metric].sign
        family = SIZES if metric.startswith(("kv_", "key_", "value_")) else ATTENTION
        worth = -sign * wide.mean().to_numpy()
        order, tied = np.argsort(worth, kind="stable"), np.zeros(len(methods), dtype=bool)
        for better, worse in pairwise(order):
            tied[worse] = not interval(wide.iloc[:, better] - wide.iloc[:, worse]).excludes(0)
        for method, rank, same in zip(methods, rankdata(worth, method="min"), tied, strict=True):
            row = {"metric": metric, "family": family, "method": method, "rank": int(rank)}
            rows.append(row | vars(interval(wide[method])) | {"tied": bool(same)})
    return pd.DataFrame(rows)


@styled
def ranks_figure(ranks: pd.DataFrame, subject: str = "All sequences") -> Figure:
    """Rank of each method under every definition, a block for each family; ranks: of `definition_ranks`."""
    methods, definitions = list(ranks["method"].unique()), list(ranks["metric"].unique())
    shades = sns.color_palette("Blues_r", len(methods) + 3)[1:]  # of rank 1, 2, ...
    figure, (ax,) = panels(height=0.36 * len(definitions) + 1.4)
    ranks = ranks.assign(text=ranks["rank"].astype(str) + ranks["tied"].map({True: "=", False: ""}))
    table = ranks.pivot(index="metric", columns="method").loc[definitions]
    cells, texts = (table[name][methods].to_numpy() for name in ("rank", "text"))
    sns.heatmap(cells, ax=ax, annot=texts, fmt="", annot_kws={"fontsize": 10, "fontweight": "bold"}, cbar=False,
                cmap=shades[: len(methods)], vmin=0.5, vmax=len(methods) + 0.5, linewidths=1.5,
                linecolor="white")  # fmt: skip
    for text, rank in zip(ax.texts, cells.ravel(), strict=True):
        text.set_color(text_on(shades[rank - 1]))
    sizes = (ranks.drop_duplicates("metric")["family"] == SIZES).sum()
    if 0 < sizes < len(definitions):
        ax.axhline(sizes, color=INK, linewidth=1.5)
    labels = [fill(METRICS[d].label, 32) for d in definitions]
    ax.set_yticks(np.arange(len(definitions)) + 0.5, labels, rotation=0, fontsize=SMALL)
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(len(methods)) + 0.5, map(brief, methods), rotation=35, ha="left", fontsize=10)
    for tick, method in zip(ax.get_xticklabels(), methods, strict=True):
        tick.set_color(legible(look(method).colour))
    ax.tick_params(length=0)
    note = "1 is best. “=”: not distinguishable from the next better.\nAbove the line: sizes. Below: attention."
    headline(figure, subject, int(ranks["n"].max()), note)
    return figure


@styled
def cosines_figure(ranks: pd.DataFrame, band: tuple[float, float], subject: str = "All sequences") -> Figure:
    """Every recorded cosine of the three methods and two controls; ranks: of `definition_ranks`, band: the paper's."""
    cosines = ranks[ranks["metric"].str.contains("cosine") & ranks["method"].isin([*METHODS, "Random", "Oracle"])]
    cosines = cosines.assign(row=[METRICS[metric].label for metric in cosines["metric"]], source="")
    subject = f"{subject}, n = {cosines['n'].max()} sequences\nBand: all cosines of Paper Table 11."
    figure = dots_figure.__wrapped__({"Mean over layers, then over sequences": cosines}, subject, spacing=0.1)
    figure.axes[0].axvspan(*band, color="#882255", alpha=0.18, linewidth=0)
    figure.axes[0].set_xlim(0, 1)
    return figure
