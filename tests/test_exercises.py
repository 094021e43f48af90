"""The checker passes right answers, fails wrong ones, and says what is wrong; the same for a method of one's own."""

from __future__ import annotations

import numpy as np
import pytest
import references as ref
import torch
from common import refused

from chunkkv_lib.compressors import METHODS, Compressor, Recent, SnapKV, WindowCompressor, budget_tokens
from chunkkv_lib.exercises import TASKS, check, check_method, tasks
from chunkkv_lib.report.figures import kv_cache_bytes
from chunkkv_lib.report.statistics import holm


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
    assert right and text.startswith(f"✓ {name}: {TASKS[name].rounds} rounds")


@pytest.mark.parametrize(("name", "function"), [("column_sums", column_sums), ("kv_l1_loss", l1_loss)])
def test_an_independent_right_answer_passes(name, function):
    assert told(name, function)[0]


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_answer_fails_and_the_seed_repeats_it(name):
    """Right on every input except where it matters: one number is off by a little."""

    def wrong(*given):
        right = TASKS[name].reference(*given)
        if isinstance(right, tuple):
            return (*right[:-1], right[-1] + 1)
        return right + 1 if not isinstance(right, torch.Tensor) else off_by_a_little(right)

    right, text = told(name, wrong, seed=1)
    assert not right and "expected" in text and "seed=1" in text and "inputs:" in text
    assert told(name, wrong, seed=1)[1] == text
    assert "likely" not in text, "an explanation that fits another mistake"


def off_by_a_little(right: torch.Tensor) -> torch.Tensor:
    found = right.clone()
    found.view(-1)[0] += 1 if right.dtype == torch.int64 else 0.01
    return found


def test_the_checkers_own_holm_is_the_librarys():
    for seed in range(3):
        (p,) = TASKS["holm"].draw(torch.Generator().manual_seed(seed))
        np.testing.assert_allclose(TASKS["holm"].reference(p), holm(p))


def test_the_checkers_own_cache_size_is_the_librarys():
    sizes = 1234, 30, 3, 64, 2
    assert TASKS["kv_cache_bytes"].reference(*sizes) == kv_cache_bytes(*sizes)


MISTAKES = [(name, said) for name, task in TASKS.items() for said in task.mistakes]


@pytest.mark.parametrize(("name", "said"), MISTAKES)
def test_a_common_mistake_is_recognised(name, said):
    """Every explanation is given for the mistake it describes, and the mistake never passes."""
    texts = []
    for seed in range(6):
        right, text = told(name, TASKS[name].mistakes[said], seed=seed)
        assert not right, f"seed {seed} cannot tell this mistake from the right answer"
        texts.append(text)
    named = [f"likely: {said}" in text for text in texts]
    assert any(named), texts[0]
    assert sum("likely: " in text for text in texts) == len(texts)


def test_every_task_knows_some_common_mistakes():
    assert {name for name, task in TASKS.items() if len(task.mistakes) < 2} <= {"tiled_sums"}


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


def test_right_positions_in_the_wrong_order_are_told_apart_from_wrong_ones():
    right, text = told("h2o", lambda q, k, b: TASKS["h2o"].reference(q, k, b).flip(1))
    assert not right and "not in ascending order" in text


@pytest.mark.parametrize("answer", [list, np.asarray, lambda x: torch.from_numpy(np.asarray(x))])
def test_where_the_library_returns_an_array_a_list_or_tensor_will_do(answer):
    assert told("holm", lambda p: answer(TASKS["holm"].reference(p)))[0]


@pytest.mark.parametrize(
    ("name", "function", "said"),
    [
        ("budget_tokens", lambda budget, n: None, "is its last line a return?"),
        ("budget_tokens", lambda budget, n: "three", "returned 'three', expected "),
        ("budget_tokens", lambda budget, n: [1, 2], "returned list of shape [2], expected one number"),
        ("holm", lambda p: p[:-1], "the result has shape"),
        ("holm", lambda p: np.sort(p, kind=p.sort()), "changed its input 'p'"),
        ("truncate_middle", lambda ids, limit: "".join(map(str, ids)), "expected ("),
    ],
)
def test_results_of_another_kind_are_named(name, function, said):
    right, text = told(name, function, seed=0)
    assert not right and said in text


def test_a_lambda_is_not_quoted_as_if_it_had_a_name():
    assert "check('overlap', function, seed=4)" in told("overlap", lambda a, b: a, seed=4)[1]


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


# --- a method of one's own ----------------------------------------------------------------------------------------


def told_of(method, **options) -> tuple[bool, str]:
    lines: list[str] = []
    return check_method(method, report=lines.append, **options), "\n".join(lines)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "Oracle"])  # which needs the answer's queries
def test_the_librarys_methods_keep_their_promises(name):
    right, text = told_of(METHODS[name])
    assert right and text.startswith(f"✓ {name} keeps its promises in 12 cases")


class Plain(Compressor):
    """A method that ranks nothing: `positions` returns what stays, [Hkv, b]."""

    def choose(self, attention):
        return self.positions(attention.keys, budget_tokens(self.budget, attention.n), attention.n)


class First(Plain):
    def positions(self, keys, tokens, n):
        return torch.arange(tokens).expand(len(keys), -1)


class Descending(First):
    def positions(self, keys, tokens, n):
        return super().positions(keys, tokens, n).flip(1)


class Twice(First):
    def positions(self, keys, tokens, n):
        return super().positions(keys, tokens, n) // 2 + n // 2 - 1


class OneTooMany(Plain):
    def positions(self, keys, tokens, n):
        return torch.arange(min(tokens + 1, n)).expand(len(keys), -1)


class Beyond(Plain):
    def positions(self, keys, tokens, n):
        return torch.arange(tokens).expand(len(keys), -1) + n


class Mask(Plain):
    def positions(self, keys, tokens, n):
        return torch.ones(len(keys), n, dtype=torch.bool)


class FourSets(First):
    def positions(self, keys, tokens, n):
        return torch.arange(tokens).expand(4, -1)


class Chance(Plain):
    def positions(self, keys, tokens, n):
        return torch.stack([torch.randperm(n)[:tokens].sort().values for _ in keys])


class InPlace(First):
    def positions(self, keys, tokens, n):
        keys.mul_(2)
        return super().positions(keys, tokens, n)


class NoWindow(First):
    window = 8


class Breaks(WindowCompressor):
    def scores(self, attention):
        return attention.no_such_thing


BROKEN = {
    Descending: "not ascending",
    Twice: "kept twice",
    OneTooMany: "expected exactly",
    Beyond: "positions span",
    Mask: "torch.bool, expected positions",
    FourSets: "it returned 4 sets",
    Chance: "chose otherwise when asked again",
    InPlace: "changed the queries or keys",
    NoWindow: "the last 8 tokens, its window",
    Breaks: "AttributeError",
}


@pytest.mark.parametrize("method", BROKEN)
def test_a_broken_promise_is_named(method):
    torch.manual_seed(0)
    right, text = told_of(method, seed=2)
    assert not right and BROKEN[method] in text and f"check_method({method.__name__}, seed=2)" in text


def test_a_function_that_makes_a_method_will_do():
    assert told_of(lambda budget: SnapKV(budget=budget, window=4))[0] and told_of(First)[0]


def test_an_instance_is_refused_with_the_remedy():
    with refused("needs a class, not a Recent", "pass Recent"):
        check_method(Recent(budget=0.1))
