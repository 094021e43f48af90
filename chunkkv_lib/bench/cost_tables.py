"""The benchmark as tables: what every step costs at one length, and the limits that were set."""

from __future__ import annotations

import pandas as pd

from ..errors import InputError
from ..report.figures.costs import step_label
from ..report.figures.setting import readable
from ..report.tables.layout import MISSING, myst_table


def costs_table(rows: pd.DataFrame, growth: pd.DataFrame, length: int, name: str = "", title: str = "") -> str:
    """Every step at one nominal length: time, peak memory, tokens that stay, and the exponent of growth.

    rows, growth  of a `bench.Report`; title: begins the caption
    raises        InputError: a length that was not measured.
    """
    here = rows[rows["length"] == length]
    if here.empty:
        known = ", ".join(map(str, sorted(set(rows["length"]))))
        raise InputError(f"length={length} was not measured; this benchmark has {known} tokens.")
    exponents = growth.set_index(["library", "step"])["time_exponent"]
    table = pd.DataFrame(
        {
            "Step": [step_label(row.library, row.step) for row in here.itertuples()],
            "Seconds": [f"{row.seconds:.1f}" for row in here.itertuples()],
            "Time, ratio": [_ratio(row) for row in here.itertuples()],
            "Peak memory": [_text(row.peak_bytes, readable) for row in here.itertuples()],
            "Memory, ratio": [_text(row.memory_ratio, "{:.2f}".format) for row in here.itertuples()],
            "Tokens that stay": [f"{row.kept_tokens:,.1f}".removesuffix(".0") for row in here.itertuples()],
            "Exponent of time": [
                _text(exponents.get((row.library, row.step)), "{:.2f}".format) for row in here.itertuples()
            ],
        }
    )
    tokens = " and ".join(f"{n:,}" for n in sorted(set(here["tokens"])))
    caption = f"{title or 'What every step costs'}, {tokens} prompt tokens. Ratios are to the plain prefill of "
    caption += "the same library; in brackets the range over single rounds. Exponent: seconds grow like tokens to this."
    return myst_table(table, caption, name, table.columns[1:])


def limits_table(checks: pd.DataFrame, name: str = "") -> str:
    """The limits that the analysis must keep, what was measured, and the verdict."""
    table = pd.DataFrame(
        {
            "What": checks["what"].str[:1].str.upper() + checks["what"].str[1:],
            "At": [f"{length:,.0f} tokens" if pd.notna(length) else "all lengths" for length in checks["length"]],
            "Goal": [f"{goal:.2f}" for goal in checks["goal"]],
            "Hard limit": [_text(hard, "{:.2f}".format) for hard in checks["hard"]],
            "Measured": [_text(value, "{:.2f}".format) for value in checks["value"]],
            "Verdict": checks["verdict"],
        }
    )
    caption = (
        "Limits that this library sets itself, for the analysis of all methods unless others are named: at most "
        "these values."
    )
    return myst_table(table, caption, name, table.columns[2:5])


def _ratio(row) -> str:
    if row.step == "prefill":
        return "1"
    return f"{row.time_ratio:.2f} ({row.time_ratio_low:.2f} to {row.time_ratio_high:.2f})"


def _text(value: object, write) -> str:
    return MISSING if value is None or pd.isna(value) else write(value)
