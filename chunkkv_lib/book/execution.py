"""Executing chapters: each notebook by papermill, in a kernel that does not depend on the user's set-up."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from chunkkv_lib.book.chapters import Chapter
from chunkkv_lib.book.failure import BookError
from chunkkv_lib.book.paths import package_parent

Report = Callable[..., None]  # called like `print`


def execute_chapters(
    chapters: list[Chapter], values: Mapping[str, object], root: Path, folder: Path, report: Report = print
) -> dict[str, float]:
    """Execute every notebook of `chapters` into `folder`, in order, and stop at the first that fails.

    values   parameter name -> value; each chapter gets those it has.
    root     the kernels' working folder, so that chapters find `data/`.
    return   chapter's name -> seconds that it took, the start of its kernel included.
    """
    seconds: dict[str, float] = {}
    notebooks = [chapter for chapter in chapters if chapter.is_notebook]
    with kernel_environment(folder):
        for number, chapter in enumerate(notebooks, start=1):
            own = {name: value for name, value in values.items() if name in chapter.parameters}
            started = time.monotonic()
            with timed_step(f"[{number}/{len(notebooks)}] {chapter.name}", report):
                execute(chapter, own, root, folder / f"{chapter.name}.ipynb")
            seconds[chapter.name] = time.monotonic() - started
    return seconds


@contextmanager
def timed_step(label: str, report: Report) -> Iterator[None]:
    """Report a step of the build when it begins, and on the same line its seconds when it ends."""
    report(label, end=" ... ", flush=True)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        report("stopped", flush=True)
        raise
    report(f"{time.monotonic() - started:.1f} s", flush=True)


def execute(chapter: Chapter, values: Mapping[str, object], root: Path, target: Path) -> None:
    """Execute one chapter into the file `target`; BookError where a cell fails or the kernel dies."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        papermill.execute_notebook(
            _literal(chapter.path), _literal(target), dict(values), cwd=str(root), progress_bar=False,
            start_timeout=120, extra_arguments=["--log-level=40"],  # 40: without the kernel's notes on encryption
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        raise BookError(_failure(chapter, error, target, injected=bool(values))) from None
    except DeadKernelError:
        message = f"{chapter.name}: the kernel died, perhaps for want of memory. Executed so far: {target}"
        raise BookError(message) from None
    except NoSuchKernel as error:
        raise BookError(f"{chapter.name}: {error}. Install the pins of requirements.txt (ipykernel).") from None


def _literal(path: Path) -> str:
    """`path` for papermill, which would take braces in it for place-holders."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _failure(chapter: Chapter, error: object, target: Path, injected: bool) -> str:
    """One line about a failed cell, which is counted as in the chapter itself, without papermill's own cell."""
    what = f"{error.ename}: {error.evalue.strip()}".splitlines()[0].rstrip(": ")
    code = next((line for line in error.source.splitlines() if line.strip()), "")
    cell = f"cell {error.cell_index + 1 - injected} ({code!r})"
    return f"{chapter.name}: {cell} failed with {what} -- executed so far: {target}"


@contextmanager
def kernel_environment(folder: Path) -> Iterator[None]:
    """The environment variables under which kernels start: the same for every user, found by every kernel."""
    paths = [str(package_parent()), *filter(None, [os.environ.get("PYTHONPATH")])]
    changed = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(folder / ".ipython"),  # no start-up files and no history of the user
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # MPLBACKEND=agg would hide every figure
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
