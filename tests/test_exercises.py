"""The checker passes right answers, fails wrong ones, and says what is wrong."""

from __future__ import annotations

import pytest
import references as ref
import torch
from common import refused

from chunkkv_lib.exercises import TASKS, check, tasks


def told(name: str, function, **options) -> tuple[bool, str]:
    lines: list[str] = []
    return check(name, function, report=lines.append, **options), "\n".join(lines)


def column_sums(queries, keys):
    return torch.from_numpy(ref.column_sums(ref.array(queries), ref.array(keys)))


def l1_loss(x, kept):
    return torch.from_numpy(ref.l1_loss(ref.array(x), kept.tolist()))


@pytest.mark.parametrize("name", TASKS)
def test_the_librarys_own_function_passes(name):
    right, text = told(name, TASKS[name].reference, seed=3)
    assert right and text.startswith(f"✓ {name}: 5 rounds")


@pytest.mark.parametrize(("name", "function"), [("column_sums", column_sums), ("kv_l1_loss", l1_loss)])
def test_an_independent_right_answer_passes(name, function):
    assert told(name, function)[0]


WRONG = {
    "budget_tokens": lambda budget, n: int(n * budget) if isinstance(budget, float) else budget,
    "kv_l1_loss": lambda x, kept: 1 - l1_loss(x, kept),
    "overlap": lambda a, b: torch.zeros(a.shape[0]),
    "window_attention": lambda q, k, w: TASKS["window_attention"].reference(q, k, w).flip(1),
    "column_sums": lambda q, k: (q @ k.repeat_interleave(len(q) // len(k), 0).mT / q.shape[2] ** 0.5).exp().sum(1),
    "attention_cosine": lambda q, k, kept: torch.ones(q.shape[:2]),
    "snapkv": lambda q, k, b: TASKS["chunkkv"].reference(q, k, b),
    "chunkkv": lambda q, k, b: TASKS["snapkv"].reference(q, k, b),
    "h2o": lambda q, k, b: TASKS["h2o"].reference(q, k, b).flip(1),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_answer_fails_and_the_seed_repeats_it(name):
    right, text = told(name, WRONG[name], rounds=20, seed=1)
    assert not right and "expected" in text and "seed=1" in text and "inputs:" in text
    assert told(name, WRONG[name], rounds=20, seed=1)[1] == text


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x, kept: l1_loss(x, kept)[:, None], "shape"),
        (lambda x, kept: l1_loss(x, kept).tolist(), "returned list"),
        (lambda x, kept: 1 / 0, "ZeroDivisionError"),
        (lambda x: x, "TypeError"),
        (lambda x, kept: x.abs_().sum((1, 2)), "changed its input 'x'"),
        (lambda x, kept: l1_loss(x, kept) + 0.01, "first at [0]"),
        (lambda x, kept: l1_loss(x, kept) * float("nan"), "nan"),
    ],
)
def test_it_says_what_is_wrong(function, said):
    right, text = told("kv_l1_loss", function)
    assert not right and said in text


def test_a_kept_set_must_be_whole_numbers():
    right, text = told("h2o", lambda q, k, b: TASKS["h2o"].reference(q, k, b).float())
    assert not right and "whole numbers" in text


def test_mistakes_in_the_call_are_refused():
    with refused("task 'colum_sums'", "'column_sums'?"):
        check("colum_sums", column_sums)
    with refused("needs a function", "Tensor"):
        check("column_sums", torch.zeros(1))
    with refused("rounds=0"):
        check("column_sums", column_sums, rounds=0)


def test_every_task_says_what_it_takes_and_returns():
    assert set(tasks()) == set(TASKS) and all("->" in text for text in tasks().values())


def test_inputs_are_fresh_every_time():
    seen = set()
    for _ in range(3):
        told("kv_l1_loss", lambda x, kept: seen.add(x.abs().sum().item()) or l1_loss(x, kept), rounds=1)
    assert len(seen) == 3
