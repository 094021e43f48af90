"""One sequence's records: every column against references on the captured tensors, reuse, seeds, refusals."""

import copy
import math
from dataclasses import replace
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import references as ref
import torch
from common import captured, each_architecture, refused, tiny_model, token_ids
from torch.multiprocessing.reductions import StorageWeakRef

from chunkkv_lib import measure
from chunkkv_lib.capture import capture
from chunkkv_lib.compressors import H2O, METHODS, ChunkKV, Random, Recent, SnapKV, StreamingLLM, preset
from chunkkv_lib.decoding import CompressedCache, decode
from chunkkv_lib.measure import analyse
from chunkkv_lib.sequences import Sequence

pytestmark = pytest.mark.usefixtures("one_thread")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

N, M = 60, 5
PROMPT, ANSWER = token_ids(N), token_ids(M, seed=1)
SEEN, SEQUENCE = torch.cat([PROMPT, ANSWER]), Sequence.from_ids(PROMPT, ANSWER, id="one")
METHODS_AT_A_THIRD = preset(budget=20, window=4)


def of(frame: pd.DataFrame, method: str, layer: int | None = None) -> pd.Series:
    rows = frame[frame.method == method]
    return (rows if layer is None else rows[rows.layer == layer]).iloc[0]


def masked_cosine(rows: np.ndarray, kept: list[list[int]], start: int = 0) -> float:
    """Mean cosine of rows [Hq, r, n] with their zero-filled copies, from position `start` on."""
    return ref.row_cosines(rows[..., start:], ref.masked_rows(rows, kept)[..., start:]).mean()


def test_columns_and_rows_are_those_of_a_run():
    layers, answers = analyse(tiny_model(), SEQUENCE, METHODS_AT_A_THIRD)
    assert sorted(zip(layers.layer, layers.method)) == sorted((layer, name) for layer in range(3) for name in METHODS)
    assert list(answers.method) == ["Full", *METHODS]
    assert set(layers.sequence) == set(answers.sequence) == {"one"}
    assert set(layers.kept_tokens) == {20} and set(answers.scored_tokens) == {M}
    not_here = ["attention_cosine_prompt", "overlap_layer_below", "evidence_kept", "evidence_whole"]
    assert layers.drop(columns=[*not_here, "question_attention_mass"]).notna().all(axis=None)
    assert layers.attention_cosine_prompt.isna().all() and answers.notna().all(axis=None)
    short, _ = analyse(tiny_model(), Sequence.from_ids(PROMPT[:5], ANSWER), {"Recent": Recent(budget=2)})
    assert short.attention_cosine_window.between(0, 1).all()  # a prompt shorter than the window
    longer = Sequence.from_ids(token_ids(90), ANSWER)
    for one, other in zip(analyse(tiny_model(), longer), analyse(tiny_model(), longer, preset("paper"))):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, "autocast"], ids=str)
def test_a_notebooks_own_default_dtype_or_autocast_changes_nothing(kind):
    model, sequence = copy.deepcopy(tiny_model()), replace(SEQUENCE, evidence_spans=((2, 9),))
    options = {"methods": METHODS_AT_A_THIRD, "all_queries": True}
    expected, before = analyse(model, sequence, **options), torch.get_default_dtype()
    model._chunkkv_decodes = False
    try:
        torch.set_default_dtype(before if kind == "autocast" else kind)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            found = analyse(model, sequence, **options)
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(found, expected):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("granularity", ["kv_head", "query_head", "layer"])
@pytest.mark.parametrize("architecture", ["Llama", "Gemma 3"])
def test_every_column_equals_its_reference(architecture, granularity):
    model = tiny_model(architecture)
    methods = {
        "ChunkKV": ChunkKV(budget=20, window=4, granularity=granularity),
        "H2O": H2O(budget=12, window=4, granularity=granularity),
        "StreamingLLM": StreamingLLM(budget=20, granularity=granularity),
    }
    spans = ((0, 4), (N - 3, N - 1))  # two passages: one at the start, and one inside the window, which always stays
    layers, _ = analyse(model, replace(SEQUENCE, evidence_spans=spans), methods, all_queries=True)
    with torch.inference_mode():
        hidden = model(input_ids=torch.cat([PROMPT, ANSWER])[None], output_hidden_states=True).hidden_states
    below, residuals = {}, [ref.array(x[0]) for x in hidden]
    for layer in captured(model, SEEN):
        queries, keys, values = (x.double() for x in (layer.queries, layer.keys, layer.values))
        prompt_keys, q, k, v = keys[:, :N], ref.array(queries), ref.array(keys[:, :N]), ref.array(values[:, :N])
        # Probes are the queries that predict the answer: the prompt's last, and the answer's but the last.
        predicting = q[:, N - 1 : -1]
        prompt, probes = ref.attention(q[:, :N], k), ref.softmax(ref.logits(predicting, k), True)
        weight = ref.array(model.model.layers[layer.index].self_attn.o_proj.weight)
        residual = np.linalg.norm(residuals[layer.index][N - 1 : -1], axis=-1)
        seen = ref.causal(range(N - 1, N + M - 1), N + M)
        every = ref.logits(predicting, ref.array(keys))
        whole = ref.softmax(every, seen) @ np.repeat(ref.array(values), 2, axis=0)  # [Hq, probes, d]
        for name, method in methods.items():
            kept = method.select(queries[:, :N], prompt_keys).tolist()
            compressed = ref.compressed_rows(probes, kept)
            full_out, some_out = (rows @ np.repeat(v, 2, axis=0) for rows in (probes, compressed))
            heads = [[ref.heads_of_set(s, len(kept), 2), stays] for s, stays in enumerate(kept)]

            moved = []  # what each head adds to the stream with all keys, less what with those that are there
            for h in range(4):
                there = {*kept[ref.set_of_head(h, len(kept), 4)], *range(N - 1, N + M)}
                some = seen & np.isin(np.arange(N + M), list(there))
                output = ref.softmax(every[h], some) @ ref.array(values)[h // 2]
                moved.append((whole[h] - output) @ weight[:, h * 8 : (h + 1) * 8].T)
            moved = np.stack(moved)

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
                "attention_cosine_logits": masked_cosine(ref.logits(predicting, k), kept),
                "attention_cosine_prompt": masked_cosine(prompt, kept),
                "attention_mass": ref.masked_rows(probes, kept).sum(-1).mean(),
                "attention_output_cosine": ref.row_cosines(full_out, some_out).mean(),
                "overlap_layer_below": np.mean(
                    [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in zip(kept, below[name])]
                )
                if name in below
                else math.nan,
                "evidence_kept": np.mean([[i in stays for span in spans for i in range(*span)] for stays in kept]),
                "evidence_whole": np.mean([{*range(*span)} <= {*stays} for span in spans for stays in kept]),
                "injected_error": (np.linalg.norm(moved.sum(0), axis=-1) / residual).mean(),
                "injected_error_worst_head": (np.linalg.norm(moved, axis=-1) / residual).mean(1).max(),
                "pages_freed": 1 - len({i // 16 for stays in kept for i in stays}) / 4,
                "question_attention_mass": math.nan,
            }
            row, below[name] = of(layers, name, layer.index), kept
            assert {*expected, "sequence", "method", "layer"} == {*layers.columns}
            for column, value in expected.items():
                assert row[column] == pytest.approx(value, abs=2e-5, nan_ok=True), (name, layer.index, column)


@each_architecture
def test_answer_likelihood_of_the_full_cache_is_the_plain_forwards(architecture):
    """Of answers of several tokens and of one, wrong or right."""
    model = tiny_model(architecture)
    with torch.inference_mode():
        right = model(input_ids=PROMPT[None]).logits[0, -1].argmax()[None]
    for answer in (ANSWER, ANSWER[:1], right):
        with torch.inference_mode():
            logits = model(input_ids=torch.cat([PROMPT, answer])[None]).logits[0].double()
        scores = logits[N - 1 : -1].log_softmax(-1)  # the prompt's last token predicts the answer's first
        each = -scores.gather(1, answer[:, None])[:, 0]
        everything = {"Recent": Recent(budget=1.0), "Random": Random(budget=N)}
        layers, answers = analyse(model, Sequence.from_ids(PROMPT, answer), everything)
        assert layers.attention_cosine_similarity.min() > 1 - 1e-5 and layers.injected_error.max() < 1e-4
        for method in ("Full", *everything):
            row = of(answers, method)
            assert row.nll == pytest.approx(each.mean().item(), abs=1e-4) and row.kl == pytest.approx(0, abs=1e-5)
            assert row.nll_after_first == pytest.approx(each[1:].mean().item(), abs=1e-4, nan_ok=True)
            assert row.top1_agreement == 1 and row.scored_tokens == len(answer)
            assert row.accuracy == float(answer is right)


def masked_forward(model, kept_sets: list[torch.Tensor], prompt, new, monkeypatch) -> np.ndarray:
    """Logits [1 + new, vocabulary] of one eager forward over prompt and new tokens, in float64.

    The prompt's last token comes once more before the new ones, at its own position; their queries see -inf on evicted
    positions and on its first occurrence.
    """
    n, later = len(prompt), torch.cat([prompt[-1:], new])

    def attend(module, query, key, value, attention_mask, scaling, **kwargs):
        queries, keys, values = (ref.array(x[0]) for x in (query, key, value))
        heads, total = queries.shape[:2]
        sees = np.stack([ref.causal(range(total), total)] * heads)
        kept = kept_sets[module.layer_idx].tolist()
        for h in range(heads):
            stays = set(kept[ref.set_of_head(h, len(kept), heads)]) - {n - 1}
            sees[h, n:, sorted(set(range(n)) - stays)] = False
        rows = ref.softmax(ref.logits(queries, keys), sees)
        repeated = np.repeat(values, heads // len(values), axis=0)
        return torch.from_numpy((rows @ repeated).transpose(1, 0, 2))[None].to(query), None

    from transformers.models.llama import modeling_llama

    model = copy.deepcopy(model).double()
    model.set_attn_implementation("eager")
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", attend)
    positions = torch.cat([torch.arange(n), torch.arange(n - 1, n - 1 + len(later))])
    with torch.inference_mode():
        logits = model(input_ids=torch.cat([prompt, later])[None], position_ids=positions[None]).logits[0]
    return logits[-len(later) :].numpy()


QUESTION = token_ids(4, seed=9)


@pytest.mark.parametrize("question", [(), tuple(QUESTION.tolist())], ids=["asked in the prompt", "asked later"])
def test_answer_likelihood_of_compressed_caches(question, monkeypatch):
    """Methods that keep differently many tokens are decoded apart and come back in their order.

    The prompt's last token is read once more: its first entry counts for nothing, whether a head kept it or not.
    """
    model, sequence = tiny_model(), replace(SEQUENCE, question_ids=question)
    methods = {
        "few": SnapKV(budget=12, window=4),
        "many": ChunkKV(budget=40, window=4),
        "also few": StreamingLLM(budget=12, granularity="query_head"),
        "any": Random(budget=30),
        "any of a layer": Random(budget=30, granularity="layer"),
        "any of a head": Random(budget=30, granularity="query_head"),
    }
    layers, answers = analyse(model, sequence, methods)
    assert list(answers.method) == ["Full", *methods]
    asked = torch.tensor(question, dtype=torch.int64)
    seen = captured(model, torch.cat([PROMPT, asked, ANSWER]))
    with torch.inference_mode():
        full = model(input_ids=torch.cat([PROMPT, asked, ANSWER])[None]).logits[0, -M - 1 : -1].double()
    full, new = full.log_softmax(-1), torch.cat([asked, ANSWER])
    for name, method in methods.items():
        kept = []
        for layer in seen:
            chosen = replace(method, seed=crc32(f"0 one {layer.index}".encode())) if name[:3] == "any" else method
            kept.append(chosen.select(layer.queries[:, :N], layer.keys[:, :N]))
            q, k = ref.array(layer.queries[:, N:]), ref.array(layer.keys[:, :N])
            first = ref.array(layer.queries[:, N + len(question) - 1 : N + len(question)])  # predicts the first token
            probes = ref.attention(np.concatenate([first, q[:, len(question) : -1]], 1), k, [N] * M)
            row, stays = of(layers, name, layer.index), kept[-1].tolist()
            mass = ref.masked_rows(probes, stays).sum(-1).mean()
            assert row.attention_mass == pytest.approx(mass, abs=1e-5)
            if question:
                mass = ref.masked_rows(ref.attention(q[:, :4], k, [N] * 4), stays).sum(-1).mean()
                assert row.question_attention_mass == pytest.approx(mass, abs=1e-5)
        if name == "any of a head":
            assert {bool(stays[-1] == N - 1) for sets in kept for stays in sets} == {True, False}
        ours = masked_forward(model, kept, PROMPT, new, monkeypatch)[len(question) : -1]
        ours = torch.from_numpy(ours).log_softmax(-1)
        row = of(answers, name)
        assert row.nll == pytest.approx(-ours.gather(1, ANSWER[:, None]).mean().item(), abs=1e-4)
        assert row.kl == pytest.approx((full.exp() * (full - ours)).sum(-1).mean().item(), abs=1e-4)
        assert row.top1_agreement == pytest.approx((full.argmax(-1) == ours.argmax(-1)).double().mean().item())
        assert row.accuracy == float(torch.equal(ours.argmax(-1), ANSWER))
        after = -ours[1:].gather(1, ANSWER[1:, None]).mean().item()
        assert row.nll_after_first == pytest.approx(after, abs=1e-4)
    assert answers.kl[1:].min() > 1e-3


NUMBERS = {2: {  # of MEASUREMENT_VERSION; means over layers and methods
    "kept_tokens": 20.0, "kv_l1_loss": 0.66184, "kv_l1_loss_keys": 0.65426, "kv_l1_absolute_keys": 0.89186,
    "key_cosine": 0.59869, "kv_l1_loss_values": 0.66942, "kv_l1_absolute_values": 0.90996, "value_cosine": 0.57208,
    "attention_cosine_similarity": 0.55942, "attention_cosine_window": 0.55662, "attention_cosine_no_sink": 0.55618,
    "attention_cosine_logits": 0.60332, "attention_mass": 0.41649, "attention_output_cosine": 0.69503,
    "overlap_layer_below": 0.50574, "evidence_kept": 0.33333, "evidence_whole": 0.07143, "injected_error": 1.69122,
    "injected_error_worst_head": 0.9514, "pages_freed": 0.14286, "question_attention_mass": 0.40186,
    "scored_tokens": 5.0, "nll": 6.41417, "kl": 1.3114, "top1_agreement": 0.22857, "accuracy": 0.0,
    "nll_after_first": 6.0033,
}}  # fmt: skip


def test_the_version_is_raised_when_a_number_changes():
    """What a tiny random model gives. If this fails because numbers changed on purpose, raise the version."""
    sequence = replace(SEQUENCE, question_ids=tuple(QUESTION.tolist()), evidence_spans=((3, 9),))
    layers, answers = analyse(tiny_model(), sequence, METHODS_AT_A_THIRD)
    means = pd.concat([layers.mean(numeric_only=True), answers[1:].mean(numeric_only=True)])
    found = {name: round(value, 5) for name, value in means.drop("layer").dropna().items()}
    assert found == pytest.approx(NUMBERS[measure.MEASUREMENT_VERSION], abs=2e-5)


@pytest.mark.parametrize("reuse", [1, 2, 3, 7])
def test_reuse_takes_the_kept_set_of_the_layer_below(reuse):
    """In the records and in the compressed caches."""
    model, method, cache = tiny_model(), SnapKV(budget=20, window=4), CompressedCache(N, reread=True)
    layers, answers = analyse(model, SEQUENCE, {"SnapKV": method, "Random": Random(budget=20)}, reuse=reuse)
    for layer in captured(model, SEEN):
        keys, values, first = layer.keys[:, :N], layer.values[:, :N], layer.index % reuse == 0
        kept = method.select(layer.queries[:, :N], keys) if first else kept  # noqa: F821
        cache.add(keys, values, [kept])
        loss = ref.l1_loss(ref.array(values), kept.tolist()).mean()
        assert of(layers, "SnapKV", layer.index).kv_l1_loss_values == pytest.approx(loss, abs=1e-5)
        for name in ("SnapKV", "Random"):
            assert (of(layers, name, layer.index).overlap_layer_below == 1) != first
    scores = decode(model, cache, torch.cat([PROMPT[-1:], ANSWER[:-1]]))[0].log_softmax(-1)
    nll = -scores.gather(1, ANSWER[:, None]).mean().item()
    assert of(answers, "SnapKV").nll == pytest.approx(nll, abs=1e-4)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_other_devices_and_bfloat16_give_the_same_picture(device):
    """Stated tolerance for a model run in bfloat16: 0.05 on losses and cosines of the same sets, chosen by position."""
    methods = {"Recent": Recent(budget=20), "StreamingLLM": StreamingLLM(budget=20), "Random": Random(budget=20)}
    changed_more = ["layer", "kept_tokens", "overlap_layer_below", "injected_error", "injected_error_worst_head"]
    more = methods | {"ChunkKV": ChunkKV(budget=20, window=4)}
    exact, answers = analyse(tiny_model(), SEQUENCE, more)
    columns = exact.select_dtypes("number").columns.drop(changed_more)
    single, same = analyse(copy.deepcopy(tiny_model()).to(device), SEQUENCE, more)
    np.testing.assert_allclose(single[columns], exact[columns], atol=1e-3)
    np.testing.assert_allclose(same.nll, answers.nll, atol=1e-3)
    rough, _ = analyse(copy.deepcopy(tiny_model()).bfloat16().to(device), SEQUENCE, methods)
    exact = exact[exact.method.isin(methods)]
    np.testing.assert_allclose(rough[columns], exact[columns], atol=0.05)
    assert np.nanmean(np.abs(rough[columns].to_numpy() - exact[columns])) < 0.005


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
    """Hooks count the tokens that the model works on: prompt and answer once, the answer for every method."""
    model, seen = tiny_model(), []
    hook = model.model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[:2]))
    try:
        analyse(model, SEQUENCE, METHODS_AT_A_THIRD)
    finally:
        hook.remove()
    assert seen == [(1, N + M), (7, M)]


class Careless(Recent):
    """A reader's rule that always chooses `kept`; without it, by scores that are NaN."""

    kept: list[int] | None = None

    def scores(self, attention):
        return torch.full((self.sets(attention), attention.n), torch.nan)

    def choose(self, attention):
        chosen = self.keep(self.scores(attention), attention.n)
        return chosen if self.kept is None else torch.tensor([self.kept] * self.sets(attention))


@pytest.mark.parametrize("kept", [None, [3, 3], [4, 2], [-1, 5], [5, 60]], ids=str)
def test_a_rule_that_chooses_no_positions_of_the_prompt_is_told(kept, monkeypatch):
    monkeypatch.setattr(Careless, "kept", kept)
    with refused("Careless chose something else in layer 0", "NaN in its scores"):
        analyse(tiny_model(), SEQUENCE, {"Recent": Recent(budget=2), "Careless": Careless(budget=2)})


def test_weights_that_are_nan_are_told_by_layer():
    model = copy.deepcopy(tiny_model())
    model.model.layers[1].self_attn.k_proj.weight.data[0] = torch.nan
    with refused("layer 1 hold NaN or infinity"):
        analyse(model, SEQUENCE, METHODS_AT_A_THIRD)


@pytest.mark.parametrize(
    ("prompt", "answer", "options", "parts"),
    [
        ([], ANSWER, {}, ["prompt", "empty", "at least one token"]),
        (PROMPT, [], {}, ["answer", "empty", "at least one token"]),
        (token_ids(125), token_ids(4), {}, ["129 tokens", "128", "Lower max_tokens"]),
        (PROMPT, ANSWER, {"reuse": 0}, ["reuse=0", "at least 1"]),
        (PROMPT, ANSWER, {"methods": {"Recent": Recent(budget=61)}}, ["budget=61", "60 tokens"]),
        (PROMPT[:7], ANSWER, {"methods": {"H2O": H2O(budget=1.0)}}, ["window=8", "7 tokens"]),
        (PROMPT, ANSWER, {"methods": {}}, ["method"]),
        (PROMPT, ANSWER, {}, ["window=8", "budget of 6 tokens"]),
    ],
)
def test_what_cannot_be_measured_is_refused(prompt, answer, options, parts):
    with refused(*parts):
        analyse(tiny_model(), Sequence.from_ids(prompt, answer), **options)
