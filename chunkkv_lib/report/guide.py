"""A table of runs, and texts glued into pages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..runs import Run, find_run, load_run
from .tables import MISSING, myst_table


def runs_table(runs: Iterable[Any], name: str = "") -> str:
    """Runs side by side: model, data, sequences, budget, time."""
    rows = []
    for run in runs:
        manifest, tokens = run.manifest, run.sequences["prompt_tokens"].sum()
        seconds, wanted = manifest["seconds"], manifest["sequences"]["wanted"]
        rows.append(
            {
                "Run": f"`{run.name}`",
                "Model": f"{manifest['model']['name']}, {manifest['model']['dtype']} on {manifest['model']['device']}",
                "Data": manifest["data"]["source"],
                "Budget": _value(manifest["parameters"]["budget"]),
                "Sequences": f"{len(run.sequences)} of {wanted}",
                "Tokens": f"{tokens:,}",
                "Minutes": f"{seconds / 60:.1f}",
                "Tokens per second": f"{tokens / seconds:,.0f}" if seconds else MISSING,
            }
        )
    table = pd.DataFrame(rows)
    return myst_table(table, "The runs of this book: what was measured, and how long it took.", name, table.columns[4:])


def run_if_measured(name: str | Path) -> Run | None:
    """The run, or None where no complete one has been measured under that name. InputError for a damaged one."""
    folder = find_run(name)
    run = load_run(folder) if folder and (folder / "layers.parquet").exists() else None
    return run if run and run.complete else None


def paste(prefix: str, **texts: str) -> None:
    """Glue texts for a chapter's sentences: the key of each is its name behind the prefix, "layers_gap"."""
    from myst_nb import glue

    for name, text in texts.items():
        glue(f"{prefix}_{name}", text, display=False)


def _value(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
