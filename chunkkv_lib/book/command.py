"""`python -m chunkkv_lib book`: the live run first, then the chapters and the site."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from ..runs import live_run, load_profile
from .build import build_book
from .paths import project_root
from .times import PLACE as TIMES

RUN_PARAMETERS = ("budget", "model")  # of those that chapters have, the ones that make another live run


def make_book(
    profile: str = "quick",
    assignments: Iterable[str] = (),
    output: str | Path | None = None,
    record_times: bool = False,
) -> Path:
    """Measure the profile's live run if it is not there yet, execute every chapter and build the site.

    profile      name of a file in data/profiles
    assignments  "name=value" texts, parameters of the chapters
    output       where the site goes; None: _build/html
    record_times  write the chapters' execution times to data/build_times.json, for the next build's page of versions
    raises InputError: an unknown profile or parameter, a value of the wrong type; BookError: a chapter that fails.
    """
    load_profile(profile)

    def prepare(values: dict[str, object]) -> dict[str, object]:
        chosen = values.get("profile", profile)
        live_run(chosen, **{name: values[name] for name in RUN_PARAMETERS if name in values})
        return {"profile": chosen}

    times = project_root() / TIMES if record_times else None
    return build_book(profile, dict(_split(text) for text in assignments), output, prepare=prepare, times=times)


def _split(assignment: str) -> tuple[str, str]:
    name, equals, value = assignment.partition("=")
    if not equals or not name:
        raise InputError(f"-p {assignment!r} has no value; write -p name=value, such as -p budget=0.2.")
    return name.strip(), value
