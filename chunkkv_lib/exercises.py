"""Check a student's function against the library's own, on fresh inputs.

    from chunkkv_lib.exercises import check, tasks
    check("column_sums", my_column_sums)    # says what is right or wrong, returns True or False
    tasks()                                 # what can be checked, and what each function takes and returns
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import attention_rows, column_sums
from .compressors import H2O, ChunkKV, SnapKV, budget_tokens
from .errors import InputError, unknown
from .metrics import attention_cosine_similarity, kv_l1_loss, overlap

Draw = Callable[[torch.Generator], tuple]


@dataclass(frozen=True)
class Task:
    """Something a student can write: what it is called with, what it must return, and the library's own way."""

    summary: str
    reference: Callable
    draw: Draw
    names: tuple[str, ...]
    tolerance: float = 1e-4


def _layer(g: torch.Generator, probes: int = 0) -> tuple[Tensor, Tensor]:
    """Queries [Hq, n, d] and keys [Hkv, n, d] of a small layer of odd sizes, with peaked attention."""
    n, kv_heads, group = _between(g, 41, 97), _between(g, 1, 3), _between(g, 1, 3)
    d = 2 * _between(g, 3, 8)
    keys = torch.randn(kv_heads, n, d, generator=g)
    return 2 * torch.randn(group * kv_heads, probes or n, d, generator=g), keys


def _between(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=g))


def _kept(g: torch.Generator, sets: int, n: int) -> Tensor:
    count = _between(g, 3, n // 2)
    return torch.stack([torch.randperm(n, generator=g)[:count].sort().values for _ in range(sets)])


def _draw_cache(g: torch.Generator) -> tuple:
    _, keys = _layer(g)
    return keys, _kept(g, keys.shape[0], keys.shape[1])


def _draw_window(g: torch.Generator) -> tuple:
    queries, keys = _layer(g)
    return queries, keys, _between(g, 2, 9)


def _draw_selection(g: torch.Generator) -> tuple:
    queries, keys = _layer(g)
    return queries, keys, _between(g, 14, 30)


def _draw_probes(g: torch.Generator) -> tuple:
    queries, keys = _layer(g, probes=_between(g, 1, 5))
    return queries, keys, _kept(g, keys.shape[0], keys.shape[1])


def _draw_sets(g: torch.Generator) -> tuple:
    n = _between(g, 20, 60)
    return _kept(g, 2, n), _kept(g, 2, n)


def _window_attention(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    n = keys.shape[1]
    return attention_rows(queries[:, n - window :], keys, torch.arange(n - window, n))


def _probe_cosine(queries: Tensor, keys: Tensor, kept: Tensor) -> Tensor:
    n = keys.shape[1]
    return attention_cosine_similarity(queries, keys, kept, torch.arange(n, n + queries.shape[1]))


_SELECTION = "-> kept [Hkv, budget], int64, ascending; window 8, the mean over the query heads of a KV head"
TASKS: dict[str, Task] = {
    "budget_tokens": Task(
        "(budget, n) -> how many of n tokens stay: round(n * budget) of a float, at least 1; an int is a count",
        budget_tokens,
        lambda g: ([0.1, 0.25, 0.003, 1.0, 7][_between(g, 0, 4)], _between(g, 7, 2000)),
        ("budget", "n"),
        tolerance=0,
    ),
    "kv_l1_loss": Task(
        "(x [Hkv, n, d], kept [Hkv, b]) -> [Hkv], share of the sum of |x| that is evicted", kv_l1_loss, _draw_cache,
        ("x", "kept"),
    ),
    "overlap": Task(
        "(kept [S, b], other [S, b']) -> [S], Jaccard index of each pair of rows", overlap, _draw_sets,
        ("kept", "other"),
    ),
    "window_attention": Task(
        "(queries [Hq, n, d], keys [Hkv, n, d], window) -> [Hq, window, n], causal attention of the last queries",
        _window_attention, _draw_window, ("queries", "keys", "window"),
    ),
    "column_sums": Task(
        "(queries [Hq, n, d], keys [Hkv, n, d]) -> [Hq, n], causal attention that each key receives from all queries",
        column_sums, _layer, ("queries", "keys"), tolerance=1e-3,
    ),
    "attention_cosine": Task(
        "(queries [Hq, m, d] of the m tokens after the prompt, keys [Hkv, n, d], kept [Hkv, b]) -> [Hq, m], cosine "
        "of the attention over the prompt with the full and with the compressed cache",
        _probe_cosine, _draw_probes, ("queries", "keys", "kept"),
    ),
    "snapkv": Task(
        f"(queries, keys, budget) {_SELECTION}; max-pool over 7 positions",
        lambda q, k, b: SnapKV(budget=b).select(q, k), _draw_selection, ("queries", "keys", "budget"), tolerance=0,
    ),
    "chunkkv": Task(
        f"(queries, keys, budget) {_SELECTION}; chunks of 10 by their sum",
        lambda q, k, b: ChunkKV(budget=b).select(q, k), _draw_selection, ("queries", "keys", "budget"), tolerance=0,
    ),
    "h2o": Task(
        f"(queries, keys, budget) {_SELECTION}; scores are the column sums of all prompt queries",
        lambda q, k, b: H2O(budget=b).select(q, k), _draw_selection, ("queries", "keys", "budget"), tolerance=0,
    ),
}  # fmt: skip


def tasks() -> dict[str, str]:
    """Name of each task -> what the function takes and returns."""
    return {name: task.summary for name, task in TASKS.items()}


def check(name: str, function: Callable, rounds: int = 5, seed: int | None = None, report: Callable = print) -> bool:
    """Compare a function with the library's own on fresh random inputs; stop at the first difference and explain it.

    name      one of `tasks()`
    rounds    how many inputs, each of other sizes
    seed      repeats an earlier check; it is part of what is reported
    return    whether all rounds agree
    raises    InputError: an unknown task, something that cannot be called, fewer than 1 round.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    if not callable(function):
        raise InputError(f"check({name!r}, ...) needs a function, not {type(function).__name__}; pass it without ().")
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
    """What is wrong with the function's result on these inputs, in one sentence; "" if nothing is."""
    copies = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
    try:
        found = function(*inputs)
    except Exception as error:  # whatever a student's code raises is the answer
        return f"the function raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    for name, before, after in zip(task.names, copies, inputs, strict=True):
        if isinstance(before, Tensor) and not torch.equal(before, after):
            return f"the function changed its input {name!r}; work on a copy, or without in-place operations."
    expected = task.reference(*copies)
    if not isinstance(expected, Tensor):
        return "" if found == expected else f"returned {found!r}, expected {expected!r}."
    if not isinstance(found, Tensor):
        return f"returned {type(found).__name__}, expected a tensor of shape {list(expected.shape)}."
    if found.shape != expected.shape:
        return f"the result has shape {list(found.shape)}, expected {list(expected.shape)}."
    return _difference(found, expected, task.tolerance)


def _difference(found: Tensor, expected: Tensor, tolerance: float) -> str:
    if tolerance == 0 and found.is_floating_point():
        return f"the result has dtype {found.dtype}, expected whole numbers ({expected.dtype})."
    found, expected = found.double(), expected.double()
    wrong = ~torch.isclose(found, expected, rtol=tolerance, atol=tolerance)
    if not wrong.any():
        return ""
    at = tuple(wrong.nonzero()[0].tolist())
    return (
        f"{int(wrong.sum())} of {wrong.numel()} entries differ; the first at {list(at)}: {found[at].item():.6g}, "
        f"expected {expected[at].item():.6g}."
    )


def _described(task: Task, inputs: tuple) -> str:
    parts = [f"{n} {list(x.shape)}" if isinstance(x, Tensor) else f"{n}={x!r}" for n, x in zip(task.names, inputs)]
    return ", ".join(parts)


def _name(function: Callable) -> str:
    return getattr(function, "__name__", "function") if inspect.isroutine(function) else "function"
