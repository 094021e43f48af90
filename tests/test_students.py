"""Student copies: no solution is left, every exercise is, and each gets a cell to answer in."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from common import refused
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from chunkkv_lib.book.chapters import read_notebook
from chunkkv_lib.book.students import ANSWER, student_copies, without_solutions

ROOT = Path(__file__).resolve().parents[1]

INLINE = """\
## Exercises

````{exercise} One
:label: ex-one
What is it?
```bash
ls
```
````

````{solution} ex-one
:label: sol-one
:class: dropdown
The secret word.
```python
secret = 1
```
````

````{exercise} Two
:label: ex-two
And this?
````

```{solution-start} ex-two
:label: sol-two
:class: dropdown
```"""
AFTER = """\
So the secret is out.

```{solution-end}
```

## Further reading"""


def notebook(*cells) -> nbformat.NotebookNode:
    return new_notebook(cells=[
        new_markdown_cell(cell[2:]) if cell.startswith("m:") else new_code_cell(cell) for cell in cells
    ])  # fmt: skip


def test_both_forms_of_a_solution_go_and_the_exercises_stay():
    given = notebook("x = 1", f"m:{INLINE}", "secret = 2", f"m:{AFTER}", "y = 3")
    copy = without_solutions(given, "chapter")
    text = "\n".join(cell.source for cell in copy.cells)
    assert "secret" not in text and "solution" not in text
    assert "What is it?" in text and "And this?" in text and "## Further reading" in text and "ls" in text
    kinds = [cell.source if cell.cell_type == "code" else "text" for cell in copy.cells]
    assert kinds == ["x = 1", "text", ANSWER.strip(), "text", ANSWER.strip(), "text", "y = 3"]
    assert "secret = 2" in given.cells[2].source, "the original is not changed"


def test_an_open_solution_is_refused():
    with refused("chapter", "no solution-end"):
        without_solutions(notebook(f"m:{INLINE}", "secret = 2"), "chapter")
    with refused("chapter", "no solution-start"):
        without_solutions(notebook(f"m:{AFTER}"), "chapter")


def test_the_books_own_chapters(tmp_path):
    written = student_copies(tmp_path / "students")
    assert {path.name for path in written} == {path.name for path in (ROOT / "chapters").glob("*.ipynb")}
    for path in written:
        copy, original = read_notebook(path), read_notebook(ROOT / "chapters" / path.name)
        text = "\n".join(cell.source for cell in copy.cells)
        count = sum(cell.source.count("{exercise}") for cell in original.cells)
        assert "{solution" not in text and text.count("{exercise}") == count
        assert sum(cell.source == ANSWER.strip() for cell in copy.cells) == count, path.name
        nbformat.validate(copy)


def test_the_chapters_are_not_overwritten():
    with refused("chapters", "another folder"):
        student_copies(ROOT / "chapters")


@pytest.mark.parametrize("fence", ["```", "````", "`````"])
def test_fences_of_any_length(fence):
    text = f"m:{fence}{{solution}} ex\nsecret\n{fence}\nrest"
    copy = without_solutions(notebook(text), "chapter")
    assert [cell.source for cell in copy.cells] == [ANSWER.strip(), "rest"]
