"""Which tokens stay: every method against a float64 reference, the rules all methods share, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import references as ref
import torch
from common import refused
from hypothesis import given
from hypothesis import strategies as st

from chunkkv_lib.attention import PromptAttention
from chunkkv_lib.compressors import (
    H2O,
    METHODS,
    ChunkKV,
    Compressor,
    Oracle,
    Random,
    Recent,
    SnapKV,
    StreamingLLM,
    WindowCompressor,
    budget_tokens,
    check_kept,
    preset,
)

pytestmark = pytest.mark.usefixtures("one_thread")

GRANULARITIES = ("kv_head", "query_head", "layer")
GROUPS = ("mean", "max", "sum")
BY_SCORE = (ChunkKV, SnapKV, H2O)


@st.composite
def cases(draw):
    """A prompt, and fields that every windowed method accepts for it."""
    n, kv_heads = draw(st.integers(1, 80)), draw(st.integers(1, 3))
    window = draw(st.integers(1, n))
    least = (window + 0.5) / n
    fractions = st.floats(least, 1.0, exclude_min=True) if least < 1 else st.just(1.0)
    fields = {
        "budget": draw(st.one_of(st.integers(window, n), fractions)),
        "window": window,
        "granularity": draw(st.sampled_from(GRANULARITIES)),
        "group": draw(st.sampled_from(GROUPS)),
    }
    layer = ref.random_layer(
        draw(st.integers(1, 4)) * kv_heads, kv_heads, n, draw(st.integers(1, 9)), draw(st.integers(0, 99))
    )
    return layer, fields


odd = st.integers(0, 5).map(lambda half: 2 * half + 1)
poolings = st.sampled_from(["max", "avg"])
chunk_fields = st.fixed_dictionaries(
    {
        "chunk_size": st.integers(1, 85),
        "aggregate": st.sampled_from(["sum", "mean"]),
        "score": st.sampled_from(["softmax", "logits"]),
        "kernel": odd,
        "pooling": poolings,
    }
)


# --- every score and choice against the reference -----------------------------------------------------------------


def compare(method, queries, keys, scores: np.ndarray, choose=ref.top) -> None:
    """The method's scores are these, and it keeps what `choose` takes of them and the window."""
    np.testing.assert_allclose(method.scores(PromptAttention(queries, keys)), scores, atol=1e-11)
    n = keys.shape[1]
    room = ref.tokens(method.budget, n) - method.window
    expected = [choose(row, room) + list(range(n - method.window, n)) for row in scores]
    assert method.select(queries, keys).tolist() == expected


@given(cases(), odd, poolings)
def test_snapkv_equals_the_reference(case, kernel, pooling):
    (queries, keys, _), fields = case
    method = SnapKV(kernel=kernel, pooling=pooling, **fields)
    sums = ref.window_sums(ref.array(queries), ref.array(keys), method.window)
    pooled = ref.pool_heads(sums, len(keys), method.granularity, method.group)
    compare(method, queries, keys, ref.pool_positions(pooled, pooling, kernel))


@given(cases(), st.booleans(), odd, poolings)
def test_h2o_equals_the_reference(case, causal, kernel, pooling):
    (queries, keys, _), fields = case
    past, method = keys.shape[1] - fields["window"], H2O(causal=causal, kernel=kernel, pooling=pooling, **fields)
    sums = ref.column_sums(ref.array(queries), ref.array(keys), 0 if causal else past)[:, :past]
    pooled = ref.pool_heads(sums, len(keys), method.granularity, method.group)
    compare(method, queries, keys, ref.pool_positions(pooled, pooling, kernel))


@given(cases(), chunk_fields)
def test_chunkkv_equals_the_reference(case, chunk):
    (queries, keys, _), fields = case
    method = ChunkKV(**fields, **chunk)
    sums = ref.window_sums(ref.array(queries), ref.array(keys), method.window, raw=method.score == "logits")
    tokens = ref.pool_heads(sums, len(keys), method.granularity, method.group)
    tokens = ref.pool_positions(tokens, method.pooling, method.kernel)
    how = method.chunk_size, method.aggregate
    compare(method, queries, keys, tokens, lambda row, room: ref.best_chunks(row, *how, room))
    ours = method.chunk_scores(method.scores(PromptAttention(queries, keys)))
    np.testing.assert_allclose(ours, np.array([ref.chunk_scores(row, *how) for row in tokens]), atol=1e-11)


@given(cases(), st.integers(1, 5), st.data())
def test_oracle_equals_the_reference(case, probes, data):
    (queries, keys, _), fields = case
    fields.pop("window")
    n, method = keys.shape[1], Oracle(**fields)
    q = ref.random_layer(len(queries), len(keys), probes, keys.shape[2], seed=7)[0]
    first = data.draw(st.integers(0, n))
    positions = list(range(first, first + probes))
    rows = ref.attention(ref.array(q), ref.array(keys), positions)
    expected = ref.pool_heads(rows.sum(1), len(keys), method.granularity, method.group)
    attention = PromptAttention(queries, keys, probe_queries=q, probe_positions=torch.tensor(positions))
    np.testing.assert_allclose(method.scores(attention), expected, atol=1e-12)
    assert method.choose(attention).tolist() == [ref.top(row, ref.tokens(method.budget, n)) for row in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "method",
    [SnapKV(30), H2O(30), H2O(30, causal=False), ChunkKV(30), ChunkKV(30, score="logits", aggregate="mean")],
    ids=lambda method: type(method).__name__,
)
def test_low_precision_inputs_give_the_same_scores(method, dtype):
    """The reference is the float64 computation on the same rounded inputs."""
    queries, keys, _ = ref.random_layer(6, 2, 150, 16, seed=3, dtype=dtype)
    inputs = (queries, keys), (queries.double(), keys.double())
    scores, exact = (method.scores(PromptAttention(*layer)) for layer in inputs)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores, exact, rtol=2e-5 if dtype == torch.float32 else 3e-4, atol=1e-4)
    ours, theirs = (method.select(*layer).tolist() for layer in inputs)
    for mine, wanted in zip(ours, theirs):
        assert len(set(mine) & set(wanted)) >= 28  # a rounding may turn one choice at the edge of the budget


# --- rules of every method ----------------------------------------------------------------------------------------


def all_methods(fields: dict, **more) -> list:
    """Every method of the library with these fields, as far as it has them."""
    fields = fields | more
    return [
        cls(**{name: value for name, value in fields.items() if name in cls.__dataclass_fields__})
        for cls in METHODS.values()
    ]


def attention_of(layer, probes: int = 2) -> PromptAttention:
    queries, keys, _ = layer
    shape = len(queries), len(keys), probes, keys.shape[2]
    return PromptAttention(queries, keys, probe_queries=ref.random_layer(*shape, seed=5, dtype=queries.dtype)[0])


@given(cases(), chunk_fields)
def test_every_method_keeps_exactly_the_budget_ascending_and_unique(case, chunk):
    layer, fields = case
    queries, keys, _ = layer
    n, attention = keys.shape[1], attention_of(layer)
    sets = {"kv_head": len(keys), "query_head": len(queries), "layer": 1}[fields["granularity"]]
    for method in all_methods(fields, **chunk):
        kept = method.choose(attention)
        assert kept.dtype == torch.int64 and kept.shape == (sets, ref.tokens(fields["budget"], n))
        for row in kept.tolist():
            assert row == sorted(set(row)) and row[0] >= 0 and row[-1] < n
        if isinstance(method, BY_SCORE):
            assert kept[:, -method.window :].tolist() == [list(range(n - method.window, n))] * sets
        check_kept(kept, n)


@given(cases())
def test_shared_attention_gives_the_same_sets_and_inputs_stay_as_they_are(case):
    layer, fields = case
    queries, keys, _ = (x.float() for x in layer)
    before = queries.clone(), keys.clone()
    shared = PromptAttention(queries, keys, probe_queries=queries[:, -1:])
    for method in all_methods(fields):
        first = method.choose(shared)
        own = PromptAttention(queries, keys, probe_queries=queries[:, -1:])
        assert torch.equal(first, method.choose(own) if isinstance(method, Oracle) else method.select(queries, keys))
        assert torch.equal(first, method.choose(shared))
        assert torch.equal(first, method.keep(method.scores(shared), shared.n))  # scores alone decide
    assert torch.equal(queries, before[0]) and torch.equal(keys, before[1])


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("cls", (*BY_SCORE, Oracle))
def test_ties_go_to_the_lower_position(cls, granularity):
    """Zero keys make all attention equal: the first positions stay (H2O's sums fall with the position anyway)."""
    queries, keys = ref.random_layer(4, 2, 57, dtype=torch.float32)[0], torch.zeros(2, 57, 5)
    attention = PromptAttention(queries, keys, probe_queries=queries[:, :2])
    kept = cls(budget=23, granularity=granularity).choose(attention)
    window = 0 if cls is Oracle else 8
    expected = [*range(23 - window), *range(57 - window, 57)]
    assert kept.tolist() == [expected] * len(kept)


def test_views_and_tensors_with_gradients_give_the_same_sets():
    """A prompt is often a slice of a longer sequence: strided, and nothing after it may matter."""
    whole = ref.random_layer(4, 2, 60, dtype=torch.float32)
    views = [x[:, :40] for x in whole]
    copies = [x.clone().requires_grad_() for x in views]
    for method in all_methods({"budget": 0.5}):
        kept = method.choose(attention_of(copies))
        assert torch.equal(kept, method.choose(attention_of(views))) and not kept.requires_grad


def scores_as_attention(scores: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys of one head, d = 1, whose window logits before a window of 1 are these numbers."""
    keys = torch.tensor([[[s] for s in (*scores, 0.0)]])
    return torch.ones_like(keys), keys


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(1, []), (2, [6]), (4, [6, 7, 8]), (6, [0, 1, 6, 7, 8]), (8, [0, 1, 2, 6, 7, 8, 9]), (13, list(range(12)))],
)
def test_the_last_chunk_gives_its_first_tokens(budget, kept):
    """Sums of three: 9, 3, 12, 6. Position 2 is the best token of all, but the third of its chunk."""
    queries, keys = scores_as_attention([0, 0, 9, 1, 1, 1, 4, 4, 4, 2, 2, 2])
    method = ChunkKV(budget=budget, window=1, chunk_size=3, score="logits")
    assert method.select(queries, keys).tolist() == [[*kept, 12]]


# --- controls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_positional_controls(granularity):
    queries, keys, _ = ref.random_layer(4, 2, 20)
    sets = {"kv_head": 2, "query_head": 4, "layer": 1}[granularity]

    for method, kept in (
        (Recent(3, granularity), [17, 18, 19]),
        (Recent(20, granularity), list(range(20))),
        (StreamingLLM(6, granularity), [0, 1, 2, 3, 18, 19]),
        (StreamingLLM(6, granularity, sinks=0), [14, 15, 16, 17, 18, 19]),
        (StreamingLLM(3, granularity, sinks=4), [0, 1, 2]),
        (StreamingLLM(1.0, granularity), list(range(20))),
    ):
        assert method.select(queries, keys).tolist() == [kept] * sets


def test_random_is_seeded_uniform_and_different_for_every_head():
    queries, keys, _ = ref.random_layer(4, 2, 40)
    state = torch.random.get_rng_state()
    kept = Random(budget=10, seed=3, granularity="query_head").select(queries, keys)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is not touched
    assert torch.equal(kept, Random(budget=10, seed=3, granularity="query_head").select(keys.repeat(2, 1, 1), keys))
    assert len({tuple(row) for row in kept.tolist()}) == 4
    assert not torch.equal(kept, Random(budget=10, seed=4, granularity="query_head").select(queries, keys))
    counts = torch.zeros(40)
    for seed in range(400):
        counts[Random(budget=10, seed=seed, granularity="layer").select(queries, keys)[0]] += 1
    # Each position stays 100 times on average, with a standard deviation of 8.7.
    assert counts.min() > 65 and counts.max() < 135


def test_random_blocks_stay_or_go_together():
    kept = Random(budget=23, block=10, granularity="layer").select(torch.randn(2, 95, 4), torch.randn(1, 95, 4))[0]
    counts = torch.bincount(kept // 10, minlength=10)
    assert sorted(counts[counts > 0].tolist()) in ([3, 10, 10], [5, 8, 10])  # the last block of the prompt has 5
    part = int((counts * (counts < 10)).argmax())
    assert set(kept[kept // 10 == part].tolist()) == set(range(10 * part, 10 * part + int(counts[part])))


def test_a_method_of_ones_own_needs_public_names_only():
    """Scores per query head, pooled; what has another shape is told in one line, and a base without scores too."""

    class Newest(WindowCompressor):
        def scores(self, attention):
            places = torch.arange(attention.n - self.window).float()
            return self.pool_heads(places.expand(len(attention.queries), -1), attention)

    class Unpooled(Newest):
        def scores(self, attention):
            return torch.ones(len(attention.queries), attention.n)

    queries, keys, _ = ref.random_layer(4, 2, 30)
    kept = Newest(budget=10).select(queries, keys)
    assert torch.equal(kept, Recent(budget=10).select(queries, keys))
    with refused("Unpooled.scores", "(4, 30)", "(2, 22)", "pool_heads"):
        Unpooled(budget=10).select(queries, keys)
    with pytest.raises(NotImplementedError, match="Compressor must implement scores"):
        Compressor().select(queries, keys)


@pytest.mark.parametrize(
    ("budget", "n", "tokens"),
    [(0.1, 512, 51), (0.1, 500, 50), (0.1, 4096, 410), (0.1, 2000, 200), (0.2, 1000, 200), (0.3, 10, 3), (1.0, 7, 7),
     (1, 7, 1), (7, 7, 7), (0.001, 7, 1), (0.5, 1, 1), (0.5, 5, 2), (0.5, 7, 4)],
)  # fmt: skip
def test_budget_tokens_by_hand(budget, n, tokens):
    """Where kvpress truncates (199 of 2000 at 10 %), this rounds; halves go to the even neighbour, as round() does."""
    assert budget_tokens(budget, n) == tokens


# --- names and presets --------------------------------------------------------------------------------------------


def test_presets_are_the_specification():
    shared = {"budget": 0.1, "granularity": "kv_head", "group": "mean"}
    paper = {
        "ChunkKV": ChunkKV(
            window=8, chunk_size=10, aggregate="sum", score="softmax", kernel=1, pooling="avg", **shared
        ),
        "SnapKV": SnapKV(window=8, kernel=7, pooling="max", **shared),
        "H2O": H2O(window=8, causal=True, **shared),
        "StreamingLLM": StreamingLLM(sinks=4, **shared),
        "Recent": Recent(**shared),
        "Random": Random(seed=0, block=1, **shared),
        "Oracle": Oracle(**shared),
    }
    pooled = {"window": 64, "kernel": 5, "pooling": "avg"}
    kvpress = {
        "SnapKV": SnapKV(**shared, **pooled),
        "ChunkKV": ChunkKV(chunk_size=20, aggregate="mean", granularity="layer", **pooled),
    }
    assert preset() == preset("paper") == paper == {name: cls() for name, cls in METHODS.items()}
    assert preset("kvpress") == paper | kvpress and list(preset("kvpress")) == list(METHODS)


def test_two_more_methods_of_one_reach_on_request():
    methods = preset("paper", extra=True, budget=0.2, kernel=3, window=16)
    assert list(methods) == [*METHODS, "SnapKV-15", "ChunkKV-15"]
    fixed = {"budget": 0.2, "window": 16, "kernel": 15, "pooling": "max"}
    assert methods["SnapKV-15"] == SnapKV(**fixed) and methods["ChunkKV-15"] == ChunkKV(chunk_size=10, **fixed)
    assert methods["SnapKV"].kernel == methods["H2O"].kernel == 3
    assert H2O().kernel == 1, "the paper's H2O does not pool"


def test_preset_fields_go_to_the_methods_that_have_them():
    methods = preset("kvpress", budget=0.3, chunk_size=5, window=16, seed=9, causal=False)
    assert {method.budget for method in methods.values()} == {0.3}
    assert methods["ChunkKV"].chunk_size == 5 and methods["Random"].seed == 9 and methods["H2O"].causal is False
    assert [methods[name].window for name in ("ChunkKV", "SnapKV", "H2O")] == [16] * 3


# --- refusals -----------------------------------------------------------------------------------------------------

QUERIES, KEYS, _ = ref.random_layer(4, 2, 20, dtype=torch.float32)


@pytest.mark.parametrize("cls", METHODS.values())
@pytest.mark.parametrize("budget", [0, -3, 0.0, -0.1, 1.5, math.nan, math.inf, True, "0.1", None], ids=repr)
def test_a_budget_that_cannot_be_is_refused_at_once(cls, budget):
    remedy = {int: "between 1 and", float: "(0, 1]"}.get(type(budget), "0.1 or 512")
    with refused(f"budget={budget!r}", remedy):
        cls(budget=budget)


@pytest.mark.parametrize("cls", METHODS.values())
def test_a_budget_larger_than_the_prompt_is_refused(cls):
    with refused("budget=21", "20 tokens", "between 1 and 20"):
        cls(budget=21).choose(PromptAttention(QUERIES, KEYS, probe_queries=QUERIES))
    with refused("19 queries", "20 keys"):
        cls(budget=1.0).select(QUERIES[:, :19], KEYS)


@pytest.mark.parametrize("cls", BY_SCORE)
def test_a_window_larger_than_the_budget_is_refused(cls):
    with refused("window=8", "budget of 7 tokens", "20-token prompt", "Lower the window", "raise the budget"):
        cls(budget=7).select(QUERIES, KEYS)
    with refused("window=8", "budget of 2 tokens", "budget=0.1"):
        cls(budget=0.1).select(QUERIES, KEYS)
    with refused("window=8", "5"):  # a prompt shorter than the window, even kept whole
        cls(budget=1.0).select(QUERIES[:, :5], KEYS[:, :5])
    with refused("window=8", "5"):
        cls().scores(PromptAttention(QUERIES[:, :5], KEYS[:, :5]))
    assert cls(budget=8).select(QUERIES, KEYS).tolist() == [list(range(12, 20))] * 2


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: ChunkKV(granularity="kv-head"), ["granularity 'kv-head'", "'kv_head'?", "query_head, layer"]),
        (lambda: Random(group="average"), ["group 'average'", "mean, max, sum"]),
        (lambda: SnapKV(pooling="mean"), ["pooling 'mean'", "max, avg"]),
        (lambda: ChunkKV(aggregate="sums"), ["aggregate 'sums'", "'sum'?", "mean"]),
        (lambda: ChunkKV(score="logit"), ["score 'logit'", "'logits'?", "softmax"]),
        (lambda: preset("papers"), ["preset 'papers'", "'paper'?", "kvpress"]),
        (lambda: preset("paper", chunksize=5), ["'chunksize'", "'chunk_size'?"]),
        (lambda: preset("paper", budget=1.5), ["budget=1.5"]),
        (lambda: SnapKV(kernel=4), ["kernel=4", "even", "Use 5"]),
        (lambda: SnapKV(kernel=0), ["kernel=0", "at least 1"]),
        (lambda: SnapKV(window=0), ["window=0", "at least 1"]),
        (lambda: H2O(window=True), ["window=True", "whole number"]),
        (lambda: ChunkKV(chunk_size=0), ["chunk_size=0", "at least 1"]),
        (lambda: StreamingLLM(sinks=-1), ["sinks=-1", "at least 0"]),
        (lambda: Random(seed=1.5), ["seed=1.5", "whole number"]),
        (lambda: Random(block=0), ["block=0", "at least 1"]),
        (lambda: Oracle(budget=5).select(QUERIES, KEYS), ["probe_queries"]),
    ],
)
def test_fields_that_cannot_be_are_refused(make, parts):
    with refused(*parts):
        make()


@pytest.mark.parametrize(
    ("kept", "parts"),
    [
        (torch.tensor([[0, 20]]), ["0..20", "0..19"]),
        (torch.tensor([[-1, 3]]), ["-1..3", "0..19"]),
        (torch.tensor([[3, 1]]), ["ascending"]),
        (torch.tensor([[1, 2], [5, 5]]), ["unique", "every row"]),
        (torch.tensor([1, 2]), ["(2,)", "[S, b] int64"]),
        (torch.tensor([[1, 2]], dtype=torch.int32), ["torch.int32", "int64"]),
    ],
)
def test_kept_sets_that_are_none_are_refused(kept, parts):
    with refused(*parts):
        check_kept(kept, 20)
