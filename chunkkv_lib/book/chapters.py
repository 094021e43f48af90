"""The chapters of the book, in reading order. `_toc.yml` is the only list of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from chunkkv_lib.book.notebooks import read_notebook, tags
from chunkkv_lib.book.parameters import Parameter, read_parameters
from chunkkv_lib.book.paths import TOC
from chunkkv_lib.errors import InputError

SUFFIXES = (".ipynb", ".md")  # the order in which the site's builder looks for a page


@dataclass(frozen=True)
class Chapter:
    """A page of the book: its name in `_toc.yml`, its file, and (of a notebook) its parameters by name."""

    name: str  # "chapters/05_compression", without a suffix
    path: Path
    parameters: dict[str, Parameter] = field(default_factory=dict)

    @property
    def is_notebook(self) -> bool:
        return self.path.suffix == ".ipynb"


def read_chapters(root: Path) -> list[Chapter]:
    """Every page named in the table of contents of the book at `root`, in reading order.

    Raises InputError for a table of contents that cannot be read, a page without a file, a broken notebook, and a
    parameter that two chapters declare with different types.
    """
    chapters = [_chapter(root, name) for name in _page_names(_read_toc(root / TOC))]
    _check_same_types(chapters)
    return chapters


def _read_toc(path: Path) -> dict:
    try:
        toc = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the table of contents {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(toc, dict) or "root" not in toc:
        raise InputError(
            f"{path}: expected a Jupyter Book table of contents with `format`, `root` and `parts`."
        )
    return toc


def _page_names(node: object) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _page_names(item)
    elif isinstance(node, dict):
        yield from (str(node[key]) for key in ("root", "file") if key in node)
        for key in ("parts", "chapters", "sections"):
            yield from _page_names(node.get(key))


def _chapter(root: Path, name: str) -> Chapter:
    name = str(Path(name).with_suffix("")) if name.endswith(SUFFIXES) else name
    for suffix in SUFFIXES:
        path = root / f"{name}{suffix}"
        if path.is_file():
            return Chapter(name, path, notebook_parameters(path) if suffix == ".ipynb" else {})
    raise InputError(
        f"{TOC} names the page {name!r}, but neither {name}.ipynb nor {name}.md exists in {root}."
    )


def notebook_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters of the notebook at `path`; none if no cell is tagged `parameters`."""
    cells = [cell for cell in read_notebook(path).cells if "parameters" in tags(cell)]
    if len(cells) > 1:
        raise InputError(
            f"{path.name}: {len(cells)} cells are tagged `parameters`; papermill fills only the first."
        )
    return read_parameters(cells[0].source, path.name) if cells else {}


def _kinds(parameter: Parameter) -> set[str]:
    """The types that decide how a value is read: None aside, and a float takes whole numbers anyway."""
    kinds = set(parameter.types) - {"None"}
    return kinds - {"int"} if "float" in kinds else kinds


def _check_same_types(chapters: list[Chapter]) -> None:
    first: dict[str, tuple[Chapter, Parameter]] = {}
    for chapter in chapters:
        for name, parameter in chapter.parameters.items():
            other, known = first.setdefault(name, (chapter, parameter))
            if _kinds(known) != _kinds(parameter):
                raise InputError(f"parameter {name} is {known.expected} in {other.name} "
                                 f"but {parameter.expected} in {chapter.name}: one name, one type.")  # fmt: skip
