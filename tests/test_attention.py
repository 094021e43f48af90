"""Attention rows, log-sum-exp and column sums against n x n float64 references, and what is refused."""

import threading

import numpy as np
import pytest
import references as ref
import torch
from common import refused
from hypothesis import given
from hypothesis import strategies as st

from chunkkv_lib import PromptAttention
from chunkkv_lib import attention as attention_module
from chunkkv_lib.attention import attention_logits, attention_rows, check_heads, column_sums, log_sum_exp, output_rows

pytestmark = pytest.mark.usefixtures("one_thread")

# Inputs of 16 bits carry their rounding into both sides; what remains is the arithmetic, in float32 or better. The
# CPU's flash kernel takes a fast exponential for 16-bit inputs, which costs it 6e-5.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-4, torch.float16: 2e-4}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))

shapes = st.fixed_dictionaries(
    {"kv_heads": st.integers(1, 3), "n": st.integers(1, 80), "d": st.integers(1, 9), "seed": st.integers(0, 99)}
)
groups = st.integers(1, 4)


def layer(shape, group, dtype=torch.float64):
    return ref.random_layer(query_heads=group * shape["kv_heads"], dtype=dtype, **shape)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 16 queries, so that a short prompt already needs several."""
    monkeypatch.setattr(attention_module, "TILE_BYTES", 1)


@given(shapes, groups, st.data())
def test_rows_equal_the_reference_for_queries_anywhere(shape, group, data):
    queries, keys, values = layer(shape, group)
    positions = data.draw(st.lists(st.integers(0, 2 * shape["n"]), min_size=1, max_size=shape["n"]))
    few = queries[:, : len(positions)]
    expected = ref.attention(ref.array(few), ref.array(keys), positions)
    rows = attention_rows(few, keys, torch.tensor(positions))
    np.testing.assert_allclose(rows, expected, atol=1e-12)
    wanted = np.stack([expected[h] @ ref.array(values)[h // group] for h in range(len(expected))])
    np.testing.assert_allclose(output_rows(rows, values), wanted, atol=1e-12)
    every = ref.logits(ref.array(queries), ref.array(keys))
    np.testing.assert_allclose(attention_logits(queries, keys), every, atol=1e-12)  # without positions all is seen


@DTYPES
def test_rows_compute_in_float32_or_better(dtype):
    queries, keys, values = ref.random_layer(6, 2, 61, 8, dtype=dtype)
    rows = attention_rows(queries, keys, torch.arange(61))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert rows.dtype == wide and output_rows(rows, values).dtype == wide
    exact = 1e-12 if dtype == torch.float64 else 2e-6
    np.testing.assert_allclose(rows, ref.attention(ref.array(queries), ref.array(keys)), atol=exact)
    assert (rows.triu(1) == 0).all()
    queries, keys, _ = ref.random_layer(2, 1, 20, 64, scale=200.0, dtype=dtype)  # logits beyond float16
    assert attention_logits(queries, keys).abs().max() > 65504
    expected = ref.column_sums(ref.array(queries), ref.array(keys))
    np.testing.assert_allclose(column_sums(queries, keys), expected, atol=5e-3)


@DTYPES
@pytest.mark.parametrize("n", [1, 15, 16, 17, 80])
def test_column_sums_in_tiles(small_tiles, dtype, n):
    queries, keys, _ = ref.random_layer(6, 3, n, 7, dtype=dtype)
    sums, tolerance = column_sums(queries, keys), TOLERANCE[dtype]
    assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    q, k = ref.array(queries), ref.array(keys)
    np.testing.assert_allclose(sums, ref.column_sums(q, k), rtol=tolerance, atol=tolerance)
    lse = log_sum_exp(queries, keys)
    np.testing.assert_allclose(lse, ref.log_sum_exp(q, k), atol=tolerance)
    np.testing.assert_array_equal(column_sums(queries, keys, lse), sums)


@pytest.mark.parametrize("which", [0, 1])
def test_tensors_of_any_layout_or_of_two_dtypes_give_the_same_sums(which):
    """PyTorch's kernel reads on from each number of a head to the one beside it in memory."""
    layer = list(ref.random_layer(6, 2, 50, 8, dtype=torch.float32)[:2])
    lse, sums = log_sum_exp(*layer), column_sums(*layer)
    layer[which] = layer[which].mT.contiguous().mT
    torch.testing.assert_close(log_sum_exp(*layer), lse)
    torch.testing.assert_close(column_sums(*layer), sums)
    layer[which] = layer[which].bfloat16()
    torch.testing.assert_close(column_sums(*layer), column_sums(*(x.float() for x in layer)))


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads", "n", "d"), [(6, 2, 50, 5), (3, 3, 33, 1)])
def test_column_sums_of_hard_logits(small_tiles, monkeypatch, onednn, heads, kv_heads, n, d):
    """Large logits, very negative ones, a key that has nearly all; exponents are powers of two, and may be oneDNN's."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    assert onednn or not attention_module._onednn_pays()
    queries, keys, _ = ref.random_layer(heads, kv_heads, n, d, dtype=torch.float32)
    dominant = keys.clone()
    dominant[:, n // 3] *= 50
    for q, k in ((30 * queries, keys), (-30 * queries.abs(), 4 * keys.abs()), (queries, dominant), (0 * queries, keys)):
        sizes = ref.array(q.abs()), ref.array(k.abs())
        rounding = 1e-6 + 3e-7 * np.abs(ref.logits(*sizes)).max()  # of a logit, to which a probability is exponential
        expected = ref.column_sums(ref.array(q), ref.array(k))
        np.testing.assert_allclose(column_sums(q, k), expected, rtol=rounding, atol=1e-6)


@pytest.mark.parametrize("n", [1, 15, 200])
def test_column_sums_are_the_same_bits_with_any_number_of_threads(small_tiles, n):
    queries, keys, _ = ref.random_layer(6, 3, n, 7, dtype=torch.float32)
    lse, found, before = log_sum_exp(queries, keys), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(column_sums(queries, keys, lse))
            with pytest.raises(ZeroDivisionError):  # a piece that fails is not lost
                attention_module._in_threads(lambda piece: 1 / piece, [(1,), (0,), (1,)], torch.device("cpu"))
            assert torch.get_num_threads() == threads
            if threads > 1:  # passed only by two pieces at the same time
                attention_module._in_threads(threading.Barrier(2, timeout=60).wait, [(), ()], torch.device("cpu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("window", [1, 8, 29, 30, 45])
def test_unmasked_column_sums_mask_only_the_last_corner(small_tiles, window):
    queries, keys, _ = ref.random_layer(4, 2, 30)
    expected = ref.column_sums(ref.array(queries), ref.array(keys), unmasked_before=30 - window)
    np.testing.assert_allclose(attention_module.unmasked_column_sums(queries, keys, window), expected, atol=1e-12)


def test_prompt_attention_computes_each_piece_once():
    """The compressors' tests hold what the pieces are to references; only logits of the window are hidden as well."""
    queries, keys, _ = ref.random_layer(4, 2, 25)
    attention = PromptAttention(queries, keys, probe_queries=ref.random_layer(4, 2, 3, seed=1)[0])
    pieces = {"window_rows": (6,), "window_logits": (6,), "column_sums": (), "probe_logits": (), "probe_rows": ()}
    for name, arguments in pieces.items():
        assert getattr(attention, name)(*arguments) is getattr(attention, name)(*arguments)
    hidden = attention.window_logits(6).isneginf()
    assert torch.equal(hidden, ~torch.ones(25, 25, dtype=torch.bool).tril()[19:].expand(4, -1, -1))
    assert attention.n == 25 and attention.window_rows(7).shape == (4, 7, 25)  # another window is another piece


ones = torch.ones


@pytest.mark.parametrize(
    ("queries", "keys", "parts"),
    [
        (ones(1, 4, 9, 8), ones(1, 2, 9, 8), ["queries", "(1, 4, 9, 8)", "3 dimensions", "drop the batch"]),
        (ones(4, 9, 8), ones(9, 8), ["keys", "(9, 8)", "3 dimensions"]),
        (ones(4, 9, 8), ones(3, 9, 8), ["4 query heads", "3 KV heads", "multiple"]),
        (ones(4, 9, 8), ones(0, 9, 8), ["4 query heads", "0 KV heads"]),
        (ones(4, 9, 8), ones(2, 9, 6), ["head dimension 8", "6", "equal"]),
        (ones(4, 9, 8).long(), ones(2, 9, 8), ["queries", "torch.int64", "floating"]),
    ],
)
def test_tensors_that_do_not_fit_are_refused(queries, keys, parts):
    for check in (check_heads, PromptAttention, attention_rows, column_sums, log_sum_exp):
        with refused(*parts):
            check(queries, keys)


Q, K = ones(2, 9, 4), ones(1, 9, 4)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: PromptAttention(Q[:, :8], K), ["8 queries", "9 keys", "prompt"]),
        (lambda: PromptAttention(Q[:, :0], K[:, :0]), ["empty", "0 tokens", "longer prompt"]),
        (lambda: PromptAttention(Q * torch.nan, K), ["queries", "NaN", "finite"]),
        (lambda: PromptAttention(Q, K / 0), ["keys", "infinity", "finite"]),
        (lambda: PromptAttention(Q, K).window_rows(0), ["window=0", "between 1 and 9"]),
        (lambda: PromptAttention(Q, K).window_logits(10), ["window=10", "9 prompt tokens", "between 1 and 9"]),
        (lambda: PromptAttention(Q, K).probe_rows(), ["no probe queries", "probe_queries="]),
        (lambda: PromptAttention(Q, K, probe_queries=ones(2, 3, 5)), ["head dimension 5"]),
        (lambda: PromptAttention(Q, K, probe_queries=ones(2, 3, 4) * torch.nan), ["probe queries", "NaN"]),
    ],
)
def test_what_is_no_prompt_window_or_probe_is_refused(make, parts):
    with refused(*parts):
        make()
