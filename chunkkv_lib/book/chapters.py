"""The chapters' files: read in the order of `_toc.yml`, the only list of them, kept clean in the repository, and given
to readers with hints, with or without the exercises' solutions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
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
    root = root or project_root()
    try:
        toc = yaml.safe_load((root / TOC).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the table of contents {root / TOC}: {str(error).splitlines()[0]}") from None
    if not isinstance(toc, dict) or "root" not in toc:
        raise InputError(f"{root / TOC} is no table of contents of a Jupyter Book: `format`, `root` and `parts`.")
    chapters = []
    for name in page_names(toc):
        name = name.removesuffix(".ipynb").removesuffix(".md")
        path = next((path for suffix in SUFFIXES if (path := root / f"{name}{suffix}").is_file()), None)
        if path is None:
            raise InputError(f"{TOC} names the page {name!r}, but neither {name}.ipynb nor .md exists in {root}.")
        chapters.append(Chapter(name, path, notebook_parameters(path) if path.suffix == ".ipynb" else {}))
    return chapters


def page_names(node: object) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from page_names(item)
    elif isinstance(node, dict):
        yield from (str(node[key]) for key in ("root", "file") if key in node)
        for key in ("parts", "chapters", "sections"):
            yield from page_names(node.get(key))


def notebook_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters of the notebook at `path`; none if no cell is tagged `parameters`. Papermill fills the first."""
    cells = [cell for cell in read_notebook(path).cells if "parameters" in tags(cell)]
    return read_parameters(cells[0].source, path.name) if cells else {}


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


def with_hidden_solutions(cells: Iterable[NotebookNode], name: str) -> list[NotebookNode]:
    """The cells with every solution in cells of its own, which are tagged `solution` and folded in JupyterLab.

    A solution stands either in one Markdown text, as a `{solution}` block, or between `solution-start` and
    `solution-end` blocks with code cells in between. InputError: a start or an end without the other.
    """
    done: list[NotebookNode] = []
    inside = False
    for cell in cells:
        pieces = [("", cell.source)]
        if cell.cell_type == "markdown":
            # re.split gives: text, (whole block, its fence, its kind), text, ...
            parts = SOLUTION.split(cell.source)
            pieces = [("", parts[0])]
            for block, _, kind, text in zip(parts[1::4], parts[2::4], parts[3::4], parts[4::4]):
                pieces += [(kind, block), ("", text)]
        for kind, text in pieces:
            if not text.strip():
                continue
            if kind in ("solution-start", "solution-end") and inside != (kind == "solution-end"):
                raise InputError(f"{name}: a {kind} stands without the other. Open and close every solution.")
            inside = kind == "solution-start" or (inside and kind != "solution-end")
            piece = NotebookNode({**cell, "source": text.strip("\n"), "metadata": dict(cell.metadata)})
            marks = sorted(tags(piece) - {"solution"} | ({"solution"} if inside or kind else set()))
            for key, value in (("tags", marks), ("jupyter", {"source_hidden": True} if "solution" in marks else None)):
                piece.metadata.pop(key, None)
                piece.metadata |= {key: value} if value else {}
            done.append(piece)
    if inside:
        raise InputError(f"{name}: a solution-start stands without the other. Open and close every solution.")
    return done


def with_hints(text: str) -> str:
    """Markdown with three folded hints below each exercise that names a task in `check("task", ...)`."""

    from chunkkv_lib.exercises.checking import TASKS, folded_hints

    def hinted(found: re.Match) -> str:
        names = [name for name in dict.fromkeys(re.findall(r'check\("(\w+)"', found[0])) if name in TASKS]
        return "\n\n".join([found[0], *map(folded_hints, names)])

    return EXERCISE.sub(hinted, text)


def for_readers(cells: Iterable[NotebookNode], name: str, solutions: bool, answer: str = "") -> list[NotebookNode]:
    """A chapter's cells with hints, and with or without its solutions; answer: what a cell in their place holds."""
    kept = []
    for cell in cells if solutions else with_hidden_solutions(cells, name):
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
    notebook.cells = with_hidden_solutions(notebook.cells, name)
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
