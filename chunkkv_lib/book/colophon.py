"""What a build was made with: packages, machine, and the runs that its numbers come from. For the page of versions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from chunkkv_lib.book.paths import project_root
from chunkkv_lib.report.tables.layout import MISSING, myst_table

PIN = re.compile(r"^([\w.-]+)==(\S+)")


def packages(requirements: str | Path | None = None) -> pd.DataFrame:
    """The pinned packages and what is installed: columns part, package, pinned, installed (None where it is not).

    requirements   a file of pins below comments that name their part; by default requirements.txt of the checkout
    """
    path = Path(requirements) if requirements is not None else project_root() / "requirements.txt"
    rows, part = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            part = line.lstrip("# ").partition(":")[0]
        elif pin := PIN.match(line):
            rows.append({"part": part, "package": pin[1], "pinned": pin[2], "installed": _installed(pin[1])})
    return pd.DataFrame(rows, columns=["part", "package", "pinned", "installed"])


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def other_versions(frame: pd.DataFrame) -> list[str]:
    """The packages whose installed version is not the pinned one; "2.13.0+cpu" is a build of 2.13.0."""
    installed = frame["installed"].fillna("").str.partition("+")[0]
    return frame.loc[installed != frame["pinned"], "package"].tolist()


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
    parts += [str(machine["instructions"])] if machine.get("instructions") else []
    parts += [", ".join(map(str, machine["gpus"]))] if machine.get("gpus") else []
    return ", ".join(part for part in parts if part) or "not recorded"


def runs_frame(manifests: Iterable[Mapping]) -> pd.DataFrame:
    """One row per run: run, measured and wanted sequences, seconds, machine, torch, finished (a date, or None)."""
    rows = []
    for manifest in manifests:
        sequences = manifest.get("sequences", {})
        complete = manifest.get("status") == "complete"
        rows.append(
            {
                "run": manifest["name"],
                "measured": sequences.get("measured"),
                "wanted": sequences.get("wanted"),
                "seconds": manifest.get("seconds"),
                "machine": machine_text(manifest.get("machine", {})),
                "torch": manifest.get("versions", {}).get("torch"),
                "finished": str(manifest["finished"])[:10] if complete and manifest.get("finished") else None,
            }
        )
    return pd.DataFrame(rows)


def measuring_table(frame: pd.DataFrame, caption: str, name: str = "") -> str:
    """A MyST table of `runs_frame`: what every run measured, in how many minutes, where and when."""
    rows = pd.DataFrame(
        {
            "Run": [f"`{run}`" for run in frame["run"]],
            "Sequences": [f"{row.measured} of {row.wanted}" for row in frame.itertuples()],
            "Minutes": [MISSING if pd.isna(seconds) else f"{seconds / 60:.1f}" for seconds in frame["seconds"]],
            "Machine": frame["machine"],
            "PyTorch": frame["torch"].fillna(MISSING),
            "Finished": frame["finished"].fillna("not yet"),
        }
    )
    return myst_table(rows, caption, name, right=["Sequences", "Minutes"])
