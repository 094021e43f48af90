"""`build_book`: the whole way from notebooks to the site."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from chunkkv_lib.book.chapters import read_chapters
from chunkkv_lib.book.checks import check_site
from chunkkv_lib.book.execution import Report, execute_chapters, timed_step
from chunkkv_lib.book.failure import BookError
from chunkkv_lib.book.parameters import Parameter, check_parameters
from chunkkv_lib.book.paths import project_root
from chunkkv_lib.book.site import build_html, check_output, exchange, fresh_sources
from chunkkv_lib.book.stamping import stamp_chapters
from chunkkv_lib.book.times import record_times
from chunkkv_lib.errors import InputError

Prepare = Callable[[dict[str, object]], dict[str, object]]


def build_book(
    profile: str = "quick",
    parameters: Mapping[str, str] | None = None,
    output: str | Path | None = None,
    *,
    prepare: Prepare | None = None,
    prepare_takes: Mapping[str, Parameter] | None = None,
    times: str | Path | None = None,
    root: str | Path | None = None,
    report: Report = print,
) -> Path:
    """Execute every chapter and build the site; the folder of its pages.

    profile        names the working folder `_runs/<profile>`; the chapters' `run` unless a later source says so.
    parameters     `name -> text` as given on a command line; checked before anything runs.
    output         where the site goes, by default `_build/html`; replaced only by a complete new site.
    prepare        called with the checked values before the first chapter (here a live run is measured); what it
                   returns is passed to the chapters as well, and wins.
    prepare_takes  parameters that `prepare` knows though no chapter has them (`parameters_of` a dataclass).
    times          a file for the seconds that every chapter took, written when the site is complete; None: none.
    report         called like `print` with the progress.
    raises         InputError for a wrong parameter; BookError for a failed chapter, a warning, a faulty site.
    """
    root = Path(root).resolve() if root else project_root()
    output = Path(output).resolve() if output else root / "_build" / "html"
    folder = root / "_runs" / _folder_name(profile)
    chapters = read_chapters(root)
    owners = {chapter.name: chapter.parameters for chapter in chapters}
    values = check_parameters(parameters or {}, {**owners, "prepare": prepare_takes or {}})
    check_output(output)

    values = {"run": profile, **values, **(prepare(values) if prepare else {})}
    fresh_sources(root, chapters, folder)
    seconds = execute_chapters(chapters, values, root, folder, report)
    stamp_chapters(chapters, values, folder)
    with timed_step("Building the pages", report):
        html = build_html(folder)
    if problems := check_site(html):
        raise BookError("the site has problems:\n" + "\n".join(problems))
    exchange(html, output)
    if times is not None:
        record_times(seconds, times)
    report(f"The book is at {output / 'index.html'}", flush=True)
    return output


def _folder_name(profile: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", profile):
        raise InputError(f"the profile {profile!r} must be a name of letters, digits, '.', '_' and '-'.")
    return profile
