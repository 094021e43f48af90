"""How a table is written: MyST text with a caption and a number, and how numbers look in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.records import CONTROLS, METRICS
from chunkkv_lib.report.statistics import Interval

if TYPE_CHECKING:
    from IPython.display import Markdown

MISSING = "–"


def myst_table(rows: pd.DataFrame, caption: str, name: str = "", right: Iterable[str] = ()) -> str:
    """A numbered MyST table of texts, without an index; `right` names the columns to align right.

    raises  InputError: a column without a name, no rows, or an empty caption.
    """
    columns = [str(column).strip() for column in rows.columns]
    if not all(columns) or rows.empty or not caption.strip():
        raise InputError("a table needs a caption, at least one row, and a name for each of its columns.")
    right = set(right)
    rule = ["---:" if column in right else ":---" for column in columns]
    lines = [columns, rule, *rows.astype(str).to_numpy().tolist()]
    head = [f":::{{table}} {_one_line(caption)}", *([f":name: {name}"] if name else []), ""]
    return "\n".join([*head, *("| " + " | ".join(map(_cell, line)) + " |" for line in lines), ":::"])


def show(text: str) -> Markdown:
    """What a notebook cell ends with: the table as Markdown output."""
    from IPython.display import Markdown

    return Markdown(text)


def number(found: Interval, digits: int = 4) -> str:
    """An estimate with its interval, "0.9019 [0.9012, 0.9026]"; alone if it has none; "–" if it is NaN."""
    if np.isnan(found.estimate):
        return MISSING
    interval = "" if np.isnan(found.low) else f" [{found.low:.{digits}f},\N{NO-BREAK SPACE}{found.high:.{digits}f}]"
    return minus(f"{found.estimate:.{digits}f}{interval}")


def p_text(p: float) -> str:
    """A p-value with 3 decimals, "< 0.001" below that, "–" if there is none."""
    if np.isnan(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def row_name(method: str) -> str:
    return f"{method} (control)" if method in CONTROLS else method


def header(metric: str) -> str:
    about = METRICS[metric]
    arrow = {1: " ↑", -1: " ↓", 0: ""}[about.sign]
    return about.label + in_unit(about.unit) + arrow


def of(source: str) -> str:
    return f" ({source})" if source else ""


def in_unit(unit: str) -> str:
    return f" ({unit})" if unit else ""


def minus(text: str) -> str:
    """The typographic minus sign, which screen readers speak."""
    return text.replace("-", "−")


def _one_line(text: str) -> str:
    """Line breaks would end a row of the table; a no-break space stays."""
    return re.sub(r"[ \t\r\n]+", " ", text).strip(" ")


def _cell(value: object) -> str:
    return _one_line(str(value)).replace("|", "\\|")
