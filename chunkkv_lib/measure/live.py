"""The reader's own run: a profile, perhaps with other parameters, measured when it is not there yet."""

from __future__ import annotations

import hashlib
import json

from ..errors import InputError
from .driver import code_hash, measure
from .parameters import Parameters, load_profile
from .runs import Run, load_run, read_manifest, run_folder


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
