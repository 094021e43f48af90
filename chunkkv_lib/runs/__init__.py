"""Sequences x methods -> records on disk: a run (`measure`), reading it back, and measuring some of it again."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .driver import measure as measure
    from .folder import Run as Run
    from .folder import find_run as find_run
    from .folder import load_run as load_run
    from .folder import run_names as run_names
    from .live import live_run as live_run
    from .live import trial_run as trial_run
    from .parameters import Parameters as Parameters
    from .parameters import load_profile as load_profile
    from .parameters import profiles as profiles
    from .verification import verify as verify

# Loaded when first used: the command line reads `parameters` without paying for torch.
_HOMES = {
    "driver": ("measure",),
    "folder": ("Run", "find_run", "load_run", "run_names"),
    "live": ("live_run", "trial_run"),
    "parameters": ("Parameters", "load_profile", "profiles"),
    "verification": ("verify",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f".{_HOME[name]}", __name__), name)
