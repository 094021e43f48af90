"""Which tokens stay: every method against a float64 reference, the rules all methods share, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import references as ref
import torch
from common import refused
from hypothesis import given
from hypothesis import strategies as st

from chunkkv_lib import H2O, METHODS, ChunkKV, Oracle, PromptAttention, Random, Recent, SnapKV, StreamingLLM, preset
from chunkkv_lib.compressors import Compressor, WindowCompressor, budget_tokens, check_kept

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
    fields = {"budget": draw(st.one_of(st.integers(window, n), fractions)), "window": window}
    fields |= {"granularity": draw(st.sampled_from(GRANULARITIES)), "group": draw(st.sampled_from(GROUPS))}
    group, d, seed = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(0, 99))
    return ref.random_layer(group * kv_heads, kv_heads, n, d, seed), fields


odd = st.integers(0, 5).map(lambda half: 2 * half + 1)
poolings = st.sampled_from(["max", "avg"])
chunk_fields = st.fixed_dictionaries({
    "chunk_size": st.integers(1, 85), "kernel": odd, "pooling": poolings,
    "aggregate": st.sampled_from(["sum", "mean"]), "score": st.sampled_from(["softmax", "logits"]),
})  # fmt: skip


def compare(method, queries, keys, sums: np.ndarray, choose=ref.top) -> np.ndarray:
    """The method's scores are these sums of query heads, pooled, and it keeps what `choose` takes of them and the
    window. Returns the scores."""
    scores = ref.pool_heads(sums, len(keys), method.granularity, method.group)
    scores = ref.pool_positions(scores, method.pooling, method.kernel)
    np.testing.assert_allclose(method.scores(PromptAttention(queries, keys)), scores, atol=1e-11)
    n = keys.shape[1]
    room = ref.tokens(method.budget, n) - method.window
    expected = [choose(row, room) + list(range(n - method.window, n)) for row in scores]
    assert method.select(queries, keys).tolist() == expected
    return scores


@given(cases(), odd, poolings, st.sampled_from([SnapKV, H2O]), st.booleans())
def test_snapkv_and_h2o_equal_the_reference(case, kernel, pooling, cls, causal):
    (queries, keys, _), fields = case
    method, past = cls(kernel=kernel, pooling=pooling, **fields), keys.shape[1] - fields["window"]
    if cls is H2O:
        method = replace(method, causal=causal)
        sums = ref.column_sums(ref.array(queries), ref.array(keys), 0 if causal else past)[:, :past]
    else:
        sums = ref.window_sums(ref.array(queries), ref.array(keys), method.window)
    compare(method, queries, keys, sums)


@given(cases(), chunk_fields)
def test_chunkkv_equals_the_reference(case, chunk):
    (queries, keys, _), fields = case
    method, how = ChunkKV(**fields, **chunk), (chunk["chunk_size"], chunk["aggregate"])
    sums = ref.window_sums(ref.array(queries), ref.array(keys), method.window, raw=method.score == "logits")
    tokens = compare(method, queries, keys, sums, lambda row, room: ref.best_chunks(row, *how, room))
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
    scores = method.scores(PromptAttention(queries, keys))
    exact = method.scores(PromptAttention(queries.double(), keys.double()))
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores, exact, rtol=2e-5 if dtype == torch.float32 else 3e-4, atol=1e-4)


def all_methods(fields: dict) -> list:
    """Every method of the library with these fields, as far as it has them."""
    has = [(cls, fields.keys() & cls.__dataclass_fields__.keys()) for cls in METHODS.values()]
    return [cls(**{name: fields[name] for name in names}) for cls, names in has]


@given(cases(), chunk_fields)
def test_every_method_keeps_exactly_the_budget_ascending_and_unique(case, chunk):
    layer, fields = case
    queries, keys, _ = layer
    n, attention = keys.shape[1], PromptAttention(queries, keys, probe_queries=queries[:, :2])
    sets = {"kv_head": len(keys), "query_head": len(queries), "layer": 1}[fields["granularity"]]
    for method in all_methods(fields | chunk):
        kept = method.choose(attention)
        assert kept.dtype == torch.int64 and kept.shape == (sets, ref.tokens(fields["budget"], n))
        for row in kept.tolist():
            assert row == sorted(set(row)) and row[0] >= 0 and row[-1] < n
        if isinstance(method, BY_SCORE):
            assert kept[:, -method.window :].tolist() == [list(range(n - method.window, n))] * sets
        check_kept(kept, n)


@given(cases())
def test_shared_attention_or_views_give_the_same_sets_and_inputs_stay_as_they_are(case):
    """A prompt is often a slice of a longer sequence, and may have gradients: nothing after it may matter."""
    layer, fields = case
    queries, keys, _ = (x.float() for x in layer)
    before = queries.clone(), keys.clone()
    shared = PromptAttention(queries, keys, probe_queries=queries[:, -1:])
    views = [torch.cat([x, x + 1], 1)[:, : x.shape[1]].requires_grad_() for x in (queries, keys)]
    for method in all_methods(fields):
        first = method.choose(shared)
        own = method.choose(PromptAttention(*views, probe_queries=queries[:, -1:]))
        assert torch.equal(first, own) and not own.requires_grad
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


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        (Recent(3), [17, 18, 19]),
        (Recent(20), list(range(20))),
        (StreamingLLM(6), [0, 1, 2, 3, 18, 19]),
        (StreamingLLM(6, sinks=0), [14, 15, 16, 17, 18, 19]),
        (StreamingLLM(3, sinks=4), [0, 1, 2]),
        (StreamingLLM(1.0), list(range(20))),
    ],
)
def test_positional_controls(method, kept):
    assert method.select(*ref.random_layer(4, 2, 20)[:2]).tolist() == [kept] * 2


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


@pytest.mark.parametrize(("budget", "n", "tokens"), [(0.1, 2000, 200), (0.001, 7, 1), (0.5, 5, 2), (0.5, 7, 4)])
def test_budget_tokens_by_hand(budget, n, tokens):
    """Where kvpress truncates (199 of 2000 at 10 %), this rounds; halves go to the even neighbour, as round() does."""
    assert budget_tokens(budget, n) == tokens


def test_presets_are_the_specification():
    shared = {"budget": 0.1, "granularity": "kv_head", "group": "mean"}
    paper = {
        "ChunkKV": ChunkKV(window=8, chunk_size=10, aggregate="sum", score="softmax", kernel=1, **shared),
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


def test_two_more_methods_of_one_reach_on_request_and_fields_go_to_the_methods_that_have_them():
    methods = preset("paper", extra=True, budget=0.2, kernel=3, window=16)
    assert list(methods) == [*METHODS, "SnapKV-15", "ChunkKV-15"]
    fixed = {"budget": 0.2, "window": 16, "kernel": 15, "pooling": "max"}
    assert methods["SnapKV-15"] == SnapKV(**fixed) and methods["ChunkKV-15"] == ChunkKV(chunk_size=10, **fixed)
    assert methods["SnapKV"].kernel == methods["H2O"].kernel == 3
    assert H2O().kernel == 1, "the paper's H2O does not pool"
    methods = preset("kvpress", budget=0.3, chunk_size=5, window=16, seed=9, causal=False)
    assert {method.budget for method in methods.values()} == {0.3}
    assert methods["ChunkKV"].chunk_size == 5 and methods["Random"].seed == 9 and methods["H2O"].causal is False


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
    with refused("window=8", "5"):  # a prompt shorter than the window, even kept whole
        cls(budget=1.0).select(QUERIES[:, :5], KEYS[:, :5])
    assert cls(budget=8).select(QUERIES, KEYS).tolist() == [list(range(12, 20))] * 2


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: ChunkKV(granularity="kv-head"), ["granularity 'kv-head'", "'kv_head'?", "query_head, layer"]),
        (lambda: Random(group="average"), ["group 'average'", "mean, max, sum"]),
        (lambda: ChunkKV(aggregate="sums"), ["aggregate 'sums'", "'sum'?", "mean"]),
        (lambda: ChunkKV(score="logit"), ["score 'logit'", "'logits'?", "softmax"]),
        (lambda: preset("papers"), ["preset 'papers'", "'paper'?", "kvpress"]),
        (lambda: preset("paper", chunksize=5), ["'chunksize'", "'chunk_size'?"]),
        (lambda: SnapKV(kernel=4), ["kernel=4", "even", "Use 5"]),
        (lambda: SnapKV(kernel=0), ["kernel=0", "at least 1"]),
        (lambda: H2O(window=True), ["window=True", "whole number"]),
        (lambda: ChunkKV(chunk_size=0), ["chunk_size=0", "at least 1"]),
        (lambda: Random(block=0), ["block=0", "at least 1"]),
        (lambda: StreamingLLM(sinks=-1), ["sinks=-1", "at least 0"]),
        (lambda: Random(seed=1.5), ["seed=1.5", "whole number"]),
        (lambda: Oracle(budget=5).select(QUERIES, KEYS), ["probe_queries"]),
    ],
)
def test_fields_that_cannot_be_are_refused(make, parts):
    with refused(*parts):
        make()
