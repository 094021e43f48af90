"""The reader's own runs: a profile measured when it is not there yet, and a trial of methods in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import pandas as pd
from tqdm import tqdm

from ..compressors import Compressor
from ..errors import InputError
from ..measure.analysis import analyse
from ..models import describe, load_model
from ..sequences import CATEGORIES, load_sequences
from .driver import code_hash, measure, sequence_table, versions
from .folder import Run, load_run, read_manifest, run_folder
from .parameters import Parameters, load_profile


def live_run(profile: str = "quick", progress: bool = True, **changes: object) -> Run:
    """The run of a profile with some parameters changed; measured now, or read if it is complete.

    changes  parameters that differ from the profile's: budget=0.2, model="path/to/model.gguf"; None: the profile's
    return   the run; its folder is data/runs/<profile>, with a suffix when parameters are changed
    raises InputError: an unknown profile or parameter, a value that does not fit.
    """
    parameters = load_profile(profile, changes)
    name = live_name(profile, parameters)
    measure(parameters, name, restart=_outdated(name), progress=progress)
    return load_run(name)


def trial_run(
    methods: Mapping[str, Compressor],
    model: str = "smollm2-135m",
    categories: Iterable[str] = CATEGORIES,
    per_category: int = 2,
    max_tokens: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> Run:
    """Measure methods of one's own on a few sequences of the open source, in memory; nothing is written.

    methods  name -> compressor, of the library or not; budgets are the compressors' own
    return   a run like any other, for figures and tables; its manifest holds no times, so that a page which shows it
             is the same whenever it is made
    raises InputError: no method, a name that is "Full", or whatever `analyse` refuses.
    """
    if "Full" in methods:
        raise InputError("a method cannot be called 'Full', which names the whole cache; choose another name.")
    settings = Parameters(
        model=model, categories=tuple(categories), per_category=per_category, max_tokens=max_tokens, seed=seed
    )
    loaded, tokenizer = load_model(model)
    sequences = load_sequences(
        tokenizer, categories=settings.categories, per_category=per_category, max_tokens=max_tokens, seed=seed
    )
    found = [analyse(loaded, one, methods) for one in tqdm(sequences, unit="sequence", disable=not progress)]
    manifest = {
        "name": "trial",
        "status": "complete",
        "parameters": settings.as_dict() | {"methods": list(methods), "budget": _one_budget(methods)},
        "model": describe(loaded, model),
        "data": {"source": "open"},
        "code": code_hash(),
        "versions": versions(),
        "sequences": {"wanted": len(sequences), "measured": len(found)},
    }
    layers, answers = (pd.concat(tables, ignore_index=True) for tables in zip(*found))
    return Run("trial", run_folder("trial"), manifest, sequence_table(sequences), layers, answers)


def _one_budget(methods: Mapping[str, Compressor]) -> float | int | None:
    """The budget that all methods have in common, or None."""
    budgets = {getattr(method, "budget", None) for method in methods.values()}
    return budgets.pop() if len(budgets) == 1 else None


def live_name(profile: str, parameters: Parameters) -> str:
    """The folder name of a live run: the profile's own, or one that tells other parameters apart."""
    if parameters == load_profile(profile):
        return profile
    digest = hashlib.sha256(json.dumps(parameters.as_dict(), sort_keys=True).encode()).hexdigest()
    return f"{profile}-{digest[:8]}"


def _outdated(name: str) -> bool:
    """Whether the folder holds a live run of other code, or a damaged one: cheap to replace, wrong to show."""
    try:
        manifest = read_manifest(run_folder(name))
    except InputError:
        return True
    return manifest is not None and manifest["code"] != code_hash()
