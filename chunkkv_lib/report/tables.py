"""How tables are written: MyST text with a caption and a number, how numbers look in it, where they come from."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from .records import CONTROLS
from .statistics import Interval

MISSING = "–"


def myst_table(rows: pd.DataFrame, caption: str, name: str = "", right: Iterable[str] = ()) -> str:
    """A numbered MyST table of texts, without an index; `right` names the columns to align right."""
    columns, right = [str(column) for column in rows.columns], set(right)
    rule = ["---:" if column in right else ":---" for column in columns]
    cells = rows.astype(str).map(lambda cell: _one_line(cell).replace("|", "\\|"))
    lines = ["| " + " | ".join(line) + " |" for line in (columns, rule, *cells.to_numpy().tolist())]
    return "\n".join([f":::{{table}} {_one_line(caption)}", *([f":name: {name}"] if name else []), "", *lines, ":::"])


def show(text: str) -> Markdown:
    """What a notebook cell ends with: the table as Markdown output."""
    return Markdown(text)


def number(found: Interval, digits: int = 4) -> str:
    """An estimate with its interval, "0.9019 [0.9012, 0.9026]"; alone if it has none; "–" if it is NaN."""
    if np.isnan(found.estimate):
        return MISSING
    interval = "" if np.isnan(found.low) else f" [{found.low:.{digits}f},\N{NO-BREAK SPACE}{found.high:.{digits}f}]"
    return minus(f"{found.estimate:.{digits}f}{interval}")


def at_most(value: float, digits: int) -> str:
    """A bound in prose, "at most 0.16": rounded up, so that what was measured does not lie above it."""
    return f"{math.ceil(round(value * 10**digits, 6)) / 10**digits:.{digits}f}"


def at_least(value: float, digits: int) -> str:
    """A bound in prose, "3 or more": rounded down."""
    return f"{math.floor(round(value * 10**digits, 6)) / 10**digits:.{digits}f}"


def row_name(method: str) -> str:
    return f"{method} (control)" if method in CONTROLS else method


def minus(text: str) -> str:
    """The typographic minus sign, which screen readers speak."""
    return text.replace("-", "−")


def provenance_line(manifest: Mapping[str, Any]) -> str:
    """One line to stand under a figure: run, model, data, n, budget, code, versions, and a date where there is one."""
    model, versions, status = manifest["model"], manifest["versions"], manifest["status"]
    wanted, measured = (manifest["sequences"][key] for key in ("wanted", "measured"))
    unfinished = "" if status == "complete" else f" ({status}: {measured} of {wanted})"
    parts = [
        f"Run `{manifest['name']}`{unfinished}",
        f"model {model['name']}, {model['dtype']} on {model['device']}",
        f"data {data_source(manifest)}",
        f"n = {measured} sequences",
        f"budget {budget_text(manifest['parameters']['budget'])}",
        f"measurement version {manifest['measurement_version']}",
        f"torch {versions['torch']}, transformers {versions['transformers']}",
        str(manifest.get("finished") or manifest.get("started") or "")[:10] or "date not recorded",
    ]
    return " · ".join(parts)


def budget_text(budget: float | int | None) -> str:
    """A budget in words: 0.1 -> "10 %", 512 -> "512 tokens"."""
    if budget is None:
        return "not recorded"
    return f"{budget} tokens" if isinstance(budget, int) else f"{100 * budget:g} %"


def data_source(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("data", {}).get("source") or manifest.get("parameters", {}).get("source") or "not recorded")


def _one_line(text: str) -> str:
    """Line breaks would end a row of the table; a no-break space stays."""
    return re.sub(r"[ \t\r\n]+", " ", text).strip(" ")
