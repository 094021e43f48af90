"""A whole run: load the model and the sequences, measure what is missing, keep the manifest true."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import IncompleteRun, InputError, unknown
from ..measure.analysis import analyse
from ..measure.generation import chance_scores, write_answers
from ..models import describe, fingerprint, load_model
from ..sequences import Sequence, load_sequences, source_identity
from ..sequences.needles import SOURCE as NEEDLES
from ..sequences.needles import VERSION, needle_sequences
from .folder import (
    ROOT,
    Recorder,
    folder_to_measure,
    holds_all,
    locked,
    read_manifest,
    remove_ours,
    write_manifest,
    write_parquet,
)
from .parameters import Parameters

MEASUREMENT_VERSION = 1  # raised when numbers change
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pandas", "datasets", "lm-eval", "gguf")
MERGE_EVERY = 10  # sequences: a run in progress can be read or committed, and it costs nothing


def measure(
    parameters: Parameters,
    run: str | Path,
    restart: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    publish: bool = False,
) -> Path:
    """Measure into a run folder, continuing where an earlier run of the same parameters, model and data stopped.

    run      name below runs/, or a path
    restart  replace the run that is there, complete or not
    engine   "local": in this process; "ray": shared out to workers on a Ray cluster. A run may change between them
    address  of a running Ray cluster, "auto" or "host:port"; None: one on this machine, for the time of the run
    workers  Ray processes, each with a model; None: one for each GPU, without GPUs one for each node
    publish  the run is one of the project's, below data/runs; nothing else changes those
    return   the folder; a complete run of the same identity is left as it is
    raises InputError: the folder holds another run or no run of ours, or any parameter does not fit.
    raises IncompleteRun: the Ray engine gave up some sequences; the others are safe.
    KeyboardInterrupt passes through after the finished sequences are safe.
    """
    folder = folder_to_measure(run, publish)
    identity = identity_of(parameters)
    if not restart and (manifest := read_manifest(folder)):
        refuse_another_run(folder, manifest, identity)
        if holds_all(folder, manifest):
            report(f"{folder} is complete; nothing to measure.")
            return folder
    chosen = _engine(parameters, engine, address, workers, report)
    with ExitStack() as stack:
        there = folder.exists()
        if there:  # a second process is told now, not after it has loaded a model
            stack.enter_context(locked(folder))
        source = stack.enter_context(chosen)
        report(f"Loading sequences from source {parameters.source!r} ...")
        sequences = sequences_of(parameters, source.tokenizer)
        table = sequence_table(sequences)
        if parameters.max_new_tokens:
            table["chance_score"] = chance_scores(source.tokenizer, sequences, parameters.max_new_tokens)
        if not there:  # only now: a load that fails leaves no folder
            stack.enter_context(locked(folder))
        begin(folder, identity | {"model": source.model}, source.machine, restart)
        write_parquet(folder / "sequences.parquet", table)
        measure_missing(folder, source, sequences, progress)
    return folder


# --- identity -----------------------------------------------------------------------------------------------------


def identity_of(settings: Parameters) -> dict[str, object]:
    """What two runs must have in common to be the same: parameters, model, data and the version of the measurement.

    Files are hashed, the model is not loaded. raises InputError: a model or data that are not there.
    """
    return {
        "parameters": settings.as_dict(),
        "model": fingerprint(settings.model),
        "data": data_identity(settings),
        "measurement_version": MEASUREMENT_VERSION,
    }


def data_identity(settings: Parameters) -> dict[str, object]:
    """What a manifest says about the data of a run."""
    if settings.source != NEEDLES:
        return source_identity(settings.source, settings.data_path)
    if settings.data_path is not None:
        raise InputError(
            f"data_path={settings.data_path!r} has no meaning for source {NEEDLES!r}, which hides its needles in "
            "the open texts; leave it out, or choose source 'longbench'."
        )
    return source_identity("open") | {"source": NEEDLES, "needles_version": VERSION}


def refuse_another_run(folder: Path, manifest: dict, identity: dict) -> None:
    """raises InputError: the folder's run has another identity; the message names the first part that differs."""
    old = {key: manifest[key] for key in identity}
    old["parameters"] = Parameters().as_dict() | old["parameters"]  # recorded before there was such a parameter
    old["model"] = {key: old["model"].get(key) for key in identity["model"]}
    if changed := differences(old, identity):
        more = " and other differences" if changed[1:] else ""
        raise InputError(
            f"{folder} holds a run with {changed[0].removeprefix('parameters.')}{more}. Records of different runs "
            "never mix: choose another --run, or replace the old one with --restart."
        )


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """What differs between two nested records, in words: "model.dtype=float32, not bfloat16"."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            a, b = (text if len(text) <= 60 else f"{text[:57]}..." for text in (str(a), str(b)))
            found.append(f"{prefix}{key}={a}, not {b}")
    return found


# --- what is measured, and by whom --------------------------------------------------------------------------------


def sequences_of(settings: Parameters, tokenizer: PreTrainedTokenizerBase) -> list[Sequence]:
    """The sequences that a run of these parameters measures, in order."""
    if settings.source == NEEDLES:
        return needle_sequences(tokenizer, settings.per_category, settings.max_tokens, settings.seed)
    return load_sequences(
        tokenizer, settings.source, settings.data_path, settings.categories, settings.per_category,
        settings.max_tokens, settings.max_answer_tokens, settings.seed,
    )  # fmt: skip


def sequence_table(sequences: list[Sequence]) -> pd.DataFrame:
    """The sequences of a run without their text: what `sequences.parquet` holds."""
    return pd.DataFrame(
        {
            "sequence": [s.id for s in sequences],
            "category": [s.category for s in sequences],
            "dataset": [s.dataset for s in sequences],
            "document": [s.document for s in sequences],
            "text_hash": [s.text_hash for s in sequences],
            "prompt_tokens": [len(s.prompt_ids) for s in sequences],
            "answer_tokens": [len(s.answer_ids) for s in sequences],
            "evidence_passages": [len(s.evidence_spans) for s in sequences],
            "evidence_tokens": [sum(stop - first for first, stop in s.evidence_spans) for s in sequences],
        }
    )


def measure_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequence: Sequence, settings: Parameters
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a run records of one sequence: `analyse`, and with `max_new_tokens` the written answers too."""
    if settings.max_new_tokens:
        options = settings.reuse, settings.all_queries, settings.max_new_tokens
        return write_answers(model, tokenizer, sequence, settings.compressors, *options)
    return analyse(model, sequence, settings.compressors, settings.reuse, settings.all_queries)


class LocalEngine:
    """Measures in this process, one sequence after the other; an exception ends the run. A context manager.

    Once entered, an engine has the attributes that the driver reads; only the driver writes records.

    tokenizer  of the model
    model      what a manifest says about the model
    machine    what a manifest says about where it runs
    failed     sequence -> why it was given up
    """

    def __init__(self, settings: Parameters, report: Callable[[str], None]) -> None:
        self.settings, self.report, self.failed = settings, report, {}

    def __enter__(self) -> LocalEngine:
        settings = self.settings
        self.report(f"Loading {settings.model} ...")
        self.network, self.tokenizer = load_model(settings.model, settings.device, settings.dtype, settings.device_map)
        self.model, self.machine = describe(self.network, settings.model), machine()
        return self

    def __exit__(self, *exception: object) -> None:
        del self.network

    def measured(self, sequences: list[Sequence]) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        """Yield (sequence id, layers, answers), in any order."""
        for sequence in sequences:
            yield sequence.id, *measure_one(self.network, self.tokenizer, sequence, self.settings)


def _engine(
    settings: Parameters, name: str, address: str | None, workers: int | None, report: Callable[[str], None]
) -> LocalEngine:
    if name == "ray":
        from .ray_engine import RayEngine  # here, because it builds on this module

        return RayEngine(settings, address, workers, report)
    if name != "local":
        raise unknown("engine", name, ("local", "ray"))
    for option, value in (("address", address), ("workers", workers)):
        if value is not None:
            raise InputError(f"{option}={value} needs a Ray cluster: add --engine ray, or leave out --{option}.")
    return LocalEngine(settings, report)


# --- records and manifest -----------------------------------------------------------------------------------------


def begin(folder: Path, identity: dict, machine: dict, restart: bool) -> None:
    """Write the manifest of a new run, or check that the one that is there is of the same run.

    raises InputError: the folder holds another run, which `restart` does not allow to replace.
    """
    if not restart and (manifest := read_manifest(folder)):
        return refuse_another_run(folder, manifest, identity)
    remove_ours(folder)
    manifest = {
        "name": folder.name,
        "status": "running",
        **identity,
        "code": described_code(),
        "versions": versions(),
        "machine": machine,
        "started": _now(),
        "finished": None,
        "seconds": 0.0,
        "sequences": {"wanted": 0, "measured": 0},
        "sequences_per_category": {},
    }
    write_manifest(folder, manifest)


def measure_missing(folder: Path, engine: LocalEngine, sequences: list[Sequence], progress: bool) -> None:
    """Let the engine measure what the folder lacks; record it, and keep the manifest true.

    raises IncompleteRun: the engine gave up some sequences.
    """
    recorder = Recorder(folder, [sequence.id for sequence in sequences])
    todo = [sequence for sequence in sequences if sequence.id not in recorder.done]
    manifest, status = read_manifest(folder), "interrupted"
    bar = tqdm(
        total=len(sequences), initial=len(sequences) - len(todo), disable=not progress, unit=" sequence",
        bar_format="{l_bar}{bar}| {n_fmt} of {total_fmt} sequences, {rate_inv_fmt}, {remaining} left",
    )  # fmt: skip

    def stamp(status: str) -> None:
        per_category: dict[str, int] = {}
        for one in sequences:
            per_category[one.category] = per_category.get(one.category, 0) + (one.id in recorder.done)
        manifest["machine"] |= {name: engine.machine[name] for name in ("gpus", "workers") if name in engine.machine}
        counts = {"wanted": len(sequences), "measured": len(recorder.done)}
        manifest.update(status=status, finished=_now(), sequences=counts, sequences_per_category=per_category)
        write_manifest(folder, manifest | {"seconds": round(manifest["seconds"], 1)})

    try:
        begun = time.monotonic()
        for count, (name, layers, answers) in enumerate(engine.measured(todo), 1):
            manifest["seconds"] += time.monotonic() - begun  # of measuring alone: not of loading, writing or pauses
            recorder.add(name, layers, answers)
            bar.update()
            if count % MERGE_EVERY == 0:
                recorder.merge()
                stamp("running")
            begun = time.monotonic()
        status = "incomplete" if engine.failed else "complete"
    finally:
        bar.close()
        recorder.merge()
        if recorder.done:
            stamp(status)
        else:
            remove_ours(folder)  # nothing to keep, so the corrected command finds the place free
    if engine.failed:
        named = ", ".join(f"{name} ({why})" for name, why in engine.failed.items())
        raise IncompleteRun(f"{folder} lacks {len(engine.failed)} of {len(sequences)} sequences, given up: {named}. "
                            "The same command tries them again; --engine local shows an error in full.")  # fmt: skip


def described_code() -> str | None:
    """The commit of this library as git describes it, for information; None outside a clone or without git."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return None


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
