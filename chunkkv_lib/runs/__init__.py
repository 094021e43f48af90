"""Sequences x methods -> records on disk: a run (`measure`), reading it back, and measuring some of it again.

Names are loaded when first used: the command line reads `runs.parameters` without loading torch.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .driver import measure
    from .folder import Run, load_run, run_folder
    from .live import live_run, trial_run
    from .parameters import Parameters, load_profile, profiles
    from .verification import verify

__all__ = [
    "Parameters",
    "Run",
    "live_run",
    "load_profile",
    "load_run",
    "measure",
    "profiles",
    "run_folder",
    "trial_run",
    "verify",
]
_HOMES = {
    "driver": ("measure",),
    "folder": ("Run", "load_run", "run_folder"),
    "live": ("live_run", "trial_run"),
    "parameters": ("Parameters", "load_profile", "profiles"),
    "verification": ("verify",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f".{_HOME[name]}", __name__), name)
