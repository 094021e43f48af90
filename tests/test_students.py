"""Student copies: no solution is left, every exercise is, and each gets a cell to answer in."""

import re
import sys
from types import ModuleType, SimpleNamespace

import nbformat
from common import ROOT, refused
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from chunkkv_lib.book.chapters import glued, read_notebook, tidy
from chunkkv_lib.book.students import ANSWER, Plain, student_copies, without_solutions
from chunkkv_lib.exercises.tasks import texts

INLINE = """\
## Exercises

````{exercise} One
:label: ex-one
What is it?
```bash
ls
```
````

`````{solution} ex-one
:label: sol-one
:class: dropdown
The secret word.
```python
secret = 1
```
`````

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
INLINE, AFTER = ([f"m:{text}" for text in part.split("\n\n")] for part in (INLINE, AFTER))


def notebook(*cells) -> nbformat.NotebookNode:
    return new_notebook(cells=[
        new_markdown_cell(cell[2:]) if cell.startswith("m:") else new_code_cell(cell) for cell in cells
    ])  # fmt: skip


def test_both_forms_of_a_solution_go_and_the_exercises_stay():
    given = notebook("x = 1", *INLINE, "secret = 2", *AFTER, "y = 3")
    copy = without_solutions(given, "chapter")
    text = "\n".join(cell.source for cell in copy.cells)
    assert "secret" not in text and "solution" not in text
    assert "What is it?" in text and "And this?" in text and "## Further reading" in text and "ls" in text
    kinds = [cell.source if cell.cell_type == "code" else "text" for cell in copy.cells]
    assert kinds == ["x = 1", "text", "text", ANSWER, "text", ANSWER, "text", "y = 3", "text"]
    assert "CC BY 4.0" in copy.cells[-1].source and "CITATION.cff" in copy.cells[-1].source
    assert "secret = 2" in given.cells[6].source, "the original is not changed"


def test_an_open_solution_is_refused():
    with refused("chapter", "a solution-start stands without"):
        without_solutions(notebook(*INLINE, "secret = 2"), "chapter")
    with refused("chapter", "a solution-end stands without"):
        without_solutions(notebook(*AFTER), "chapter")
    with refused("chapter", "other text"):
        without_solutions(notebook("m:rest\n" + INLINE[2][2:]), "chapter")


def test_a_copy_that_somebody_has_worked_in_is_not_overwritten(tmp_path):
    with refused("chapters", "another folder"):
        student_copies(ROOT / "chapters")
    copies = student_copies(tmp_path)
    assert student_copies(tmp_path) == copies, "untouched copies are written again"
    first = next(path for path in copies if ANSWER in path.read_text())
    others = [path for path in copies if path != first]
    first.write_text(first.read_text().replace(ANSWER, "answer = 42", 1))
    others[0].unlink()
    with refused(first.name, "--force", "--output"):
        student_copies(tmp_path)
    assert "answer = 42" in first.read_text() and not others[0].exists()
    assert student_copies(tmp_path, force=True) and "answer = 42" not in first.read_text()


def test_on_colab_and_only_there_the_first_cell_installs_the_library(monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    copy = without_solutions(notebook("m:# Title", "x = 1"), "chapter", "https://github.com/owner/name")
    code, asked = copy.cells[1].source, []
    shell = SimpleNamespace(run_line_magic=lambda *words: asked.append(words))
    exec(code, {"get_ipython": lambda: shell})
    assert asked == []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(code, {"get_ipython": lambda: shell})
    assert asked == [("pip", "install --quiet 'chunkkv-lib[book] @ git+https://github.com/owner/name'")]


def test_in_jupyterlab_solutions_are_folded_and_exercises_are_not():
    cells = tidy(notebook("x = 1", *INLINE, "secret = 2", *AFTER, "y = 3"), "chapter").cells
    folded = [cell for cell in cells if cell.metadata.get("jupyter", {}).get("source_hidden")]
    shown = "\n".join(cell.source for cell in cells if cell not in folded)
    assert len(folded) == 5 and "secret" not in shown and "And this?" in shown and "y = 3" in shown


def test_an_exercise_that_is_checked_has_its_hints_below_one_inside_the_other():
    text = 'm:```{exercise}\n:label: ex\nTry `check("overlap", mine)` or `check("mine", f)`.\n```\n'
    text += '\n```python\ncheck("holm", f)\n```'
    (cell, _) = without_solutions(notebook(text), "chapter").cells
    assert cell.source.count("<details>") == cell.source.count("</details>") == 3 and "for holm" not in cell.source
    places = [cell.source.index(hint) for hint in texts()["overlap"]["hints"]]
    assert places == sorted(places) and cell.source.index("</details>") > places[-1]
    assert cell.source.index("mine)`") < places[0] < cell.source.index("```python")


SOURCE = """\
# A title

(sec-here)=
As {cite:t}`bai2024longbench` say ({cite:p}`bai2024longbench`), {glue:text}`toy_kept` of {glue:text}`toy_all:d` stay in
{doc}`other`, {doc}`the other <other>`, {numref}`fig-x` and {eq}`eq-x`; {term}`budget` and {term}`budgets <budget>`.

````{exercise} One
:label: ex-one
Show $\\norm{a_{i}} \\in \\kept$.
```python
x = "{doc}`other`"
```
````

```{admonition} Beware
:class: warning
Of {term}`ties`.
```

$$
\\abs{x} = 1
$$ (eq-x)
"""


def test_a_copy_is_plain_markdown():
    macros = {"kept": "K", "norm": [r"\lVert#1\rVert", 1], "abs": ["|#1|", 1]}
    works = {"bai2024longbench": ("Bai et al.", "2024")}
    plain = Plain(ROOT, {"other": "Another chapter"}, works, macros, {"toy_kept": "6"})
    text = plain.cell(new_markdown_cell(SOURCE.replace("\\\\", "\\")))["source"]
    assert "As Bai et al. (2024) say ((Bai et al. 2024)), 6 of … stay in\n" in text
    assert "“Another chapter”, the other, the figure and the equation; budget and budgets." in text
    assert "### Exercise: One\n\nShow $\\lVert a_{i}\\rVert \\in K$." in text.replace("lVerta", "lVert a")
    assert 'x = "{doc}`other`"' in text  # code is left alone
    assert "> **Beware**\n>\n> Of ties." in text and "$$\n|x| = 1\n$$" in text
    assert "sec-here" not in text and ":label:" not in text and ":class:" not in text


def test_copies_of_the_book_hold_nothing_that_only_the_site_understands(tmp_path):
    written = student_copies(tmp_path)
    assert {path.name for path in written} == {path.name for path in (ROOT / "chapters").glob("*.ipynb")}
    assert "Do not write the functions" in (tmp_path / "AGENTS.md").read_text()
    assert "Windows" in (tmp_path / "README.md").read_text() and (tmp_path / "templates" / "my_method.ipynb").exists()
    pictures = 0
    for path in written:
        copy, original = read_notebook(path), read_notebook(ROOT / "chapters" / path.name)
        nbformat.validate(copy)
        count = sum(cell.source.count("{exercise}") for cell in original.cells)
        assert sum(cell.source.count("### Exercise: ") for cell in copy.cells) == count
        assert sum(cell.source == ANSWER for cell in copy.cells) == count, path.name
        for cell in copy.cells:
            if cell.cell_type == "markdown":
                assert not re.search(r"\{[a-z:]+\}`|^:{3,}|^`{3,}\{", cell.source, flags=re.M), cell.source
                pictures += len(cell.get("attachments", {}))
                assert set(re.findall(r"attachment:([\w.-]+)", cell.source)) <= set(cell.get("attachments", {}))
    assert pictures >= 3


def test_numbers_come_from_the_executed_chapter():
    output = {"output_type": "display_data", "metadata": {"scrapbook": {"name": "toy_kept"}},
              "data": {"application/papermill.record/text/plain": "'6'"}}  # fmt: skip
    assert glued(new_notebook(cells=[new_code_cell(outputs=[nbformat.from_dict(output)])])) == {"toy_kept": "6"}
