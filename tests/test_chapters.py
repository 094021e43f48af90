"""Every committed chapter is clean, small-celled and complete, whatever it is about."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from chunkkv_lib.book.chapters import read_chapters, read_notebook, tags, tidy
from chunkkv_lib.book.parameters import read_parameters

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "chapters").glob("*.ipynb"))
PAGES = [*NOTEBOOKS, *sorted((ROOT / "chapters").glob("*.md"))]
MEASUREMENT = re.compile(r"\b[01]\.\d{3,}")

TEMPLATES = sorted((ROOT / "chapters" / "templates").glob("*.ipynb"))

each_and_templates = pytest.mark.parametrize("path", [*NOTEBOOKS, *TEMPLATES], ids=lambda path: path.stem)


def cells(path: Path, kind: str = "code") -> list:
    return [cell for cell in read_notebook(path).cells if cell.cell_type == kind]


@each_and_templates
def test_a_notebook_is_committed_clean(path):
    """No outputs, counts or passing metadata, and the ids that its text gives: that is what `tidy` makes."""
    clean = nbformat.writes(tidy(read_notebook(path), path.stem)) + "\n"
    assert path.read_text() == clean, f"untidy: python -m chunkkv_lib tidy {path.relative_to(ROOT)}"


@each_and_templates
def test_code_cells_are_short_and_are_python(path):
    for cell in cells(path):
        ast.parse(cell.source)
        lines = cell.source.splitlines()
        assert len(lines) <= 15, f"{len(lines)} lines; move code into the library:\n{cell.source}"
        assert max(map(len, lines), default=0) <= 120, f"too wide to read:\n{cell.source}"


@each_and_templates
def test_there_is_one_parameters_cell_and_every_parameter_is_explained(path):
    first, check = cells(path)[:2]
    assert [cell for cell in cells(path) if "parameters" in tags(cell)] == [first]
    assert check.source.endswith("page = Page(globals())")
    assigned = [line.targets[0].id for line in ast.parse(first.source).body]
    parameters = read_parameters(first.source, path.name)
    assert list(parameters) == assigned, "a line that papermill does not read"
    assert [p.name for p in parameters.values() if len(p.help) < 8] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_opens_with_its_title_and_figures_say_what_they_show_without_a_typed_measurement(path):
    first = read_notebook(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    titles = [line for cell in cells(path, "markdown") for line in outside_fences(cell.source) if line.startswith("# ")]
    assert len(titles) == 1, titles
    for cell in cells(path):
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            texts = [figure.get("caption", ""), cell.metadata["mystnb"].get("image", {}).get("alt", "")]
            assert figure.get("name", "").startswith("fig-") and min(map(len, texts)) >= 20, (figure, texts)
            assert not MEASUREMENT.search(" ".join(texts)), f"glue the number instead: {texts}"


def outside_fences(text: str) -> list[str]:
    """The lines of Markdown that are not inside ``` fences, where `# ` begins a comment."""
    return re.sub(r"^(`{3,}|~{3,}).*?^\1", "", text, flags=re.M | re.S).splitlines()


def test_the_table_of_contents_lists_every_page():
    assert {chapter.path for chapter in read_chapters(ROOT)} >= set(PAGES)


EXERCISE = re.compile(r"^(`{3,})\{exercise\}.*?^:label: (\S+)$", flags=re.M | re.S)
SOLUTION = re.compile(r"^(`{3,})\{solution(?:-start)?\} (\S+)\n:label: \S+\n:class: dropdown$", flags=re.M)
NUMBERED = [path for path in PAGES if path.name[:2].isdigit()]


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
def test_a_chapter_has_exercises_with_hidden_solutions_that_run(path):
    texts = [path.read_text()] if path.suffix == ".md" else [cell.source for cell in cells(path, "markdown")]
    text = "\n".join(texts)
    asked, solved = ([label for _, label in form.findall(text)] for form in (EXERCISE, SOLUTION))
    assert 3 <= len(asked) <= 6, f"{len(asked)} exercises"
    assert asked == solved, "each exercise has one solution, which unfolds"
    if path.suffix == ".ipynb":
        solutions = text[text.index("## Exercises") :]
        assert "```python" not in solutions, "code of a solution stands in a cell, so that it runs with the chapter"
