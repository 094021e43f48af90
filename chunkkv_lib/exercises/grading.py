"""Grade a folder of submissions on hidden inputs, or one of them as Gradescope does.

    python -m chunkkv_lib grade FOLDER --sheet three-rules --csv grades.csv --seed 4711

Of a notebook or .py file only imports, functions and constants are taken, so nothing else in it runs. Each function is
called in a process of its own that holds no checker and no library of this book; it answers with plain numbers, which
are compared here. That stops mistakes, endless loops and the usual short cuts, not somebody who means harm: it is **no
sandbox**; run it in a container that may be lost, as Gradescope does.
"""

import ast
import copy
import faulthandler
import json
import linecache
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..files import write_text
from .checking import called, check, problem, same_inputs
from .homework import load_sheet
from .tasks import TASKS, Task

SECONDS = 60  # for all calls of one function
LEFT_OUT = "# a cell was left out"  # stands in the source where a cell is no Python
START = 120  # and for its process to start, on a slow machine
LIBRARY = Path(__file__).resolve().parents[2]


def grade(folder: str | Path, sheet: str, table: str | Path = "grades.csv", seed: int = 0, seconds: int = SECONDS):
    """Grade every submission in a folder and write a CSV: points for each task, their sum, and feedback.

    folder  of notebooks, .py files, or folders that hold one of them: one submission each, called by its name
    sheet   a name in `sheets/`, or a YAML file; what is answered in words is left to be marked by hand
    seed    of the hidden inputs; keep it to yourself
    raises  InputError: no such folder or sheet, nothing to grade.
    """
    import pandas as pd  # which Gradescope does not need

    found, places, rows = load_sheet(sheet), submissions(folder), []
    for number, (name, path) in enumerate(places.items(), 1):
        results = grade_one(path, found, seed, seconds)
        points = {result["name"]: result["score"] for result in results}
        feedback = "\n".join(f"{result['name']}: {result['output']}" for result in results)
        rows.append({"submission": name, "points": sum(points.values())} | points | {"feedback": feedback})
        print(f"{number} of {len(places)}: {name}, {rows[-1]['points']:g} points", file=sys.stderr, flush=True)
    write_text(table, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    return rows


def submissions(folder: str | Path) -> dict[str, Path]:
    """Name -> file of every submission in a folder. InputError: no such folder, or nothing in it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"folder={str(folder)!r} does not exist; name the folder of the submissions.")
    places = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not path.name.startswith("."):
                places[path.name] = first_inside(path)
        elif path.suffix in (".ipynb", ".py"):
            places[path.stem] = path
    if not places:
        raise InputError(f"{folder} holds no notebook, no .py file and no folder with one; nothing to grade.")
    return places


def first_inside(folder: Path) -> Path:
    """The first notebook or .py file below a folder; the folder itself, which cannot be read, if there is none."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".ipynb", ".py") and path.is_file() and ".ipynb_checkpoints" not in path.parts:
            return path
    return folder


def grade_one(path: Path, sheet: Mapping, seed: int, seconds: int = SECONDS) -> list[dict]:
    """Points and feedback for every task of a sheet, as Gradescope calls them: name, score, max_score, output."""
    source = unreadable = ""
    try:
        source = functions(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        unreadable = f"the submission cannot be read: {error}"
    results = []
    for question in sheet["questions"]:
        if "task" in question:
            share, text = (0.0, unreadable) if unreadable else score(source, question["task"], seed, seconds)
            points = {"score": round(question["points"] * share, 2), "max_score": question["points"]}
            results.append({"name": question["id"], **points, "output": text})
    return results


def functions(path: Path) -> str:
    """The source of a notebook's or file's imports, functions and constants; ValueError for one that cannot be read.

    A cell that is no Python is left out, so that a half-written one does not cost the others.
    """
    cells = [path.read_text(encoding="utf-8")]
    if path.suffix == ".ipynb":
        cells = ["".join(one["source"]) for one in json.loads(cells[0])["cells"] if one.get("cell_type") == "code"]
    kept = []
    for cell in cells:
        lines = ["pass" if line.lstrip().startswith(("%", "!")) else line for line in cell.splitlines()]
        try:
            nodes = ast.parse("\n".join(lines)).body
        except SyntaxError as error:
            kept.append(f"{LEFT_OUT}: {error.msg} in its line {error.lineno}")
            continue
        wanted = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef
        kept += [ast.unparse(node) for node in nodes if isinstance(node, wanted) or is_constant(node)]
    return "\n".join(kept)


def is_constant(node: ast.stmt) -> bool:
    """Whether a statement gives a name to a number, a text or a list of them: WINDOW = 8."""
    if not isinstance(node, ast.Assign) or not all(isinstance(target, ast.Name) for target in node.targets):
        return False
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return True


def score(source: str, name: str, seed: int, seconds: int = SECONDS) -> tuple[float, str]:
    """The share of a task's points, and what `check` says: 1 if all rounds are right, else half of the right share."""
    task, generator = TASKS[name], torch.Generator().manual_seed(seed)
    rounds = [task.draw(generator) for _ in range(2 * task.rounds)]  # twice: a hint may need further inputs
    answers = answered(source, name, task, rounds, seconds)
    if isinstance(answers, str):
        return 0.0, f"✗ {name}: {answers}"
    function, lines = replayed(task, rounds, answers), []
    if check(name, function, seed=seed, report=lines.append):
        return 1.0, lines[0].partition(" (seed")[0]  # which stays hidden
    right = sum(not problem(task, function, given) for given in rounds[: task.rounds])
    text = lines[0].split("\n  the same inputs:")[0]
    return right / task.rounds / 2, f"{text}\n  {right} of {task.rounds} rounds are right."


def answered(source: str, name: str, task: Task, rounds: list[tuple], seconds: int) -> list[dict] | str:
    """What a function returns in every round, from a process of its own; a sentence where there is nothing."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        inputs = [[portable(x) for x in given] for given in rounds]
        job = {"source": source, "function": name, "rounds": inputs, "no_table": task.no_table, "seconds": seconds}
        job["raw"] = isinstance(rounds[0][0], np.ndarray)
        torch.save(job, place / "job.pt")
        code = "import sys; sys.path.insert(0, sys.argv[1]); from chunkkv_lib.exercises.grading import answer; answer()"
        command = [sys.executable, "-P", "-c", code, str(LIBRARY)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=seconds + START, env=environment,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds} seconds."
        if not (place / "answers.pt").exists():
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            if lines[0].startswith("Timeout ("):
                return f"stopped after {seconds} seconds."
            said = lines[-1]
            return said if said.startswith("there is no function") else f"the process ended without a result: {said}"
        try:
            return torch.load(place / "answers.pt", weights_only=True)
        except Exception as error:
            return f"the results cannot be read: {error}"


def answer() -> None:
    """Inside a submission's own process: call the function on every round's inputs and save what it returns."""
    job = torch.load("job.pt", weights_only=True)
    source, answers = job["source"], []
    for module in [module for module in sys.modules if module.split(".")[0] == "chunkkv_lib"]:
        sys.modules[module] = None  # importing it raises from here on
    linecache.cache["answer.py"] = len(source), None, source.splitlines(True), "answer.py"
    namespace: dict[str, object] = {"__name__": "answer"}
    for node in ast.parse(source).body:
        try:  # an import that fails, of the library itself, costs only those who use it
            exec(compile(ast.Module([node], []), "answer.py", "exec"), namespace)
        except ImportError:
            continue
    function = namespace.get(job["function"])
    if not callable(function):
        left_out = [line.removeprefix("# ") for line in source.splitlines() if line.startswith(LEFT_OUT)]
        sys.exit(f"there is no function {job['function']} in the submission" + "; ".join(["", *left_out]) + ".")
    faulthandler.dump_traceback_later(job["seconds"], exit=True)  # starting Python and torch does not count
    for given in job["rounds"]:
        inputs = [x.numpy() if job["raw"] and isinstance(x, torch.Tensor) else x for x in given]
        before, table = copy.deepcopy(given), []
        try:
            value, table = called(function, inputs, job["no_table"])
            record = {"value": portable(value)}
        except Exception as error:
            frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == "answer.py"]
            where = f" (in {frames[-1].line!r})" if frames else ""
            record = {"kind": type(error).__name__, "error": str(error).split("\n")[0] + where}
        answers.append(record | {"changed": not same_inputs(before, given), "table": table})
    torch.save(answers, "answers.pt")


def portable(x: object) -> object:
    """Tensors, numbers, text and lists of them: what a file may hold that is read without running anything."""
    if isinstance(x, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(x)) if x.dtype.kind in "fiub" else str(x)
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, list | tuple):
        return type(x)(portable(one) for one in x) if type(x) in (list, tuple) else str(x)
    plain = x is None or type(x) in (bool, int, float, str)
    return x.detach().cpu() if isinstance(x, torch.Tensor) else x if plain else str(x)


def replayed(task: Task, rounds: list[tuple], answers: list[dict]) -> Callable:
    """A function that gives, for inputs of one of the rounds, what the submission gave for them."""

    def function(*given: object) -> object:
        for inputs, record in zip(rounds, answers, strict=True):
            if same_inputs(inputs, given):
                if "error" in record:
                    raise type(record["kind"], (Exception,), {})(record["error"])
                if record["changed"]:
                    given[0][...] += 1  # so that the checker sees it, too
                if record["table"]:
                    torch.empty(record["table"])
                return record["value"]
        raise RuntimeError("the function was not called with these inputs")

    return partial(function)  # which has no code of its own that an error could point to


def gradescope(root: Path, sheet: str, seed: int | None = None) -> dict:
    """Grade the one submission in `root`/submission; write `root`/results/results.json as Gradescope wants it."""
    seed = int.from_bytes(os.urandom(4)) if seed is None else seed
    results = grade_one(first_inside(root / "submission"), load_sheet(sheet), seed)
    written = {"tests": [one | {"visibility": "visible"} for one in results]}
    write_text(root / "results" / "results.json", json.dumps(written, indent=1) + "\n")
    return written


if __name__ == "__main__":
    gradescope(Path(sys.argv[1]), sys.argv[2])
