"""`check`: compare a student's function with the library's own on fresh random inputs, and say what is wrong."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Mapping
from numbers import Number

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, unknown
from .attention_tasks import ATTENTION_TASKS
from .number_tasks import NUMBER_TASKS
from .task import Task

TASKS: Mapping[str, Task] = NUMBER_TASKS | ATTENTION_TASKS


def tasks() -> dict[str, str]:
    """Name of each task -> what the function takes and returns."""
    return {name: task.summary for name, task in TASKS.items()}


def check(
    name: str, function: Callable, rounds: int | None = None, seed: int | None = None, report: Callable = print
) -> bool:
    """Compare a function with the library's own on fresh random inputs; stop at the first difference and explain it.

    name      one of `tasks()`
    rounds    how many inputs, each of other sizes; None: as many as the task needs, 5 or more
    seed      repeats an earlier check; it is part of what is reported
    return    whether all rounds agree
    raises    InputError: an unknown task, something that cannot be called, fewer than 1 round.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    if not callable(function):
        raise InputError(f"check({name!r}, ...) needs a function, not {type(function).__name__}; pass it without ().")
    rounds = TASKS[name].rounds if rounds is None else rounds
    if rounds < 1:
        raise InputError(f"rounds={rounds} does not work; it must be at least 1.")
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    generator = torch.Generator().manual_seed(seed)
    for number in range(1, rounds + 1):
        inputs = TASKS[name].draw(generator)
        if problem := _problem(TASKS[name], function, inputs):
            report(f"✗ {name}, round {number} of {rounds}: {problem}\n  inputs: {_described(TASKS[name], inputs)}")
            report(f"  the same inputs again: check({name!r}, {_name(function)}, seed={seed})")
            return False
    report(f"✓ {name}: {rounds} rounds agree with the library (seed {seed})")
    return True


def _problem(task: Task, function: Callable, inputs: tuple) -> str:
    """What is wrong with the function's result on these inputs, in a sentence or two; "" if nothing is."""
    copies = [_copy(x) for x in inputs]
    try:
        found = function(*inputs)
    except Exception as error:  # whatever a student's code raises is the answer
        return f"the function raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    for name, before, after in zip(task.names, copies, inputs, strict=True):
        if not _unchanged(before, after):
            return f"the function changed its input {name!r}; work on a copy, or without in-place operations."
    expected = task.reference(*map(_copy, copies))
    problem = _wrong_kind(found, expected) or _difference(found, expected, task.tolerance)
    return problem + _likely_mistake(task, found, copies) if problem else ""


def _copy(x: object) -> object:
    return x.clone() if isinstance(x, Tensor) else x.copy() if isinstance(x, np.ndarray) else x


def _unchanged(before: object, after: object) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(before, after)
    return not isinstance(before, np.ndarray) or np.array_equal(before, after, equal_nan=True)


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
    return np.asarray(result.detach().cpu() if isinstance(result, Tensor) else result).astype(float)


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


def _likely_mistake(task: Task, found: object, inputs: list) -> str:
    """The explanation of a common mistake that gives the very result that was found."""
    for explanation, wrong in task.mistakes.items():
        result = wrong(*map(_copy, inputs))
        tolerance = task.tolerance / 10  # closer to the mistake than a right answer has to be to the reference
        if not _wrong_kind(found, result) and not _difference(found, result, tolerance):
            return f"\n  likely: {explanation}"
    return ""


def _shown(result: object) -> str:
    text = repr(result)
    return text if len(text) <= 60 else text[:57] + "..."


def _described(task: Task, inputs: tuple) -> str:
    return ", ".join(f"{name} {_size(x)}" for name, x in zip(task.names, inputs, strict=True))


def _size(x: object) -> str:
    """The shape of a tensor or array, the length of a list, a number itself."""
    if isinstance(x, Tensor | np.ndarray):
        return str(list(x.shape))
    return f"of length {len(x)}" if isinstance(x, tuple) else f"= {x!r}"


def _name(function: Callable) -> str:
    """What to call a function in a line that can be typed again; a lambda has no name."""
    name = getattr(function, "__name__", "")
    return name if inspect.isroutine(function) and name.isidentifier() else "function"
