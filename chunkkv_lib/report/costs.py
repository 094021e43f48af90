"""What an analysis costs: the benchmark's record, its tables and its picture."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ..errors import InputError
from .arithmetic import Architecture, analysis_flops, prefill_flops, readable
from .style import GREY, INK, SMALL, headline, label_ends, line_panel, panels, styled
from .tables import MISSING, myst_table

OWN, PREFILL = "chunkkv_lib", "prefill"


@dataclass(frozen=True)
class Report:
    """A benchmark as it was recorded, and what follows from it.

    rows    one per length and step of the model: tokens, library, step, seconds (median of the rounds), time_ratio to
            the plain prefill (median over rounds, with its range), peak_bytes above the model, memory_ratio,
            kept_tokens, and arithmetic: time_ratio that the analysis' multiplications and additions alone ask for
    paper   the same of the paper's setting with random weights; empty where it was not measured
    pieces  one per piece of a layer: milliseconds (median), and their ratio to the layer's own attention
    facts   everything else: model, dtype, device, rounds, versions, machine, date, failures, the pieces' model
    """

    rows: pd.DataFrame
    paper: pd.DataFrame
    pieces: pd.DataFrame
    facts: dict

    @property
    def manifest(self) -> dict:
        """For `provenance`: the facts under a name of their own."""
        return self.facts | {"name": f"bench-{self.facts['device'].split(':')[0]}"}

    @property
    def line(self) -> str:
        """One line to stand under a figure."""
        facts, machine = self.facts, self.facts["machine"]
        hardware = f"{machine['cores']} cores, {machine['threads']} threads, {machine['instructions']}"
        if facts["device"] != "cpu":
            hardware = ", ".join(machine.get("gpus", ["GPU"]))
        model = f"Benchmark, model {facts['model']}, {facts['dtype']} on {facts['device']}"
        rounds, torch = f"median of {facts['rounds']} rounds", f"torch {facts['versions']['torch']}"
        return " · ".join([model, hardware, rounds, torch, facts["finished"][:10]])


def load_report(path: str | Path) -> Report:
    """Read a benchmark's JSON. InputError: no such file, or another kind."""
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
        recorded, pieces = facts.pop("rows"), facts.pop("pieces")
        shape = Architecture(**facts["shapes"][facts["model"]])
        rows = _with_ratios(recorded)
        mine = rows[rows["model"] == facts["model"]]
        mine = mine.assign(arithmetic=[analysis_flops(shape, n) / prefill_flops(shape, n) for n in mine["tokens"]])
        taken = {name: 1000 * median(seconds) for name, seconds in pieces.pop("seconds").items()}
        facts["pieces"], own = pieces, next(iter(taken.values()))
        found = [{"piece": name, "milliseconds": one, "ratio": one / own} for name, one in taken.items()]
        facts["device"], facts["finished"][:10], facts["machine"]["cores"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a benchmark that can be read ({error!r}). Make one: make bench.") from error
    return Report(mine, rows[rows["model"] != facts["model"]], pd.DataFrame(found), facts)


def _with_ratios(recorded: list[dict]) -> pd.DataFrame:
    """Recorded rows with medians, and ratios to the plain prefill of the same model, library and length."""
    plain = {(row["model"], row["library"], row["length"]): row for row in recorded if row["step"] == PREFILL}
    rows = []
    for row in recorded:
        base, peaks = plain[row["model"], row["library"], row["length"]], row["peak_bytes"]
        ratios = [mine / other for mine, other in zip(row["seconds"], base["seconds"], strict=True)]
        peak = median(peaks) if peaks else np.nan
        rows.append(
            row
            | {"seconds": median(row["seconds"]), "time_ratio": median(ratios), "peak_bytes": peak}
            | {"time_ratio_low": min(ratios), "time_ratio_high": max(ratios)}
            | {"memory_ratio": peak / median(base["peak_bytes"]) if peaks and all(base["peak_bytes"]) else np.nan}
        )
    return pd.DataFrame(rows)


def steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a report as texts: what every step took, and what that is of the plain prefill."""
    plain = rows["step"] == PREFILL
    spread = [
        f"{row.time_ratio:.2f} ({row.time_ratio_low:.2f} to {row.time_ratio_high:.2f})" for row in rows.itertuples()
    ]
    return pd.DataFrame(
        {
            "Step": rows.apply(step_label, axis=1),
            "Seconds": rows["seconds"].map("{:.1f}".format if rows["seconds"].max() > 3 else "{:.3f}".format),
            "Time, ratio": np.where(plain, "1", spread),
            "Peak memory": rows["peak_bytes"].map(readable, na_action="ignore"),
            "Memory, ratio": np.where(plain, "1", rows["memory_ratio"].map("{:.2f}".format)),
            "Tokens that stay": [f"{kept:,.1f}".removesuffix(".0") for kept in rows["kept_tokens"]],
        }
    ).replace({np.nan: MISSING, "nan": MISSING})


def costs_table(report: Report, length: int, name: str = "") -> str:
    """Every step at one nominal length that was measured: time, peak memory, tokens that stay."""
    here = report.rows[report.rows["length"] == length]
    table = steps(here)
    tokens = " and ".join(f"{n:,}" for n in sorted(set(here["tokens"])))
    caption = f"What every step costs, {tokens} prompt tokens. Ratios are to the plain prefill of the same library; "
    caption += "in brackets the range over single rounds."
    return myst_table(table, caption, name, table.columns[1:])


def print_report(report: Report) -> None:
    """The tables for a terminal."""
    rows = pd.concat([report.rows, report.paper]) if len(report.paper) else report.rows
    shown = steps(rows)
    shown.insert(0, "Tokens", rows["tokens"])
    shown.insert(0, "Model", rows["model"])
    for table in (shown, report.pieces.round({"milliseconds": 2, "ratio": 2})):
        print(table.to_string(index=False), end="\n\n")
    if (report.facts["load_before"] or 0) > 0.5 * report.facts["machine"]["cores"]:
        print(f"the machine was busy (load {report.facts['load_before']}): do not trust these times")


def step_label(row: pd.Series) -> str:
    """How a step is called in figures and tables: a peer's library is named."""
    return row["step"] if row["library"] == OWN else f"{row['library']} {row['step']}"


@styled
def cost_ratios(report: Report) -> Figure:
    """Time as a ratio to the plain prefill against the prompt's length, beside what the arithmetic alone asks for.

    raises  InputError: nothing but plain prefills.
    """
    rows = report.rows[report.rows["step"] != PREFILL].sort_values("tokens", kind="stable")
    if rows.empty:
        raise InputError("no step but the plain prefill was measured, so there is no ratio to draw.")
    rows = rows.assign(name=rows.apply(step_label, axis=1))
    figure, (ax,) = panels(height=3.6)
    drawn = rows.rename(columns={"time_ratio": "estimate", "time_ratio_low": "low", "time_ratio_high": "high"})
    ends = line_panel(ax, drawn, "tokens", by="name")
    # The peer's classes are called ...Attention; beside a line the first part of the name is enough.
    ends = [(y, name.removesuffix("Attention"), colour) for y, name, colour in ends]
    points = rows.drop_duplicates("tokens")
    ax.plot(points["tokens"], points["arithmetic"], color=GREY, linestyle=":", marker=".", label="arithmetic")
    ends.append((points["arithmetic"].iloc[-1], "arithmetic", GREY))
    ax.axhline(1, color=INK, linewidth=0.8, zorder=0)
    ax.set(xscale="log", yscale="log", xlabel="Prompt length (tokens)", ylabel="Time,\nratio to the plain prefill")
    ticks = sorted(set(rows["tokens"]))
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=SMALL)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))  # few enough that their numbers never touch
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    label_ends(ax, [*drawn.groupby("name", sort=False)["tokens"].max(), ticks[-1]], ends, gap=0.085)
    headline(figure, "Time of every step", note="Both axes are logarithmic.")
    return figure
