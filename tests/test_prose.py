"""The text of the book: how long it is, and that every number of ours in it comes from a statement checked on its runs.

The pages of the main path are held to all of it, every notebook to what is said of its statements.
"""

import ast
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from prose import MAIN, ROLE, ROOT, counts, held, holds, prose, source

from chunkkv_lib.book import Page
from chunkkv_lib.book.chapters import read_notebook, tags
from chunkkv_lib.runs import Run, load_run

NOTEBOOKS = sorted((ROOT / "chapters").glob("*.ipynb"))
each_main = pytest.mark.parametrize("path", [source(name) for name in MAIN], ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

NUMBER = re.compile(
    r"(?<![\w.,/-])(?:\d[\d,.]*\s?(?:%|per ?cent\b)"
    r"|\d+ (?:of|out of|in) (?:the )?\d+\b"
    r"|\d[\d,]*\.\d+(?!\.?\w))"  # 0.90, but not the version in Qwen2.5 or 5.0.1
)
#: What is chosen, not found: budgets and levels, and what a tenth leaves; numbers of licences and versions.
SETTINGS = {"1 %", "2 %", "2.5 %", "5 %", "10 %", "20 %", "30 %", "50 %", "90 %", "95 %", "98 %", "99 %",
            "100 %", "0 %", "0.01", "0.1", "0.9", "0.90", "0.05", "4.0", "3.11", "3.12", "3.13", "1.0"}  # fmt: skip
#: The paper's, at their full length or rounded to one digit; and its leads of Table 11 in per cent.
PAPER = set(re.findall(r"\d+\.\d+", "".join(p.read_text() for p in (ROOT / "data" / "paper").glob("*.csv"))))
PAPER |= {f"{float(number):.1f}" for number in PAPER} | {"1.8 %", "1.5 %", "1.9 %"}


def typed_numbers(path: Path) -> list[str]:
    """Numbers in the prose that nothing checks, each with its line."""
    found, label = [], re.compile(r"(?:section|Table|Figure|Appendix|Eq\.|chapter)s? [A-Z]?\.?[\d.]+")
    for line in prose(path).text:
        plain = re.sub(r"`[^`]*`", "", ROLE.sub("", re.sub(r"\$[^$]+\$|\]\([^)]*\)", "", label.sub("", line))))
        for number in NUMBER.findall(plain):
            short = re.sub(r"\s", " ", number).replace("per cent", "%")
            if short not in SETTINGS | PAPER and re.sub(r"(?<=\d)%| %", "", short) not in PAPER | SETTINGS:
                found.append(f"{number} in: {line}")
    return found


@each_main
def test_every_number_of_ours_in_the_prose_is_glued(path):
    assert typed_numbers(path) == []


@each_main
def test_every_glued_number_comes_from_a_statement_of_its_page_and_every_statement_is_used(path):
    made = holds(path)
    captions = [str(cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", ""))
                for cell in read_notebook(path).cells]  # fmt: skip
    text = prose(path).whole() + "\n".join(captions)
    glued = [key for role, key in ROLE.findall(text) if role == "glue:text"]
    unknown = [key for key in glued
               if not any(key.startswith(f"{name}_") and (names is None or key.removeprefix(f"{name}_") in names)
                          for name, names in made.items())]  # fmt: skip
    assert unknown == [], "glue it with page.holds(...), whose condition is what the sentence claims"
    assert [name for name in made if not any(key.startswith(f"{name}_") for key in glued)] == [], "in no sentence"


@each_notebook
def test_a_statement_has_a_plain_name_and_a_condition_that_can_fail(path):
    assert [name for name in holds(path) if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name)] == []
    for call in held(path):
        assert any(isinstance(one, ast.Name) for one in ast.walk(call.args[1])), ast.unparse(call)


@each_notebook
def test_no_cell_is_taken_from_a_page(path):
    assert [cell.source for cell in read_notebook(path).cells if tags(cell) & {"remove-cell", "remove-input"}] == []


def test_statements_have_names_of_their_own_in_the_whole_book():
    seen = Counter(name for path in NOTEBOOKS for name in holds(path))
    assert [name for name, times in seen.items() if times > 1] == []


def test_no_page_and_no_part_of_the_book_is_longer_than_it_may_be():
    long = {name: f"{words:,} words, at most {most:,}" for name, (words, most) in counts().items()
            if most and words > most}  # fmt: skip
    assert long == {}


def spoilt(run: Run, how: str) -> Run:
    """The run with its records spoilt: methods' labels and texts exchanged, values doubled, half the sequences gone."""
    tables = {}
    for name in ("layers", "answers"):
        table = getattr(run, name).copy()
        methods = list(table["method"].unique())
        others = {"rotated": methods[1:] + methods[:1], "reversed": methods[::-1],
                  "turned": methods[:7][::-1] + methods[7:]}.get(how, methods)  # fmt: skip
        table["method"] = table["method"].map(dict(zip(methods, others, strict=True)))
        if how == "doubled":
            values = table.select_dtypes("float").columns
            table[values] = 2 * table[values] + 1
        tables[name] = table
    sequences = run.sequences
    if how == "rotated" and "text_hash" in sequences:
        sequences = sequences.assign(text_hash=np.roll(sequences["text_hash"], 1))
    if how == "halved":
        sequences = sequences.iloc[::2].reset_index(drop=True)
        tables = {name: table[table["sequence"].isin(sequences["sequence"])] for name, table in tables.items()}
    return replace(run, sequences=sequences, **tables)


def from_records(path: Path) -> set[str]:
    """The statements of a chapter whose condition is computed from what `page.run` returned."""
    found, drawn = set(), set()
    for cell in read_notebook(path).cells:
        for line in ast.parse(cell.source).body if cell.cell_type == "code" else ():
            names = {node.id: type(node.ctx) for node in ast.walk(line) if isinstance(node, ast.Name)}
            calls = [node for node in ast.walk(line) if isinstance(node, ast.Call)]
            reads = any(getattr(call.func, "attr", "") == "run" for call in calls) or drawn & {
                name for name, context in names.items() if context is ast.Load
            }
            stored = {name for name, context in names.items() if context is ast.Store}
            stored |= {line.name} if isinstance(line, ast.FunctionDef) else set()
            drawn = drawn | stored if reads else drawn - stored
            for call in calls:
                if getattr(call.func, "attr", "") == "holds":
                    loaded = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
                    found |= {call.args[0].value} if loaded & drawn else set()
    return found


def told(path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Statement -> whether it holds on spoilt runs; the chapter's cells are executed here."""
    shell, found = InteractiveShell.instance(), {}
    monkeypatch.setattr(Page, "run", lambda page, name, **_: spoilt(load_run(name), how))
    monkeypatch.setattr(Page, "holds", lambda page, name, condition, **_: found.update({name: bool(condition)}))
    shell.reset(new_session=True)
    for cell in read_notebook(path).cells:
        if cell.cell_type == "markdown" and "## Exercises" in cell.source:
            break
        if cell.cell_type == "code":
            shell.run_cell(cell.source, store_history=True)  # one that fails on spoilt records tells nothing
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if from_records(path)], ids=lambda path: path.stem)
def test_every_statement_about_a_run_fails_on_some_spoilt_record(path, monkeypatch):
    """A condition that no exchange of methods, no other value and no other number of sequences touches says nothing."""
    monkeypatch.chdir(ROOT)
    waiting = from_records(path)
    for how in ("rotated", "reversed", "doubled", "halved", "turned"):
        if waiting:
            waiting -= {name for name, held in told(path, how, monkeypatch).items() if not held}
    assert waiting == set()


PAGE = """\
# Two words

:::{div} chapter-meta
3 minutes
:::

One `code` and {glue:text}`a-b_n` of 72 {doc}`the *last* one <09_significance>`, $x = 0.5$, see {cite:p}`key`.

```{admonition} What the paper says
:class: paper
It says 0.77.
```
```python
not_counted = 0.25
```
$$
y = 0.75
$$ (eq-a)

:::{table} caption
| no | no |
:::

Of ours 0.123, 41 of 72, 3.5 % and 12 per cent; not Qwen2.5, 5.0.1, 10 %, section 2.3.

## Exercises

Not counted: 0.99.
"""


def test_prose_is_what_is_read_and_typed_numbers_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert [line.split(" in:")[0] for line in typed_numbers(page)] == ["0.123", "41 of 72", "3.5 %", "12 per cent"]
    found = prose(page)
    assert "0.77" in "".join(found.paper) and "0.77" not in "".join(found.text)
    assert all(word not in found.whole() for word in ("not_counted", "y =", "no |", "Not counted"))
    assert found.words() == 2 + 2 + 12 + 4 + 3 + 17
