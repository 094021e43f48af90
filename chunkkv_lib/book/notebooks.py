"""Notebook files: how they are read, kept clean in the repository and made the same on every execution."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from chunkkv_lib.book.paths import project_root
from chunkkv_lib.errors import InputError

MARKED_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}
PASSING_METADATA = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled", "editable")
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def read_notebook(path: str | Path) -> NotebookNode:
    """The notebook at `path` in format 4; InputError naming the file if it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise InputError(f"{path}: no such notebook.") from None
    except Exception as error:  # nbformat raises a dozen kinds for a broken file
        raise InputError(f"{path} is not a readable notebook: {str(error).splitlines()[0]}") from error


def write_notebook(notebook: NotebookNode, path: str | Path) -> None:
    nbformat.write(notebook, str(path))


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def set_stable_ids(notebook: NotebookNode, name: str) -> None:
    """Give every cell an id made from the chapter's name and the cell's own source.

    An edit changes one id and an insertion adds one: reviews stay short, and two executions give the same file.
    """
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        base = hashlib.sha1(f"{name}\n{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[base] = seen.get(base, 0) + 1
        cell["id"] = base if seen[base] == 1 else f"{base}-{seen[base]}"


def strip_timing(notebook: NotebookNode) -> None:
    """Remove what differs from one execution to the next though the results are the same.

    Among it is all that went to stderr: progress bars with their times, and warnings with this machine's paths. No page
    shows it, but the executed notebooks are published too.
    """
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for key in PASSING_METADATA:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def tidy(notebook: NotebookNode, name: str) -> NotebookNode:
    """The notebook as it is committed: no outputs, no counts, stable ids, the plain Python 3 kernel."""
    notebook.cells = [cell for cell in notebook.cells if not tags(cell) & MARKED_BY_PAPERMILL]
    for cell in notebook.cells:
        cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").split("\n"))
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    strip_timing(notebook)
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    set_stable_ids(notebook, name)
    return notebook


def tidy_files(paths: Iterable[str | Path] = ()) -> None:
    """Tidy notebooks in place, by default all of `chapters/`, and print which of them that changed."""
    for path in [Path(path) for path in paths] or sorted((project_root() / "chapters").glob("*.ipynb")):
        before = path.read_bytes() if path.is_file() else b""
        write_notebook(tidy(read_notebook(path), path.stem), path)
        print(f"{path}: {'clean' if path.read_bytes() == before else 'tidied'}")
