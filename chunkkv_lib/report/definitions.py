"""Every recorded definition of the two metrics: how far apart they are, and how each ranks the methods."""

from __future__ import annotations

from itertools import pairwise
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import rankdata

from .records import CONTROLS, DEFINITIONS, METHODS, METRICS, choose, sequence_means
from .statistics import interval
from .style import INK, SMALL, brief, headline, legible, look, panels, styled, text_on

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
    cells = ranks.pivot(index="metric", columns="method", values="rank").loc[definitions, methods]
    sns.heatmap(cells.to_numpy(), ax=ax, cmap=shades[: len(methods)], vmin=0.5, vmax=len(methods) + 0.5, cbar=False,
                linewidths=1.5, linecolor="white")  # fmt: skip
    for cell in ranks.itertuples():
        ax.text(methods.index(cell.method) + 0.5, definitions.index(cell.metric) + 0.5,
                f"{cell.rank}{' =' if cell.tied else ''}", ha="center", va="center", fontsize=10, fontweight="bold",
                color=text_on(shades[cell.rank - 1]))  # fmt: skip
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
    methods = [method for method in (*METHODS, "Random", "Oracle") if method in set(ranks["method"])]
    cosines = ranks[ranks["metric"].str.contains("cosine") & ranks["method"].isin(methods)]
    rows = list(cosines["metric"].unique())
    figure, (ax,) = panels(height=0.44 * len(rows) + 1.3)
    ax.axvspan(*band, color="#882255", alpha=0.18, linewidth=0)
    for place, (method, table) in enumerate(cosines.groupby("method", sort=False)):
        y = [rows.index(metric) + 0.13 * (place - (len(methods) - 1) / 2) for metric in table["metric"]]
        ax.plot(table["estimate"], y, label=method, color=look(method).colour, marker=look(method).marker,
                linestyle="none", clip_on=False)  # fmt: skip
    ax.set_yticks(range(len(rows)), [fill(METRICS[metric].label, 32) for metric in rows], fontsize=SMALL)
    ax.set(xlabel="Mean over layers, then over sequences", xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(visible=False, axis="y")
    figure.legend(loc="outside lower left", ncols=len(methods), handletextpad=0.1, columnspacing=1)
    headline(figure, subject, int(cosines["n"].max()), "Band: all cosines of Paper Table 11.")
    return figure
