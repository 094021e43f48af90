"""What an analysis costs: the benchmark's record, the limits it is held against, its tables and its pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..errors import InputError
from .arithmetic import Architecture, analysis_flops, prefill_flops, readable
from .style import GREY, INK, SERIES, SMALL, Look, headline, label_ends, line_panel, look, panels, styled
from .tables import MISSING, myst_table

OWN, ANALYSIS, PREFILL, FEW_METHODS = "chunkkv_lib", "all methods", "prefill", "SnapKV + ChunkKV"

#: What an analysis may cost: what, column of `rows` or `growth`, length (None: over all), step, at most.
LIMITS = (
    ("time, ratio to the prefill", "time_ratio", 4096, ANALYSIS, 1.37),
    (f"time of {FEW_METHODS} alone, ratio to the prefill", "time_ratio", 4096, FEW_METHODS, 1.05),
    ("peak memory, ratio to the prefill with its cache", "memory_ratio", 4096, ANALYSIS, 1.0),
    ("peak memory, highest to lowest of its measurements", "peak_spread", 4096, ANALYSIS, 1.1),
    ("peak memory, exponent of its growth", "memory_exponent", None, ANALYSIS, 1.1),  # linear, and some noise
)

# --- the record ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """A benchmark as it was recorded, and what follows from it.

    rows    one per length and step of the model: tokens, library, step, seconds (median of the rounds), time_ratio to
            the plain prefill (median over rounds, with its range), peak_bytes above the model, memory_ratio,
            peak_spread (highest to lowest of the measurements), kept_tokens
    paper   the same of the paper's setting with random weights; empty where it could not be measured
    pieces  one per piece of a layer: milliseconds (median), and their ratio to the layer's own attention
    growth  one per library and step: time_exponent, memory_exponent
    limit   one per length: time_ratio that the analysis' multiplications and additions alone ask for
    checks  one per entry of LIMITS: value, verdict
    facts   everything else: model, dtype, device, rounds, versions, machine, date, failures, the pieces' model
    """

    rows: pd.DataFrame
    paper: pd.DataFrame
    pieces: pd.DataFrame
    growth: pd.DataFrame
    limit: pd.DataFrame
    checks: pd.DataFrame
    facts: dict

    @property
    def manifest(self) -> dict:
        """For `provenance`: the facts under a name of their own."""
        return self.facts | {"name": f"bench-{self.facts['device'].split(':')[0]}"}

    @property
    def busy(self) -> bool:
        """Whether other work kept the machine busy when this was measured."""
        return (self.facts["load_before"] or 0) > 0.5 * self.facts["machine"]["cores"]

    @property
    def line(self) -> str:
        """One line to stand under a figure."""
        facts, machine = self.facts, self.facts["machine"]
        hardware = f"{machine['cores']} cores, {machine['threads']} threads, {machine['instructions']}"
        if facts["device"] != "cpu":
            hardware = ", ".join(machine.get("gpus", ["GPU"]))
        parts = f"Benchmark, model {facts['model']}, {facts['dtype']} on {facts['device']}", hardware
        parts += f"median of {facts['rounds']} rounds", f"torch {facts['versions']['torch']}", facts["finished"][:10]
        return " · ".join(parts)


def load_report(path: str | Path) -> Report:
    """Read a benchmark's JSON. InputError: no such file, or another kind."""
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
        recorded, pieces = facts.pop("rows"), facts.pop("pieces")
        shape = Architecture(**facts["shapes"][facts["model"]])
        rows = _with_ratios(recorded)
        mine = rows[rows["model"] == facts["model"]]
        taken = {name: 1000 * median(seconds) for name, seconds in pieces.pop("seconds").items()}
        facts["pieces"], own = pieces, next(iter(taken.values()))
        found = [{"piece": name, "milliseconds": one, "ratio": one / own} for name, one in taken.items()]
        tokens = mine.drop_duplicates("length").set_index("length")["tokens"]
        grown = growth(mine)
        facts["device"], facts["finished"][:10], facts["machine"]["cores"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a benchmark that can be read ({error!r}). Make one: make bench.") from error
    limit = pd.DataFrame(
        {"length": length, "tokens": n, "time_ratio": analysis_flops(shape, n) / prefill_flops(shape, n)}
        for length, n in tokens.items()
    )
    others = rows[rows["model"] != facts["model"]]
    return Report(mine, others, pd.DataFrame(found), grown, limit, check(mine, grown), facts)


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
            | {"peak_spread": max(peaks) / min(peaks) if len(peaks) > 1 and all(peaks) else np.nan}
        )
    return pd.DataFrame(rows)


def exponent(tokens: Iterable[float], cost: Iterable[float]) -> float:
    """p of cost ~ tokens^p, the slope of a straight line through the logarithms (least squares); NaN below 2 points."""
    points = [(n, c) for n, c in zip(tokens, cost, strict=True) if c > 0]  # NaN is not
    if len({n for n, _ in points}) < 2:
        return float("nan")
    return float(np.polyfit(*np.log(np.array(points, dtype=float)).T, 1)[0])


def growth(rows: pd.DataFrame) -> pd.DataFrame:
    """How time and memory of every step grow with the prompt: exponents, NaN where there are too few lengths."""
    records = [
        {"library": library, "step": step, "lengths": len(group)}
        | {"time_exponent": exponent(group["tokens"], group["seconds"])}
        | {"memory_exponent": exponent(group["tokens"], group["peak_bytes"])}
        for (library, step), group in rows.groupby(["library", "step"], sort=False)
    ]
    return pd.DataFrame(records)


def check(rows: pd.DataFrame, grown: pd.DataFrame) -> pd.DataFrame:
    """Every limit with the value that was measured and a verdict: met, missed or not measured."""
    records = []
    for what, column, length, step, limit in LIMITS:
        found = grown if length is None else rows[rows["length"] == length]
        values = found.loc[(found["library"] == OWN) & (found["step"] == step), column].dropna()
        value = values.iloc[0] if len(values) else np.nan
        verdict = "not measured" if np.isnan(value) else "met" if value <= limit else "missed"
        records.append({"what": what, "length": length, "limit": limit, "value": value, "verdict": verdict})
    return pd.DataFrame(records)


# --- tables -------------------------------------------------------------------------------------------------------


def steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a report as texts: what every step took, and what that is of the plain prefill."""
    plain = rows["step"] == PREFILL
    spread = [f"{a:.2f} ({b:.2f} to {c:.2f})" for a, b, c in
              zip(rows["time_ratio"], rows["time_ratio_low"], rows["time_ratio_high"])]  # fmt: skip
    return pd.DataFrame(
        {
            "Step": [step_label(*row) for row in zip(rows["library"], rows["step"])],
            "Seconds": rows["seconds"].map("{:.1f}".format if rows["seconds"].max() > 3 else "{:.3f}".format),
            "Time, ratio": np.where(plain, "1", spread),
            "Peak memory": rows["peak_bytes"].map(readable, na_action="ignore"),
            "Memory, ratio": np.where(plain, "1", rows["memory_ratio"].map("{:.2f}".format)),
            "Tokens that stay": [f"{kept:,.1f}".removesuffix(".0") for kept in rows["kept_tokens"]],
        }
    ).replace({np.nan: MISSING, "nan": MISSING})


def costs_table(report: Report, length: int, name: str = "", title: str = "What every step costs") -> str:
    """Every step at one nominal length: time, peak memory, tokens that stay, and the exponent of growth.

    raises  InputError: a length that was not measured.
    """
    here = report.rows[report.rows["length"] == length]
    if here.empty:
        known = ", ".join(map(str, sorted(set(report.rows["length"]))))
        raise InputError(f"length={length} was not measured; this benchmark has {known} tokens.")
    grown = report.growth.set_index(["library", "step"])["time_exponent"]
    table = steps(here)
    exponents = [grown[key] for key in zip(here["library"], here["step"])]
    table["Exponent of time"] = [MISSING if np.isnan(one) else f"{one:.2f}" for one in exponents]
    tokens = " and ".join(f"{n:,}" for n in sorted(set(here["tokens"])))
    caption = f"{title}, {tokens} prompt tokens. Ratios are to the plain prefill of the same library; in brackets the "
    caption += "range over single rounds. Exponent: seconds grow like tokens to this."
    return myst_table(table, caption, name, table.columns[1:])


def paper_table(report: Report, name: str = "") -> str:
    """The paper's setting with random weights; InputError where it was not measured."""
    if report.paper.empty:
        raise InputError("this benchmark holds no measurement of the paper's setting; make a new one: make bench.")
    table, row = steps(report.paper), report.paper.iloc[0]
    caption = f"The paper's setting: {row['model']}, random weights, {row['tokens']:,} tokens, {report.facts['dtype']}."
    return myst_table(table, caption, name, table.columns[1:])


def pieces_table(report: Report, name: str = "") -> str:
    """Times of the pieces of one layer, beside the layer's own attention."""
    pieces, about = report.pieces, report.facts["pieces"]
    table = pd.DataFrame(
        {
            "One layer": pieces["piece"].str[0].str.upper() + pieces["piece"].str[1:],
            "Milliseconds": pieces["milliseconds"].map("{:.1f}".format),
            "Times the layer's own attention": pieces["ratio"].map("{:.2f}".format),
        }
    )
    caption = f"Time of the pieces for one layer of {about['model']}, {about['tokens']:,} tokens."
    return myst_table(table, caption, name, table.columns[1:])


def limits(report: Report) -> pd.DataFrame:
    """The limits as texts: what, at which length, the limit, what was measured, the verdict."""
    checks = report.checks
    return pd.DataFrame(
        {
            "What": checks["what"].str[0].str.upper() + checks["what"].str[1:],
            "At": ["all lengths" if np.isnan(length) else f"{length:,.0f} tokens" for length in checks["length"]],
            "At most": checks["limit"].map("{:.2f}".format),
            "Measured": [MISSING if np.isnan(value) else f"{value:.2f}" for value in checks["value"]],
            "Verdict": checks["verdict"],
        }
    )


def limits_table(report: Report, name: str = "") -> str:
    """The limits that this library sets itself, what was measured, and the verdict."""
    table = limits(report)
    caption = "Limits that this library sets itself, for the analysis of all methods unless others are named."
    return myst_table(table, caption, name, table.columns[2:4])


def print_report(report: Report) -> None:
    """The tables for a terminal."""
    rows = pd.concat([report.rows, report.paper]) if len(report.paper) else report.rows
    shown = steps(rows)
    shown.insert(0, "Tokens", rows["tokens"])
    shown.insert(0, "Model", rows["model"])
    pieces = report.pieces.round({"milliseconds": 2, "ratio": 2})
    for table in (shown, report.growth.round(2), pieces, limits(report)):
        print(table.to_string(index=False), end="\n\n")
    if report.busy:
        print(f"the machine was busy (load {report.facts['load_before']}): do not trust these times")


# --- pictures -----------------------------------------------------------------------------------------------------

#: This library's steps have colours of their own; a peer's have the colour of the method that they are nearest to.
STEPS = {"prefill": Look(INK, "D", "-"), "all methods": Look("#CC79A7", "P", "-")}
NEAREST = {"ObservedAttention": "H2O"}
FEW = Look("#B07700", "X", "-")


def step_label(library: str, step: str) -> str:
    """How a step is called in figures and tables: a peer's library is named."""
    return step if library == OWN else f"{library} {step}"


def step_look(library: str, step: str) -> Look:
    """How a step is drawn: solid for this library, dashed for a peer."""
    if library == OWN:
        return STEPS.get(step, FEW)
    own = STEPS.get(step) or look(NEAREST.get(step, step))
    return Look(own.colour, own.marker, (0, (4, 2)))


@styled
def cost_ratios(rows: pd.DataFrame, limit: pd.DataFrame, allowed: Mapping[str, float] | None = None) -> Figure:
    """Time and peak memory as ratios to the plain prefill, against the prompt's length.

    rows     columns tokens, library, step, time_ratio, time_ratio_low, time_ratio_high, memory_ratio
    limit    columns tokens, time_ratio: what the arithmetic of the analysis alone would cost
    allowed  a horizontal line in a panel: "time_ratio" -> value
    raises   InputError: nothing but plain prefills.
    """
    rows = rows[rows["step"] != "prefill"]
    if rows.empty:
        raise InputError("no step but the plain prefill was measured, so there is no ratio to draw.")
    figure, axes = panels(2, height=3.1, sharex=True)
    for ax, column, label in zip(axes, ("time_ratio", "memory_ratio"), ("Time", "Peak memory"), strict=True):
        ends = _lines(ax, rows.dropna(subset=column), column)
        if column == "time_ratio":
            points = limit.sort_values("tokens")
            ax.plot(points["tokens"], points["time_ratio"], color=GREY, linestyle=":", marker=".", label="arithmetic")
            ends.append((points["time_ratio"].iloc[-1], "arithmetic", GREY))
        if allowed and column in allowed:
            ax.axhline(allowed[column], color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
        ax.axhline(1, color=INK, linewidth=0.8, zorder=0)
        ax.set(xscale="log", yscale="log", ylabel=f"{label},\nratio to the plain prefill")
        _plain_ticks(ax, rows["tokens"])
        label_ends(ax, rows["tokens"].max(), ends, gap=0.085)
    axes[-1].set_xlabel("Prompt length (tokens)")
    headline(figure, _how_to_read(rows))
    return figure


@styled
def cost_growth(rows: pd.DataFrame, limit: pd.DataFrame) -> Figure:
    """Seconds and peak memory of every step against the prompt's length, on logarithmic axes.

    rows    columns tokens, library, step, seconds, peak_bytes; a peer's plain prefill is left out
    limit   columns tokens, time_ratio; drawn times the plain prefill's own seconds
    raises  InputError: no rows.
    """
    if rows.empty:
        raise InputError("no row to draw: measure at least one length.")
    figure, axes = panels(2, height=3.3, sharex=True)
    rows = rows[(rows["library"] == OWN) | (rows["step"] != "prefill")]  # the peer's prefill would hide ours
    ends = _lines(axes[0], rows, "seconds")
    plain = rows[rows["step"] == "prefill"].set_index("tokens")["seconds"]
    bound = (limit.set_index("tokens")["time_ratio"] * plain).dropna().sort_index()
    if len(bound):
        axes[0].plot(bound.index, bound, color=GREY, linestyle=":", marker=".", label="arithmetic")
        ends.append((bound.iloc[-1], "arithmetic", GREY))
    memory = rows.dropna(subset="peak_bytes")
    memory = memory[memory["peak_bytes"] > 0]
    for ax, found, label in zip(axes, (ends, _lines(axes[1], memory, "peak_bytes")), ("Seconds", "Peak memory")):
        ax.set(xscale="log", yscale="log", ylabel=f"{label} above the model" if ax is axes[1] else label)
        _plain_ticks(ax, rows["tokens"])
        label_ends(ax, rows["tokens"].max(), found, gap=0.085)
    axes[1].yaxis.set_major_locator(LogLocator(base=4, numticks=12))
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda size, _: readable(size)))
    axes[1].yaxis.set_minor_locator(NullLocator())
    axes[-1].set_xlabel("Prompt length (tokens)")
    headline(figure, _how_to_read(rows))
    return figure


@styled
def share_by_length(shares: Mapping[str, tuple[np.ndarray, np.ndarray]], label: str) -> Figure:
    """Shares in per cent against prompt length, one line per name; shares: name -> tokens, fractions."""
    figure, (ax,) = panels(height=3.2)
    ends = []
    for style, (name, (tokens, share)) in zip(SERIES, shares.items()):
        ax.plot(tokens, 100 * np.asarray(share), color=style.colour, marker="o", markersize=4, label=name)
        ends.append((100 * share[-1], name, style.colour))
    ax.set(xscale="log", xlabel="Prompt length (tokens)", ylabel=label)
    ax.set_ylim(0)
    _plain_ticks(ax, pd.Series(tokens[::2]), numbers=False)
    label_ends(ax, tokens[-1], ends)
    headline(figure, "By formula. The horizontal axis is logarithmic.")
    return figure


def _how_to_read(rows: pd.DataFrame) -> str:
    peers = sorted(set(rows["library"]) - {OWN})
    solid = f"Solid: this book's library. Dashed: {', '.join(peers)}. " if peers else ""
    return solid + "All axes are logarithmic."


def _lines(ax: Axes, rows: pd.DataFrame, column: str) -> list[tuple[float, str, str]]:
    """A line per library and step; returns what `label_ends` needs."""
    names = [step_label(*row) for row in zip(rows["library"], rows["step"])]
    rows = rows.assign(name=names).sort_values("tokens", kind="stable")
    looks = {row.name: step_look(row.library, row.step) for row in rows.itertuples(index=False)}
    if column == "time_ratio":
        rows = rows.rename(columns={"time_ratio_low": "low", "time_ratio_high": "high"})
    # The peer's classes are called ...Attention; beside a line the first part of the name is enough.
    ends = line_panel(ax, rows, "tokens", by="name", y=column, looks=looks)
    return [(y, name.removesuffix("Attention"), colour) for y, name, colour in ends]


def _plain_ticks(ax: Axes, tokens: pd.Series, numbers: bool = True) -> None:
    """Ticks at the measured lengths, and plain numbers instead of powers of ten."""
    ticks = sorted(set(tokens))
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=SMALL)
    ax.xaxis.set_minor_locator(NullLocator())
    if numbers:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(FuncFormatter(_minor_tick))


def _minor_tick(value: float, _: int) -> str:
    """Few enough numbers between the powers of ten that they never touch."""
    leading = value / 10 ** np.floor(np.log10(value))
    return f"{value:g}" if np.isclose(leading, (1.2, 1.5, 2, 3, 5)).any() else ""
