"""One sequence's records: every column against references on the captured tensors, reuse, seeds, refusals."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import references as ref
import torch
from common import each_architecture, refused, tiny_model, token_ids
from torch.multiprocessing.reductions import StorageWeakRef

from chunkkv_lib import measure
from chunkkv_lib.capture import capture
from chunkkv_lib.compressors import H2O, METHODS, ChunkKV, Oracle, Random, Recent, SnapKV, StreamingLLM, preset
from chunkkv_lib.decoding import CompressedCache, decode
from chunkkv_lib.measure import analyse
from chunkkv_lib.sequences import Sequence

pytestmark = pytest.mark.usefixtures("one_thread")

N, M = 60, 5
PROMPT, ANSWER = token_ids(N), token_ids(M, seed=1)
SEQUENCE = Sequence.from_ids(PROMPT, ANSWER, id="one")
METHODS_AT_A_THIRD = preset(budget=20, window=4)

LAYER_COLUMNS = [
    "kept_tokens", "kv_l1_loss", "kv_l1_loss_keys", "kv_l1_loss_values", "kv_l1_absolute_keys",
    "kv_l1_absolute_values", "key_cosine", "value_cosine", "attention_cosine_similarity", "attention_cosine_window",
    "attention_cosine_no_sink", "attention_cosine_logits", "attention_cosine_prompt", "attention_mass",
    "attention_output_cosine", "overlap_layer_below", "evidence_kept", "evidence_whole",
]  # fmt: skip
ANSWER_COLUMNS = ["sequence", "method", "scored_tokens", "nll", "kl", "top1_agreement"]


def captured(model) -> list:
    layers = []
    capture(model, torch.cat([PROMPT, ANSWER]), layers.append)
    return layers


def of(frame: pd.DataFrame, method: str, layer: int | None = None) -> pd.Series:
    rows = frame[frame.method == method]
    return (rows if layer is None else rows[rows.layer == layer]).iloc[0]


def masked_cosine(rows: np.ndarray, kept: list[list[int]], start: int = 0) -> float:
    """Mean cosine of rows [Hq, r, n] with their zero-filled copies, from position `start` on."""
    cosines = []
    for h, head in enumerate(rows):
        stays = kept[ref.set_of_head(h, len(kept), len(rows))]
        for row in head:
            copy_ = np.zeros_like(row)
            copy_[stays] = row[stays]
            a, b = row[start:], copy_[start:]
            cosines.append(a @ b / math.sqrt((a @ a) * max(b @ b, 1e-300)))
    return float(np.mean(cosines))


# --- the records --------------------------------------------------------------------------------------------------


def test_columns_and_rows_are_those_of_a_run():
    layers, answers = analyse(tiny_model(), SEQUENCE, METHODS_AT_A_THIRD)
    assert set(layers.columns) == {"sequence", "method", "layer", *LAYER_COLUMNS}
    assert list(answers.columns) == ANSWER_COLUMNS
    assert sorted(zip(layers.layer, layers.method)) == sorted((layer, name) for layer in range(3) for name in METHODS)
    assert list(answers.method) == ["Full", *METHODS]
    assert set(layers.sequence) == set(answers.sequence) == {"one"}
    assert set(layers.kept_tokens) == {20} and set(answers.scored_tokens) == {M - 1}
    not_here = ["attention_cosine_prompt", "overlap_layer_below", "evidence_kept", "evidence_whole"]
    assert layers.drop(columns=not_here).notna().all(axis=None)


def test_evidence_is_followed_through_every_layer():
    """Two passages: one inside the window, which always stays, and one at the start."""
    spans = ((0, 4), (N - 3, N - 1))
    layers, _ = analyse(tiny_model(), replace(SEQUENCE, evidence_spans=spans), METHODS_AT_A_THIRD)
    recent = layers[layers.method == "Recent"]
    assert recent.evidence_kept.tolist() == pytest.approx([2 / 6] * 3)
    assert recent.evidence_whole.tolist() == pytest.approx([0.5] * 3)
    streaming = layers[layers.method == "StreamingLLM"]
    assert (streaming.evidence_kept == 1).all() and (streaming.evidence_whole == 1).all()
    assert layers.evidence_kept.between(0, 1).all() and (layers.evidence_whole <= 1).all()


@each_architecture
def test_default_methods_are_the_paper_preset(architecture):
    """A prompt of 90 tokens keeps 9 at 10 %, one more than the window."""
    sequence = Sequence.from_ids(token_ids(90).tolist(), token_ids(4, seed=2).tolist())
    layers, answers = analyse(tiny_model(architecture), sequence)
    assert list(answers.method) == ["Full", *METHODS] and len(layers) == 21 and set(layers.kept_tokens) == {9}
    again = analyse(tiny_model(architecture), sequence, preset("paper"))
    pd.testing.assert_frame_equal(layers, again[0], check_exact=True)
    pd.testing.assert_frame_equal(answers, again[1], check_exact=True)


@pytest.mark.parametrize("granularity", ["kv_head", "query_head", "layer"])
@pytest.mark.parametrize("architecture", ["Llama", "Gemma 3"])
def test_every_column_equals_its_reference(architecture, granularity):
    model = tiny_model(architecture)
    methods = {
        "ChunkKV": ChunkKV(budget=20, window=4, granularity=granularity),
        "H2O": H2O(budget=12, window=4, granularity=granularity),
        "StreamingLLM": StreamingLLM(budget=20, granularity=granularity),
    }
    layers, _ = analyse(model, SEQUENCE, methods, all_queries=True)
    below = {}
    for layer in captured(model):
        queries, keys, values = (x.double() for x in (layer.queries, layer.keys, layer.values))
        prompt_keys, q, k, v = keys[:, :N], ref.array(queries), ref.array(keys[:, :N]), ref.array(values[:, :N])
        prompt, probes = ref.attention(q[:, :N], k), ref.softmax(ref.logits(q[:, N:], k), True)
        for name, method in methods.items():
            kept = method.select(queries[:, :N], prompt_keys).tolist()
            compressed = ref.compressed_rows(probes, kept)
            full_out, some_out = (rows @ np.repeat(v, 2, axis=0) for rows in (probes, compressed))
            heads = [[ref.heads_of_set(s, len(kept), 2), stays] for s, stays in enumerate(kept)]

            def kept_cosine(x, heads=heads):
                return np.mean([ref.cosine(x[list(h)], ref.zero_filled(x[list(h)], stays)) for h, stays in heads])

            def absolute(x, heads=heads):
                return np.mean([np.abs(x[list(h)] - ref.zero_filled(x[list(h)], stays)).mean() for h, stays in heads])

            expected = {
                "kept_tokens": method.budget,
                "kv_l1_loss": (ref.l1_loss(k, kept).mean() + ref.l1_loss(v, kept).mean()) / 2,
                "kv_l1_loss_keys": ref.l1_loss(k, kept).mean(),
                "kv_l1_loss_values": ref.l1_loss(v, kept).mean(),
                "kv_l1_absolute_keys": absolute(k),
                "kv_l1_absolute_values": absolute(v),
                "key_cosine": kept_cosine(k),
                "value_cosine": kept_cosine(v),
                "attention_cosine_similarity": ref.row_cosines(probes, compressed).mean(),
                "attention_cosine_window": masked_cosine(prompt[:, -8:], kept),
                "attention_cosine_no_sink": masked_cosine(probes, kept, start=1),
                "attention_cosine_logits": masked_cosine(ref.logits(q[:, N:], k), kept),
                "attention_cosine_prompt": masked_cosine(prompt, kept),
                "attention_mass": np.mean(
                    [probes[h][:, kept[ref.set_of_head(h, len(kept), 4)]].sum(-1).mean() for h in range(4)]
                ),
                "attention_output_cosine": ref.row_cosines(full_out, some_out).mean(),
                "overlap_layer_below": np.mean(
                    [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in zip(kept, below[name])]
                )
                if name in below
                else math.nan,
                "evidence_kept": math.nan,
                "evidence_whole": math.nan,
            }
            row, below[name] = of(layers, name, layer.index), kept
            assert set(expected) == set(LAYER_COLUMNS)
            for column, value in expected.items():
                assert row[column] == pytest.approx(value, abs=2e-5, nan_ok=True), (name, layer.index, column)


def test_prompt_cosine_is_measured_only_on_request():
    layers, _ = analyse(tiny_model(), SEQUENCE, METHODS_AT_A_THIRD)
    assert layers.attention_cosine_prompt.isna().all()


def test_a_window_longer_than_the_prompt_is_no_obstacle_to_measuring():
    short = Sequence.from_ids(PROMPT[:5], ANSWER)
    layers, _ = analyse(tiny_model(), short, {"Recent": Recent(budget=2)})
    assert layers.attention_cosine_window.between(0, 1).all()


# --- the answer ---------------------------------------------------------------------------------------------------


@each_architecture
def test_answer_likelihood_of_the_full_cache_is_the_plain_forwards(architecture):
    model = tiny_model(architecture)
    with torch.inference_mode():
        logits = model(input_ids=torch.cat([PROMPT, ANSWER])[None]).logits[0].double()
    scores = logits[N:-1].log_softmax(-1)  # the answer's tokens but the last predict those after the first
    everything = {"Recent": Recent(budget=1.0), "Random": Random(budget=N)}
    _, answers = analyse(model, SEQUENCE, everything)
    nll = -scores.gather(1, ANSWER[1:, None]).mean().item()
    for method in ("Full", *everything):
        row = of(answers, method)
        assert row.nll == pytest.approx(nll, abs=1e-4) and row.kl == pytest.approx(0, abs=1e-5)
        assert row.top1_agreement == 1 and row.scored_tokens == M - 1


def test_answer_likelihood_of_compressed_caches():
    """Methods that keep differently many tokens are decoded apart and come back in their order."""
    model = tiny_model()
    methods = {
        "few": SnapKV(budget=12, window=4),
        "many": ChunkKV(budget=40, window=4),
        "also few": Recent(budget=12, granularity="query_head"),
    }
    _, answers = analyse(model, SEQUENCE, methods)
    assert list(answers.method) == ["Full", "few", "many", "also few"]
    with torch.inference_mode():
        full = model(input_ids=torch.cat([PROMPT, ANSWER])[None]).logits[0, N:-1].double().log_softmax(-1)
    for name, method in methods.items():
        cache = CompressedCache(N)
        for layer in captured(model):
            keys = layer.keys[:, :N]
            cache.add(keys, layer.values[:, :N], [method.select(layer.queries[:, :N], keys)])
        ours, row = decode(model, cache, ANSWER[:-1])[0].double().log_softmax(-1), of(answers, name)
        assert row.nll == pytest.approx(-ours.gather(1, ANSWER[1:, None]).mean().item(), abs=1e-4)
        assert row.kl == pytest.approx((full.exp() * (full - ours)).sum(-1).mean().item(), abs=1e-4)
        assert row.top1_agreement == (full.argmax(-1) == ours.argmax(-1)).double().mean().item()
    assert answers.kl[1:].min() > 1e-3


def test_an_answer_of_one_token_has_probes_but_no_likelihood():
    layers, answers = analyse(tiny_model(), Sequence.from_ids(PROMPT, ANSWER[:1]), METHODS_AT_A_THIRD)
    assert layers.attention_cosine_similarity.notna().all()
    assert set(answers.scored_tokens) == {0} and list(answers.method) == ["Full", *METHODS]
    assert answers[["nll", "kl", "top1_agreement"]].isna().all(axis=None)


# --- reuse, seeds, order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [1, 2, 3, 7])
def test_reuse_takes_the_kept_set_of_the_layer_below(reuse):
    model, method = tiny_model(), SnapKV(budget=20, window=4)
    layers, _ = analyse(model, SEQUENCE, {"SnapKV": method, "Random": Random(budget=20)}, reuse=reuse)
    for layer in captured(model):
        if layer.index % reuse == 0:
            kept = method.select(layer.queries[:, :N], layer.keys[:, :N]).tolist()
        row = of(layers, "SnapKV", layer.index)
        assert row.kv_l1_loss_values == pytest.approx(
            ref.l1_loss(ref.array(layer.values[:, :N]), kept).mean(), abs=1e-5
        )
        for name in ("SnapKV", "Random"):
            same = layer.index % reuse != 0
            assert (of(layers, name, layer.index).overlap_layer_below == 1) == same


def test_reuse_also_reaches_the_compressed_caches():
    model, method = tiny_model(), SnapKV(budget=20, window=4)
    cache = CompressedCache(N)
    for layer in captured(model):
        keys = layer.keys[:, :N]
        kept = method.select(layer.queries[:, :N], keys) if layer.index == 0 else kept  # noqa: F821
        cache.add(keys, layer.values[:, :N], [kept])
    scores = decode(model, cache, ANSWER[:-1])[0].log_softmax(-1)
    _, answers = analyse(model, SEQUENCE, {"SnapKV": method}, reuse=3)
    nll = -scores.gather(1, ANSWER[1:, None]).mean().item()
    assert of(answers, "SnapKV").nll == pytest.approx(nll, abs=1e-4)


def test_random_differs_between_layers_sequences_and_seeds_and_nothing_else():
    def losses(id="one", seed=0, others=None):
        sequence = Sequence.from_ids(PROMPT, ANSWER, id=id)
        layers, _ = analyse(tiny_model(), sequence, {**(others or {}), "Random": Random(budget=20, seed=seed)})
        rows = layers[layers.method == "Random"]
        assert rows.overlap_layer_below[1:].max() < 1
        return rows.kv_l1_loss.tolist()

    first = losses()
    assert losses() == first == losses(others=METHODS_AT_A_THIRD)
    assert losses(id="two") != first != losses(seed=1)


def test_the_order_of_methods_changes_nothing():
    model, names = tiny_model(), list(METHODS_AT_A_THIRD)
    there = analyse(model, SEQUENCE, METHODS_AT_A_THIRD)
    back = analyse(model, SEQUENCE, {name: METHODS_AT_A_THIRD[name] for name in reversed(names)})
    for one, other, columns in zip(there, back, (["layer", "method"], ["method"])):
        one, other = (frame.sort_values(columns, ignore_index=True) for frame in (one, other))
        pd.testing.assert_frame_equal(one, other[one.columns.tolist()], rtol=1e-5, atol=1e-6)


def test_the_oracle_keeps_the_most_attention_mass():
    layers, _ = analyse(tiny_model(), SEQUENCE, METHODS_AT_A_THIRD)
    best = layers.loc[layers.groupby("layer").attention_mass.idxmax()]
    assert set(best.method) == {"Oracle"}
    oracle = {"Oracle": Oracle(budget=20)}
    assert analyse(tiny_model(), SEQUENCE, oracle)[0].attention_mass.min() > 20 / N


def test_bfloat16_gives_the_same_picture():
    """Stated tolerance for a model run in bfloat16: 0.02 on losses and cosines of the same sets, chosen by position."""
    methods = {"Recent": Recent(budget=20), "StreamingLLM": StreamingLLM(budget=20), "Random": Random(budget=20)}
    exact, _ = analyse(tiny_model(), SEQUENCE, methods)
    rough, _ = analyse(copy.deepcopy(tiny_model()).bfloat16(), SEQUENCE, methods)
    columns = [c for c in LAYER_COLUMNS if c not in ("kept_tokens", "attention_cosine_prompt", "overlap_layer_below")]
    np.testing.assert_allclose(rough[columns], exact[columns], atol=0.05)
    assert np.abs(rough[columns] - exact[columns]).mean(axis=None) < 0.005


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_bfloat16_gives_the_numbers_of_the_cpu():
    methods = {"Recent": Recent(budget=20), "StreamingLLM": StreamingLLM(budget=20), "Random": Random(budget=20)}
    exact, answers = analyse(tiny_model(), SEQUENCE, methods | {"ChunkKV": ChunkKV(budget=20, window=4)})
    single, same = analyse(
        copy.deepcopy(tiny_model()).cuda(), SEQUENCE, methods | {"ChunkKV": ChunkKV(budget=20, window=4)}
    )
    rough, _ = analyse(copy.deepcopy(tiny_model()).bfloat16().cuda(), SEQUENCE, methods)
    columns = [c for c in LAYER_COLUMNS if c not in ("kept_tokens", "attention_cosine_prompt", "overlap_layer_below")]
    np.testing.assert_allclose(single[columns], exact[columns], atol=1e-3)
    np.testing.assert_allclose(same.nll, answers.nll, atol=1e-3)
    exact = exact[exact.method.isin(methods)]
    np.testing.assert_allclose(rough[columns], exact[columns], atol=0.05)


# --- memory, the model afterwards, refusals -----------------------------------------------------------------------


def test_nothing_of_a_finished_layer_stays_but_the_compressed_caches(monkeypatch):
    finished = []

    def watched(model, ids, visit, **kwargs):
        def watch(layer):
            assert all(storage.expired() for storage in finished), f"before layer {layer.index}"
            visit(layer)
            finished.extend(StorageWeakRef(x.untyped_storage()) for x in (layer.queries, layer.keys, layer.values))

        return capture(model, ids, watch, **kwargs)

    monkeypatch.setattr(measure, "capture", watched)
    analyse(tiny_model(), SEQUENCE, METHODS_AT_A_THIRD, all_queries=True)
    assert len(finished) == 9


def test_the_sequence_needs_one_forward_pass_and_one_short_one():
    """Hooks count the tokens that the model really works on: prompt and answer once, the answer for every method."""
    model, seen = tiny_model(), []
    hook = model.model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[:2]))
    try:
        analyse(model, SEQUENCE, METHODS_AT_A_THIRD)
    finally:
        hook.remove()
    assert seen == [(1, N + M), (7, M - 1)]


def test_the_model_is_left_as_it_was_also_after_an_error():
    model = tiny_model()
    with torch.inference_mode():
        before = model(input_ids=PROMPT[None]).logits
    analyse(model, SEQUENCE, METHODS_AT_A_THIRD)
    with refused("window=8", "budget of 6 tokens"):
        analyse(model, SEQUENCE)
    assert model.config._attn_implementation == "sdpa" and not model.training
    with torch.inference_mode():
        assert torch.equal(model(input_ids=PROMPT[None]).logits, before)


@pytest.mark.parametrize(
    ("prompt", "answer", "options", "parts"),
    [
        ([], ANSWER, {}, ["prompt", "empty", "at least one token"]),
        (PROMPT, [], {}, ["answer", "empty", "at least one token"]),
        (token_ids(125), token_ids(4), {}, ["129 tokens", "128", "Lower max_tokens"]),
        (PROMPT, ANSWER, {"reuse": 0}, ["reuse=0", "at least 1"]),
        (PROMPT, ANSWER, {"reuse": -2}, ["reuse=-2", "at least 1"]),
        (PROMPT, ANSWER, {"methods": {"Recent": Recent(budget=61)}}, ["budget=61", "60 tokens"]),
        (PROMPT[:7], ANSWER, {"methods": {"H2O": H2O(budget=1.0)}}, ["window=8", "7 tokens"]),
        (PROMPT, ANSWER, {"methods": {}}, ["method"]),
    ],
)
def test_what_cannot_be_measured_is_refused(prompt, answer, options, parts):
    with refused(*parts):
        analyse(tiny_model(), Sequence.from_ids(prompt, answer), **options)
