"""Sequences x methods -> records: one sequence (`analyse`), a whole run on disk (`measure`), and reading it back."""

from .analysis import analyse
from .driver import measure
from .generation import write_answers
from .live import live_run, trial_run
from .needles import needle_sequences
from .parameters import Parameters, load_profile, profiles
from .runs import Run, load_run, run_folder
from .verification import verify

__all__ = [
    "Parameters",
    "Run",
    "analyse",
    "live_run",
    "load_profile",
    "load_run",
    "measure",
    "needle_sequences",
    "profiles",
    "run_folder",
    "trial_run",
    "verify",
    "write_answers",
]
