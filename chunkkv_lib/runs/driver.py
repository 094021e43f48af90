"""A whole run: load the model and the sequences, measure what is missing, keep the manifest true."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import IncompleteRun, InputError, unknown
from ..measure.analysis import analyse
from ..measure.generation import chance_scores, write_answers
from ..models import describe, load_model, load_tokenizer
from ..sequences import Sequence, load_sequences, source_identity
from ..sequences.needles import SOURCE as NEEDLES
from ..sequences.needles import VERSION, needle_sequences
from .folder import (
    TABLES,
    Recorder,
    discard,
    holds_all,
    locked,
    read_manifest,
    run_folder,
    write_manifest,
    write_parquet,
)
from .parameters import Parameters

#: Files whose change can change a number; a run is not continued with other ones.
MEASURING = (
    "attention", "compressors", "kept_sets.py", "metrics.py", "capture.py", "decoding.py", "models", "sequences",
    "measure/analysis.py", "measure/layer_sums.py",
)  # fmt: skip
#: The same for runs whose answers are written out, or whose sequences are needles.
WRITING = ("measure/generation.py",)
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pandas", "datasets", "lm-eval", "gguf")
ENGINES = ("local", "ray")
MERGE_EVERY = 25  # sequences: often enough that a run in progress can be read, seldom enough to cost nothing


def measure(
    parameters: Parameters,
    run: str | Path,
    restart: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
) -> Path:
    """Measure into a run folder, continuing where an earlier run of the same parameters stopped.

    run      name below data/runs, or a path
    restart  discard what a run of other parameters or other code left there
    engine   "local": in this process; "ray": shared out to workers on a Ray cluster. A run may change between them
    address  of a running Ray cluster, "auto" or "host:port"; None: one on this machine, for the time of the run
    workers  Ray processes, each with a model; None: one for each GPU, without GPUs one for each node
    return   the folder; a complete run of the same parameters is left as it is
    raises InputError: the folder holds a run of other parameters, or any parameter does not fit.
    raises IncompleteRun: the Ray engine gave up some sequences; the others are safe.
    KeyboardInterrupt passes through after the finished sequences are safe.
    """
    folder = run_folder(run)
    if _finished(folder, parameters) and not restart:
        report(f"{folder} is complete; nothing to measure.")
        return folder
    data = data_identity(parameters)  # a wrong path is told before a model is loaded
    chosen = _engine(parameters, engine, address, workers, report)
    with locked(folder), chosen as source:
        identity = {
            "parameters": parameters.as_dict(),
            "model": source.model,
            "data": data,
            "code": code_hash(),
        } | writing_code(parameters)
        claim(folder, identity, restart, source.machine)
        report(f"Loading sequences from source {parameters.source!r} ...")
        tokenizer = load_tokenizer(parameters.model)
        try:
            sequences = sequences_of(parameters, tokenizer)
        except BaseException:
            if not (folder / "layers.parquet").exists() and not (folder / "parts").exists():
                discard(folder)  # nothing to keep, so the corrected command finds the place free
            raise
        table = sequence_table(sequences)
        if parameters.max_new_tokens:
            table["chance_score"] = chance_scores(tokenizer, sequences, parameters.max_new_tokens)
        write_parquet(folder / "sequences.parquet", table)
        measure_missing(folder, source, sequences, progress)
    return folder


class Engine(Protocol):
    """Who measures the sequences; a context manager, ready once entered. Only the driver writes records.

    model    what a manifest says about the model
    machine  what a manifest says about where it runs
    failed   sequence -> why it was given up
    """

    model: dict[str, object]
    machine: dict[str, object]
    failed: dict[str, str]

    def measured(self, sequences: list[Sequence]) -> Iterator[tuple[str, *tuple[pd.DataFrame, ...]]]:
        """Yield (sequence id, its frames: layers and answers, as `measure_one` gives them), in any order."""

    def rates(self) -> str:
        """What the progress bar says beside the total rate."""


class LocalEngine:
    """One model in this process, one sequence after the other; an exception ends the run."""

    def __init__(self, parameters: Parameters, report: Callable[[str], None]) -> None:
        self.parameters, self.report, self.failed = parameters, report, {}

    def __enter__(self) -> LocalEngine:
        settings = self.parameters
        self.report(f"Loading {settings.model} ...")
        self.network, self.tokenizer = load_model(settings.model, settings.device, settings.dtype, settings.device_map)
        self.model, self.machine = describe(self.network, settings.model), machine()
        return self

    def __exit__(self, *exception: object) -> None:
        del self.network

    def measured(self, sequences: list[Sequence]) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        for sequence in sequences:
            yield sequence.id, *measure_one(self.network, self.tokenizer, sequence, self.parameters)

    def rates(self) -> str:
        return ""


def measure_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequence: Sequence, settings: Parameters
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a run records of one sequence: `analyse`, and with `max_new_tokens` the written answers too."""
    if settings.max_new_tokens:
        options = settings.reuse, settings.all_queries, settings.max_new_tokens
        return write_answers(model, tokenizer, sequence, settings.compressors, *options)
    return analyse(model, sequence, settings.compressors, settings.reuse, settings.all_queries)


def sequences_of(settings: Parameters, tokenizer: PreTrainedTokenizerBase) -> list[Sequence]:
    """The sequences that a run of these parameters measures, in order."""
    if settings.source == NEEDLES:
        return needle_sequences(tokenizer, settings.per_category, settings.max_tokens, settings.seed)
    return load_sequences(
        tokenizer, settings.source, settings.data_path, settings.categories, settings.per_category,
        settings.max_tokens, settings.max_answer_tokens, settings.seed,
    )  # fmt: skip


def data_identity(settings: Parameters) -> dict[str, object]:
    """What a manifest says about the data of a run."""
    if settings.source == NEEDLES:
        if settings.data_path is not None:
            raise InputError(
                f"data_path={settings.data_path!r} has no meaning for source {NEEDLES!r}, which hides its needles in "
                "the open texts; leave it out, or choose source 'longbench'."
            )
        hay = source_identity("open")
        return hay | {"source": NEEDLES, "needles_version": VERSION}
    return source_identity(settings.source, settings.data_path)


def _engine(
    parameters: Parameters, name: str, address: str | None, workers: int | None, report: Callable[[str], None]
) -> Engine:
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if name == "ray":
        from .ray_engine import RayEngine  # here, because it builds on this module

        return RayEngine(parameters, address, workers, report)
    for option, value in (("address", address), ("workers", workers)):
        if value is not None:
            raise InputError(f"{option}={value} needs a Ray cluster: add --engine ray, or leave out --{option}.")
    return LocalEngine(parameters, report)


def measure_missing(
    folder: Path, engine: Engine, sequences: list[Sequence], progress: bool, tables: tuple[str, ...] = TABLES
) -> None:
    """Let the engine measure what the claimed folder lacks; record it, and keep the manifest true.

    raises IncompleteRun: the engine gave up some sequences.
    """
    recorder = Recorder(folder, [sequence.id for sequence in sequences], tables)
    lengths = {sequence.id: len(sequence.prompt_ids) for sequence in sequences}
    todo = [sequence for sequence in sequences if sequence.id not in recorder.done]
    started, status = time.monotonic(), "interrupted"
    before = read_manifest(folder)["seconds"]
    tokens = 0
    bar = tqdm(total=len(sequences), initial=len(sequences) - len(todo), unit="sequence", disable=not progress)
    try:
        for count, (name, *frames) in enumerate(engine.measured(todo), 1):
            recorder.add(name, *frames)
            tokens += lengths[name]
            bar.set_postfix_str(f"{tokens / (time.monotonic() - started):.0f} tokens/s{engine.rates()}")
            bar.update()
            if count % MERGE_EVERY == 0:
                recorder.merge()
                _stamp(folder, "running", before + time.monotonic() - started, sequences, recorder, engine.machine)
        status = "incomplete" if engine.failed else "complete"
    finally:
        bar.close()
        recorder.merge()
        if recorder.done:
            _stamp(folder, status, before + time.monotonic() - started, sequences, recorder, engine.machine)
        else:
            discard(folder)  # nothing to keep, so the corrected command finds the place free
    if engine.failed:
        named = ", ".join(f"{name} ({why})" for name, why in engine.failed.items())
        raise IncompleteRun(f"{folder} lacks {len(engine.failed)} of {len(sequences)} sequences, given up: {named}. "
                            "The same command tries them again; --engine local shows an error in full.")  # fmt: skip


def claim(folder: Path, identity: dict, restart: bool, machine: dict) -> None:
    """Make the folder this run's: start it, or check that what is there is the same run.

    identity  what must be the same for a run to be continued; goes into the manifest
    raises InputError: the folder holds another run, and `restart` does not say to discard it.
    """
    manifest = None if restart else read_manifest(folder)
    if manifest is None:
        discard(folder)
        manifest = {
            "name": folder.name,
            "status": "running",
            **identity,
            "versions": versions(),
            "machine": machine,
            "started": _now(),
            "finished": None,
            "seconds": 0.0,
            "sequences": {"wanted": 0, "measured": 0},
            "sequences_per_category": {},
        }
        write_manifest(folder, manifest)
    elif changed := differences({key: manifest.get(key) for key in identity}, identity):
        raise InputError(
            f"{folder} holds a run with {changed[0]}{' and other differences' if changed[1:] else ''}. "
            "Records of different runs never mix: choose another --run, or discard the old one with --restart"
            f"{', or continue it with --recheck if its numbers are still the same' if _only_code(changed) else ''}."
        )


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """What differs between two nested records, in words: "budget=0.1, not 0.2"."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{key}." if not prefix and key != "parameters" else prefix)
        elif a != b:
            found.append(f"{prefix}{key}={_short(a)}, not {_short(b)}")
    return found


def _only_code(changed: list[str]) -> bool:
    return all(one.startswith("code=") for one in changed)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _finished(folder: Path, parameters: Parameters) -> bool:
    """Whether the folder holds a complete run of these parameters and this code; no model is needed to tell."""
    manifest = read_manifest(folder)
    if manifest is None or manifest["parameters"] != parameters.as_dict():
        return False
    code = {"code": code_hash()} | writing_code(parameters)
    same = all(manifest.get(key) == value for key, value in code.items())
    return same and holds_all(folder, manifest)


def _stamp(
    folder: Path, status: str, seconds: float, sequences: list[Sequence], recorder: Recorder, machine: dict
) -> None:
    per_category: dict[str, int] = {}
    for sequence in sequences:
        per_category[sequence.category] = per_category.get(sequence.category, 0) + (sequence.id in recorder.done)
    manifest = read_manifest(folder)
    manifest |= {
        "status": status,
        "finished": _now(),
        "seconds": round(seconds, 1),
        "sequences": {"wanted": len(sequences), "measured": len(recorder.done)},
        "sequences_per_category": per_category,
        "machine": manifest["machine"] | {name: machine[name] for name in ("gpus", "workers") if name in machine},
    }
    write_manifest(folder, manifest)


def sequence_table(sequences: list[Sequence]) -> pd.DataFrame:
    """The sequences of a run without their text: what `sequences.parquet` holds."""
    return pd.DataFrame(
        {
            "sequence": [s.id for s in sequences],
            "category": [s.category for s in sequences],
            "dataset": [s.dataset for s in sequences],
            "text_hash": [s.text_hash for s in sequences],
            "prompt_tokens": [len(s.prompt_ids) for s in sequences],
            "answer_tokens": [len(s.answer_ids) for s in sequences],
            "evidence_passages": [len(s.evidence_spans) for s in sequences],
            "evidence_tokens": [sum(stop - first for first, stop in s.evidence_spans) for s in sequences],
        }
    )


def code_hash() -> str:
    """SHA-256 over the library files that a measurement runs through, first 16 digits."""
    return _hash(MEASURING)


def writing_code(settings: Parameters) -> dict[str, str]:
    """The same of the files that only written answers and needles run through, for a manifest; empty without them."""
    return {"writing_code": _hash(WRITING)} if settings.max_new_tokens or settings.source == NEEDLES else {}


def _hash(names: Iterable[str]) -> str:
    root = Path(__file__).resolve().parents[1]
    places = [root / name for name in names]
    files = [file for place in places for file in ([place] if place.suffix else place.rglob("*.py"))]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a measurement runs through."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def machine() -> dict[str, object]:
    """What the measurement ran on, without any name that would identify its owner."""
    info = {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}
    info |= {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}
    if torch.cuda.is_available():
        info["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return info


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
