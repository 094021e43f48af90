"""A whole run: find its place, load the sequences and the model, measure what is missing, keep the manifest true.

And the reader's own: a profile measured when it is not there yet, and a trial of methods in memory.
"""

import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..capture import check_model, check_tokens
from ..compressors import Compressor
from ..errors import IncompleteRun, InputError, check_known
from ..files import say
from ..measure import analyse
from ..models import describe, load_config, load_model, load_tokenizer
from ..sequences import Sequence, load_sequences, needles, second_question
from ..sequences.scoring import answer_limit, answer_score, chance_scores, one_line
from . import folder as disk
from .answers import write_answers
from .identity import described_code, identity_of, machine, refuse_another_run, versions
from .parameters import Parameters, load_profile

LIVE = disk.HOME / "_runs" / "live"
MERGE_EVERY = 10  # sequences: a run in progress can be read or committed, and it costs nothing
ALL_LAYERS = -1  # stands in the column `layer` of records that are means over all layers


def measure(
    parameters: Parameters,
    run: str | Path,
    restart: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = say,
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
    folder = disk.folder_to_measure(run, publish)
    identity = identity_of(parameters)
    if not restart and (manifest := disk.read_manifest(folder)):
        refuse_another_run(folder, manifest, identity)
        if disk.holds_all(folder, manifest):
            report(f"{folder} is complete; nothing to measure.")
            return folder
    check_known("engine", engine, ("local", "ray"))
    if engine == "ray":
        from .ray_engine import RayEngine

        chosen = RayEngine(parameters, address, workers, report)
    else:
        for option, value in (("address", address), ("workers", workers)):
            if value is not None:
                raise InputError(f"{option}={value} needs a Ray cluster: add --engine ray, or leave out --{option}.")
        chosen = local_engine(parameters, report)
    with disk.locked(folder):  # a second process is told now, not after it has loaded a model
        report(f"Loading sequences from source {parameters.source!r} ...")
        tokenizer = load_tokenizer(parameters.model)
        sequences = sequences_of(parameters, tokenizer)  # a mistake in the data is told before a model is loaded
        check_sequences(sequences, parameters)
        table = disk.sequence_table(sequences)
        if parameters.max_new_tokens:
            table["chance_score"] = chance_scores(tokenizer, sequences, parameters.max_new_tokens)
        with chosen as source:
            begin(folder, identity | {"model": source.model}, source.machine, restart)
            disk.write_parquet(folder / "sequences.parquet", table)
            measure_missing(folder, source, sequences, progress)
    return folder


def check_sequences(sequences: list[Sequence], parameters: Parameters) -> None:
    """Refuse what can be told without the weights, before any time is spent: too many tokens for the model, too few for
    a method's window or budget, a token that the model does not embed."""
    config = load_config(parameters.model)
    for one in sequences:
        ids = torch.tensor([*one.prompt_ids, *one.question_ids, *one.answer_ids])
        try:
            check_model(SimpleNamespace(config=config), len(ids))
            check_tokens(ids, config.get_text_config().vocab_size)
            for method in parameters.compressors.values():
                method.room(len(one.prompt_ids))
        except InputError as error:
            raise InputError(f"sequence {one.id!r}: {error}") from None


def begin(folder: Path, identity: dict, machine: dict, restart: bool) -> None:
    """Write the manifest of a new run, or check that the one that is there is of the same run."""
    if not restart and (manifest := disk.read_manifest(folder)):
        return refuse_another_run(folder, manifest, identity)
    disk.remove_ours(folder)
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
    disk.write_manifest(folder, manifest)


def measure_missing(folder: Path, engine: Any, sequences: list[Sequence], progress: bool) -> None:
    """Let the engine (see `local_engine`) measure what the folder lacks; record it, and keep the manifest true."""
    recorder = disk.Recorder(folder, [sequence.id for sequence in sequences])
    todo = [sequence for sequence in sequences if sequence.id not in recorder.done]
    manifest, status = disk.read_manifest(folder), "interrupted"
    bar = tqdm(
        total=len(sequences), initial=len(sequences) - len(todo), disable=not progress, unit="sequence",
        bar_format="{l_bar}{bar}| {n_fmt} of {total_fmt} sequences, {rate_inv_fmt}, {remaining} left",
    )  # fmt: skip

    def stamp(status: str) -> None:
        done = Counter({one.category: 0 for one in sequences})
        done.update(one.category for one in sequences if one.id in recorder.done)
        manifest["machine"] |= {name: engine.machine[name] for name in ("gpus", "workers") if name in engine.machine}
        counts = {"wanted": len(sequences), "measured": len(recorder.done)}
        manifest.update(status=status, finished=_now(), sequences=counts, sequences_per_category=dict(done))
        disk.write_manifest(folder, manifest | {"seconds": round(manifest["seconds"], 1)})

    try:
        begun = time.monotonic()
        for count, (name, layers, answers) in enumerate(engine.measured(todo), 1):
            manifest["seconds"] += time.monotonic() - begun  # not of loading, merging, or between two starts
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
            disk.remove_ours(folder)  # nothing to keep, so the corrected command finds the place free
    if engine.failed:
        named = ", ".join(f"{name} ({why})" for name, why in engine.failed.items())
        raise IncompleteRun(f"{folder} lacks {len(engine.failed)} of {len(sequences)} sequences, given up: {named}. "
                            "The same command tries them again; --engine local shows an error in full.")  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def sequences_of(settings: Parameters, tokenizer: PreTrainedTokenizerBase) -> list[Sequence]:
    """The sequences that a run of these parameters measures, in order."""
    if settings.source == needles.SOURCE:
        found = settings.per_category, settings.max_tokens, settings.seed
        return needles.needle_sequences(tokenizer, *found, forms=settings.forms)
    if settings.source == second_question.SOURCE:
        found = settings.per_category, settings.max_tokens, settings.max_answer_tokens, settings.seed, settings.asks
        return second_question.second_question_sequences(tokenizer, *found)
    return load_sequences(
        tokenizer, settings.source, settings.data_path, settings.categories, settings.per_category,
        settings.max_tokens, settings.max_answer_tokens, settings.seed, settings.datasets, settings.skip,
    )  # fmt: skip


def measure_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequence: Sequence, settings: Parameters
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a run records of one sequence: `analyse`, and with `max_new_tokens` the written answers too."""
    options = settings.compressors, settings.reuse, settings.all_queries
    keep_text = settings.source == needles.SOURCE  # codes of ours in open prose: what is written may be kept
    if settings.max_new_tokens:
        score, limit = functools.partial(answer_score, sequence), answer_limit(sequence, settings.max_new_tokens)
        layers, answers = write_answers(
            model, tokenizer, sequence, score, limit, one_line(sequence), *options, keep_text
        )
    else:
        layers, answers = analyse(model, sequence, *options)
    if settings.layer_means:
        means = layers.groupby(["sequence", "method"], sort=False, as_index=False).mean().assign(layer=ALL_LAYERS)
        layers = means[layers.columns].astype(layers.dtypes)
    return layers, answers


@contextmanager
def local_engine(settings: Parameters, report: Callable[[str], None]) -> Iterator[SimpleNamespace]:
    """Measures in this process, one sequence after the other; an exception ends the run. The driver writes records.

    yields  `model` and `machine`, what a manifest says about both; `measured(sequences)`, which yields (sequence id,
            layers, answers) in any order; and `failed`: sequence -> why it was given up
    """
    report(f"Loading {settings.model} ...")
    network, tokenizer = load_model(settings.model, settings.device, settings.dtype, settings.device_map)

    def measured(sequences: list[Sequence]) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        for sequence in sequences:
            yield sequence.id, *measure_one(network, tokenizer, sequence, settings)

    yield SimpleNamespace(model=describe(network, settings.model), machine=machine(), measured=measured, failed={})


def live_run(profile: str = "quick", progress: bool = True, **changes: object) -> disk.Run:
    """The run of a profile with some parameters changed; measured now, or read if it is complete.

    changes  parameters that differ from the profile's: budget=0.2, model="path/to/model.gguf"; None: the profile's
    return   the run, from a folder of its own below _runs/live for each identity, so that no run replaces another
    """
    parameters = load_profile(profile, changes)
    identity = json.dumps(identity_of(parameters), sort_keys=True)
    folder = LIVE / f"{profile}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    return disk.load_run(measure(parameters, folder.resolve(), progress=progress))


def trial_run(
    methods: Mapping[str, Compressor],
    model: str = "smollm2-135m",
    per_category: int = 2,
    max_tokens: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> disk.Run:
    """Measure methods of one's own on a few sequences of the open source, in memory; nothing is written.

    methods  name -> compressor, of the library or not; budgets are the compressors' own
    return   a run like any other, for figures and tables; its manifest holds no times, so that a page which shows it
             is the same whenever it is made
    raises InputError: no method, a name that is "Full", or whatever `analyse` refuses.
    """
    if "Full" in methods:
        raise InputError("a method cannot be called 'Full', which names the whole cache; choose another name.")
    settings = Parameters(model=model, per_category=per_category, max_tokens=max_tokens, seed=seed)
    loaded, tokenizer = load_model(model)
    sequences = sequences_of(settings, tokenizer)
    found = [analyse(loaded, one, methods) for one in tqdm(sequences, unit="sequence", disable=not progress)]
    layers, answers = (pd.concat(tables, ignore_index=True) for tables in zip(*found))
    budgets = {getattr(method, "budget", None) for method in methods.values()}
    budget = budgets.pop() if len(budgets) == 1 else None
    manifest = identity_of(settings) | {
        "name": "trial",
        "status": "complete",
        "parameters": settings.as_dict() | {"methods": list(methods), "budget": budget},
        "model": describe(loaded, model),
        "versions": versions(),
        "sequences": {"wanted": len(sequences), "measured": len(found)},
    }
    return disk.Run("trial", disk.HOME / "trial", manifest, disk.sequence_table(sequences), layers, answers)
