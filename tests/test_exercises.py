"""The checker passes right answers, fails wrong ones, and says what is wrong; the same for a method of one's own."""

import os
from collections import defaultdict
from functools import cache, partial
from itertools import product

import numpy as np
import pytest
import torch
from common import refused
from right_answers import RIGHT
from scipy import stats

import chunkkv_lib
from chunkkv_lib.compressors import H2O, METHODS, ChunkKV, Compressor, Recent, SnapKV, WindowCompressor, budget_tokens
from chunkkv_lib.exercises import TASKS, check, check_method, example
from chunkkv_lib.exercises.homework import SHEETS, load_sheet
from chunkkv_lib.exercises.tasks import texts
from chunkkv_lib.metrics import overlap
from chunkkv_lib.report.arithmetic import kv_cache_bytes
from chunkkv_lib.report.statistics import holm
from chunkkv_lib.sequences import truncate_middle

SEEDS = int(os.environ.get("CHUNKKV_SEEDS", "5"))  # 60 where the machine has the time


def told(name: str, function, **options) -> tuple[bool, str]:
    lines: list[str] = []
    return check(name, function, report=lines.append, **options), "\n".join(lines)


#: The library's own way, which knows nothing of the tasks' plain one.
LIBRARY = {
    "budget_tokens": budget_tokens,
    "kv_cache_bytes": kv_cache_bytes,
    "truncate_middle": truncate_middle,
    "snapkv": lambda q, k, b: SnapKV(budget=b).select(q, k),
    "chunkkv": lambda q, k, b: ChunkKV(budget=b).select(q, k),
    "h2o": lambda q, k, b: H2O(budget=b).select(q, k),
    "kv_l1_loss": chunkkv_lib.kv_l1_loss,
    "attention_cosine": lambda q, k, kept: chunkkv_lib.attention_cosine_similarity(
        q, k, kept, k.shape[1] + torch.arange(q.shape[1])),
    "overlap": overlap,
    "holm": holm,
    "sign_flip": lambda x: stats.permutation_test((x,), np.mean, permutation_type="samples", rng=0).pvalue,
}  # fmt: skip


@cache
def solutions() -> dict[str, list]:
    """Task -> the functions that solve it in the homework's sheets."""
    found = defaultdict(list)
    for path in SHEETS.glob("*.yml"):
        for question in load_sheet(path.stem)["questions"]:
            if "task" in question:
                space = {"np": np, "torch": torch}
                exec(question["solution"], space)
                found[question["task"]].append(space[question["task"]])
    return found


@pytest.mark.parametrize("name", TASKS)
def test_right_answers_pass_whatever_their_ties_and_rounding(name):
    """Those that are written from the tasks' texts alone, and the library's own."""
    written = [*RIGHT.get(name, []), *solutions()[name]]
    tried = [*product(written, range(SEEDS)), *([(LIBRARY[name], 3)] if name in LIBRARY else [])]
    assert tried
    for function, seed in tried:
        right, text = told(name, function, seed=seed)
        assert right and text.startswith(f"✓ {name}: {TASKS[name].rounds} rounds"), text


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_answer_fails_and_the_seed_repeats_it(name):
    """Right on every input except where it matters: one number is off by a little."""

    def wrong(*given):
        right = TASKS[name].right(*given)
        if isinstance(right, tuple):
            return (*right[:-1], right[-1] + 1)
        if isinstance(right, torch.Tensor):
            right.view(-1)[0] += 1 if right.dtype == torch.int64 else 0.01
            return right
        return right + 1

    right, text = told(name, wrong, seed=1)
    assert not right and "expected" in text and "seed=1" in text and "inputs:" in text
    assert told(name, wrong, seed=1)[1] == text
    assert "likely" not in text, "an explanation that fits another mistake"


MISTAKES = [(name, said) for name, task in TASKS.items() for said in task.mistakes]


@pytest.mark.parametrize(("name", "said"), MISTAKES)
def test_a_common_mistake_never_passes_and_gets_its_own_hint(name, said):
    task = TASKS[name]
    wrong = task.mistakes[said]
    functions = [wrong if callable(wrong) else partial(task.right, **wrong)]
    if task.scores and not callable(wrong):
        functions.append(partial(ties_to_the_higher_position, partial(task.scores, **wrong)))
    for function, seed in product(functions, range(SEEDS)):
        right, text = told(name, function, seed=seed)
        assert not right and f"likely: {said}" in text, f"seed {seed}: {text}"


def ties_to_the_higher_position(scores, *given):
    """What a rule keeps by these scores, and what is not ranked; as `topk` may choose among equal ones."""
    found, n, budget = scores(*given), given[1].shape[1], given[-1]
    last = found.shape[1] - 1
    past = last - found.flip(1).sort(dim=1, descending=True, stable=True).indices[:, : budget - (n - 1 - last)]
    return torch.cat([past, torch.arange(last + 1, n).expand(len(past), -1)], 1).sort(1).values


def test_two_mistakes_at_once_are_both_named():
    for seed in range(SEEDS):
        right, text = told("chunkkv", partial(TASKS["chunkkv"].right, mean=True, part="last"), seed=seed)
        assert not right and "two mistakes at once: a chunk's score" in text and "not its last" in text, text


def test_inputs_are_fresh_unless_they_are_asked_for_again():
    seen = []
    told("kv_l1_loss", lambda x, kept: seen.append(x) or x.sum(), seed=5)
    found = example("kv_l1_loss", seed=5, round=1)
    assert torch.equal(found["x"], seen[0]) and set(found) == {"x", "kept"}
    assert example("kv_l1_loss", 5, round=2)["x"].sum() != seen[0].sum()
    with refused("round=0"):
        example("kv_l1_loss", 5, 0)
    for _ in range(3):
        told("kv_l1_loss", lambda x, kept: seen.append(x) or RIGHT_LOSS(x, kept))
    assert len({float(x.sum()) for x in seen}) == 1 + 3 * TASKS["kv_l1_loss"].rounds


def test_a_grader_can_have_an_exception_or_silence(capsys):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        check("kv_l1_loss", lambda x, kept: 1 / 0, report=None, strict=True)
    assert check("kv_l1_loss", lambda x, kept: 1, report=None) is False
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_answer_is_told_as_many_hints_as_it_asks_for(name):
    steps = texts()[name]["hints"]
    assert len(set(steps)) == 3
    for count in range(4):
        text = told(name, lambda *given: None, hints=count)[1]
        assert [hint in text for hint in steps] == [step < count for step in range(3)]
        assert (f"hint {count + 1} of 3: check({name!r}, function, hints={count + 1})" in text) == (count < 3)


def broken(x, kept):
    return x.abs().sum(-1)[0, 10_000]


RIGHT_LOSS, RIGHT_H2O = TASKS["kv_l1_loss"].right, TASKS["h2o"].right


@pytest.mark.parametrize(
    ("name", "function", "said"),
    [
        ("kv_l1_loss", lambda x, kept: RIGHT_LOSS(x, kept)[:, None], "shape"),
        ("kv_l1_loss", lambda x, kept: RIGHT_LOSS(x, kept).tolist(), "returned list"),
        ("kv_l1_loss", lambda x, kept: 1 / 0, "ZeroDivisionError"),
        ("kv_l1_loss", lambda x: x, "TypeError"),
        ("kv_l1_loss", lambda x, kept: x.abs_().sum((1, 2)), "changed its input 'x'"),
        ("kv_l1_loss", lambda x, kept: RIGHT_LOSS(x, kept) + 0.01, "first at [0]"),
        ("kv_l1_loss", lambda x, kept: RIGHT_LOSS(x, kept) * float("nan"), "nan"),
        ("kv_l1_loss", broken, " of broken: return x.abs().sum(-1)[0, 10_000]"),
        ("h2o", lambda q, k, b: RIGHT_H2O(q, k, b).float(), "whole numbers"),
        ("h2o", lambda q, k, b: RIGHT_H2O(q, k, b).flip(1), "not in ascending order"),
        ("column_sums", TASKS["column_sums"].right, "the numbers are right, but a tensor of shape"),
        ("budget_tokens", lambda budget, n: None, "is its last line a return?"),
        ("budget_tokens", lambda budget, n: "three", "returned 'three', expected "),
        ("budget_tokens", lambda budget, n: [1, 2], "returned list of shape [2], expected one number"),
        ("holm", lambda p: p[:-1], "the result has shape"),
        ("holm", lambda p: np.sort(p, kind=p.sort()), "changed its input 'p'"),
        ("truncate_middle", lambda ids, limit: "".join(map(str, ids)), "expected ("),
        ("overlap", lambda a, b: a, "check('overlap', function, seed=0)"),  # a lambda has no name to be quoted
    ],
)
def test_it_says_what_is_wrong(name, function, said):
    right, text = told(name, function, seed=0)
    assert not right and said in text, text


def test_mistakes_in_the_call_are_refused():
    with refused("task 'colum_sums'", "'column_sums'?"):
        check("colum_sums", RIGHT["column_sums"][0])
    with refused("needs a function", "Tensor"):
        check("column_sums", torch.zeros(1))
    with refused("needs a class, not a Recent", "pass Recent"):
        check_method(Recent(budget=0.1))


def told_of(method, **options) -> tuple[bool, str]:
    lines: list[str] = []
    return check_method(method, report=lines.append, **options), "\n".join(lines)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "Oracle"])  # which needs the answer's queries
def test_the_librarys_methods_keep_their_promises(name):
    for method in (METHODS[name], lambda budget: METHODS[name](budget=budget)):
        right, text = told_of(method)
        assert right and " keeps its promises in 12 cases" in text


def keeping(positions):
    """A method that ranks nothing: `positions(keys, tokens, n)` is what stays, [Hkv, tokens]."""

    class Method(Compressor):
        def choose(self, attention):
            return positions(attention.keys, budget_tokens(self.budget, attention.n), attention.n)

    return Method


def ranking(scores):
    """A method that keeps its window and ranks the rest by `scores(self, attention)`."""
    return type("Method", (WindowCompressor,), {"scores": scores})


def first(keys, tokens, n):
    return torch.arange(tokens).expand(len(keys), -1)


class NoCompressor:
    def __init__(self, budget):
        self.budget = budget

    def select(self, queries, keys):
        return first(keys, budget_tokens(self.budget, keys.shape[1]), keys.shape[1])


BROKEN = {
    "NaN": ranking(lambda self, attention: self.window_sums(attention) * float("nan")),
    "pool_heads": ranking(lambda self, attention: attention.window_rows(8)[..., : attention.n - 8].sum(1)),
    "expected (1, ": ranking(lambda self, attention: self.pool_heads(attention.window_rows(8).sum(1), attention)),
    "AttributeError": ranking(lambda self, attention: attention.no_such_thing),
    "derive the class from Compressor": NoCompressor,
    "not ascending": keeping(lambda keys, tokens, n: first(keys, tokens, n).flip(1)),
    "kept twice": keeping(lambda keys, tokens, n: first(keys, tokens, n) // 2 + n // 2 - 1),
    "expected exactly": keeping(lambda keys, tokens, n: first(keys, min(tokens + 1, n), n)),
    "positions span": keeping(lambda keys, tokens, n: first(keys, tokens, n) + n),
    "torch.bool, expected positions": keeping(lambda keys, tokens, n: torch.ones(len(keys), n) > 0),
    "it returned 4 sets; its granularity 'kv_head' means 1 here": keeping(lambda keys, *sizes: first([0] * 4, *sizes)),
    "chose otherwise when asked again": keeping(lambda keys, tokens, n: torch.stack(
        [torch.randperm(n)[:tokens].sort().values for _ in keys])),
    "changed the queries or keys": keeping(lambda keys, tokens, n: first(keys.mul_(2), tokens, n)),
    "the last 8 tokens, its window": type("Method", (keeping(first),), {"window": 8}),
}  # fmt: skip


@pytest.mark.parametrize("said", BROKEN)
def test_a_broken_promise_is_named(said):
    torch.manual_seed(0)
    right, text = told_of(BROKEN[said], seed=2)
    assert not right and said in text and f"check_method({BROKEN[said].__name__}, seed=2)" in text
