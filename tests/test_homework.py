"""A hand-out stands alone, and submissions are graded: right, wrong, empty, cheating, crashing and endless ones."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from common import ROOT, refused
from jinja2 import UndefinedError
from nbformat import read as read_notebook
from nbformat import validate

from chunkkv_lib import InputError
from chunkkv_lib.exercises import grading, homework, questions
from chunkkv_lib.exercises.grading import grade, grade_one, gradescope
from chunkkv_lib.runs import load_run

SHEETS = sorted(path.stem for path in homework.SHEETS.glob("*.yml"))
SMALL = """
title: Two functions
minutes: 20
before: Nothing.
questions:
- {id: budget, points: 4, minutes: 5, task: budget_tokens, text: A budget., solution: "def budget_tokens(b): pass"}
- {id: loss, points: 6, minutes: 5, task: kv_l1_loss, text: A loss., solution: "def kv_l1_loss(x, kept): return x"}
- {id: words, points: 2, minutes: 5, text: Why., solution: Because., marks: ["2: because"]}
"""
BUDGET = """
def budget_tokens(budget, n):
    return budget if isinstance(budget, int) else max(LEAST, round(n * budget))
"""
LOSS = """
def kv_l1_loss(x, kept):
    size = x.abs().sum(-1)
    return 1 - size.gather(1, kept).sum(-1) / size.sum(-1)
"""
CHEAT = """
from chunkkv_lib import kv_l1_loss
import chunkkv_lib.exercises.checking as checking
checking.check = lambda *a, **k: True
def budget_tokens(budget, n):
    from chunkkv_lib.compressors import budget_tokens
    return budget_tokens(budget, n)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """All three sheets, with two paper sheets each."""
    folder = tmp_path_factory.mktemp("homework")
    for sheet in SHEETS:
        homework.homework(sheet, "ML 301", students=2, output=folder)
    return folder


@pytest.fixture
def sheet(tmp_path) -> str:
    path = tmp_path / "small.yml"
    path.write_text(SMALL)
    return str(path)


def notebook(*cells: str) -> str:
    parts = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": []} for cell in cells]
    return json.dumps({"cells": parts, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.mark.parametrize("name", SHEETS)
def test_a_hand_out_is_plain_and_without_answers_which_are_right(name, made):
    handout = read_notebook(made / name / "handout" / f"{name}.ipynb", as_version=4)
    solved = read_notebook(made / name / "solutions" / f"{name}.ipynb", as_version=4)
    validate(handout)
    text = "\n".join(cell.source for cell in handout.cells)
    assert "{glue" not in text and "{numref" not in text and "{sequences}" not in text and ":::" not in text
    for question in homework.load_sheet(name)["questions"]:
        assert question["solution"].strip() not in text
        assert any(question["solution"].strip() == cell.source for cell in solved.cells)
        assert text.count(f"({question['points']} point") >= 1 and f"{question['minutes']} minutes)" in text
        if "task" in question:
            assert f'    raise NotImplementedError\ncheck("{question["task"]}"' in text
        for cells in (handout.cells, solved.cells):  # a grader of others finds the answer by its cell
            (answer,) = (cell for cell in cells if cell.metadata.get("question") == question["id"])
            assert answer.id == f"{question['id']}-answer"
    assert "CC BY 4.0" in text and "AGENTS.md" in (made / name / "handout" / "README.md").read_text()


def test_a_hand_out_works_where_nothing_else_of_the_book_is(made):
    """The library comes out of the zip beside the notebook, in a folder of its own."""
    code = "import sys; sys.path.insert(0, 'chunkkv_lib.zip'); from chunkkv_lib import exercises\n"
    code += "print('.zip' in exercises.__file__, exercises.check('budget_tokens', lambda budget, n: 1, report=None))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=made / "three-rules" / "handout",
                          capture_output=True, text=True, env=environment)  # fmt: skip
    assert (done.stdout, done.returncode) == ("True False\n", 0), done.stderr


def test_paper_sheets_differ_and_their_key_is_right(made):
    folder = made / "metrics" / "paper"
    one, other = ((folder / f"student-00{i}.md").read_text() for i in (1, 2))
    assert one != other and "ML 301" in one
    rows = [line.split("|")[2:14] for line in one.splitlines() if line.startswith(("| column", "| votes", "| sum"))]
    sums, votes = ([int(x) for x in row[:10]] for row in rows[:2])
    sizes = [int(x) for x in rows[2]]
    key = next(csv.DictReader((folder / "key.csv").open()))
    kept = [*sorted(sorted(range(10), key=lambda i: -sums[i])[:4]), 10, 11]
    assert key["h2o"] == " ".join(map(str, kept))
    chunks = sorted([range(0, 3), range(3, 6), range(6, 9), range(9, 10)], key=lambda c: -sum(votes[i] for i in c))
    order = [i for chunk in chunks for i in chunk][:4]
    assert key["chunkkv"] == " ".join(map(str, [*sorted(order), 10, 11]))
    assert key["l1_loss"] == f"{1 - sum(sizes[i] for i in kept) / sum(sizes):.2f}"


def test_nothing_is_replaced_that_differs(made, tmp_path):
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    homework.homework("metrics", "ML 301", students=2, output=made)
    assert before == {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    mine = tmp_path / "metrics" / "handout" / "README.md"
    mine.parent.mkdir(parents=True)
    mine.write_text("my own words")
    with refused("README.md", "differs", "--output"):
        homework.homework("metrics", output=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine] and mine.read_text() == "my own words"


def test_a_sheet_that_cannot_be_used_is_refused(tmp_path):
    with refused("'three-rule'", "three-rules"):
        homework.homework("three-rule", output=tmp_path)
    path = tmp_path / "mine.yml"
    for text, told in (
        (SMALL.replace("task: kv_l1_loss", "task: kv_l2_loss"), ("kv_l2_loss", "kv_l1_loss")),
        (SMALL + "- {", ("mine.yml", "cannot be read")),
        (SMALL.replace("points: 2, ", ""), ("words", "points")),
        (SMALL.replace("id: words", "id: in words"), ("'in words'", "letters, digits", "'cache-size'")),
    ):
        path.write_text(text)
        with refused(*told):
            homework.load_sheet(str(path))


def test_a_template_that_lacks_a_value_is_an_error_and_html_is_escaped():
    with pytest.raises(UndefinedError, match="last"):
        homework.filled("paper.md", seed=1, course="", sums="", votes="", sizes="", category="", first=0, licence="")
    asked = {"id": "x", "ask": 'Is <s> & "1" a token?', "options": ["<b>", "no"], "why": "ä < ö"}
    page = BeautifulSoup(questions.as_html([asked]), "html.parser")
    assert page.legend.text == asked["ask"] and not page.find("s") and not page.find("b")
    assert page.select_one("input.right + span").text == page.strong.text == "<b>"
    assert page.details.text.endswith("ä < ö")


def test_a_folder_of_submissions_becomes_a_table(sheet, tmp_path):
    folder = tmp_path / "submissions"
    (folder / "in-a-folder").mkdir(parents=True)
    right = notebook("%matplotlib inline\nimport torch", "LEAST = 1\nraise SystemExit", BUDGET, LOSS, "budget_tokens(")
    (folder / "in-a-folder" / "work.ipynb").write_text(right)
    (folder / "wrong.py").write_text(BUDGET.replace("round", "int") + "LEAST = 1\n" + LOSS.replace("1 - ", ""))
    (folder / "cheat.py").write_text(CHEAT)
    grade(folder, sheet, tmp_path / "grades.csv", seed=3)
    table = {row["submission"]: row for row in csv.DictReader((tmp_path / "grades.csv").open())}
    assert [float(table[name]["points"]) for name in ("in-a-folder", "cheat")] == [10, 0]
    wrong, cheat = table["wrong"], table["cheat"]["feedback"]
    assert 0 < float(wrong["budget"]) < 2 and float(wrong["loss"]) == 0
    assert "not down" in wrong["feedback"] and "the share that stays" in wrong["feedback"]
    assert not any("seed" in row["feedback"] for row in table.values())
    assert "there is no function kv_l1_loss" in cheat and "chunkkv_lib" in cheat


LINE = "index 10000 is out of bounds for dimension 0 with size 3 (in 'return x[10000]')"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("while True:\n        pass", "stopped after 2 seconds"),
        ("os._exit(0)", "ended without a result"),
        ("return x[10_000]", f"IndexError: {LINE}"),
        ("return x.mul_(2).sum((1, 2))", "changed its input 'x'"),
        ("return object()", "returned str"),
        ("return (", "there is no function kv_l1_loss in the submission; a cell was left out: '(' was never closed"),
    ],
)
def test_what_goes_wrong_is_told_and_costs_only_its_own_points(lines, said, tmp_path):
    (tmp_path / "eve.py").write_text(f"import os\ndef kv_l1_loss(x, kept):\n    {lines}\n")
    seconds = 2 if "while True" in lines else 60
    share, text = grading.score(grading.functions(tmp_path / "eve.py"), "kv_l1_loss", seed=1, seconds=seconds)
    assert share == 0 and said in text, text


@pytest.mark.parametrize("text", ["", "{", '{"cells": 3}'])
def test_an_empty_or_broken_notebook_earns_nothing(text, sheet, tmp_path):
    (tmp_path / "broken.ipynb").write_text(text)
    results = grade_one(tmp_path / "broken.ipynb", homework.load_sheet(sheet), seed=1)
    assert [one["score"] for one in results] == [0, 0] and all("cannot be read" in one["output"] for one in results)


def test_a_folder_without_submissions_is_refused(sheet, tmp_path):
    with refused("does not exist"):
        grade(tmp_path / "none", sheet)
    with refused("nothing to grade"):
        grade(tmp_path, sheet)


def test_gradescopes_layout(sheet, tmp_path):
    """The zip's runner finds the submission and writes results.json."""
    homework.homework(sheet, output=tmp_path)
    archive = tmp_path / "small" / "autograder.zip"
    place = tmp_path / "autograder"
    with zipfile.ZipFile(archive) as parts:
        parts.extractall(place)
    (place / "submission").mkdir()
    runner = place / "run_autograder"
    assert (place / "setup.sh").exists()
    assert zipfile.ZipFile(archive).getinfo(runner.name).external_attr >> 16 & 0o111
    (place / "submission" / "mine.ipynb").write_text(notebook("LEAST = 1", BUDGET, "import torch"))
    runner.write_text(runner.read_text().replace("python3", sys.executable))
    done = subprocess.run(["bash", str(runner)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tests = json.loads((place / "results" / "results.json").read_text())["tests"]
    assert [(one["name"], one["score"], one["max_score"]) for one in tests] == [("budget", 4, 4), ("loss", 0, 6)]
    assert tests[0]["output"].startswith("✓") and "there is no function" in tests[1]["output"]
    (place / "submission" / "mine.ipynb").unlink()
    assert [one["score"] for one in gradescope(place, sheet)["tests"]] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHEETS)
def test_hand_out_and_solutions_are_graded_as_they_are(name, made, tmp_path):
    """Nothing and everything is right, by the command from an empty folder, as a teacher gives it."""
    (tmp_path / "submissions").mkdir()
    for kind in ("handout", "solutions"):
        shutil.copyfile(made / name / kind / f"{name}.ipynb", tmp_path / "submissions" / f"{kind}.ipynb")
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "chunkkv_lib", "grade", "submissions", "--sheet", name, "--seed", "7"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    empty, right = csv.DictReader((tmp_path / "grades.csv").open())
    points = {one["id"]: one["points"] for one in homework.load_sheet(name)["questions"] if "task" in one}
    assert {id: float(right[id]) for id in points} == points and float(right["points"]) == sum(points.values())
    assert float(empty["points"]) == 0 and "NotImplementedError" in empty["feedback"]


@pytest.mark.parametrize("name", SHEETS)
def test_a_sheets_minutes_and_points_are_those_that_the_teaching_page_names(name):
    sheet = homework.load_sheet(name)
    points, minutes = (sum(question[part] for question in sheet["questions"]) for part in ("points", "minutes"))
    page = read_notebook(ROOT / "chapters" / "teaching.ipynb", as_version=4).cells[-1].source
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    assert minutes == sheet["minutes"] and row.endswith(f"| {points} | {minutes} |")


def test_questions_have_one_right_answer_that_the_run_gives():
    found = {question["id"]: question for question in questions.load_questions()}
    means = load_run("published").records.groupby("method", observed=True)["kv_l1_loss"].mean()
    assert found["best-rule"]["options"] == sorted(("H2O", "SnapKV", "ChunkKV"), key=lambda name: means[name])
    page, exported = BeautifulSoup(questions.bank(), "html.parser"), questions.moodle()
    for question in found.values():
        assert question["objective"] in range(1, 7) and len(set(question["options"])) >= 3
        (field,) = (one for one in page.find_all("fieldset") if one.legend.get_text() == question["ask"])
        buttons = field.find_all("input", type="radio")
        assert {one["name"] for one in buttons} == {question["id"]} and len(buttons) == len(question["options"])
        (right,) = (one.find_next("span").get_text() for one in buttons if "right" in one.get("class", ()))
        assert right == question["options"][0] == field.details.strong.get_text()
        assert question["why"] in field.details.get_text()
    assert not any("{" in part.get_text() for part in page.find_all("div"))
    assert exported.count("\n  =") == exported.count("::") / 2 == len(found)
    assert len({questions.mixed(question).index(question["options"][0]) for question in found.values()}) > 1


def test_every_chapter_has_two_or_three_questions_of_its_own(monkeypatch):
    counts = Counter(question["chapter"] for question in questions.load_questions())
    main = {path.stem for path in (ROOT / "chapters").glob("[01]*.ipynb")}
    assert set(counts) >= main and set(counts.values()) <= {2, 3}
    assert questions.quiz("06_layers").data.count("<fieldset>") == counts["06_layers"]
    with refused("chapter '06_layer'", "06_layers"):
        questions.quiz("06_layer")
    known = questions.numbers()
    monkeypatch.setattr(questions, "numbers", lambda: known | {"random": known["kv_1"] + 0.01})
    with refused("'side-of-random'", "do not rise"):  # an answer that the run no longer gives
        questions.load_questions()


def test_outside_a_clone_a_quiz_says_where_its_answers_are(monkeypatch, tmp_path):
    monkeypatch.setattr("chunkkv_lib.runs.folder.PUBLISHED", tmp_path / "runs")
    assert "in the book itself" in questions.quiz("05_two_yardsticks").data
    assert "<fieldset>" in questions.quiz("01_kv_cache").data, "it asks for no number of a run"
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="no run at published"):
        questions.quiz("05_two_yardsticks")
