"""The checker passes right answers, fails wrong ones, and says what is wrong."""

from __future__ import annotations

import pytest
import references as ref
import torch
from common import refused
from statsmodels.stats.multitest import multipletests

from chunkkv_lib.compressors import METHODS, ChunkKV, Random
from chunkkv_lib.exercises import TASKS, check, check_method, tasks


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


def holm(p):
    return multipletests(p, method="holm")[1]


def layers_first(values):
    return sum(sum(x for x in row if x == x) / sum(x == x for x in row) for row in values.tolist()) / len(values)


INDEPENDENT = {
    "column_sums": column_sums,
    "tiled_sums": lambda queries, keys, lse: column_sums(queries, keys),
    "kv_l1_loss": l1_loss,
    "holm": holm,
    "layers_first": layers_first,
    "kv_cache_bytes": lambda tokens, layers, heads, width, size: tokens * layers * heads * width * size * 2,
}


@pytest.mark.parametrize(("name", "function"), INDEPENDENT.items(), ids=INDEPENDENT)
def test_an_independent_right_answer_passes(name, function):
    assert told(name, function)[0]


MISTAKES = [(name, words) for name, task in TASKS.items() for words in task.mistakes]


@pytest.mark.parametrize(("name", "words"), MISTAKES, ids=lambda text: text[:40])
def test_a_common_mistake_is_named_and_the_seed_repeats_it(name, words):
    right, text = told(name, TASKS[name].mistakes[words], rounds=20, seed=1)
    known = [one for one in TASKS[name].mistakes if f"likely: {one}" in text]  # two may agree on these inputs
    assert not right and known and "expected" in text and "seed=1" in text and "inputs:" in text
    assert told(name, TASKS[name].mistakes[words], rounds=20, seed=1)[1] == text


def test_every_task_knows_a_mistake():
    assert all(task.mistakes for task in TASKS.values())


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


# --- a method of one's own ----------------------------------------------------------------------------------------


class Mine(ChunkKV):
    """ChunkKV, with something done to what it keeps."""

    change = staticmethod(lambda kept, queries, keys: kept)

    def select(self, queries, keys, attention=None):
        return self.change(super().select(queries, keys, attention), queries, keys)


def broken(change) -> type:
    return type("Mine", (Mine,), {"change": staticmethod(change)})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_library_keeps_its_promises(name):
    lines: list[str] = []
    if name == "Oracle":
        pytest.skip("it looks at the answer, which a layer of random queries does not have")
    assert check_method(METHODS[name], report=lines.append), lines


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kept, q, k: kept.flip(1), "not ascending"),
        (lambda kept, q, k: kept[:, 1:], "expected exactly"),
        (lambda kept, q, k: kept.float(), "dtype int64"),
        (lambda kept, q, k: kept.tolist(), "returned list"),
        (lambda kept, q, k: kept + 1, "positions span"),
        (lambda kept, q, k: kept[:1].expand(7, -1), "7 sets"),
        (lambda kept, q, k: torch.arange(kept.shape[1]).expand(len(kept), -1), "its window"),
        (lambda kept, q, k: k.zero_().sum() or kept, "changed the queries or keys"),
        (lambda kept, q, k: kept[99], "IndexError"),
        (lambda kept, q, k: torch.rand(k.shape[:2]).topk(kept.shape[1] - 8).indices.sort().values, "expected exactly"),
    ],
)
def test_a_broken_promise_is_named(change, said):
    lines: list[str] = []
    assert not check_method(broken(change), seed=4, report=lines.append)
    assert said in lines[0] and "seed=4" in lines[0] and "inputs:" in lines[0]


def test_chance_without_a_seed_is_noticed():
    class Moody(Random):
        def select(self, queries, keys, attention=None):
            kept = torch.rand(keys.shape[:2]).topk(super().select(queries, keys, attention).shape[1]).indices
            return kept.sort(dim=1).values

    lines: list[str] = []
    assert not check_method(Moody, report=lines.append) and "chose otherwise" in lines[0]


def test_only_something_that_makes_a_method_can_be_checked():
    with refused("needs a class", "pass ChunkKV"):
        check_method(ChunkKV())
