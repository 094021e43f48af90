"""Where numbers come from: a run's manifest as one line, and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from chunkkv_lib.report.tables.layout import MISSING, myst_table


def provenance_line(manifest: Mapping[str, Any]) -> str:
    """One line to stand under a figure: run, model, data, n, budget, code, versions, date.

    A fact that the manifest lacks is said to be "not recorded".
    """
    model, versions = manifest.get("model", {}), manifest.get("versions", {})
    wanted, measured = (manifest.get("sequences", {}).get(key, "?") for key in ("wanted", "measured"))
    unfinished = (
        ""
        if manifest.get("status") == "complete"
        else f" ({manifest.get('status', 'unfinished')}: {measured} of {wanted})"
    )
    parts = [
        f"Run `{manifest.get('name', 'without a name')}`{unfinished}",
        f"model {model.get('name', 'not recorded')}, {model.get('dtype', '?')} on {model.get('device', '?')}",
        f"data {data_source(manifest)}",
        f"n = {measured} sequences",
        f"budget {budget_text(manifest.get('parameters', {}).get('budget'))}",
        f"code {str(manifest.get('code', 'not recorded'))[:12]}",
        ", ".join(f"{package} {versions[package]}" for package in ("torch", "transformers") if package in versions)
        or "versions not recorded",
        str(manifest.get("finished") or manifest.get("started") or "")[:10] or "date not recorded",
    ]
    return " · ".join(parts)


def versions_table(manifest: Mapping[str, Any], name: str = "") -> str:
    """What a run was made with: model, data, machine, time, code, and the version of every package."""
    model = manifest.get("model", {})
    facts = {
        "run": manifest.get("name"),
        "status": manifest.get("status"),
        "model": model.get("name"),
        "model SHA-256": _short(model.get("sha256")),
        "number format and device": ", ".join(str(model[key]) for key in ("dtype", "device") if key in model) or None,
        "data": data_source(manifest),
        "budget": budget_text(manifest.get("parameters", {}).get("budget")),
        "sequences": manifest.get("sequences", {}).get("measured"),
        "machine": ", ".join(f"{key} {value}" for key, value in manifest.get("machine", {}).items()) or None,
        "started": manifest.get("started"),
        "finished": manifest.get("finished"),
        "seconds": manifest.get("seconds"),
        "code": manifest.get("code"),
        "measurement version": manifest.get("measurement_version"),
        **manifest.get("versions", {}),
    }
    rows = pd.DataFrame(
        [(what, MISSING if value is None else value) for what, value in facts.items()],
        columns=["What", "Value"],
    )
    return myst_table(rows, f"What the run `{manifest.get('name', 'without a name')}` was made with.", name)


def budget_text(budget: float | int | None) -> str:
    """A budget in words: 0.1 -> "10 %", 512 -> "512 tokens"."""
    if budget is None:
        return "not recorded"
    return f"{budget} tokens" if isinstance(budget, int) else f"{100 * budget:g} %"


def data_source(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("data", {}).get("source") or manifest.get("parameters", {}).get("source") or "not recorded")


def _short(digest: str | None) -> str | None:
    """The first 16 hexadecimal digits: enough to tell files apart, short enough for a phone."""
    return f"{digest[:16]}…" if digest else digest
