"""Student copies: the chapters without their solutions, with an empty cell to answer in.

    python -m chunkkv_lib students --output students

A solution stands either in one Markdown cell, as a `{solution}` block, or between `solution-start` and `solution-end`
blocks with code cells in between. Both forms go; the exercise before them stays.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_code_cell

from chunkkv_lib.book.chapters import read_chapters, read_notebook, set_stable_ids, tidy
from chunkkv_lib.book.inside import project_root
from chunkkv_lib.errors import InputError
from chunkkv_lib.files import write_text

SOLUTION = re.compile(r"^(`{3,})\{solution\}.*?^\1\s*?$\n?", flags=re.M | re.S)
START = re.compile(r"^(`{3,})\{solution-start\}.*?^\1\s*?$\n?", flags=re.M | re.S)
END = re.compile(r"^(`{3,})\{solution-end\}.*?^\1\s*?$\n?", flags=re.M | re.S)
ANSWER = "# your answer\n"


def student_copies(output: str | Path, root: str | Path | None = None) -> list[Path]:
    """Write a copy of every notebook chapter, without solutions, into the folder `output`; the files written.

    raises  InputError: `output` is the folder of the chapters themselves; a chapter whose solutions do not pair up.
    """
    root = Path(root).resolve() if root else project_root()
    output = Path(output).resolve()
    if output == root / "chapters":
        raise InputError(f"{output} holds the chapters themselves; choose another folder, such as --output students.")
    written = []
    for chapter in read_chapters(root):
        if chapter.is_notebook:
            copy = without_solutions(read_notebook(chapter.path), chapter.path.stem)
            target = output / chapter.path.name
            write_text(target, nbformat.writes(copy) + "\n")
            written.append(target)
    return written


def without_solutions(notebook: NotebookNode, name: str) -> NotebookNode:
    """The notebook with each solution replaced by an empty answer cell; `name` is its file's, for ids and errors."""
    cells, inside = [], False
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            if not inside:
                cells.append(cell)
            continue
        for text, answers in _pieces(cell.source, inside, name):
            if text.strip():
                cells.append(NotebookNode({**cell, "source": text.strip("\n")}))
            if answers:
                cells.append(new_code_cell(ANSWER.strip()))
        inside = _stays_inside(cell.source, inside)
    if inside:
        raise InputError(f"{name}: a solution-start has no solution-end after it. Close the solution.")
    copy = tidy(NotebookNode({**notebook, "cells": cells}), name)
    set_stable_ids(copy, name)
    return copy


def _pieces(source: str, inside: bool, name: str) -> list[tuple[str, bool]]:
    """What is left of a Markdown cell: texts, each with whether an answer cell follows it."""
    if inside:
        end = END.search(source)
        if end is None:
            return []
        source = source[end.end() :]
    pieces, start = [], START.search(source)
    while start:
        end = END.search(source, start.end())
        pieces += _inline(source[: start.start()], last_answers=True)
        if end is None:
            return pieces
        source = source[end.end() :]
        start = START.search(source)
    if END.search(source):
        raise InputError(f"{name}: a solution-end has no solution-start before it. Open the solution.")
    return pieces + _inline(source)


def _inline(source: str, last_answers: bool = False) -> list[tuple[str, bool]]:
    texts = [text for text in re.split(SOLUTION, source) if not re.fullmatch(r"`{3,}", text)]
    return [(text, i < len(texts) - 1 or last_answers) for i, text in enumerate(texts)]


def _stays_inside(source: str, inside: bool) -> bool:
    """Whether a solution is open behind this cell."""
    marks = [(match.start(), True) for match in START.finditer(source)]
    marks += [(match.start(), False) for match in END.finditer(source)]
    return max(marks)[1] if marks else inside
