"""For readers who run this themselves: tables of profiles, options, runs and columns; and texts glued into pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from ..runs import Parameters, Run, find_run, load_profile, load_run, profiles, run_names
from .records import METRICS
from .tables import MISSING, myst_table


def profiles_table(name: str = "") -> str:
    """The profiles of data/profiles with what distinguishes them from the defaults."""
    defaults, found = Parameters(), {profile: load_profile(profile) for profile in profiles()}
    shown = ["model", "dtype", "source", "per_category", "max_tokens"]
    for one in fields(Parameters):
        differs = any(getattr(settings, one.name) != getattr(defaults, one.name) for settings in found.values())
        if differs and one.name not in shown:
            shown.append(one.name)
    rows = [
        {"Profile": f"`{profile}`"} | {field: _value(getattr(settings, field)) for field in shown}
        for profile, settings in found.items()
    ]
    caption = "The profiles in `data/profiles`: what each of them measures. Every other option has its default."
    return myst_table(pd.DataFrame(rows), caption, name)


def options_table(name: str = "") -> str:
    """Every option of `measure`, its default and its meaning, read from `Parameters`."""
    rows = []
    for one in fields(Parameters):
        flag = "--" + one.name.replace("_", "-")
        no = f", `--no-{flag[2:]}`" if one.type == "bool" else ""
        default = {True: "on", False: "off"}.get(one.default, one.default) if one.type == "bool" else one.default
        shown = MISSING if default is None else _value(default)
        rows.append({"Option": f"`{flag}`{no}", "Default": shown, "Meaning": one.metadata["help"]})
    caption = f"The options of `measure`. {MISSING}: none, or for a hyper-parameter what the preset says."
    return myst_table(pd.DataFrame(rows), caption, name)


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


def available_runs() -> list[str]:
    """Names of the runs that hold records, the project's and the reader's, in alphabetical order."""
    return run_names()


COLUMNS = {
    "sequence": "id of the sequence: data set and row",
    "category": "row of Paper Table 11",
    "dataset": "data set that the sequence is from",
    "text_hash": "first 16 digits of the SHA-256 of the untruncated prompt",
    "prompt_tokens": "tokens of the prompt, after truncation",
    "answer_tokens": "tokens of the answer, the probes",
    "evidence_passages": "passages that hold the answer, where the data set marks them and truncation left them whole",
    "evidence_tokens": "tokens of those passages",
    "method": "compressor or control; `Full` is the whole cache",
    "layer": "0 is next to the input",
    "kept_tokens": "tokens that stayed, in each head",
    "scored_tokens": "answer tokens that the cache predicts: all of them",
    "nll": "negative log-likelihood of the answer, nats per scored token",
    "nll_after_first": "the same of the tokens after the first, which in use is predicted before anything is evicted",
    "accuracy": "1 if the most likely token was the answer's every time, else 0",
    "chance_score": "mean score of the gold answers to other questions of the data set, written in this one's place",
    "generated_tokens": "tokens of the written answer",
    "forced_opening": "whether the model wanted to end at once, and its next likely token was taken instead",
}


def columns_table(run: Any, name: str = "") -> str:
    """Every table and column of a run folder, and what it means."""
    rows = []
    for table in ("sequences", "layers", "answers"):
        frame = getattr(run, table)
        rows += [{"Table": f"`{table}`", "Column": f"`{column}`", "Meaning": meaning(column)} for column in frame]
    caption = f"What the tables of a run hold, read from the run `{run.name}`; each is a file `<table>.parquet`."
    return myst_table(pd.DataFrame(rows), caption, name)


def meaning(column: str) -> str:
    """What a column of a run means; "–" for one that nobody has explained."""
    if column in COLUMNS:
        return COLUMNS[column]
    if column not in METRICS:
        return MISSING
    about = METRICS[column]
    direction = {1: "higher is better", -1: "lower is better", 0: ""}[about.sign]
    return ", ".join(part for part in (about.label, about.unit, direction) if part)


def _value(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
