"""How long the chapters took to execute, as recorded once: a committed file, so that two builds give the same pages.

python -m chunkkv_lib book --record-times       # execute, and write data/build_times.json anew
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from chunkkv_lib.book.chapters import Chapter
from chunkkv_lib.errors import InputError
from chunkkv_lib.files import write_text
from chunkkv_lib.report.tables.layout import MISSING, myst_table

PLACE = "data/build_times.json"  # below the book's folder


def record_times(seconds: Mapping[str, float], path: str | Path) -> None:
    """Write the seconds of every chapter, by name, with the machine and the versions they were taken with."""
    from chunkkv_lib.runs.driver import machine, versions

    record = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "seconds": {name: round(taken, 1) for name, taken in seconds.items()},
    }
    write_text(path, json.dumps(record, indent=1) + "\n")


def read_times(path: str | Path) -> dict | None:
    """The record at `path`, or None where nothing has been recorded. InputError: a file of another kind."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        sum(record["seconds"].values()), record["machine"]["cores"], record["finished"][:10]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "Make one: python -m chunkkv_lib book --record-times."
        raise InputError(f"{path} is not a record of the chapters' times ({error}). {remedy}") from error
    return record


def times_frame(record: Mapping, chapters: Iterable[Chapter]) -> pd.DataFrame:
    """Columns chapter (its name in _toc.yml) and seconds, NaN where the record has none; in reading order."""
    names = [chapter.name for chapter in chapters if chapter.is_notebook]
    return pd.DataFrame({"chapter": names, "seconds": [record["seconds"].get(name, float("nan")) for name in names]})


def times_table(frame: pd.DataFrame, caption: str, name: str = "") -> str:
    """A MyST table of `times_frame`, with a link to every chapter and the sum of all."""
    shown = [*frame["seconds"], frame["seconds"].sum()]
    rows = pd.DataFrame(
        {
            "Chapter": [*(f"{{doc}}`/{chapter}`" for chapter in frame["chapter"]), "All chapters"],
            "Seconds": [MISSING if pd.isna(seconds) else f"{seconds:.0f}" for seconds in shown],
        }
    )
    return myst_table(rows, caption, name, right=["Seconds"])
