"""What a compressed cache lost: hand examples, float64 references, anchors, rules, and what is refused.

The columns of a run that no test here names are held to their references in test_analysis.
"""

import math

import numpy as np
import pytest
import references as ref
import torch
from common import refused
from hypothesis import given
from hypothesis import strategies as st

from chunkkv_lib import attention_cosine_similarity, attention_mass, attention_output_cosine, kv_l1_loss
from chunkkv_lib.attention import PromptAttention, attention_logits
from chunkkv_lib.metrics import cache_cosine, kv_l1_absolute, overlap, passage_survival, prompt_cosine, row_cosine

pytestmark = pytest.mark.usefixtures("one_thread")


@st.composite
def cases(draw):
    """Probes, cache and kept sets: (q, keys, values, kept, positions), S = 1, Hkv or Hq."""
    n, kv_heads, group = draw(st.integers(2, 40)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    seed, probes = draw(st.integers(0, 99)), draw(st.integers(1, 4))
    q, keys, values = ref.random_layer(group * kv_heads, kv_heads, n, draw(st.integers(1, 9)), seed)
    sets, size = draw(st.sampled_from([1, kv_heads, group * kv_heads])), draw(st.integers(1, n))
    g = np.random.default_rng(seed)
    kept = torch.tensor(np.sort([g.choice(n, size, replace=False) for _ in range(sets)]))
    positions = torch.tensor(draw(st.lists(st.integers(0, 2 * n), min_size=min(probes, n), max_size=min(probes, n))))
    return q[:, : len(positions)], keys, values, kept, positions


@given(cases())
def test_cache_metrics_equal_the_reference(case):
    _, _, values, kept, _ = case
    x, sets = ref.array(values), kept.tolist()
    loss = kv_l1_loss(values, kept)
    np.testing.assert_allclose(loss, ref.l1_loss(x, sets), atol=1e-12)
    for s, stays in enumerate(sets):
        heads = x[list(ref.heads_of_set(s, len(sets), len(x)))]
        compressed = ref.zero_filled(heads, stays)
        assert kv_l1_absolute(values, kept)[s].item() == pytest.approx(np.abs(heads - compressed).mean())
        assert cache_cosine(values, kept)[s].item() == pytest.approx(ref.cosine(heads, compressed), abs=1e-7)


@pytest.mark.parametrize("metric", [kv_l1_loss, cache_cosine])
def test_an_all_zero_cache_has_no_loss_to_speak_of(metric):
    values = torch.stack([torch.zeros(5, 3), torch.ones(5, 3)])
    result = metric(values, torch.tensor([[0, 1], [0, 1]]))
    assert result.isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_caches_do_not_overflow_and_keeping_everything_shows_everything(dtype):
    """60000 squared, or 200 of them added up, is far beyond float16."""
    values = torch.full((2, 200, 8), 60000.0, dtype=dtype)
    kept = torch.arange(50)[None]
    assert kv_l1_loss(values, kept).tolist() == [pytest.approx(0.75)]
    assert cache_cosine(values, kept).tolist() == [pytest.approx(0.5)]
    assert kv_l1_absolute(values, kept).item() == pytest.approx(0.75 * values[0, 0, 0].item())
    assert kv_l1_loss(values, kept).dtype == torch.float32
    queries, keys, small = ref.random_layer(6, 3, 50, 8, dtype=dtype)
    cache, kept, at = (queries[:, :4], keys), torch.arange(50)[None], torch.arange(50, 54)
    everything = [metric(*cache, kept, at) for metric in (attention_cosine_similarity, attention_mass)]
    for result in (*everything, attention_output_cosine(*cache, small, kept, at)):
        assert result.dtype == torch.float32
        np.testing.assert_allclose(result, 1, atol=1e-5)


@given(cases())
def test_attention_metrics_equal_the_reference(case):
    q, keys, values, kept, positions = case
    group, sets = len(q) // len(keys), kept.tolist()
    logits = ref.logits(ref.array(q), ref.array(keys))  # whose cosines, of either sign, come before the softmax
    expected = ref.row_cosines(logits, ref.masked_rows(logits, sets))
    np.testing.assert_allclose(row_cosine(attention_logits(q, keys), kept), expected, atol=1e-9)
    rows = ref.attention(ref.array(q), ref.array(keys), positions.tolist())
    left = ref.masked_rows(rows, sets).sum(-1)
    np.testing.assert_allclose(attention_mass(q, keys, kept, positions), left, atol=1e-12)

    cosines = attention_cosine_similarity(q, keys, kept, positions)
    outputs = attention_output_cosine(q, keys, values, kept, positions)
    assert cosines.shape == outputs.shape == q.shape[:2]
    with np.errstate(invalid="ignore"):
        compressed = ref.compressed_rows(rows, sets)
    for h, p in np.ndindex(*left.shape):
        if left[h, p] == 0:
            assert cosines[h, p] == 0 and outputs[h, p].isnan()
            continue
        # The reference renormalises, the library need not: a cosine is the same.
        assert cosines[h, p].item() == pytest.approx(ref.cosine(rows[h, p], compressed[h, p]), abs=1e-9)
        v = ref.array(values)[h // group]
        assert outputs[h, p].item() == pytest.approx(ref.cosine(rows[h, p] @ v, compressed[h, p] @ v), abs=1e-6)


def test_cosines_and_masses_stay_within_their_limits():
    """What is evicted is zero, so nothing is lost; sums in another order must not make that more than nothing."""
    kept = torch.tensor([[i for i in range(300) if i % 3]])
    for seed in range(8):
        x = torch.rand(2, 300, 8, generator=torch.Generator().manual_seed(seed))
        x[:, ::3] = 0
        assert kv_l1_loss(x, kept).min() >= 0 and row_cosine(x.transpose(1, 2), kept).max() <= 1


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_prompt_cosine_is_the_mean_over_all_prompt_queries(rows):
    queries, keys, _ = ref.random_layer(4, 2, 30)
    kept_sets = [torch.tensor([[0, 4, 20]]), torch.tensor([[1, 2], [3, 29]])]
    full = ref.attention(ref.array(queries), ref.array(keys))
    ours = prompt_cosine(PromptAttention(queries, keys), kept_sets, rows=rows)
    for mine, kept in zip(ours, kept_sets):
        cosines = ref.row_cosines(full, ref.masked_rows(full, kept.tolist()))
        np.testing.assert_allclose(mine, cosines.mean(-1), atol=1e-6)


Q, K, V = ref.random_layer(4, 2, 20, dtype=torch.float32)
FITS = {"q": Q[:, :2], "keys": K, "values": V, "kept": torch.tensor([[0, 5]]), "positions": torch.tensor([20, 21])}


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"kept": torch.tensor([[0, 20]])}, ["0..20", "0..19"]),
        ({"kept": torch.tensor([[0, 5]] * 3)}, ["3 kept sets", "per KV head"]),
        ({"kept": torch.zeros(0, 2, dtype=torch.int64)}, ["0 kept sets"]),
        ({"kept": torch.tensor([[3, 1]])}, ["ascending"]),
        ({"kept": torch.tensor([[1, 2], [5, 5]])}, ["unique", "every row"]),
        ({"kept": torch.tensor([1, 2])}, ["(2,)", "[S, b] int64"]),
        ({"kept": torch.tensor([[1, 2]], dtype=torch.int32)}, ["torch.int32", "int64"]),
        ({"values": V * math.nan}, ["values", "NaN"]),
        ({"values": V[:, :10]}, ["values", "10", "20"]),
        ({"values": V[:1]}, ["values", "1", "2"]),
        ({"values": V[0]}, ["(20, 5)"]),
        ({"q": Q[:, :2] * math.nan}, ["probe queries", "NaN"]),
        ({"q": Q[:, :0], "positions": torch.tensor([])}, ["probe"]),
        ({"keys": K / 0}, ["keys", "infinity"]),
        ({"positions": torch.tensor([20])}, ["positions", "2 probe queries"]),
        ({"positions": torch.tensor([20.0, 21])}, ["positions", "int64"]),
        ({"positions": [20, 21]}, ["positions", "tensor"]),
        ({"positions": torch.tensor([-1, 3])}, ["position -1", "start at 0"]),
    ],
)
def test_what_cannot_be_measured_is_refused_by_every_metric(changed, parts):
    given = FITS | changed
    with refused(*parts):
        attention_output_cosine(**given)
    values, kept = given.pop("values"), given["kept"]
    for metric in () if "values" in changed else (attention_cosine_similarity, attention_mass):
        with refused(*parts):
            metric(**given)
    for metric in (kv_l1_loss, kv_l1_absolute, cache_cosine) if "kept" in changed else ():
        with refused(*parts):
            metric(values, kept)


@pytest.mark.parametrize("metric", [kv_l1_loss, kv_l1_absolute, cache_cosine])
def test_caches_and_passages_that_cannot_be_measured_are_refused(metric):
    for x, part in ((V[None], "(1, 2, 20, 5)"), (V / 0, "infinity"), (V * math.nan, "NaN")):
        with refused(part):
            metric(x, FITS["kept"])
    for spans, part in (([], "no passage"), ([(2, 2)], "2..2"), ([(5, 8)], "5..8"), ([(-1, 2)], "-1..2")):
        with refused(part):
            passage_survival(torch.tensor([[0, 1]]), spans, 7)
    with refused("empty"):
        overlap(torch.zeros(1, 0, dtype=torch.int64), FITS["kept"])
