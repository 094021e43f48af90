"""`check`: compare a student's function with the right answer on fresh random inputs, and say what is wrong."""

import copy
import inspect
import secrets
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import combinations
from numbers import Number

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import InputError, check_known, check_whole
from .tasks import TASKS, Task, texts


def tasks() -> dict[str, str]:
    """Name of each task -> what the function takes and returns."""
    return {name: text["asks"] for name, text in texts().items()}


def check(
    name: str,
    function: Callable,
    seed: int | None = None,
    report: Callable | None = print,
    strict: bool = False,
    hints: int = 0,
) -> bool:
    """Compare a function with the right answer on fresh random inputs; stop at the first difference and explain it.

    name      one of `tasks()`
    seed      repeats an earlier check; it is part of what is reported
    report    is given the lines of text; None: nothing is said
    strict    a wrong answer raises AssertionError with the same text, for graders that want an exception
    hints     how many of the task's three hints a wrong answer is told
    return    whether all rounds agree, each on inputs of other sizes
    raises    InputError: an unknown task, something that cannot be called.
    """
    check_known("task", name, TASKS)
    if not callable(function):
        raise InputError(f"check({name!r}, ...) needs a function, not {type(function).__name__}; pass it without ().")
    task = TASKS[name]
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    generator, right = torch.Generator().manual_seed(seed), True
    text = f"✓ {name}: {task.rounds} rounds agree (seed {seed})"
    for number in range(1, task.rounds + 1):
        inputs = task.draw(generator)
        if wrong := problem(task, function, inputs):
            right = False
            wrong += _likely_mistake(task, function, inputs, generator)
            sizes = ", ".join(f"{one} {_size(x)}" for one, x in zip(task.names, inputs, strict=True))
            again, steps = f"check({name!r}, {_name(function)}", texts()[name]["hints"]
            repeat = f"example({name!r}, seed={seed}, round={number}); the whole again: {again}, seed={seed})"
            lines = [
                f"✗ {name}, round {number} of {task.rounds}: {wrong}",
                f"inputs: {sizes}",
                f"the same inputs: {repeat}",
                *(f"hint {step}: {hint}" for step, hint in enumerate(steps[:hints], 1)),
            ]
            if hints < len(steps):
                lines.append(f"hint {hints + 1} of {len(steps)}: {again}, hints={hints + 1})")
            text = "\n  ".join(lines)
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
    check_known("task", name, TASKS)
    check_whole(round=round)
    task, generator = TASKS[name], torch.Generator().manual_seed(seed)
    return dict(zip(task.names, [task.draw(generator) for _ in range(round)][-1], strict=True))


def folded_hints(name: str) -> str:
    """A task's hints as Markdown that unfolds one inside the other, without JavaScript."""
    steps = texts()[name]["hints"]
    title = "<details><summary>Hint {} of {} for {}</summary>\n\n{}"
    opened = [title.format(number, len(steps), name, hint) for number, hint in enumerate(steps, 1)]
    return "\n\n".join([*opened, "</details>" * len(steps)])


class Tables(TorchDispatchMode):
    """Remembers the largest tensor with two dimensions of n or more that any operation makes."""

    def __init__(self, n: int):
        super().__init__()
        self.n, self.found = n, []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and sum(size >= self.n for size in x.shape) >= 2:
                self.found = list(x.shape)
        return result


def called(function: Callable, inputs: Sequence, no_table: bool) -> tuple[object, list[int]]:
    """What a function returns, and the shape of a tensor with two dimensions of n that it made, where none may be."""
    with Tables(inputs[0].shape[1]) if no_table else nullcontext() as tables:
        found = function(*inputs)
    return found, tables.found if no_table else []


def problem(task: Task, function: Callable, inputs: tuple) -> str:
    """What is wrong with the function's result on these inputs, in a sentence or two; "" if nothing is."""
    copies = copy.deepcopy(inputs)
    try:
        found, table = called(function, inputs, task.no_table)
    except Exception as error:  # whatever a student's code raises is the answer
        return _raised(error, function)
    for name, before, after in zip(task.names, copies, inputs, strict=True):
        if not same_inputs([before], [after]):
            return f"the function changed its input {name!r}; work on a copy, or without in-place operations."
    expected = task.right(*copies)
    if wrong := _wrong_kind(found, expected):
        return wrong
    wrong = _difference(found, expected, task.tolerance)
    if wrong and not (task.scores and _equally_good(found, expected, task.scores(*copies))):
        return wrong
    if table:
        n = inputs[0].shape[1]
        return f"the numbers are right, but a tensor of shape {table} is made; n is {n}: work in tiles."
    return ""


def _raised(error: Exception, function: Callable) -> str:
    """The error, and the line of the student's own code that it came from."""
    said = f"the function raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == file:
            return said + f"\n  in line {frame.lineno} of {frame.name}: {frame.line}"
    return said


def same_inputs(before: Sequence, after: Sequence) -> bool:
    """Whether two sets of arguments hold the same numbers."""
    pairs = zip(before, after, strict=True)
    return all(np.array_equal(_numbers(a), _numbers(b), equal_nan=True) for a, b in pairs)


def _wrong_kind(found: object, expected: object) -> str:
    """Whether a result is something else than expected, before any value is compared."""
    if found is None:
        return "the function returned nothing; is its last line a return?"
    if isinstance(expected, Tensor) and not isinstance(found, Tensor):
        return f"returned {type(found).__name__}, expected a tensor of shape {list(expected.shape)}."
    if isinstance(expected, Number) and not isinstance(found, Number) and np.ndim(found) != 0:
        return f"returned {type(found).__name__} of shape {list(np.shape(found))}, expected one number."
    if isinstance(found, str):
        return f"returned {found!r:.60}, expected {expected!r:.60}."
    try:
        shape, wanted = np.shape(_numbers(found)), np.shape(_numbers(expected))
    except (TypeError, ValueError):
        return f"returned {found!r:.60}, expected {expected!r:.60}."
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
    """Whether other positions were chosen whose scores are as high, up to rounding."""
    unranked = max(0, int(expected.max()) + 1 - scores.shape[1])  # the window, which must stay
    scores = F.pad(scores, (0, unranked), value=torch.inf)
    ascending = not found.is_floating_point() and bool((found.diff(dim=1) > 0).all())
    if not ascending or int(found.min()) < 0 or int(found.max()) >= scores.shape[1]:
        return False
    mine, best = (scores.gather(1, kept.long()).sort().values for kept in (found, expected))
    return torch.allclose(mine, best, rtol=1e-5, atol=0)


def _likely_mistake(task: Task, function: Callable, inputs: tuple, generator: torch.Generator) -> str:
    """The explanation of a common mistake, or of two at once, that gives what the function gives, on all inputs tried.

    Several mistakes can agree on one input, and one input may show one of two mistakes alone, so all candidates are
    tried on further ones.
    """
    if _same(_result(function, inputs), _result(task.right, inputs), 10 * task.tolerance):
        return ""  # the numbers are right, what is wrong is something else
    keywords = {said: wrong for said, wrong in task.mistakes.items() if not callable(wrong)}
    single = task.mistakes | {said: partial(task.right, **wrong) for said, wrong in keywords.items()}
    double = {
        f"two mistakes at once: {a}\n  and: {b}": partial(task.right, **keywords[a], **keywords[b])
        for a, b in combinations(keywords, 2)
        if not set(keywords[a]) & set(keywords[b])
    }
    for candidates in (single, double):
        given, equal = inputs, set()
        for _ in range(task.rounds):
            found = _result(function, given)
            same = {said: _made_by(wrong, task, found, given) for said, wrong in candidates.items()}
            candidates = {said: wrong for said, wrong in candidates.items() if same[said] is not False}
            equal |= {said for said in candidates if same[said]}
            if not candidates:
                break
            given = task.draw(generator)
        for said in candidates:
            if said in equal:
                return f"\n  likely: {said}"
    return ""


def _made_by(wrong: Callable, task: Task, found: object, inputs: tuple) -> bool | None:
    """Whether a mistake gives what was found, whichever of equal scores was chosen; None if neither has a result."""
    other = _result(wrong, inputs)
    same = _same(found, other, task.tolerance)
    ranked = task.scores and isinstance(wrong, partial) and found is not None and not _wrong_kind(found, other)
    if same is False and ranked:
        return _equally_good(found, other, task.scores(*inputs, **wrong.keywords))
    return same


def _result(function: Callable, inputs: tuple) -> object:
    """What a function returns, None if it raises."""
    try:
        return function(*copy.deepcopy(inputs))
    except Exception:
        return None


def _same(found: object, other: object, tolerance: float) -> bool | None:
    """Whether two wrong results are one; None if neither function had a result."""
    if found is None or other is None:
        return None if found is other else False
    tolerance /= 10  # closer to the mistake than a right answer has to be to the right one
    return not _wrong_kind(found, other) and not _difference(found, other, tolerance)


def _size(x: object) -> str:
    """The shape of a tensor or array, the length of a list, a number itself."""
    if isinstance(x, Tensor | np.ndarray):
        return str(list(x.shape))
    return f"of length {len(x)}" if isinstance(x, tuple) else f"= {x!r}"


def _name(function: Callable) -> str:
    """What to call a function in a line that can be typed again; a lambda has no name."""
    name = getattr(function, "__name__", "")
    return name if inspect.isroutine(function) and name.isidentifier() else "function"
