"""`check`: compare a student's function with the right answer on fresh random inputs, and say what is wrong."""

from __future__ import annotations

import inspect
import secrets
import traceback
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import combinations
from numbers import Number

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import InputError, unknown
from .tasks import TASKS, Task


def tasks() -> dict[str, str]:
    """Name of each task -> what the function takes and returns."""
    return {name: task.summary for name, task in TASKS.items()}


def check(
    name: str,
    function: Callable,
    rounds: int | None = None,
    seed: int | None = None,
    report: Callable | None = print,
    strict: bool = False,
    hints: int = 0,
) -> bool:
    """Compare a function with the right answer on fresh random inputs; stop at the first difference and explain it.

    name      one of `tasks()`
    rounds    how many inputs, each of other sizes; None: as many as the task needs, 5 or more
    seed      repeats an earlier check; it is part of what is reported
    report    is given the lines of text; None: nothing is said
    strict    a wrong answer raises AssertionError with the same text, for graders that want an exception
    hints     how many of the task's three hints a wrong answer is told
    return    whether all rounds agree
    raises    InputError: an unknown task, something that cannot be called, fewer than 1 round.
    """
    task = _task(name)
    if not callable(function):
        raise InputError(f"check({name!r}, ...) needs a function, not {type(function).__name__}; pass it without ().")
    rounds = task.rounds if rounds is None else rounds
    if rounds < 1:
        raise InputError(f"rounds={rounds} does not work; it must be at least 1.")
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    generator, right = torch.Generator().manual_seed(seed), True
    text = f"✓ {name}: {rounds} rounds agree (seed {seed})"
    for number in range(1, rounds + 1):
        inputs = task.draw(generator)
        if wrong := problem(task, function, inputs):
            wrong += _likely_mistake(task, function, inputs, generator)
            sizes = ", ".join(f"{one} {_size(x)}" for one, x in zip(task.names, inputs, strict=True))
            text = f"✗ {name}, round {number} of {rounds}: {wrong}\n  inputs: {sizes}\n  the same inputs: "
            text += f"example({name!r}, seed={seed}, round={number}); the whole again: "
            text += f"check({name!r}, {_name(function)}, seed={seed})"
            steps = load_hints(name)
            text += "".join(f"\n  hint {step}: {hint}" for step, hint in enumerate(steps[:hints], 1))
            if hints < len(steps):
                text += f"\n  hint {hints + 1} of {len(steps)}: check({name!r}, {_name(function)}, hints={hints + 1})"
            right = False
            break
    if strict and not right:
        raise AssertionError(text)
    if report:
        report(text)
    return right


def example(name: str, seed: int, round: int = 1) -> dict[str, object]:
    """The inputs of one round of a check, by the names of the function's arguments.

    raises  InputError: an unknown task, a round below 1.
    """
    task, generator = _task(name), torch.Generator().manual_seed(seed)
    if round < 1:
        raise InputError(f"round={round} does not exist; rounds count from 1.")
    return dict(zip(task.names, [task.draw(generator) for _ in range(round)][-1], strict=True))


def load_hints(name: str) -> list[str]:
    """The three hints of a task, each nearer to the code than the one before."""
    _task(name)
    return yaml.safe_load(files(__package__).joinpath("hints.yml").read_text(encoding="utf-8"))[name]


def folded_hints(name: str) -> str:
    """The same as Markdown that unfolds one inside the other, without JavaScript."""
    steps = load_hints(name)
    title = "<details><summary>Hint {} of {} for {}</summary>\n\n{}"
    opened = [title.format(number, len(steps), name, hint) for number, hint in enumerate(steps, 1)]
    return "\n\n".join([*opened, "</details>" * len(steps)])


def _task(name: str) -> Task:
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


class Tables(TorchDispatchMode):
    """Remembers the largest tensor with two dimensions of n or more that any operation makes."""

    def __init__(self, n: int):
        super().__init__()
        self.n, self.found = n, None

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and sum(size >= self.n for size in x.shape) >= 2:
                self.found = list(x.shape)
        return result


def problem(task: Task, function: Callable, inputs: tuple) -> str:
    """What is wrong with the function's result on these inputs, in a sentence or two; "" if nothing is."""
    copies = [_copy(x) for x in inputs]
    tables = Tables(inputs[0].shape[1]) if task.no_table else None
    try:
        if tables:
            with tables:
                found = function(*inputs)
        else:
            found = function(*inputs)
    except Exception as error:  # whatever a student's code raises is the answer
        return _raised(error, function)
    for name, before, after in zip(task.names, copies, inputs, strict=True):
        if not same_inputs([before], [after]):
            return f"the function changed its input {name!r}; work on a copy, or without in-place operations."
    expected = task.right(*copies)
    wrong = _wrong_kind(found, expected) or _difference(found, expected, task.tolerance)
    if wrong and task.scores and not _wrong_kind(found, expected):
        wrong = "" if _equally_good(found, expected, task.scores(*copies)) else wrong
    if wrong:
        return wrong
    if tables and tables.found:
        return f"the numbers are right, but a tensor of shape {tables.found} is made; n is {tables.n}: work in tiles."
    return ""


def _raised(error: Exception, function: Callable) -> str:
    """The error, and the line of the student's own code that it came from."""
    said = f"the function raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == file:
            return said + f"\n  in line {frame.lineno} of {frame.name}: {frame.line}"
    return said


def _copy(x: object) -> object:
    return x.clone() if isinstance(x, Tensor) else x.copy() if isinstance(x, np.ndarray) else x


def same_inputs(before: Sequence, after: Sequence) -> bool:
    """Whether two sets of arguments hold the same numbers."""
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) else
        np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else a == b
        for a, b in zip(before, after, strict=True)
    )  # fmt: skip


def _wrong_kind(found: object, expected: object) -> str:
    """Whether a result is something else than expected, before any value is compared."""
    if found is None:
        return "the function returned nothing; is its last line a return?"
    if isinstance(expected, Tensor) and not isinstance(found, Tensor):
        return f"returned {type(found).__name__}, expected a tensor of shape {list(expected.shape)}."
    if isinstance(expected, Number) and not isinstance(found, Number) and np.ndim(found) != 0:
        return f"returned {type(found).__name__} of shape {list(np.shape(found))}, expected one number."
    if isinstance(found, str):
        return f"returned {_shown(found)}, expected {_shown(expected)}."
    try:
        shape, wanted = np.shape(_numbers(found)), np.shape(_numbers(expected))
    except (TypeError, ValueError):
        return f"returned {_shown(found)}, expected {_shown(expected)}."
    return "" if shape == wanted else f"the result has shape {list(shape)}, expected {list(wanted)}."


def _numbers(result: object) -> np.ndarray:
    """A tensor, array, list or number as an array; TypeError or ValueError for anything that holds no numbers."""
    return np.asarray(result.detach().cpu().double() if isinstance(result, Tensor) else result).astype(float)


def _difference(found: object, expected: object, tolerance: float) -> str:
    if tolerance == 0 and isinstance(found, Tensor) and found.is_floating_point():
        return f"the result has dtype {found.dtype}, expected whole numbers ({expected.dtype})."
    found, expected = _numbers(found), _numbers(expected)
    wrong = ~np.isclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not wrong.any():
        return ""
    if wrong.ndim == 0:
        return f"returned {found:.6g}, expected {expected:.6g}."
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    order = ""
    if tolerance == 0 and found.ndim == 2 and np.array_equal(np.sort(found), expected):
        order = " These are the right positions, but not in ascending order."
    return (
        f"{int(wrong.sum())} of {wrong.size} entries differ; the first at {list(at)}: {found[at]:.6g}, "
        f"expected {expected[at]:.6g}.{order}"
    )


def _equally_good(found: Tensor, expected: Tensor, scores: Tensor) -> bool:
    """Whether other positions were chosen whose scores are as high, up to rounding; what is not ranked must stay."""
    last = int(expected.max())
    if found.is_floating_point() or not (found.diff(dim=1) > 0).all() or int(found.min()) < 0:
        return False
    if int(found.max()) > max(last, scores.shape[1] - 1):
        return False
    always = scores.new_full((len(scores), max(0, last + 1 - scores.shape[1])), torch.inf)  # the window
    scores = torch.cat([scores, always], 1)
    mine, best = (scores.gather(1, kept.long()).sort().values for kept in (found, expected))
    return torch.allclose(mine, best, rtol=1e-5, atol=0)


def _likely_mistake(task: Task, function: Callable, inputs: tuple, generator: torch.Generator) -> str:
    """The explanation of a common mistake, or of two at once, that gives what the function gives, on all inputs tried.

    Several mistakes can agree on one input, and one input may show one of two mistakes alone, so all candidates are
    tried on further ones.
    """
    if _same(_result(function, inputs), _result(task.right, inputs), 10 * task.tolerance):
        return ""  # the numbers are right, what is wrong is something else
    given = task, function, inputs, generator
    return _fitting(_mistakes(task), *given) or _fitting(_pairs(task), *given)


def _fitting(candidates: dict[str, Callable], task: Task, function: Callable, inputs: tuple, generator) -> str:
    equal = set()
    for _ in range(task.rounds):
        found = _result(function, inputs)
        same = {said: _same(found, _result(wrong, inputs), task.tolerance) for said, wrong in candidates.items()}
        candidates = {said: wrong for said, wrong in candidates.items() if same[said] is not False}
        equal |= {said for said in candidates if same[said]}
        if not candidates:
            break
        inputs = task.draw(generator)
    return next((f"\n  likely: {said}" for said in candidates if said in equal), "")


def _result(function: Callable, inputs: tuple) -> object:
    """What a function returns, None if it raises."""
    try:
        return function(*map(_copy, inputs))
    except Exception:
        return None


def _same(found: object, other: object, tolerance: float) -> bool | None:
    """Whether two wrong results are one; None if neither function had a result."""
    if found is None or other is None:
        return None if found is other else False
    tolerance /= 10  # closer to the mistake than a right answer has to be to the right one
    return not _wrong_kind(found, other) and not _difference(found, other, tolerance)


def _mistakes(task: Task) -> dict[str, Callable]:
    """Explanation -> a function that makes the mistake."""
    return {
        said: wrong if callable(wrong) else lambda *given, wrong=wrong: task.right(*given, **wrong)
        for said, wrong in task.mistakes.items()
    }


def _pairs(task: Task) -> dict[str, Callable]:
    """Two mistakes at once, where they are keywords that do not exclude each other."""
    keywords = {said: wrong for said, wrong in task.mistakes.items() if not callable(wrong)}
    return {
        f"two mistakes at once: {a}\n  and: {b}":
            lambda *given, both=keywords[a] | keywords[b]: task.right(*given, **both)
        for a, b in combinations(keywords, 2) if not set(keywords[a]) & set(keywords[b])
    }  # fmt: skip


def _shown(result: object) -> str:
    text = repr(result)
    return text if len(text) <= 60 else text[:57] + "..."


def _size(x: object) -> str:
    """The shape of a tensor or array, the length of a list, a number itself."""
    if isinstance(x, Tensor | np.ndarray):
        return str(list(x.shape))
    return f"of length {len(x)}" if isinstance(x, tuple) else f"= {x!r}"


def _name(function: Callable) -> str:
    """What to call a function in a line that can be typed again; a lambda has no name."""
    name = getattr(function, "__name__", "")
    return name if inspect.isroutine(function) and name.isidentifier() else "function"
