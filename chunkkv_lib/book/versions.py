"""For the page of versions: the packages, and the recorded runs with their machines."""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from chunkkv_lib.report.tables import MISSING, myst_table


def packages_table(requirements: Path, caption: str, name: str = "") -> tuple[str, list[str]]:
    """A MyST table of a file's pins, a row for each comment that names their part; and the packages in other versions.

    Those are in bold; "2.13.0+cpu" is a build of 2.13.0.
    """
    parts, others = {}, []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            part = line.lstrip("# ").partition(":")[0]
            texts = parts[part[0].upper() + part[1:]] = []
        elif pin := re.match(r"^([\w.-]+)==(\S+)", line):
            try:
                installed = version(pin[1])
            except PackageNotFoundError:
                installed = "not installed"
            same = installed.partition("+")[0] == pin[2]
            texts.append(f"{pin[1]} {installed}" if same else f"**{pin[1]} {installed}** (pinned: {pin[2]})")
            others += [] if same else [pin[1]]
    rows = [(part, ", ".join(texts)) for part, texts in parts.items() if texts]
    return myst_table(pd.DataFrame(rows, columns=["Needed for", "Packages and their versions"]), caption, name), others


def machine_text(machine: Mapping) -> str:
    """A machine as manifests describe it, in one line: "Linux x86_64, 2 cores, 1 thread, AVX512"."""
    parts = [" ".join(str(machine[key]) for key in ("system", "processor") if machine.get(key))]
    for key in ("cores", "threads", "workers"):
        if (count := machine.get(key)) is not None:
            parts.append(f"{count} {key if count != 1 else key[:-1]}")
    parts += [str(machine.get("instructions") or ""), *map(str, machine.get("gpus") or [])]
    return ", ".join(filter(None, parts))


def measuring_table(manifests: Iterable[Mapping], caption: str, name: str = "") -> str:
    """A MyST table of runs: version of the measurement, model, sequences, minutes, where and when."""
    rows = [
        {
            "Run": f"`{one['name']}`",
            "Version": one["measurement_version"],
            "Model": one["model"]["name"],
            "Sequences": f"{one['sequences']['measured']} of {one['sequences']['wanted']}",
            "Minutes": f"{one['seconds'] / 60:.1f}",
            "Machine": machine_text(one["machine"]),
            "PyTorch": one["versions"].get("torch", MISSING),
            "Finished": one["finished"][:10] if one["status"] == "complete" else "not yet",
        }
        for one in manifests
    ]
    return myst_table(pd.DataFrame(rows), caption, name, right=["Version", "Sequences", "Minutes"])
