"""What a rule's reach finds, by the answer's length; and what is left when the question comes after the compression."""

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..runs.answers import same_start
from .answers import EVERY, FULL, found
from .plan import REACHES, column
from .statistics import interval
from .style import GREY, INK, SMALL, headline, line_panel, look, panels, styled


def reaches(run: Any, budget: float) -> dict[str, tuple[str, int]]:
    """Labels of the rules that differ in reach, at a budget that the run has: label -> (family, reach)."""
    suffix = "" if budget == run.parameters.budget else f", budget {budget}"
    return {f"{label}{suffix}": (name, reach) for name, rules in REACHES.items() for label, reach in rules.items()}


def along_reach(run: Any, budget: float = 0.1) -> pd.DataFrame:
    """Codes found by chunk size and by pooling kernel: the rows of `found`, with columns family and reach (tokens).

    Rows of the family FULL are the full cache's; their reach is 0.
    """
    rules = reaches(run, budget)
    table = found(run, "answer_tokens", [FULL, *rules])
    family, reach = zip(*(rules.get(method, (FULL, 0)) for method in table["method"]))
    return table.assign(family=family, reach=reach)


@styled
def reach_figure(table: pd.DataFrame, note: str = "") -> Figure:
    """Share of codes found against reach: a panel per length of the code, a line per family of rules.

    table  of `along_reach`. The dotted line stands at the code's length, the dashed one at what the full cache finds.
    """
    lengths = [length for length in table["answer_tokens"].unique() if length != EVERY]
    figure, axes = panels(2, (len(lengths) + 1) // 2, height=2.5, sharex=True, sharey=True)
    for ax, length in zip(axes, lengths):
        here = table[table["answer_tokens"] == length]
        line_panel(ax, here[here["family"] != FULL], "reach", "family")
        ax.axhline(here.loc[here["family"] == FULL, "estimate"].item(), color=INK, linestyle="--", linewidth=1)
        ax.axvline(length, color=GREY, linestyle=":", linewidth=1.2)
        ax.set_xscale("log")
        ticks = [1, 2, 5, 10, 20, 40]
        ax.set_xticks(ticks, ticks)
        ax.minorticks_off()
        ax.set_title(f"codes of {length} tokens", fontsize=SMALL)
        ax.set_ylim(-0.04, 1.04)
    figure.supxlabel("Reach: tokens of a chunk (ChunkKV), of the kernel (SnapKV)", fontsize=SMALL)
    figure.supylabel("Share of codes found", fontsize=SMALL)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="upper right", ncols=2, borderpad=0, borderaxespad=0.3)
    headline(figure, "Found by reach", note=note)
    return figure


def asked(run: Any, name: str = "nll") -> pd.DataFrame:
    """A column of a run of second questions, by method and by what the window saw.

    name    of an answer's column: the difference from the full cache under the same window; of a layers' column: itself
    return  a row per method and window: columns method, asks, estimate, low, high (documents resampled), n
    """
    in_answers = name in run.answers
    values, sequences = column(run, name, (run.answers if in_answers else run.layers)["method"].unique())
    if in_answers:
        values = values.drop(columns=FULL).sub(values[FULL], axis=0)
    rows = []
    for ask in run.parameters.asks:
        ids = sequences.index[sequences["category"] == ask]
        for method in values:
            about = {"method": method, "asks": ask}
            rows.append(about | vars(interval(values.loc[ids, method], sequences.loc[ids, "document"])))
    return pd.DataFrame(rows)


def right_digits(run: Any, budget: float = 0.1) -> pd.DataFrame:
    """How far a code is written rightly: a row per rule of `REACHES` and code that the full cache finds.

    return  columns sequence, family, reach, answer_tokens, right (digits before the first wrong one)
    """
    scores, needles = column(run, "score", [FULL])
    written = run.answers.set_index(["sequence", "method"])["written"].str.strip().unstack("method")
    rows = []
    for sequence, text in written.loc[scores.index[scores[FULL] == 1], FULL].items():
        code = re.match(r"\d+", text).group()
        for label, (family, reach) in reaches(run, budget).items():
            right = same_start(code, written.loc[sequence, label])
            rows.append((sequence, family, reach, needles.loc[sequence, "answer_tokens"], right))
    return pd.DataFrame(rows, columns=["sequence", "family", "reach", "answer_tokens", "right"])


@styled
def digits_figure(table: pd.DataFrame) -> Figure:
    """Right digits against reach, a panel per family: a dot per code, a line through the medians.

    table  of `right_digits`, codes of one length. The broad grey line is half the reach and one, (reach + 1) / 2.
    """
    figure, axes = panels(1, 2, height=3.4, sharey=True)
    length, draw = table["answer_tokens"].max(), np.random.default_rng(0)
    for ax, (family, mine) in zip(axes, sorted(table.groupby("family"), reverse=True)):
        style, middle = look(family), mine.groupby("reach")["right"].median()
        ax.plot([min((reach + 1) / 2, length) for reach in middle.index], color="#cccccc", linewidth=7)
        for x, reach in enumerate(middle.index):
            dots = mine.loc[mine["reach"] == reach, "right"]
            jitter = draw.uniform(-0.22, 0.22, (2, len(dots)))
            ax.plot(x + jitter[0], dots + jitter[1], style.marker, color=style.colour, alpha=0.3, markersize=4)
        ax.plot(middle.to_numpy(), style.marker, linestyle="-", color=style.colour, markersize=7)
        ax.set_xticks(range(len(middle)), middle.index)
        ax.set(xlabel=f"{family}: {'kernel' if family == 'SnapKV' else 'chunk'}", ylim=(-0.7, length + 0.7))
        ax.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes[0].set_ylabel(f"Right digits of {length}")
    headline(figure, f"How far {table['sequence'].nunique()} codes are written rightly; grey: half the reach")
    return figure
