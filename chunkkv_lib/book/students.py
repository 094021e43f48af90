"""Student copies: the chapters without their solutions, in plain Markdown, with an empty cell to answer in.

python -m chunkkv_lib students --output students
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from chunkkv_lib.book.build import repository_address
from chunkkv_lib.book.chapters import for_readers, read_chapters, read_notebook, set_stable_ids, tidy
from chunkkv_lib.book.page import project_root
from chunkkv_lib.book.plain import plain_chapters
from chunkkv_lib.errors import InputError
from chunkkv_lib.exercises.homework import LICENCE, part, write_new

ANSWER = "# your answer"
COLAB = """\
# On Google Colab this installs the library; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    get_ipython().run_line_magic("pip", "install --quiet 'chunkkv-lib[book] @ git+{address}'")"""


def student_copies(output: str | Path, force: bool = False, root: str | Path | None = None) -> list[Path]:
    """Write a copy of every notebook chapter, without solutions, into the folder `output`; the copies.

    Where the repository is published on GitHub, the first cell of a copy installs the library on Google Colab.

    force   replace copies that differ from what would be written, because somebody has worked in them.
    raises  InputError: `output` is the folder of the chapters themselves, or holds such copies and not `force`.
    """
    root = Path(root).resolve() if root else project_root()
    output = Path(output).resolve()
    if output == root / "chapters":
        raise InputError(f"{output} holds the chapters themselves; choose another folder, such as --output students.")
    address, copies, plain = repository_address(root), {}, plain_chapters(root)
    for chapter in read_chapters(root):
        if chapter.is_notebook:
            copy = without_solutions(read_notebook(chapter.path), chapter.path.stem, address)
            copy.cells = [plain(chapter.path.stem).cell(cell) for cell in copy.cells]
            copies[output / chapter.path.name] = nbformat.writes(copy) + "\n"
    chapters = list(copies)
    copies[output / "README.md"] = part("chapters.md").decode().format(licence=LICENCE)
    copies[output / "AGENTS.md"] = part("AGENTS.md").decode()
    for path in sorted((root / "chapters" / "templates").glob("*.ipynb")):
        copies[output / "templates" / path.name] = path.read_text(encoding="utf-8")
    write_new({path: text.encode() for path, text in copies.items()}, force)
    return chapters


def without_solutions(notebook: NotebookNode, name: str, address: str | None = None) -> NotebookNode:
    """The notebook with each solution replaced by an empty answer cell; `name` is its file's, for ids and errors."""
    copy = tidy(deepcopy(notebook), name)
    cells = for_readers(copy.cells, name, solutions=False, answer=ANSWER)
    if address:
        cells.insert(1, new_code_cell(COLAB.format(address=address)))  # below the title, above every import
    copy.cells = [*cells, new_markdown_cell(f"*{LICENCE}*")]
    set_stable_ids(copy, name)
    return copy
