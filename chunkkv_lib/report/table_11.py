"""Paper Table 11: the paper's values beside each run's, ChunkKV's lead in per cent, and where a random choice stands.

One table, `side_by_side`, is what a page prints, draws and offers as CSV.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .records import CONTROLS, METHODS, METRICS, PAIRS, PRIMARY, choose, sequence_means
from .statistics import interval
from .style import PAPER, dots_figure, styled
from .tables import MISSING, budget_text, data_source, minus, myst_table, number, row_name

PAPER_SETTING = "Llama-3-8B-Instruct, LongBench, 100 sequences per row, 10 % kept, from a detailed reading note"
COLUMNS = ["source", "category", "method", "metric", "estimate", "low", "high", "n", "lead", "lead_low", "lead_high"]
HERE = "Here"


def side_by_side(paper: pd.DataFrame, run: Any, methods: Sequence[str] | None = None) -> pd.DataFrame:
    """The paper's values and a run's means, and by how much ChunkKV's mean differs from the method's.

    paper   of `paper_table_11`; run: `load_run(...)`; methods None: all, the compared ones first
    return  columns source ("Paper" or "Here"), category, method, metric, estimate, low, high, n, then lead, lead_low,
            lead_high: ChunkKV's mean less the method's in per cent of the method's, paired by sequence. For SnapKV and
            H2O, otherwise NaN.
    """
    rows = []
    for metric in PRIMARY:
        for category, group in paper.groupby("category", sort=False):
            values = group.set_index("method")[metric]
            for method, value in values.items():
                row = {"source": PAPER, "category": category, "method": method, "metric": metric, "estimate": value}
                lead = 100 * (values["ChunkKV"] - value) / value if ("ChunkKV", method) in PAIRS else np.nan
                rows.append(row | {"n": 0, "lead": lead})
        for category, group in run.records.groupby("category", sort=False):
            wide = sequence_means(group, metric)
            for method in wide:
                row = {"source": HERE, "category": category, "method": method, "metric": metric}
                row |= vars(interval(wide[method]))
                if ("ChunkKV", method) in PAIRS and "ChunkKV" in wide:
                    lead = interval(100 * (wide["ChunkKV"] - wide[method]) / wide[method].mean())
                    row |= {"lead": lead.estimate, "lead_low": lead.low, "lead_high": lead.high}
                rows.append(row)
    found = choose(pd.DataFrame(rows, columns=COLUMNS), methods=methods)
    found["turn"] = found["method"].map([*METHODS, *CONTROLS, *found["method"]].index)
    found = found.sort_values(["turn", "source"], ascending=[True, False], kind="stable")
    return found.drop(columns="turn").reset_index(drop=True)


def table_11(found: pd.DataFrame, run: Any) -> str:
    """Paper Table 11: a row per category and method, the paper's values beside the run's means and intervals.

    found  of `side_by_side`; bold: the best of the three methods in its column, equal at the printed digits included
    run    for the caption, which names its model, data and budget
    """
    rows = []
    for (category, method), group in found.groupby(["category", "method"], sort=False):
        row: dict[str, Any] = {"Sub-category": category, "Method": row_name(method)}
        for source in (PAPER, HERE):
            for metric in PRIMARY:
                column = found[(found["source"] == source) & (found["metric"] == metric)]
                cell = group.loc[group.index.intersection(column.index)]
                text = number(next(cell.itertuples())) if len(cell) else MISSING
                rivals = column[(column["category"] == category) & column["method"].isin(METHODS)]["estimate"].round(4)
                best = (rivals if METRICS[metric].sign > 0 else -rivals).max() * METRICS[metric].sign
                bold = len(rivals) > 1 and method in METHODS and len(cell) and cell["estimate"].round(4).iloc[0] == best
                row[f"{source}: {METRICS[metric].short}"] = f"**{text}**" if bold else text
        rows.append(row | {"n": group["n"].max()})
    order = list(found["category"].unique())
    table = pd.DataFrame(rows).sort_values("Sub-category", key=lambda names: names.map(order.index), kind="stable")
    model, budget = run.manifest.get("model", {}).get("name"), run.manifest.get("parameters", {}).get("budget")
    caption = (
        "Paper Table 11. Mean over layers, then over sequences, with 95 % bootstrap interval over documents. L1 loss: "
        f"lower is better, attention cosine: higher. Bold: best of the three. {MISSING}: not measured. {PAPER}: "
        f"{PAPER_SETTING}. {HERE}: {model}, data {data_source(run.manifest)}, budget {budget_text(budget)}."
    )
    return myst_table(table, caption, "tab-11", right=table.columns[2:])


#: Settings that the paper's text leaves open -> what is added to the labels of ChunkKV, SnapKV and H2O in a sensitivity
#: run. None: that method is not part of the change.
SETTINGS: dict[str, tuple[str | None, str | None, str | None]] = {
    "as in this book": ("", "", ""),
    **{f"window {w}": (f", window {w}",) * 3 for w in (4, 16, 32)},
    **{f"SnapKV's kernel {k}": ("", f", kernel {k}", None) for k in (1, 5, 15)},
    **{f"chunks of {size}": (f", chunk_size {size}", "", "") for size in (5, 20)},
    "one set per query head": (", granularity query_head",) * 3,
    "one set per layer": (", granularity layer",) * 3,
    "H2O's sums without the causal mask": ("", None, ", causal False"),
}


def leads_by_setting(records: pd.DataFrame) -> pd.DataFrame:
    """ChunkKV's mean against the other two's under each of SETTINGS, all sequences together.

    records  of a sensitivity run
    return   columns setting, baseline, metric, lead (per cent of the other's mean), low, high, clear (it excludes zero)
    """
    means, rows = {metric: sequence_means(records, metric) for metric in PRIMARY}, []
    for setting, (ours, *others) in SETTINGS.items():
        for baseline, other in zip(METHODS[1:], others, strict=True):
            for metric, wide in means.items() if other is not None else ():
                a, b = wide[f"ChunkKV{ours}"], wide[f"{baseline}{other}"]
                lead = interval(100 * (a - b) / b.mean())
                row = {"setting": setting, "baseline": baseline, "metric": metric, "lead": lead.estimate}
                rows.append(row | {"low": lead.low, "high": lead.high, "clear": bool(lead.excludes(0))})
    return pd.DataFrame(rows)


def settings_table(leads: pd.DataFrame, caption: str, name: str) -> str:
    """A row per setting, a column per metric and method; bold: clearly not the paper's order. leads: `leads_by_setting`

    "=": not distinguishable from none.
    """
    rows: dict[str, dict[str, str]] = {}
    for one in leads.itertuples():
        text = minus(f"{one.lead:+.2f}") + ("" if one.clear else " =")
        against = one.clear and np.sign(one.lead) != METRICS[one.metric].sign
        column = f"{METRICS[one.metric].short}, against {one.baseline}"
        rows.setdefault(one.setting, {"Setting": one.setting})[column] = f"**{text}**" if against else text
    table = pd.DataFrame(rows.values()).fillna(MISSING)
    return myst_table(table, caption, name, right=table.columns[1:])


def leads_figure(found: pd.DataFrame) -> Figure:
    """ChunkKV's lead over the other two in every row of the table: hollow the paper's; found: of `side_by_side`."""
    rows = found.dropna(subset="lead")
    rows = rows.drop(columns=["estimate", "low", "high"]).assign(method="ChunkKV − " + rows["method"])
    rows = rows.rename(columns={"category": "row", "lead": "estimate", "lead_low": "low", "lead_high": "high"})
    drawn = {
        f"Difference in {METRICS[metric].short}, % of the other's mean\n{METRICS[metric].direction}": table
        for metric, table in rows.groupby("metric", sort=False)
    }
    return dots_figure(drawn, "ChunkKV against the other two", zero="no difference", spacing=0.12)


@styled
def ruler(found: pd.DataFrame) -> Figure:
    """Where the paper's and a run's methods stand on each metric's scale, and where a random choice does.

    found  of `side_by_side`, one run with the method Random. Markers: means of the rows; bars: from the lowest row to
           the highest. Hollow: the paper's.
    """
    spans = found.groupby(["metric", "method", "source"], sort=False)["estimate"].agg(["mean", "min", "max"])
    spans = spans.set_axis(["estimate", "low", "high"], axis=1).reset_index().assign(row=lambda table: table["method"])
    drawn = {METRICS[metric].axis: table for metric, table in spans.groupby("metric", sort=False)}
    random = [table.loc[table["method"] == "Random", "estimate"].item() for table in drawn.values()]
    subject = "Means of the five rows of Paper Table 11; bars: from row to row.\nThe upper axis does not start at 0."
    figure = dots_figure.__wrapped__(drawn, subject, "a random choice", random, spacing=0.1)
    figure.axes[1].set_xlim(0, 1)  # of a cosine
    return figure
