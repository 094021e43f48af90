"""Sequences x methods -> records on disk: a run (`measure`), reading it back, and measuring some of it again."""

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
