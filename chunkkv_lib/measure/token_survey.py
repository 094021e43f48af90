"""Which tokens stay: counts by class, place and evidence for every layer and method, recorded like a run.

A survey lies in data/runs/<name>/, like a run: `manifest.json`; `sequences.parquet`, the prompts and how many tokens of
each group they have; `tokens.parquet`, one row per sequence, layer and set of tokens. A set is what one method keeps
("ChunkKV"), or what one keeps and another drops ("ChunkKV, not SnapKV"). The numbers are those of `token_counts`; no
text is recorded.
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..attention import PromptAttention
from ..capture import Layer, capture
from ..compressors import ChunkKV, Compressor, Random
from ..errors import InputError
from ..metrics import kept_mask
from ..models import load_tokenizer
from ..sequences import Sequence, load_sequences, source_identity
from ..token_classes import function_words, token_texts
from ..token_counts import SINK, Labels, columns, counts, label, piece_counts
from .driver import LocalEngine, claim, code_hash, measure_missing, sequence_table
from .parameters import Parameters
from .runs import holds_all, locked, read_manifest, read_table, run_folder, write_parquet

COMPARED = ("ChunkKV", "SnapKV", "H2O")  # each is set against each other
BLOCKS = "RandomChunks"
SETTINGS = Parameters(
    per_category=8, max_tokens=2048, dtype="float32", device="cpu", methods=(*COMPARED, "Random", "Oracle")
)
TABLES = ("tokens",)  # of the run folder, beside that of the sequences
#: Files of the survey itself; those that choose what stays are in `driver.MEASURING`.
COUNTING = ("token_classes.py", "token_counts.py", "measure/token_survey.py")


@dataclass(frozen=True)
class RandomChunks(ChunkKV):
    """A control: whole chunks like ChunkKV's, but drawn at random. What it scores comes with chunks, not with choice.

    seed  of the draw: one number for each chunk, so that a short last one has the same chance
    """

    aggregate: str = "mean"
    seed: int = 0

    def scores(self, queries: Tensor, keys: Tensor, attention: PromptAttention | None = None) -> Tensor:
        """Uniform random numbers, the same within a chunk, of the positions before the window: [S, n - window]."""
        drawn = Random(granularity=self.granularity, seed=self.seed).scores(queries, keys, attention)
        return drawn.repeat_interleave(self.chunk_size, 1)[:, : keys.shape[1] - self.window]


@dataclass(frozen=True)
class Survey:
    """A survey read back.

    sequences  one row per prompt; its tokens of each group in columns as in `tokens`, counted once
    tokens     one row per sequence, layer and set (column `method`), counts summed over the heads
    """

    name: str
    path: Path
    manifest: dict = field(repr=False)
    sequences: pd.DataFrame = field(repr=False)
    tokens: pd.DataFrame = field(repr=False)

    @cached_property
    def records(self) -> pd.DataFrame:
        """`tokens` with the category and data set of each sequence."""
        return self.tokens.merge(self.sequences[["sequence", "category", "dataset"]], on="sequence", how="left")


def survey(
    run: str | Path = "tokens",
    settings: Parameters = SETTINGS,
    restart: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Path:
    """Count the kept tokens of a sample of sequences into a run folder, continuing where an earlier call stopped.

    run       name below data/runs, or a path
    settings  as for `measure`; at least the three methods and Oracle
    restart   discard what is there
    return    the folder; a complete survey of the same settings and code is left as it is
    raises InputError: the folder holds another survey, or a setting does not fit.
    KeyboardInterrupt passes through after the finished sequences are safe.
    """
    if missing := [name for name in (*COMPARED, "Oracle") if name not in settings.methods]:
        raise InputError(f"the survey needs {', '.join(COMPARED)} and Oracle, but methods lack {missing[0]}; add it.")
    folder = run_folder(run)
    identity = {"parameters": settings.as_dict(), "code": survey_hash()}
    manifest = None if restart else read_manifest(folder)
    if manifest and identity.items() <= manifest.items() and holds_all(folder, manifest, TABLES):
        report(f"{folder} is complete; nothing to count.")
        return folder
    with locked(folder), SurveyEngine(settings, report) as engine:
        identity |= {"model": engine.model, "data": source_identity(settings.source, settings.data_path)}
        claim(folder, identity, restart, engine.machine)
        sequences = load_sequences(
            engine.tokenizer, settings.source, settings.data_path, settings.categories, settings.per_category,
            settings.max_tokens, settings.max_answer_tokens, settings.seed,
        )  # fmt: skip
        write_parquet(folder / "sequences.parquet", survey_table(sequences, engine.tokenizer))
        measure_missing(folder, engine, sequences, progress, tables=TABLES)
    return folder


def load_survey(name: str | Path = "tokens") -> Survey:
    """Read a survey, finished or not.

    raises InputError: none there, or a damaged file.
    """
    folder = run_folder(name)
    manifest, tables = read_manifest(folder), [read_table(folder, table) for table in ("sequences", *TABLES)]
    if manifest is None or any(table is None for table in tables):
        raise InputError(f"no survey of tokens at {folder}. Make one: python -m chunkkv_lib tokens --run {name}.")
    sequences, tokens = tables
    done = sequences["sequence"].isin(tokens["sequence"])
    return Survey(folder.name, folder, manifest, sequences[done].reset_index(drop=True), tokens)


class SurveyEngine(LocalEngine):
    """Counts in this process, one sequence after the other."""

    def __enter__(self) -> SurveyEngine:
        self.tokenizer = load_tokenizer(self.parameters.model)
        return super().__enter__()

    def measured(self, sequences: list[Sequence]) -> Iterator[tuple[str, pd.DataFrame]]:
        methods = survey_methods(self.parameters)
        for sequence in sequences:
            yield sequence.id, survey_sequence(self.network, sequence, labelled(sequence, self.tokenizer), methods)


def survey_methods(settings: Parameters) -> dict[str, Compressor]:
    """The methods of the settings, and the control that keeps chunks at random."""
    chunks = settings.compressors["ChunkKV"]
    shared = {name: getattr(chunks, name) for name in ("budget", "granularity", "window", "chunk_size")}
    return settings.compressors | {BLOCKS: RandomChunks(**shared, seed=settings.seed)}


def labelled(sequence: Sequence, tokenizer) -> Labels:
    """The sequence's prompt with every token labelled; special tokens count as having no text."""
    texts = token_texts(tokenizer, sequence.prompt_ids)
    special = set(tokenizer.all_special_ids)
    shown = ["" if token in special else text for token, text in zip(sequence.prompt_ids, texts)]
    return label(shown, function_words(sequence.dataset), sequence.evidence_spans)


def survey_table(sequences: list[Sequence], tokenizer) -> pd.DataFrame:
    """The sequences as in any run, and how many tokens, words and sentences their prompts have to be kept."""
    rows = []
    for sequence in sequences:
        about = labelled(sequence, tokenizer)
        rows.append(counts(np.ones((1, len(sequence.prompt_ids)), bool), about))
        rows[-1] |= {"words": len(about.words), "sentences": len(about.sentences)}
    totals = pd.DataFrame(rows, columns=["tokens", *(c for g in ("class", "place", "near") for c in columns(g)),
                                         "words", "sentences"])  # fmt: skip
    return pd.concat([sequence_table(sequences), totals], axis=1)


def survey_sequence(
    model: PreTrainedModel, sequence: Sequence, about: Labels, methods: Mapping[str, Compressor]
) -> pd.DataFrame:
    """Count one sequence's kept tokens in every layer, in one forward pass.

    return  columns sequence, layer, method (the set), heads, the counts of `token_counts`, oracle (tokens of the set
            that the Oracle keeps too), attention (share of the answer's attention on the set, mean over KV heads, the
            first tokens left aside)
    """
    n, records = len(sequence.prompt_ids), []

    def visit(layer: Layer) -> None:
        attention = PromptAttention(
            layer.queries[:, :n], layer.keys[:, :n], None if layer.lse is None else layer.lse[:, :n],
            layer.queries[:, n:],
        )  # fmt: skip
        masks = {name: _mask(method, attention, sequence.id, layer.index) for name, method in methods.items()}
        kv_heads = layer.keys.shape[0]
        looked = _looked(attention)
        for name, mask in _sets(masks):
            record = {"layer": layer.index, "method": name, "heads": kv_heads} | counts(mask, about)
            alone = name in masks
            record |= piece_counts(mask if alone else mask[:, :0], about if alone else Labels({}, (), ()))
            record |= {"oracle": int((mask & masks["Oracle"]).sum()), "attention": (looked * mask).sum() / kv_heads}
            records.append(record)

    capture(model, torch.tensor(sequence.prompt_ids + sequence.answer_ids), visit)
    table = pd.DataFrame(records)
    table.insert(0, "sequence", sequence.id)
    numbers = {name: "int32" for name in table.columns if table[name].dtype == "int64"}
    return table.astype(numbers)


def _mask(method: Compressor, attention: PromptAttention, sequence: str, layer: int) -> np.ndarray:
    """What a method keeps, [Hkv, n] bool; random ones draw anew for every sequence and layer, always the same."""
    if hasattr(method, "seed"):
        method = replace(method, seed=zlib.crc32(f"{method.seed} {sequence} {layer}".encode()))
    kept = method.select(attention.queries, attention.keys, attention)
    mask = kept_mask(kept, attention.n).cpu().numpy()
    if len(mask) not in (1, len(attention.keys)):
        raise InputError(
            f"{type(method).__name__} keeps {len(mask)} sets for {len(attention.keys)} KV heads; the survey counts "
            "what a cache stores, so take granularity kv_head or layer."
        )
    return np.broadcast_to(mask, (len(attention.keys), attention.n))


def _looked(attention: PromptAttention) -> np.ndarray:
    """Attention of the answer on each token, mean over probes and over a KV head's queries: [Hkv, n], rows add up to 1.

    Without the first SINK tokens: whether a head kept them would decide every comparison.
    """
    rows = attention.probe_rows().mean(1).unflatten(0, (len(attention.keys), -1)).mean(1).double().cpu().numpy()
    rows[:, :SINK] = 0
    return rows / rows.sum(1, keepdims=True)


def _sets(masks: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """What each method keeps, then what one of a pair keeps and the other drops."""
    yield from masks.items()
    for one, other in permutations(COMPARED, 2):
        yield only(one, other), masks[one] & ~masks[other]


def only(one: str, other: str) -> str:
    """The name of the set of tokens that one method keeps and the other drops."""
    return f"{one}, not {other}"


def survey_hash() -> str:
    """SHA-256 over the files that a survey runs through, first 16 digits."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(code_hash().encode())
    for name in COUNTING:
        digest.update(f"{name}\0".encode() + (root / name).read_bytes())
    return digest.hexdigest()[:16]
