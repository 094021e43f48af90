"""For the page of commands: the profiles, the options of `measure`, and what the columns of a run mean."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pandas as pd

from ..runs import Parameters, load_profile, profiles
from .records import METRICS
from .tables import MISSING, myst_table

COLUMNS = {
    "sequence": "id of the sequence: data set and row",
    "category": "row of Paper Table 11",
    "dataset": "data set that the sequence is from",
    "document": "the text that it was made from; intervals resample documents",
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


def profiles_table(name: str = "") -> str:
    """The profiles of data/profiles with what distinguishes them from the defaults."""
    defaults, rows = Parameters().as_dict(), []
    for profile in profiles():
        settings = load_profile(profile).as_dict()
        changed = [f"`{key}` {_value(value)}" for key, value in settings.items() if value != defaults[key]]
        rows.append({"Profile": f"`{profile}`", "Differs from the defaults in": ", ".join(changed) or "nothing"})
    return myst_table(pd.DataFrame(rows), "The profiles in `data/profiles`.", name)


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
    if column in COLUMNS or column not in METRICS:
        return COLUMNS.get(column, MISSING)
    about = METRICS[column]
    better = f"{about.better} is better" if about.better else ""
    return ", ".join(part for part in (about.label, about.unit, better) if part)


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else "none" if value is None else str(value)
