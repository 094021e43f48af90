"""Sequences x methods -> records on disk: a run (`measure`), reading it back, and measuring some of it again."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

# ruff: noqa: F403
if TYPE_CHECKING:
    from .driver import *
    from .folder import *
    from .live import *
    from .parameters import *
    from .verification import *

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
