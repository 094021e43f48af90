"""The reader's own runs: a profile measured when it is not there yet, and a trial of methods in memory."""

import hashlib
import json
from collections.abc import Mapping

import pandas as pd
from tqdm import tqdm

from ..compressors import Compressor
from ..errors import InputError
from ..measure import analyse
from ..models import describe, load_model
from .driver import measure, sequences_of
from .folder import HOME, Run, load_run, sequence_table
from .identity import identity_of, versions
from .parameters import Parameters, load_profile

LIVE = HOME / "_runs" / "live"


def live_run(profile: str = "quick", progress: bool = True, **changes: object) -> Run:
    """The run of a profile with some parameters changed; measured now, or read if it is complete.

    changes  parameters that differ from the profile's: budget=0.2, model="path/to/model.gguf"; None: the profile's
    return   the run, from a folder of its own below _runs/live for each identity, so that no run replaces another
    """
    parameters = load_profile(profile, changes)
    identity = json.dumps(identity_of(parameters), sort_keys=True)
    folder = LIVE / f"{profile}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    return load_run(measure(parameters, folder.resolve(), progress=progress))


def trial_run(
    methods: Mapping[str, Compressor],
    model: str = "smollm2-135m",
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
    settings = Parameters(model=model, per_category=per_category, max_tokens=max_tokens, seed=seed)
    loaded, tokenizer = load_model(model)
    sequences = sequences_of(settings, tokenizer)
    found = [analyse(loaded, one, methods) for one in tqdm(sequences, unit="sequence", disable=not progress)]
    layers, answers = (pd.concat(tables, ignore_index=True) for tables in zip(*found))
    budgets = {getattr(method, "budget", None) for method in methods.values()}
    budget = budgets.pop() if len(budgets) == 1 else None
    manifest = identity_of(settings) | {
        "name": "trial", "status": "complete", "model": describe(loaded, model), "versions": versions(),
        "parameters": settings.as_dict() | {"methods": list(methods), "budget": budget},
        "sequences": {"wanted": len(sequences), "measured": len(found)},
    }  # fmt: skip
    return Run("trial", HOME / "trial", manifest, sequence_table(sequences), layers, answers)
