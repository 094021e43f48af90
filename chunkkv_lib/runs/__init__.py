"""Sequences x methods -> records on disk: a run (`measure`), reading it back, and measuring some of it again."""

from typing import TYPE_CHECKING

from .. import _lazily

# ruff: noqa: F403
if TYPE_CHECKING:
    from .driver import *
    from .folder import *
    from .parameters import *
    from .verification import *

__all__, __getattr__ = _lazily(__name__, {
    "driver": ("live_run", "measure", "trial_run"),
    "folder": ("Run", "load_run", "run_names"),
    "parameters": ("Parameters", "load_profile", "profiles"),
    "verification": ("verify",),
})  # fmt: skip
