"""For readers who run this themselves: what a run costs, by formula; what profiles, runs and columns there are.

Costs count the multiplications and bytes that cannot be avoided. Numbers per second come from a finished run, never
from a data sheet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from ..runs import Parameters, Run, find_run, load_profile, load_run, profiles, run_names
from .figures.setting import kv_cache_bytes, readable
from .records import METRICS
from .tables.layout import MISSING, myst_table


@dataclass(frozen=True)
class Architecture:
    """The sizes of a Llama-like model that its cost depends on."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    tied: bool  # output weights are the embedding's

    @classmethod
    def of(cls, config: Any) -> Architecture:
        """The sizes in a transformers configuration of a Llama-like model."""
        heads = config.num_attention_heads
        return cls(
            config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers, heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
            bool(getattr(config, "tie_word_embeddings", False)),
        )  # fmt: skip

    @property
    def matrix_weights(self) -> int:
        """Weights that every token is multiplied with: projections and feed-forward of all layers."""
        attention = 2 * self.hidden * (self.query_heads + self.kv_heads) * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def weights(self) -> int:
        """All weights, the few of norms and biases left out."""
        return self.matrix_weights + self.vocabulary * self.hidden * (1 if self.tied else 2)


#: By the name of the model in a manifest, or as it is called in the text.
ARCHITECTURES = {
    "smollm2-135m": Architecture(49152, 576, 1536, 30, 9, 3, 64, tied=True),
    "Qwen2.5-Coder-0.5B-Instruct": Architecture(151936, 896, 4864, 24, 14, 2, 64, tied=True),
    "Meta-Llama-3-8B-Instruct": Architecture(128256, 4096, 14336, 32, 32, 8, 128, tied=False),
}


def prefill_flops(model: Architecture, tokens: int) -> float:
    """Multiplications and additions of a forward pass over a prompt: matrices, and causal attention."""
    attention = 2 * tokens**2 * model.head_dim * model.query_heads * model.layers  # half of q.k and of the values
    return 2 * model.matrix_weights * tokens + attention


def even_length(model: Architecture) -> float:
    """Prompt tokens at which causal attention costs as much as all matrices."""
    return model.matrix_weights / (model.head_dim * model.query_heads * model.layers)


def analysis_flops(model: Architecture, tokens: int) -> float:
    """The same with H2O's column sums, one more causal q.k; everything else that is measured is small beside it."""
    return prefill_flops(model, tokens) + tokens**2 * model.head_dim * model.query_heads * model.layers


def analysis_parts(
    model: Architecture, tokens: int, probes: int = 32, methods: int = 7, window: int = 8
) -> dict[str, float]:
    """Multiplications and additions of every part of an analysis, the prefill first.

    probes   answer tokens: they ride along in the forward pass, and are decoded again from every compressed cache
    methods  compressed caches; window: queries whose attention rows score the prompt
    Sorting scores and adding up losses cost a few operations per cached number, and are counted as such.
    """
    rows = 2 * tokens * model.head_dim * model.query_heads * model.layers  # q.k of one query per head, all layers
    cache = 2 * tokens * model.kv_heads * model.head_dim * model.layers
    return {
        "prefill": prefill_flops(model, tokens),
        "column sums, H2O's scores": rows * tokens / 2,
        "attention rows of the window": rows * window,
        "attention rows of the probes": rows * probes,
        "losses of keys and values": 4.0 * cache,  # absolute values and squares, each added up
        "the answer, in the forward pass": 2.0 * model.matrix_weights * probes + 2 * rows * probes,
        "the answer, from every compressed cache": 2.0 * model.matrix_weights * probes * methods,
    }


def analysis_bytes(
    model: Architecture, tokens: int, budget: float = 0.1, methods: int = 7, bytes_per_number: int = 2, probes: int = 32
) -> dict[str, float]:
    """What has to be in memory at once while a prompt is measured, in bytes.

    budget   part that stays, as a fraction; methods compressed caches are kept side by side until the answer is decoded
    return   part -> bytes; their sum is a lower bound, an allocator needs some room above it
    """
    cache = kv_cache_bytes(tokens, model.layers, model.kv_heads, model.head_dim, bytes_per_number)
    heads = model.query_heads + 2 * model.kv_heads
    return {
        "weights": model.weights * bytes_per_number,
        "compressed caches": methods * budget * cache,
        "feed-forward of one layer": 3 * tokens * model.intermediate * bytes_per_number,
        "queries, keys, values of one layer": tokens * heads * model.head_dim * (bytes_per_number + 4),
        "attention rows of the probes": 4 * (probes + 8) * tokens * model.query_heads * 4,
    }


def achieved_flops(run: Any, model: Architecture) -> float:
    """What a run got done per second, everything included: its sequences' `analysis_flops` by its seconds."""
    work = sum(analysis_flops(model, tokens) for tokens in run.sequences["prompt_tokens"])
    return work / run.manifest["seconds"]


def hours(model: Architecture, settings: Parameters, flops_per_second: float) -> float:
    """Hours that a profile needs at a given rate, if every prompt has its full length."""
    sequences = settings.per_category * len(settings.categories)
    return sequences * analysis_flops(model, settings.max_tokens) / flops_per_second / 3600


# --- tables -------------------------------------------------------------------------------------------------------


def cost_table(models: Mapping[str, tuple[Architecture, int, int]], caption: str, name: str = "") -> str:
    """Memory of measuring one prompt: weights, caches, and the rest, which is one layer's at a time.

    models  label -> architecture, tokens, bytes per number
    """
    rows = []
    for label, (model, tokens, size) in models.items():
        parts = analysis_bytes(model, tokens, bytes_per_number=size)
        total, row = sum(parts.values()), {"Model": label, "Prompt tokens": f"{tokens:,}"}
        row |= {part.capitalize(): readable(parts.pop(part)) for part in ("weights", "compressed caches")}
        row |= {"One layer at work": readable(sum(parts.values())), "Together": f"**{readable(total)}**"}
        rows.append(row)
    table = pd.DataFrame(rows)
    return myst_table(table, caption, name, right=table.columns[1:])


def parts_table(models: Mapping[str, tuple[Architecture, int]], caption: str, name: str = "") -> str:
    """The parts of an analysis as shares of the plain prefill's work; models: label -> architecture, prompt tokens."""
    columns = {label: analysis_parts(*model) for label, model in models.items()}
    parts = list(next(iter(columns.values())))[1:]
    table = pd.DataFrame({"Part": [part[0].upper() + part[1:] for part in parts]})
    for label, found in columns.items():
        table[label] = [f"{100 * found[part] / found['prefill']:.2f} %" for part in parts]
    return myst_table(table, caption, name, table.columns[1:])


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
    "scored_tokens": "answer tokens after the first: those that the cache can change",
    "nll": "negative log-likelihood of the answer, nats per scored token",
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
