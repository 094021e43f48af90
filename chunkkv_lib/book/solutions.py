"""Exercises of a chapter: their hints put below them, their solutions taken out."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from chunkkv_lib.book.chapters import SOLUTION, tags, with_hidden_solutions
from chunkkv_lib.exercises import TASKS
from chunkkv_lib.exercises.checking import folded_hints

EXERCISE = re.compile(r"^(`{3,})\{exercise\}.*?^\1[ \t]*$", flags=re.M | re.S)


def with_hints(text: str) -> str:
    """Markdown with three folded hints below each exercise that names a task in `check("task", ...)`."""

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


def page_for_readers(text: str, solutions: bool) -> str:
    """The same for a page of Markdown."""
    return with_hints(text if solutions else SOLUTION.sub("", text))
