"""Measured rows to what they say: growth, limits that are kept or not, and the file that holds everything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from ..errors import InputError
from ..report.guide import Architecture, analysis_flops, prefill_flops

OURS, ANALYSIS, PREFILL, FEW_METHODS = "chunkkv_lib", "all methods", "prefill", "SnapKV + ChunkKV"


@dataclass(frozen=True)
class Limit:
    """What an analysis may cost.

    length  tokens of prompt and answer at which it holds; None: over all lengths
    goal    what it should be; hard: what it must be, None where there is only a goal
    """

    what: str
    column: str
    length: int | None
    goal: float
    hard: float | None = None
    step: str = ANALYSIS


LIMITS = (
    Limit("time, ratio to the prefill", "time_ratio", 4096, 1.45, 2.0),
    Limit("time, ratio to the prefill", "time_ratio", 8192, 1.70),
    Limit(f"time of {FEW_METHODS} alone, ratio to the prefill", "time_ratio", 4096, 1.05, step=FEW_METHODS),
    Limit("memory, ratio to the prefill", "memory_ratio", 4096, 1.10, 1.25),
    Limit("memory, ratio to the prefill", "memory_ratio", 8192, 1.10, 1.25),
    Limit("memory, exponent of its growth", "memory_exponent", None, 1.1),  # linear, and some noise
)


@dataclass(frozen=True)
class Report:
    """A benchmark as it was written.

    rows    one per length and step: length, tokens, library, step, seconds (median), time_ratio and its range over
            the rounds, peak_bytes, memory_ratio, kept_tokens
    limit   one per length: the arithmetic of prefill and analysis, time_ratio of the two
    growth  one per library and step: time_exponent, memory_exponent
    checks  one per entry of LIMITS: value, verdict
    facts   everything else: model, dtype, device, repeats, versions, machine, code, date, failures
    """

    rows: pd.DataFrame
    limit: pd.DataFrame
    growth: pd.DataFrame
    checks: pd.DataFrame
    facts: dict

    @property
    def has_peer(self) -> bool:
        return bool((self.rows["library"] != OURS).any())

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
        return " · ".join(
            [
                f"Benchmark, model {facts['model']}, {facts['dtype']} on {facts['device']}", hardware,
                f"median of {facts['repeats']} rounds", f"torch {facts['versions']['torch']}", facts["finished"][:10],
            ]
        )  # fmt: skip


def load_report(path: str | Path) -> Report:
    """Read a benchmark's JSON and hold its numbers against LIMITS. InputError: no such file, or another kind."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        found["checks"] = check(found["rows"], found["growth"])
        tables = {name: pd.DataFrame(found.pop(name)) for name in ("rows", "limit", "growth", "checks")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a benchmark that can be read ({error}). Make one: make bench."
        ) from error
    return Report(**tables, facts=found)


def measured_row(length: int, tokens: int, library: str, step: str, timed: Mapping, peaks: Mapping) -> dict:
    """One row of a report, from a worker's times of all steps and the peak memory of each, None where unknown.

    Ratios are to the plain prefill of the same process; their range is that of the single rounds.
    """
    mine, plain = timed["seconds"][step], timed["seconds"][PREFILL]
    rounds = [a / b for a, b in zip(mine, plain, strict=True)]
    peak, base = peaks.get(step), peaks.get(PREFILL)
    return {
        "length": length,
        "tokens": tokens,
        "library": library,
        "step": step,
        "seconds": median(mine),
        "time_ratio": median(mine) / median(plain),
        "time_ratio_low": min(rounds),
        "time_ratio_high": max(rounds),
        "peak_bytes": peak,
        "memory_ratio": peak / base if peak and base else None,
        "kept_tokens": timed["kept_tokens"][step],
        "all_seconds": list(mine),
    }


def arithmetic(model: Architecture, lengths: Mapping[int, int]) -> list[dict]:
    """The least that the analysis adds to the prefill: one more causal product of queries and keys, its exponentials
    and their sums. Lengths: nominal -> prompt tokens. Return: one record per length; time_ratio is that of the
    multiplications and additions alone, at the same speed."""
    records = []
    for length, tokens in lengths.items():
        plain, analysed = prefill_flops(model, tokens), analysis_flops(model, tokens)
        records.append(
            {
                "length": length,
                "tokens": tokens,
                "prefill_flops": plain,
                "analysis_flops": analysed,
                "exponentials": tokens**2 / 2 * model.query_heads * model.layers,
                "time_ratio": analysed / plain,
            }
        )
    return records


def exponent(tokens: Iterable[float], cost: Iterable[float]) -> float:
    """p of cost ~ tokens^p, the slope of a straight line through the logarithms (least squares); NaN below 2 points."""
    points = [(n, c) for n, c in zip(tokens, cost, strict=True) if c is not None and c > 0]
    if len({n for n, _ in points}) < 2:
        return float("nan")
    return float(np.polyfit(*np.log(np.array(points, dtype=float)).T, 1)[0])


def growth(rows: Iterable[Mapping]) -> list[dict]:
    """How time and memory of every step grow with the prompt: exponents, None where there are too few lengths."""
    groups: dict[tuple[str, str], list[Mapping]] = {}
    for row in rows:
        groups.setdefault((row["library"], row["step"]), []).append(row)
    records = []
    for (library, step), group in groups.items():
        tokens = [row["tokens"] for row in group]
        found = {
            name: exponent(tokens, [row[column] for row in group])
            for name, column in (("time_exponent", "seconds"), ("memory_exponent", "peak_bytes"))
        }
        found = {name: None if np.isnan(value) else value for name, value in found.items()}
        records.append({"library": library, "step": step, "lengths": len(group)} | found)
    return records


def check(rows: Iterable[Mapping], grown: Iterable[Mapping], limits: Iterable[Limit] = LIMITS) -> list[dict]:
    """Every limit with the value that was measured and a verdict: met, goal missed, broken, or not measured."""
    mine = [record for record in (*rows, *grown) if record["library"] == OURS]
    records = []
    for limit in limits:
        values = [
            record[limit.column] for record in mine
            if record["step"] == limit.step and record.get(limit.column) is not None
            and limit.length in (None, record.get("length"))
        ]  # fmt: skip
        value = values[0] if values else None
        record = {"what": limit.what, "length": limit.length, "goal": limit.goal, "hard": limit.hard, "value": value}
        records.append(record | {"verdict": verdict(value, limit)})
    return records


def verdict(value: float | None, limit: Limit) -> str:
    """Whether a measured value keeps a limit."""
    if value is None:
        return "not measured"
    if value <= limit.goal:
        return "met"
    return "goal missed" if limit.hard is None or value <= limit.hard else "broken"
