"""The start page: what each rule still finds, beside what the two metrics say of the same caches."""

from collections.abc import Iterable
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import answers
from .claims import relative_gap
from .damage import NLL
from .records import CONTROLS, METHODS, METRICS, PRIMARY, damage, draws, metric_and_damage, sequence_means
from .statistics import smallest_margin, within_sequence_rank_correlation
from .style import INK, SMALL, look, panels, styled
from .tables import MISSING, myst_table

RULES = {
    "Full": "Full cache",
    "Oracle": "Oracle: knows the answer",
    "ChunkKV, chunk_size 40": "ChunkKV, chunks of 40",
    "SnapKV, kernel 25": "SnapKV, pooled over 25",
    "ChunkKV": "ChunkKV, chunks of 10",
    "SnapKV": "SnapKV, pooled over 7",
    "StreamingLLM": "StreamingLLM: start and end",
    "H2O": "H2O",
    "Random": "Random choice",
}


def rules(run: Any) -> pd.DataFrame:
    """The rows of `answers.rules` that the start page names (RULES), the one that finds most first, `rule` in words."""
    table = answers.rules(run)
    table = table[table["method"].isin(RULES)].assign(rule=table["method"].map(RULES))
    return table.sort_values("hits", ascending=False, kind="stable").reset_index(drop=True)


def everywhere(runs: Iterable[Any]) -> pd.DataFrame:
    """What holds in every run, a row each.

    return  columns run; behind: how many of the three methods a random choice beats by L1 loss; lead_l1, lead_cosine:
            ChunkKV against SnapKV in per cent, mean of the rows; alike: nats within which their answers suffer alike;
            random: what a random choice costs, nats per token; order_l1, order_cosine: how each metric ranks the
            three methods and four controls within a sequence, as a rank correlation with the damage, turned so that 1
            is the right order
    """
    rows = []
    for run in runs:
        means, hurt = sequence_means(run.records, PRIMARY[0]).mean(), damage(run.answer_records)
        wide = sequence_means(hurt, NLL)
        row = {"run": run.name, "behind": int((means[list(METHODS)] > means["Random"]).sum())}
        for metric, short in zip(PRIMARY, ("l1", "cosine")):
            row[f"lead_{short}"] = relative_gap(draws(run.records, metric, METHODS)[0], METHODS[:2])[0]
            seven = [method for method in (*METHODS, *CONTROLS) if method in wide]
            order = within_sequence_rank_correlation(*metric_and_damage(run.records, hurt, metric, NLL, seven))
            row[f"order_{short}"] = -METRICS[metric].sign * order.estimate
        row["alike"] = smallest_margin((wide["ChunkKV"] - wide["SnapKV"]).dropna())
        rows.append(row | {"random": wide["Random"].mean()})
    return pd.DataFrame(rows)


def editions(first: pd.DataFrame, now: pd.DataFrame, needles: Any) -> pd.DataFrame:
    """The start page's numbers in the first edition and now, as columns Run, Quantity, First edition, Now.

    first  columns run, quantity, value, says, as recorded then; of the run "needles" the quantity is a method
    now    of `everywhere`; quantities and runs that one of the two lacks are left out
    """
    values = now.set_index("run").rename_axis("quantity", axis=1).stack()
    shares = needles.answers.groupby("method")["score"].mean()
    rows = []
    for run, quantity, value, says in first[["run", "quantity", "value", "says"]].itertuples(index=False):
        if run == "needles" and quantity in shares:
            rows.append((needles.name, says, value, shares[quantity]))
        elif (run, quantity) in values.index:
            rows.append((run, says, value, float(values[run, quantity])))
    return pd.DataFrame(rows, columns=["Run", "Quantity", "First edition", "Now"])


def rules_table(found: pd.DataFrame, caption: str, name: str = "") -> str:
    """`rules` as a table: a row per rule."""
    texts = {
        METRICS[metric].header: [MISSING if np.isnan(value) else f"{value:.3f}" for value in found[metric]]
        for metric in PRIMARY
    }
    table = pd.DataFrame({"What stays": found["rule"], f"Codes found of {found['n'].max()} ↑": found["hits"], **texts})
    return myst_table(table, caption, name, right=table.columns[1:])


@styled
def rules_figure(found: pd.DataFrame) -> Figure:
    """A bar per rule for what it finds; beside it both metrics of the same caches, on their full axes."""
    figure, axes = panels(1, 3, height=0.38 * len(found) + 0.9, sharey=True, width_ratios=(1.2, 1, 1))
    for y, row in enumerate(found.itertuples()):
        style = look(row.method.partition(",")[0])
        axes[0].barh(y, row.estimate, height=0.62, color=style.colour)
        axes[0].text(row.estimate + 0.02, y, str(row.hits), va="center", fontsize=SMALL, color=INK)
        for ax, metric in zip(axes[1:], PRIMARY):
            ax.plot(getattr(row, metric), y, style.marker, color=style.colour, markersize=7, clip_on=False)
    axes[0].set_yticks(range(len(found)), [fill(rule, 16) for rule in found["rule"]], fontsize=SMALL)
    axes[0].set(xlim=(0, 1.12), xticks=[], ylim=(len(found) - 0.5, -0.5))
    axes[0].set_title(f"Found of {found['n'].max()} ↑", fontsize=SMALL + 1)
    for ax, title in zip(axes[1:], ("L1 loss ↓", "cosine ↑")):
        ax.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
        ax.set_title(title, fontsize=SMALL + 1)
    for ax in axes:
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
    return figure
