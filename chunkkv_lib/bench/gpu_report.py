"""The GPU benchmark's file, as two tables: whole prompts, and single operations held against the device's ceilings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..errors import InputError
from ..report.figures.setting import readable
from ..report.tables.layout import MISSING, myst_table

#: What the operations are called in a table.
NAMES = {
    "prefill": "plain prefill", "analysis": "complete analysis", "attention": "the layer's own attention",
    "log_sum_exp": "log-sum-exp, if the attention does not give it", "column_sums": "column sums of attention",
    "masses": "sums of |x| and x² of keys and values",
}  # fmt: skip


@dataclass(frozen=True)
class GpuReport:
    """What `bench_gpu` wrote.

    rows   one per length and operation: tokens, operation, seconds, flops, bytes, and what was reached of the ceilings;
           whole prompts have time_ratio and its range, busy_seconds, and peak (bytes above the model), too
    facts  everything else: shape, dtype, device, repeats, ceilings, versions, machine, code, date
    """

    rows: pd.DataFrame
    facts: dict

    @property
    def manifest(self) -> dict:
        """For `provenance`: the facts under a name of their own."""
        return self.facts | {"name": "bench-gpu"}

    @property
    def line(self) -> str:
        """One line to stand under a table."""
        facts = self.facts
        hardware = ", ".join(facts["machine"].get("gpus", [facts["device"]]))
        return (
            f"Benchmark, {facts['shape']} with random weights, {facts['dtype']} · {hardware} · median of "
            f"{facts['repeats']} rounds · torch {facts['versions']['torch']} · {facts['finished'][:10]}"
        )

    @property
    def summary(self) -> str:
        """One sentence: what the complete analysis costs beside the prefill, at every length."""
        ratios = "; ".join(
            f"at {n:,} tokens the analysis took {self.value(n, 'analysis', 'time_ratio'):.2f} times the prefill's time"
            for n in sorted(set(self.rows["tokens"]))
        )
        return f"Measured on a GPU, with random weights in the shape of {self.facts['shape']}: {ratios}."

    def value(self, tokens: int, operation: str, column: str) -> float:
        """One number; InputError for what was not measured."""
        found = self.rows[(self.rows["tokens"] == tokens) & (self.rows["operation"] == operation)]
        if found.empty or column not in found:
            known = ", ".join(map(str, sorted(set(self.rows["tokens"]))))
            raise InputError(
                f"{column} of {operation} at {tokens} tokens was not measured; there are {known} tokens and "
                f"{', '.join(dict.fromkeys(self.rows['operation']))}."
            )
        return float(found[column].iloc[0])


def load_gpu_report(path: str | Path) -> GpuReport:
    """Read the file. InputError: no such file, or another kind."""
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = pd.DataFrame(facts.pop("rows"))
        rows[["tokens", "operation", "seconds", "tflops_share", "gb_per_second_share", "time_ratio"]]
        facts["ceilings"]["tflops"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a GPU benchmark that can be read ({error}). Make one: python -m chunkkv_lib bench-gpu."
        ) from error
    return GpuReport(rows, facts)


def gpu_steps_table(report: GpuReport, name: str = "") -> str:
    """Whole prompts: milliseconds, their ratio to the prefill's, how long the GPU was at work, peak memory."""
    rows = report.rows[report.rows["time_ratio"].notna()]
    plain = rows[rows["operation"] == "prefill"].set_index("tokens")["busy_seconds"]
    table = pd.DataFrame(
        {
            "Prompt tokens": [f"{row.tokens:,}" for row in rows.itertuples()],
            "Step": [NAMES[row.operation] for row in rows.itertuples()],
            "Milliseconds": [f"{1000 * row.seconds:,.0f}" for row in rows.itertuples()],
            "Time, ratio": [
                "1" if row.operation == "prefill" else
                f"{row.time_ratio:.2f} ({row.time_ratio_low:.2f} to {row.time_ratio_high:.2f})"
                for row in rows.itertuples()
            ],
            "GPU at work, ms": [_text(row.busy_seconds, lambda x: f"{1000 * x:,.0f}") for row in rows.itertuples()],
            "Its ratio": [
                "1" if row.operation == "prefill" else _text(row.busy_seconds / plain[row.tokens], "{:.2f}".format)
                for row in rows.itertuples()
            ],
            "Peak above the model": [_text(row.peak, readable) for row in rows.itertuples()],
        }
    )  # fmt: skip
    caption = (
        "Whole prompts on a GPU. Ratios are to the plain prefill of the same length; in brackets the range over single "
        "rounds. “At work”: the sum of its kernels' times in one run, without waiting for the CPU."
    )
    return myst_table(table, caption, name, [column for column in table.columns if column != "Step"])


def gpu_pieces_table(report: GpuReport, name: str = "") -> str:
    """Single operations on one layer: time, speed, and the share of what the device reaches at best."""
    rows = report.rows[report.rows["time_ratio"].isna()]
    ceilings = report.facts["ceilings"]
    table = pd.DataFrame(
        {
            "Prompt tokens": [f"{row.tokens:,}" for row in rows.itertuples()],
            "One layer": [NAMES[row.operation][0].upper() + NAMES[row.operation][1:] for row in rows.itertuples()],
            "Milliseconds": [f"{1000 * row.seconds:.2f}" for row in rows.itertuples()],
            "TFLOP/s": [f"{row.tflops:.0f} ({row.tflops_share:.0%})" for row in rows.itertuples()],
            "GB/s": [f"{row.gb_per_second:,.0f} ({row.gb_per_second_share:.0%})" for row in rows.itertuples()],
        }
    )
    caption = (
        f"Operations on one layer. In brackets the share of what the same GPU reaches in a large matrix product, "
        f"{ceilings['tflops']:.0f} TFLOP/s, and in a large copy, {ceilings['gb_per_second']:,.0f} GB/s."
    )
    return myst_table(table, caption, name, [column for column in table.columns if column != "One layer"])


def _text(value: object, write) -> str:
    return MISSING if value is None or pd.isna(value) else write(value)
