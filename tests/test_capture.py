"""Capture sees what the model computes with, changes nothing, keeps nothing, and refuses what it cannot measure."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import references as ref
import torch
import transformers
from common import ARCHITECTURES, TINY, each_architecture, refused, tiny_model, token_ids
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache

from chunkkv_lib.attention import attention_rows
from chunkkv_lib.capture import Layer, attention_as, capture, check_model

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = token_ids(40)


def plain(model, ids=IDS, **inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids[None], **inputs).logits[0]


def captured(model, ids=IDS) -> list[Layer]:
    layers = []
    capture(model, ids, layers.append)
    return layers


def registries() -> tuple:
    """The names that transformers knows, and what each is."""
    return tuple(
        (set(r.valid_keys()), dict(r._global_mapping)) for r in (AttentionInterface(), AttentionMaskInterface())
    )


# --- the result ---------------------------------------------------------------------------------------------------


@each_architecture
def test_logits_are_the_models_before_during_and_after(architecture):
    model = tiny_model(architecture)
    before = plain(model)
    during = capture(model, IDS, lambda layer: None, logits_to_keep=len(IDS))
    if architecture == "Gemma 2":  # runs with eager attention otherwise, so the last bits differ
        torch.testing.assert_close(during, before, rtol=0, atol=5e-5)
    else:
        assert torch.equal(during, before)
    assert torch.equal(plain(model), before)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_logits_of_every_length_are_the_models(count):
    model = tiny_model("Mistral")  # 100 is its whole window
    ids = token_ids(count, seed=count)
    assert torch.equal(capture(model, ids, lambda layer: None, logits_to_keep=count), plain(model, ids))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_every_dtype_are_the_models(dtype):
    model = copy.deepcopy(tiny_model("Qwen3")).to(dtype)
    layers = []
    assert torch.equal(capture(model, IDS, layers.append, logits_to_keep=40), plain(model))
    assert {x.dtype for layer in layers for x in (layer.queries, layer.keys, layer.values)} == {dtype}


def test_only_the_wanted_logits_are_computed():
    model = tiny_model()
    assert torch.equal(capture(model, IDS, lambda layer: None), plain(model, logits_to_keep=1))
    assert capture(model, IDS, lambda layer: None, logits_to_keep=3).shape == (3, 97)
    assert capture(model, IDS.tolist(), lambda layer: None).shape == (1, 97)


# --- what the visitor sees ----------------------------------------------------------------------------------------


@each_architecture
def test_keys_and_values_are_those_of_the_cache(architecture):
    model, cache = tiny_model(architecture), DynamicCache()
    with torch.inference_mode():
        model(input_ids=IDS[None], past_key_values=cache)
    layers = captured(model)
    assert [layer.index for layer in layers] == [0, 1, 2]
    for layer, cached in zip(layers, cache.layers):
        assert layer.keys.shape == layer.values.shape == (2, 40, 8)
        close = {"rtol": 0, "atol": 2e-5 if architecture == "Gemma 2" else 0}
        torch.testing.assert_close(layer.keys, cached.keys[0], **close)
        torch.testing.assert_close(layer.values, cached.values[0], **close)


@each_architecture
def test_queries_rebuild_the_models_own_attention(architecture):
    """After RoPE, norms and scaling of whatever kind: softmax(q.k / sqrt(d)) is the eager model's attention."""
    with torch.inference_mode():
        attentions = tiny_model(architecture, "eager")(input_ids=IDS[None], output_attentions=True).attentions
    layers = captured(tiny_model(architecture))
    assert len(attentions) == len(layers) == 3
    for layer, expected in zip(layers, attentions):
        assert layer.queries.shape == (4, 40, 8)
        rows = attention_rows(layer.queries, layer.keys, torch.arange(40))
        torch.testing.assert_close(rows, expected[0], rtol=0, atol=2e-5)
        assert rows.std() > 0.02  # the model really attends to something


@each_architecture
def test_log_sum_exp_is_that_of_the_causal_logits(architecture):
    seen = 0
    for layer in captured(tiny_model(architecture)):
        if layer.log_sums is not None:
            logits = ref.logits(ref.array(layer.queries), ref.array(layer.keys))
            hidden = np.where(ref.causal(range(40), 40), logits, -np.inf)
            expected = np.logaddexp.reduce(hidden, axis=-1)
            assert layer.log_sums.dtype == torch.float32
            np.testing.assert_allclose(layer.log_sums, expected, atol=1e-4)
            seen += 1
    assert seen == 3  # on the CPU the kernel gives it for free


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=3, n_head=4)).eval()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "GPT-2"])
def test_the_stream_and_the_output_projection_are_the_models(architecture):
    """The layer's input, and the map from what its heads give to what the projection gives, which hooks see."""
    model, seen = gpt2() if architecture == "GPT-2" else tiny_model(architecture), []
    named = [one for name, one in model.named_modules() if name.endswith(("o_proj", "attn.c_proj"))]
    hooks = [one.register_forward_hook(lambda module, given, out: seen.append((given[0][0], out[0]))) for one in named]
    try:
        layers = captured(model)
    finally:
        for hook in hooks:
            hook.remove()
    with torch.inference_mode():
        hidden = model(input_ids=IDS[None], output_hidden_states=True).hidden_states
    for layer, one, (given, out), stream in zip(layers, named, seen, hidden, strict=False):
        torch.testing.assert_close(layer.residual, stream[0], rtol=0, atol=1e-5)
        bias = 0 if one.bias is None else one.bias.detach()
        torch.testing.assert_close(given @ layer.output_weight.T + bias, out, rtol=0, atol=1e-5)
        rows = attention_rows(layer.queries, layer.keys, torch.arange(40))
        heads = (rows @ layer.values.repeat_interleave(4 // len(layer.values), 0)).transpose(0, 1).flatten(1)
        torch.testing.assert_close(heads, given, rtol=0, atol=2e-5)
    assert len(layers) == 3 and not any(one._forward_pre_hooks for one in model.modules())


@each_architecture
def test_nothing_of_a_finished_layer_stays_in_memory(architecture):
    finished, model = [], tiny_model(architecture)

    def visit(layer):
        assert all(storage.expired() for storage in finished), f"before layer {layer.index}"
        finished.extend(StorageWeakRef(x.untyped_storage()) for x in (layer.queries, layer.keys, layer.values))

    capture(model, IDS, visit)
    assert len(finished) == 9 and all(storage.expired() for storage in finished)


# --- the model afterwards -----------------------------------------------------------------------------------------


@each_architecture
@pytest.mark.parametrize("failing_layer", [None, 0, 2])
def test_model_and_registries_are_restored(architecture, failing_layer):
    model = tiny_model(architecture)
    attention, known, training, logits = model.config._attn_implementation, registries(), model.training, plain(model)

    def visit(layer):
        if layer.index == failing_layer:
            raise ZeroDivisionError

    if failing_layer is None:
        capture(model, IDS, visit)
    else:
        with pytest.raises(ZeroDivisionError):
            capture(model, IDS, visit)
    assert model.config._attn_implementation == attention
    assert registries() == known
    assert model.training == training and not model._forward_hooks
    assert all(
        module.config._attn_implementation == attention for module in model.modules() if hasattr(module, "config")
    )
    assert torch.equal(plain(model), logits)


def test_captures_may_be_nested():
    """A visitor may run another model, or the same one: every capture has a name of its own."""
    outer, inner, known = tiny_model("Llama"), tiny_model("Qwen2"), registries()
    expected, seen = plain(outer), []

    def visit(layer):
        with attention_as(inner, lambda *a, **k: pytest.fail("not run")):
            pass
        capture(inner, IDS, lambda layer: seen.append(layer.index))

    assert torch.equal(capture(outer, IDS, visit, logits_to_keep=40), expected)
    assert seen == [0, 1, 2] * 3
    assert registries() == known and outer.config._attn_implementation == "sdpa"


# --- refusals -----------------------------------------------------------------------------------------------------


def refuses(model, ids, *parts) -> None:
    """The capture is refused before the model runs."""
    known = registries()
    with refused(*parts):
        capture(model, ids, lambda layer: pytest.fail("the model ran"))
    assert registries() == known


@each_architecture
def test_a_sequence_longer_than_the_models_positions_is_refused(architecture):
    refuses(tiny_model(architecture), token_ids(129), "129 tokens", "end at 128", "Lower max_tokens")
    if architecture in ("Llama", "Qwen2", "Qwen3", "Phi-3"):
        assert len(captured(tiny_model(architecture), token_ids(128))) == 3


@pytest.mark.parametrize("architecture", ["Mistral", "Gemma 2", "Gemma 3"])
def test_a_sliding_window_shorter_than_the_sequence_is_refused(architecture):
    model = tiny_model(architecture)
    parts = "sliding_attention", "last 100 tokens", "101", model.config.model_type, "Lower max_tokens"
    refuses(model, token_ids(101), *parts)
    assert len(captured(model, token_ids(100))) == 3


def test_a_sliding_window_that_is_switched_off_is_no_obstacle():
    on = tiny_model("Qwen2", use_sliding_window=True, sliding_window=20, max_window_layers=1)
    refuses(on, IDS, "sliding_attention", "20", "40")
    model = tiny_model("Qwen2", use_sliding_window=False, sliding_window=20)
    assert len(captured(model)) == 3
    full = tiny_model("Gemma 3", layer_types=("full_attention",) * 3, sliding_window=20)
    assert len(captured(full)) == 3
    assert len(captured(tiny_model("Mistral", sliding_window=None))) == 3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sliding_window": 20}, "sliding_attention"),
        ({"layer_types": ["full_attention", "chunked_attention"], "attention_chunk_size": 20}, "chunked_attention"),
        ({"index_topk": 20}, "index_topk"),
        ({"keep_window_size": 20}, "keep_window_size"),
        ({"attn_temperature_tuning": True, "floor_scale": 20}, "attn_temperature_tuning"),
    ],
)
def test_every_limit_of_a_configuration_is_exact(settings, named):
    config = SimpleNamespace(model_type="other", max_position_embeddings=128, **settings)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config))
    check_model(model, 20, start=15)
    with refused("21 tokens", named, "fit in 20"):
        check_model(model, 21, start=15)
    config.use_sliding_window = config.attn_temperature_tuning = False
    if "sliding_window" in settings or "floor_scale" in settings:
        check_model(model, 21, start=15)


@pytest.mark.parametrize(
    ("model", "ids", "parts"),
    [
        (tiny_model, IDS[:0], ["empty", "0 tokens", "longer prompt"]),
        (tiny_model, IDS[None], ["(1, 40)", "one sequence"]),
        (tiny_model, [1, 97], ["token id 97", "0 to 96", "own tokenizer"]),  # on a GPU it would end the process
        (lambda: tiny_model("Gemma 2", attn_logit_softcapping=50.0), IDS, ["gemma2", "attn_logit_softcapping=50.0"]),
    ],
)
def test_what_cannot_be_captured_is_refused_before_the_model_runs(model, ids, parts):
    refuses(model(), ids, *parts)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Bloom", {"n_layer": 2, "n_head": 4, "hidden_size": 32, "vocab_size": 97}),  # attention of its own, with ALiBi
        ("GptOss", TINY | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 100}),  # a learned sink
    ],
)
def test_a_model_with_more_than_sdpas_attention_is_refused(name, settings):
    config = getattr(transformers, f"{name}Config")(**settings)
    with refused(config.model_type):
        capture(transformers.AutoModelForCausalLM.from_config(config).eval(), IDS, lambda layer: None)
