"""The chapters' files: read in the order of `_toc.yml`, the only list of them, kept clean in the repository, and given
to readers with hints, with or without the exercises' solutions.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from chunkkv_lib.book.page import project_root
from chunkkv_lib.book.parameters import Parameter, read_parameters
from chunkkv_lib.errors import InputError

TOC = "_toc.yml"
SUFFIXES = (".ipynb", ".md")  # the order in which the site's builder looks for a page
MARKED_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}
PASSING_METADATA = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled", "editable")
SOLUTION = re.compile(r"(^(`{3,})\{(solution|solution-start|solution-end)\}.*?^\2\s*?$\n?)", flags=re.M | re.S)
EXERCISE = re.compile(r"^(`{3,})\{exercise\}.*?^\1[ \t]*$", flags=re.M | re.S)
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


@dataclass(frozen=True)
class Chapter:
    """A page of the book: its name in `_toc.yml`, its file, and (of a notebook) its parameters by name."""

    name: str  # "chapters/04_one_prompt", without a suffix
    path: Path
    parameters: dict[str, Parameter] = field(default_factory=dict)

    @property
    def is_notebook(self) -> bool:
        return self.path.suffix == ".ipynb"


def read_chapters(root: Path | None = None) -> list[Chapter]:
    """Every page named in the table of contents of the book at `root` (by default this checkout), in reading order.

    Raises InputError for a table of contents that cannot be read, a page without a file, and a broken notebook.
    """
    from sphinx_external_toc.parsing import MalformedError, parse_toc_yaml

    root = root or project_root()
    try:
        names = list(parse_toc_yaml(root / TOC))
    except (OSError, yaml.YAMLError, MalformedError) as error:
        raise InputError(f"cannot read the table of contents {root / TOC}: {str(error).splitlines()[0]}") from None
    chapters = []
    for name in names:
        path = next((path for suffix in SUFFIXES if (path := root / f"{name}{suffix}").is_file()), None)
        if path is None:
            raise InputError(f"{TOC} names the page {name!r}, but neither {name}.ipynb nor .md exists in {root}.")
        cells = read_notebook(path).cells if path.suffix == ".ipynb" else []
        given = next((cell.source for cell in cells if "parameters" in tags(cell)), "")  # papermill fills the first
        chapters.append(Chapter(name, path, read_parameters(given, path.name)))
    return chapters


def read_notebook(path: str | Path) -> NotebookNode:
    """The notebook at `path` in format 4; InputError naming the file if it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise InputError(f"{path}: no such notebook.") from None
    except Exception as error:  # nbformat raises a dozen kinds for a broken file
        raise InputError(f"{path} is not a readable notebook: {str(error).splitlines()[0]}") from error


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def glued(notebook: NotebookNode) -> dict[str, str]:
    """Name -> text of everything that an executed notebook glued."""
    found = {}
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
            text = next((data for kind, data in output.get("data", {}).items() if kind.endswith("text/plain")), "")
            found[name] = "".join(text).strip("'\"")
    return found


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


def fold_solutions(cells: list[NotebookNode], name: str) -> None:
    """Tag the cells of every solution `solution`, folded in JupyterLab, and no others.

    A solution stands either in one Markdown cell, as a `{solution}` block, or between cells of a `solution-start` and a
    `solution-end` block. InputError: one of the two without the other, or other text in the same cell.
    """
    inside = False
    for cell in cells:
        kinds = [kind for _, _, kind in SOLUTION.findall(cell.source)] if cell.cell_type == "markdown" else []
        if kinds and SOLUTION.sub("", cell.source).strip():
            raise InputError(f"{name}: a solution stands in a cell with other text; split the cell there.")
        cell.metadata["tags"] = sorted(tags(cell) - {"solution"} | ({"solution"} if inside or kinds else set()))
        for kind in (kind for kind in kinds if kind != "solution"):
            if inside != (kind == "solution-end"):
                raise InputError(f"{name}: a {kind} stands without the other. Open and close every solution.")
            inside = not inside
        cell.metadata.pop("jupyter", None)
        if "solution" in cell.metadata["tags"]:
            cell.metadata["jupyter"] = {"source_hidden": True}
        elif not cell.metadata["tags"]:
            del cell.metadata["tags"]
    if inside:
        raise InputError(f"{name}: a solution-start stands without the other. Open and close every solution.")


def with_hints(text: str) -> str:
    """Markdown with three folded hints below each exercise that names a task in `check("task", ...)`."""
    from chunkkv_lib.exercises.checking import TASKS, folded_hints

    def hinted(found: re.Match) -> str:
        names = [name for name in dict.fromkeys(re.findall(r'check\("(\w+)"', found[0])) if name in TASKS]
        return "\n\n".join([found[0], *map(folded_hints, names)])

    return EXERCISE.sub(hinted, text)


def for_readers(cells: list[NotebookNode], name: str, solutions: bool, answer: str = "") -> list[NotebookNode]:
    """A chapter's cells with hints, and with or without its solutions; answer: what a cell in their place holds."""
    kept = []
    fold_solutions(cells, name)
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = with_hints(cell.source)
        if solutions or "solution" not in tags(cell):
            kept.append(cell)
        elif answer and re.match(r"`{3,}\{solution(-start)?\}", cell.source):
            kept.append(new_code_cell(answer))
    return kept


def tidy(notebook: NotebookNode, name: str) -> NotebookNode:
    """The notebook as it is committed: no outputs or counts, folded solutions, stable ids, the plain kernel."""
    notebook.cells = [cell for cell in notebook.cells if not tags(cell) & MARKED_BY_PAPERMILL]
    fold_solutions(notebook.cells, name)
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
        notebook = tidy(read_notebook(path), path.stem)
        before = path.read_bytes()
        nbformat.write(notebook, str(path))
        print(f"{path}: {'clean' if path.read_bytes() == before else 'tidied'}")
