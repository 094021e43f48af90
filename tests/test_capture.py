"""Capture sees what the model computes with, changes nothing, keeps nothing, and refuses what it cannot measure."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import references as ref
import torch
import transformers
from common import ARCHITECTURES, TINY, captured, each_architecture, refused, tiny_model, token_ids
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache

from chunkkv_lib.attention import attention_rows
from chunkkv_lib.capture import capture, check_model

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = token_ids(40)


def plain(model, ids=IDS, **inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids[None], **inputs).logits[0]


def registries() -> tuple:
    """The names that transformers knows, and what each is."""
    return tuple(
        (set(r.valid_keys()), dict(r._global_mapping)) for r in (AttentionInterface(), AttentionMaskInterface())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_logits_of_every_length_and_dtype_are_the_models(count, dtype):
    model, ids, layers = copy.deepcopy(tiny_model("Mistral")).to(dtype), token_ids(count, seed=count), []
    assert torch.equal(capture(model, ids, layers.append, logits_to_keep=count), plain(model, ids))  # 100: its window
    assert {x.dtype for layer in layers for x in (layer.queries, layer.keys, layer.values)} == {dtype}
    assert torch.equal(capture(model, ids.tolist(), layers.append), plain(model, ids, logits_to_keep=1))


@each_architecture
def test_the_visitor_sees_what_the_model_computes_with(architecture):
    """Keys and values of the cache; after RoPE, norms and scaling of whatever kind, softmax(q.k / sqrt(d)) is the eager
    model's attention; and the log-sum-exp of its logits."""
    cache = DynamicCache()
    with torch.inference_mode():
        tiny_model(architecture)(input_ids=IDS[None], past_key_values=cache)
        attentions = tiny_model(architecture, "eager")(input_ids=IDS[None], output_attentions=True).attentions
    layers = captured(tiny_model(architecture), IDS)
    assert [layer.index for layer in layers] == [0, 1, 2]
    for layer, cached, expected in zip(layers, cache.layers, attentions, strict=True):
        assert layer.queries.shape == (4, 40, 8) and layer.keys.shape == layer.values.shape == (2, 40, 8)
        close = {"rtol": 0, "atol": 2e-5 if architecture == "Gemma 2" else 0}
        torch.testing.assert_close(layer.keys, cached.keys[0], **close)
        torch.testing.assert_close(layer.values, cached.values[0], **close)
        rows = attention_rows(layer.queries, layer.keys, torch.arange(40))
        torch.testing.assert_close(rows, expected[0], rtol=0, atol=2e-5)
        assert rows.std() > 0.02  # the model really attends to something
        log_sums = ref.log_sum_exp(ref.array(layer.queries), ref.array(layer.keys))
        assert layer.log_sums.dtype == torch.float32  # on the CPU the kernel gives it for free
        np.testing.assert_allclose(layer.log_sums, log_sums, atol=1e-4)


def gpt2():
    config = transformers.GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=3, n_head=4)
    return transformers.GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "GPT-2"])
def test_the_stream_and_the_output_projection_are_the_models(architecture):
    """The layer's input, and the map from what its heads give to what the projection gives, which hooks see."""
    model, seen = gpt2() if architecture == "GPT-2" else tiny_model(architecture), []
    named = [one for name, one in model.named_modules() if name.endswith(("o_proj", "attn.c_proj"))]
    hooks = [one.register_forward_hook(lambda module, given, out: seen.append((given[0][0], out[0]))) for one in named]
    try:
        layers = captured(model, IDS)
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
@pytest.mark.parametrize("failing_layer", [None, 0, 2])
def test_logits_are_the_models_and_it_and_the_registries_are_restored(architecture, failing_layer):
    """A visitor may run another model, too: every capture has a name of its own."""
    model, known, other = tiny_model(architecture), registries(), tiny_model("Qwen2")
    attention, training, logits, seen = model.config._attn_implementation, model.training, plain(model), []

    def visit(layer):
        if layer.index == failing_layer:
            raise ZeroDivisionError
        capture(other, IDS, lambda layer: seen.append(layer.index))

    with nullcontext() if failing_layer is None else pytest.raises(ZeroDivisionError):
        during = capture(model, IDS, visit, logits_to_keep=len(IDS))
        # Gemma 2 runs with eager attention otherwise, so the last bits differ.
        torch.testing.assert_close(during, logits, rtol=0, atol=5e-5 if architecture == "Gemma 2" else 0)
    assert seen == [0, 1, 2] * (3 if failing_layer is None else failing_layer)
    assert registries() == known and model.training == training and not model._forward_hooks
    configured = [module.config for module in model.modules() if hasattr(module, "config")]
    assert {config._attn_implementation for config in configured} == {attention}
    assert torch.equal(plain(model), logits)


def refuses(model, ids, *parts) -> None:
    """The capture is refused before the model runs."""
    known = registries()
    with refused(*parts):
        capture(model, ids, lambda layer: pytest.fail("the model ran"))
    assert registries() == known


@pytest.mark.parametrize(
    ("model", "most", "parts"),
    [
        (("Llama", {}), 128, ["the model's positions end at 128"]),
        (("Mistral", {}), 100, ["mistral", "sliding_attention", "last 100 tokens"]),
        (("Qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}), 20, ["last 20 tokens"]),
        (("Qwen2", {"use_sliding_window": False, "sliding_window": 20}), 128, ["end at 128"]),
        (("Gemma 3", {"layer_types": ("full_attention",) * 3, "sliding_window": 20}), 128, ["end at 128"]),
    ],
)
def test_a_sequence_longer_than_the_model_sees_is_refused(model, most, parts):
    """By its positions or by the window of a layer, if it is not switched off."""
    model = tiny_model(model[0], **model[1])
    refuses(model, token_ids(most + 1), f"{most + 1} tokens", "Lower max_tokens", *parts)
    assert len(captured(model, token_ids(most))) == 3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
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


def test_what_cannot_be_captured_is_refused_before_the_model_runs():
    refuses(tiny_model(), IDS[:0], "empty", "0 tokens", "longer prompt")
    refuses(tiny_model(), IDS[None], "(1, 40)", "one sequence")
    refuses(tiny_model(), [1, 97], "token id 97", "0 to 96", "own tokenizer")  # on a GPU it would end the process
    refuses(tiny_model("Gemma 2", attn_logit_softcapping=50.0), IDS, "gemma2", "attn_logit_softcapping=50.0")


def test_a_model_with_more_than_sdpas_attention_is_refused():
    """Bloom's is its own, with ALiBi; GPT-OSS learns a sink."""
    experts = TINY | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 100}
    for config in (transformers.BloomConfig(n_layer=2, n_head=4, hidden_size=32), transformers.GptOssConfig(**experts)):
        with refused(config.model_type):
            capture(transformers.AutoModelForCausalLM.from_config(config).eval(), IDS, lambda layer: None)
