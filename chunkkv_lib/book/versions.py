"""For the page of versions: the packages, the recorded runs and their machines, and how long the chapters take.

    python -m chunkkv_lib book --record-times     # execute, and write data/build_times.json anew

The times are a committed file, recorded once, so that two builds give the same pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from chunkkv_lib.book.chapters import Chapter
from chunkkv_lib.files import write_text
from chunkkv_lib.report.tables import MISSING, myst_table

TIMES = "data/build_times.json"  # below the book's folder


def packages(requirements: Path) -> pd.DataFrame:
    """The pins of a file, below comments that name their part: columns part, package, pinned, installed ("": not)."""
    rows, part = [], ""
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            part = line.lstrip("# ").partition(":")[0]
        elif pin := re.match(r"^([\w.-]+)==(\S+)", line):
            try:
                installed = version(pin[1])
            except PackageNotFoundError:
                installed = ""
            rows.append({"part": part, "package": pin[1], "pinned": pin[2], "installed": installed})
    return pd.DataFrame(rows, columns=["part", "package", "pinned", "installed"])


def other_versions(frame: pd.DataFrame) -> list[str]:
    """The packages whose installed version is not the pinned one; "2.13.0+cpu" is a build of 2.13.0."""
    return frame.loc[frame["installed"].str.partition("+")[0] != frame["pinned"], "package"].tolist()


def packages_table(frame: pd.DataFrame, caption: str, name: str = "") -> str:
    """A MyST table of `packages`, one row for each part of the requirements; other versions than the pins in bold."""
    other = set(other_versions(frame))
    texts = [
        f"**{row.package} {row.installed or 'not installed'}** (pinned: {row.pinned})" if row.package in other
        else f"{row.package} {row.installed}"
        for row in frame.itertuples()
    ]  # fmt: skip
    parts = frame.assign(text=texts).groupby("part", sort=False)["text"].agg(", ".join).reset_index()
    parts["part"] = parts["part"].str[:1].str.upper() + parts["part"].str[1:]
    return myst_table(parts.set_axis(["Needed for", "Packages and their versions"], axis=1), caption, name)


def machine_text(machine: Mapping) -> str:
    """A machine as manifests describe it, in one line: "Linux x86_64, 2 cores, 1 thread, AVX512"."""
    parts = [" ".join(str(machine[key]) for key in ("system", "processor") if machine.get(key))]
    for key in ("cores", "threads", "workers"):
        if (count := machine.get(key)) is not None:
            parts.append(f"{count} {key if count != 1 else key[:-1]}")
    parts += [str(machine.get("instructions") or ""), ", ".join(map(str, machine.get("gpus") or []))]
    return ", ".join(part for part in parts if part) or "not recorded"


def measuring_table(manifests: Iterable[Mapping], caption: str, name: str = "") -> str:
    """A MyST table of runs: version of the measurement, model, sequences, minutes, where and when."""
    rows = []
    for manifest in manifests:
        sequences, seconds = manifest.get("sequences", {}), manifest.get("seconds")
        finished = manifest.get("finished") if manifest.get("status") == "complete" else None
        rows.append(
            {
                "Run": f"`{manifest['name']}`",
                "Version": manifest.get("measurement_version", MISSING),
                "Model": manifest.get("model", {}).get("name", MISSING),
                "Sequences": f"{sequences.get('measured')} of {sequences.get('wanted')}",
                "Minutes": MISSING if seconds is None else f"{seconds / 60:.1f}",
                "Machine": machine_text(manifest.get("machine", {})),
                "PyTorch": manifest.get("versions", {}).get("torch") or MISSING,
                "Finished": str(finished)[:10] if finished else "not yet",
            }
        )
    return myst_table(pd.DataFrame(rows), caption, name, right=["Version", "Sequences", "Minutes"])


def record_times(seconds: Mapping[str, float], path: str | Path) -> None:
    """Write the seconds of every chapter, by name, with the machine and the versions they were taken with."""
    from chunkkv_lib.runs.identity import machine, versions

    record = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "seconds": {name: round(taken, 1) for name, taken in seconds.items()},
    }
    write_text(path, json.dumps(record, indent=1) + "\n")


def times_table(record: Mapping, chapters: Iterable[Chapter], caption: str, name: str = "") -> str:
    """A MyST table of the seconds that every chapter took, in reading order, and their sum."""
    seconds = {chapter.name: record["seconds"].get(chapter.name) for chapter in chapters if chapter.is_notebook}
    rows = [(f"{{doc}}`/{chapter}`", MISSING if s is None else f"{s:.0f}") for chapter, s in seconds.items()]
    rows.append(("All chapters", f"{sum(s for s in seconds.values() if s is not None):.0f}"))
    return myst_table(pd.DataFrame(rows, columns=["Chapter", "Seconds"]), caption, name, right=["Seconds"])
