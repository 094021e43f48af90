"""Shared by the tests of the numerical core: hypothesis settings, tiny random models, the shape of an error message."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
import torch

from chunkkv_lib.capture import Layer, capture
from chunkkv_lib.errors import InputError

ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("core", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("core")

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.3,
    "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
#: Gemma scales its logits by a number of its own, and mixes layers that see a window with layers that see everything.
GEMMA = {
    "query_pre_attn_scalar": 5, "sliding_window": 100,
    "layer_types": ("sliding_attention", "full_attention", "sliding_attention"),
}  # fmt: skip
#: Architecture -> configuration class of transformers, and what it needs beyond TINY.
ARCHITECTURES = {
    "Llama": ("LlamaConfig", {}),
    "Mistral": ("MistralConfig", {"sliding_window": 100}),
    "Qwen2": ("Qwen2Config", {}),
    "Qwen3": ("Qwen3Config", {}),
    "Phi-3": ("Phi3Config", {"original_max_position_embeddings": 128}),
    "Gemma 2": ("Gemma2Config", GEMMA | {"attn_logit_softcapping": None}),
    "Gemma 3": ("Gemma3TextConfig", GEMMA),
}
NOT_SDPA = {"Gemma 2": "eager"}  # transformers offers it no SDPA, whose kernels cannot soft-cap

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def tiny_model(architecture: str = "Llama", attention: str | None = None, **changes: object):
    """A random model of a few kilobytes with strong attention, the same weights for the same arguments."""
    attention = attention or NOT_SDPA.get(architecture, "sdpa")
    return _tiny_model(architecture, attention, tuple(sorted(changes.items())))


@functools.cache
def _tiny_model(architecture: str, attention: str, changes: tuple):
    import transformers

    name, own = ARCHITECTURES[architecture]
    fields = TINY | own | dict(changes)
    if "layer_types" in fields:
        fields["layer_types"] = list(fields["layer_types"])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, name)(**fields), attn_implementation=attention
    )
    return model.eval()


def token_ids(count: int, seed: int = 0) -> torch.Tensor:
    """Random tokens of a tiny model."""
    return torch.randint(1, 97, (count,), generator=torch.Generator().manual_seed(seed))


def captured(model, ids: torch.Tensor) -> list[Layer]:
    """Every layer of a pass over these tokens."""
    layers = []
    capture(model, ids, layers.append)
    return layers


@contextmanager
def refused(*parts: object) -> Iterator[pytest.ExceptionInfo]:
    """The block must raise InputError with a message of one line that names all parts and ends as a sentence."""
    with pytest.raises(InputError) as caught:
        yield caught
    text = str(caught.value)
    assert "\n" not in text and text.endswith((".", "?")), text
    assert [part for part in parts if str(part) not in text] == [], text


def message(call, *arguments: object, **named: object) -> str:
    """The text of the InputError that a call raises, of one line."""
    with refused() as caught:
        call(*arguments, **named)
    return str(caught.value)
