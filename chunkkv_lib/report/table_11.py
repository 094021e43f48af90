"""Paper Table 11: the paper's values beside each run's, ChunkKV's lead in per cent, and where a random choice stands.

One table, `side_by_side`, is what a page prints, draws and offers as CSV.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import InputError, unknown
from .records import CONTROLS, METHODS, METRICS, PAIRS, PRIMARY, averages, comparisons, sequence_means
from .statistics import Interval, interval
from .style import GREY, INK, PAPER, SMALL, dots_figure, headline, look, panels, say_start, styled
from .tables import MISSING, budget_text, data_source, minus, myst_table, number, row_name, tint

PAPER_SETTING = "Llama-3-8B-Instruct, LongBench, 100 sequences per row, 10 % kept, from a detailed reading note"
COLUMNS = ["source", "category", "method", "metric", "estimate", "low", "high", "n", "lead", "lead_low", "lead_high"]
NOTHING = Interval(np.nan, np.nan, np.nan, 0)


def side_by_side(
    paper: pd.DataFrame,
    runs: Mapping[str, Any],
    metrics: Sequence[str] = PRIMARY,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The paper's values and every run's means, and by how much ChunkKV's mean differs from the method's.

    paper   of `paper_table_11`; runs: label -> run with `.records`; methods None: all, the compared ones first
    return  columns source, category, method, metric, estimate, low, high, n, then lead, lead_low, lead_high: ChunkKV's
            mean less the method's in per cent of the method's, paired by sequence. For SnapKV and H2O, otherwise NaN.
    raises  InputError: a run labelled "Paper", a method that neither the paper nor a run has.
    """
    if PAPER in runs:
        raise InputError(f"a run cannot be labelled {PAPER!r}, which names the printed values: choose another label.")
    rows = []
    for metric in metrics:
        for category, group in paper.groupby("category", sort=False) if metric in paper else ():
            values = group.set_index("method")[metric]
            for method, value in values.items():
                row = {"source": PAPER, "category": category, "method": method, "metric": metric, "estimate": value}
                lead = 100 * (values["ChunkKV"] - value) / value if ("ChunkKV", method) in PAIRS else np.nan
                rows.append(row | {"n": 0, "lead": lead})
    for label, run in runs.items():
        for category, group in run.records.groupby("category", sort=False):
            for metric in metrics:
                wide = sequence_means(group, metric)
                for method in wide:
                    row = {"source": label, "category": category, "method": method, "metric": metric}
                    row |= vars(interval(wide[method]))
                    if ("ChunkKV", method) in PAIRS and "ChunkKV" in wide:
                        lead = interval(100 * (wide["ChunkKV"] - wide[method]) / wide[method].mean())
                        row |= {"lead": lead.estimate, "lead_low": lead.low, "lead_high": lead.high}
                    rows.append(row)
    found = pd.DataFrame(rows, columns=COLUMNS)
    measured = list(found["method"].unique())
    for method in methods or ():
        if method not in measured:
            raise unknown("method", method, measured)
    methods = [m for m in (*METHODS, *CONTROLS, *measured) if m in measured] if methods is None else methods
    return found[found["method"].isin(methods)].reset_index(drop=True)


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


def table_11(
    found: pd.DataFrame,
    runs: Mapping[str, Any],
    methods: Sequence[str] = METHODS,
    caption: str | None = None,
    name: str = "table-11",
) -> str:
    """Paper Table 11: a row per category and method, the paper's value beside each run's mean and interval.

    found    of `side_by_side`; both metrics fit a page beside one run
    runs     for the caption: label -> run with `.manifest`
    methods  among which the best in its column and category is bold, equal at the printed digits included
    """
    metrics, rows = list(found["metric"].unique()), []
    cells = {
        (row.source, row.category, row.method, row.metric): Interval(row.estimate, row.low, row.high, row.n)
        for row in found.itertuples()
    }
    sources, order = list(found["source"].unique()), dict.fromkeys([*methods, *found["method"]])
    for category in found["category"].unique():
        for method in order:
            row = {"Sub-category": category, "Method": row_name(method)}
            for source in sources:
                for metric in metrics:
                    sign, mine = METRICS[metric].sign, cells.get((source, category, method, metric), NOTHING)
                    rivals = [cells.get((source, category, m, metric), NOTHING).estimate for m in methods]
                    rivals = [sign * round(float(value), 4) for value in rivals if not np.isnan(value)]
                    best = len(rivals) > 1 and sign * round(float(mine.estimate), 4) == max(rivals)
                    text = number(mine)
                    row[f"{source}: {METRICS[metric].short}"] = f"**{text}**" if best and method in methods else text
                if source != PAPER:
                    row[f"{source}: n"] = max(cells.get((source, category, method, m), NOTHING).n for m in metrics)
            rows.append(row)
    table = pd.DataFrame(rows)
    return myst_table(table, caption or _caption(runs, metrics), name, right=table.columns[2:])


def _caption(runs: Mapping[str, Any], metrics: Sequence[str]) -> str:
    directions = ", ".join(f"{METRICS[name].short}: {METRICS[name].better} is better" for name in metrics)
    settings = [f"{PAPER}: {PAPER_SETTING}."]
    for label, run in runs.items():
        model = run.manifest.get("model", {}).get("name", "model not recorded")
        budget = budget_text(run.manifest.get("parameters", {}).get("budget"))
        settings.append(f"{label}: {model}, data {data_source(run.manifest)}, budget {budget}.")
    return (
        "Paper Table 11. Mean over layers, then over sequences, with 95 % bootstrap interval over documents; "
        f"{directions}. Bold: best of the compared methods. {MISSING}: not measured. " + " ".join(settings)
    )


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
    methods = [m for m in (*METHODS, *CONTROLS) if m in set(found["method"])]
    sources = list(found["source"].unique())
    figure, axes = panels(found["metric"].nunique(), height=0.27 * len(methods) + 0.7)
    for ax, (metric, table) in zip(axes, found.groupby("metric", sort=False), strict=True):
        spans = table.groupby(["method", "source"], sort=False)["estimate"].agg(["mean", "min", "max"])
        for (method, source), span in spans.iterrows():
            alone = len(spans.loc[method]) == 1
            y = methods.index(method) + (0 if alone else 0.18 if source != PAPER else -0.18)
            ax.hlines(y, span["min"], span["max"], color=look(method).colour, linewidth=1.4)
            ax.plot(span["mean"], y, color=look(method).colour, **_marker(method, source))
        ax.axvline(spans.loc["Random"]["mean"].iloc[0], color=INK, linewidth=0.8, zorder=1)
        ax.set_yticks(range(len(methods)), methods)
        ax.set(ylim=(len(methods) - 0.4, -0.6), xlabel=f"{METRICS[metric].label}\n{METRICS[metric].direction}")
        ax.grid(visible=False, axis="y")
        if METRICS[metric].sign > 0:
            ax.set_xlim(0, 1)
        say_start(ax, "x")
    handles = [Line2D([], [], color=GREY, label=source, **_marker("ChunkKV", source)) for source in sources]
    handles.append(Line2D([], [], color=INK, linewidth=0.8, label="a random choice"))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=SMALL)
    headline(figure, "Means of the five rows of Paper Table 11; bars: from row to row")
    return figure


def _marker(method: str, source: str) -> dict[str, Any]:
    face = "none" if source == PAPER else "full"
    return {"marker": look(method).marker, "fillstyle": face, "markersize": 6, "linestyle": "none"}


# --- the shape of the table, until the page on other data is gone ---------------------------------------------------


def gaps(
    paper: pd.DataFrame,
    runs: Mapping[str, Any],
    metrics: Sequence[str] = PRIMARY,
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> pd.DataFrame:
    """The gaps between methods in per cent of the baseline's mean: a gap compares between models, a value does not.

    return  columns source, row (the category), metric, method ("a − b"), estimate, low, high, n
    """
    tables = []
    for metric in metrics:
        wide = paper.pivot(index="category", columns="method", values=metric).loc[paper["category"].unique()]
        for a, b in pairs:
            printed = {
                "row": wide.index,
                "estimate": 100 * (wide[a] - wide[b]) / wide[b],
                "low": np.nan,
                "high": np.nan,
            }
            tables.append(pd.DataFrame(printed | {"n": 0, "source": PAPER, "metric": metric, "method": f"{a} − {b}"}))
        for label, run in runs.items():
            found = comparisons(run.records, [metric], pairs)
            mean = averages(run.records, [metric]).set_index(["category", "method"])["estimate"]
            share = 100 / mean.reindex(pd.MultiIndex.from_frame(found[["category", "baseline"]])).to_numpy()
            ours = {"estimate": found["difference"] * share, "low": found["low"] * share, "high": found["high"] * share}
            names = {"source": label, "metric": metric, "method": found["method"] + " − " + found["baseline"]}
            tables.append(pd.DataFrame({"row": found["category"], "n": found["n"]} | ours | names))
    return pd.concat(tables, ignore_index=True)


def signature(means: pd.DataFrame) -> pd.DataFrame:
    """What marks a table of means: order of the methods, size of the gaps, the odd row, the spread over rows.

    means   columns category, method and the two primary metrics, as of `paper_table_11`
    return  columns id, metric, what, value (a number, or the name of a method, a row or an order), rows (those that
            have the order); the same ids for every table
    """
    rows = []
    for metric in PRIMARY:
        wide = means.pivot(index="category", columns="method", values=metric)
        table, sign = wide.loc[means["category"].unique(), list(METHODS)], METRICS[metric].sign
        ordered = Counter(", ".join(_order(row, sign)) for _, row in table.iterrows())
        usual, count = ordered.most_common(1)[0]
        rows.append((f"order-{metric}", metric, "order, best first", usual, count))
        for a, b in PAIRS:
            gap = 100 * (table[a] - table[b]) / table[b]
            rows.append((f"gap-{metric}-{b}", metric, f"mean gap to {b} in %", gap.mean(), len(gap)))
            smallest = str((sign * gap).idxmin())
            rows.append((f"odd-{metric}-{b}", metric, f"row with the smallest gain over {b}", smallest, 1))
        rows.append((f"highest-{metric}", metric, "highest row", str(table.mean(axis=1).idxmax()), 1))
        for method in METHODS:
            spread = table[method].std(ddof=0)
            rows.append((f"spread-{metric}-{method}", metric, f"standard deviation over rows, {method}", spread, 1))
    return pd.DataFrame(rows, columns=["id", "metric", "what", "value", "rows"])


def run_means(records: pd.DataFrame) -> pd.DataFrame:
    """A run's means in the shape of `paper_table_11`."""
    found = averages(records, methods=METHODS)
    return found.pivot(index=["category", "method"], columns="metric", values="estimate").reset_index()


def signature_table(shapes: Mapping[str, pd.DataFrame], caption: str, name: str = "") -> str:
    """Signatures side by side: label -> `signature`, labels as in `table_11`."""
    first = next(iter(shapes.values()))
    what = [f"{METRICS[row.metric].short}: {row.what}" for row in first.itertuples()]
    table = pd.DataFrame({"What": what})
    for label, shape in shapes.items():
        texts = []
        for row in shape.itertuples():
            number = (
                "" if isinstance(row.value, str) else f"{row.value:{'+.2f' if row.id.startswith('gap') else '.4f'}}"
            )
            order = f" ({row.rows} rows)" if row.id.startswith("order") else ""
            texts.append(tint(minus(number) or f"{row.value}{order}", label))
        table[label] = texts
    return myst_table(table, caption, name)


def _order(values: pd.Series, sign: int) -> list[str]:
    """The index, best value first; equal values keep their order."""
    return list(values.index[np.argsort(-sign * values.to_numpy(), kind="stable")])
