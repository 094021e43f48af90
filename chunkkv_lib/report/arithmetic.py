"""What a cache, a forward pass and an analysis cost by formula: bytes, multiplications, tables.

Formulas count what cannot be avoided. Numbers per second come from a finished run, never from a data sheet.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
PROBES, CACHES, WINDOW = 32, 7, 8  # answer tokens, compressed caches and the queries that score, of an analysis


def kv_cache_bytes(
    tokens: ArrayLike, layers: int, kv_heads: int, head_dim: int, bytes_per_number: int = 2
) -> ArrayLike:
    """Bytes of one sequence's KV cache: keys and values of all layers, KV heads and tokens."""
    return 2 * layers * kv_heads * head_dim * bytes_per_number * tokens


def readable(size: float) -> str:
    """A number of bytes with a binary unit and three digits, halves rounded up: 1536 -> "1.5 KiB"."""
    power = min(max(int(np.log2(max(size, 1)) // 10), 0), len(UNITS) - 1)
    return f"{float(f'{(1 + 1e-12) * size / 1024**power:.3g}'):,g} {UNITS[power]}"


@dataclass(frozen=True)
class Architecture:
    """The sizes of a Llama-like model that its cost depends on."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    tied: bool  # output weights are the embedding's

    @classmethod
    def of(cls, config: Any) -> "Architecture":
        """The sizes in a transformers configuration of a Llama-like model."""
        heads = config.num_attention_heads
        return cls(
            config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers, heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
            bool(getattr(config, "tie_word_embeddings", False)),
        )  # fmt: skip

    @property
    def matrix_weights(self) -> int:
        """Weights that every token is multiplied with: projections and feed-forward of all layers."""
        attention = 2 * self.hidden * (self.query_heads + self.kv_heads) * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def weights(self) -> int:
        """All weights, the few of norms and biases left out."""
        return self.matrix_weights + self.vocabulary * self.hidden * (1 if self.tied else 2)


#: By the name of the model in a manifest, or as it is called in the text.
ARCHITECTURES = {
    "smollm2-135m": Architecture(49152, 576, 1536, 30, 9, 3, 64, tied=True),
    "Qwen2.5-Coder-0.5B-Instruct": Architecture(151936, 896, 4864, 24, 14, 2, 64, tied=True),
    "Meta-Llama-3-8B-Instruct": Architecture(128256, 4096, 14336, 32, 32, 8, 128, tied=False),
}

#: Models of the calculator in chapter 1, by the names that people use.
PRESETS = {
    "SmolLM2-135M": ARCHITECTURES["smollm2-135m"],
    "Qwen2-7B": Architecture(152064, 3584, 18944, 28, 28, 4, 128, tied=False),
    "Llama-3-8B": ARCHITECTURES["Meta-Llama-3-8B-Instruct"],
    "Llama-2-7B": Architecture(32000, 4096, 11008, 32, 32, 32, 128, tied=False),
    "Llama-3-70B": Architecture(128256, 8192, 28672, 80, 64, 8, 128, tied=False),
}


def serving_memory(
    model: Architecture, tokens: int, kept: int, memory: float, number: float = 2, weight: float = 2
) -> dict[str, tuple[float, float, int]]:
    """What a prompt needs on a device, compressed or not: way -> bytes of its cache, peak bytes, users at once.

    tokens, kept     of the prompt, and of those that stay
    memory           bytes of the device; `number` and `weight`: bytes per number of the cache and of the weights
    return           ways "whole", "after" (all layers are compressed when the prefill is over) and "layer" (each as
                     soon as its own attention is done)
    The peak counts weights, cache and the feed-forward of one layer over the whole prompt, in 16 bits: the largest
    moment of a prefill, within 1 % of what PyTorch's profiler counts for SmolLM2-135M at 1,024 and 2,048 tokens.
    Users: so many caches fit while the last user's prompt is read.
    """
    whole, stays = (kv_cache_bytes(n, model.layers, model.kv_heads, model.head_dim, number) for n in (tokens, kept))
    # Beside what enters and leaves the feed-forward, its three inner vectors of every token are there at once.
    fixed = model.weights * weight + tokens * (4 * model.hidden + 3 * model.intermediate) * 2
    ways = {}
    for way, cache, doomed in (
        ("whole", whole, 0),  # doomed: what is there for a moment and then deleted
        ("after", stays, whole - stays),
        ("layer", stays, (whole - stays) / model.layers),
    ):
        ways[way] = cache, fixed + cache + doomed, max(0, int((memory - fixed - doomed) // cache))
    return ways


def prefill_flops(model: Architecture, tokens: int) -> float:
    """Multiplications and additions of a forward pass over a prompt: matrices, and causal attention."""
    attention = 2 * tokens**2 * model.head_dim * model.query_heads * model.layers  # half of q.k and of the values
    return 2 * model.matrix_weights * tokens + attention


def even_length(model: Architecture) -> float:
    """Prompt tokens at which causal attention costs as much as all matrices."""
    return model.matrix_weights / (model.head_dim * model.query_heads * model.layers)


def analysis_flops(model: Architecture, tokens: int) -> float:
    """The same with H2O's column sums, one more causal q.k; everything else that is measured is small beside it."""
    return prefill_flops(model, tokens) + tokens**2 * model.head_dim * model.query_heads * model.layers


def analysis_parts(model: Architecture, tokens: int) -> dict[str, float]:
    """Multiplications and additions of every part of an analysis, the prefill first.

    The probes ride along in the forward pass, and are decoded again from every compressed cache. Sorting scores and
    adding up losses cost a few operations per cached number, and are counted as such.
    """
    rows = 2 * tokens * model.head_dim * model.query_heads * model.layers  # q.k of one query per head, all layers
    cache = 2 * tokens * model.kv_heads * model.head_dim * model.layers
    return {
        "Prefill": prefill_flops(model, tokens),
        "Column sums, H2O's scores": rows * tokens / 2,
        "Attention rows of the window": rows * WINDOW,
        "Attention rows of the probes": rows * PROBES,
        "Losses of keys and values": 4.0 * cache,  # absolute values and squares, each added up
        "The answer, in the forward pass": 2.0 * model.matrix_weights * PROBES + 2 * rows * PROBES,
        "The answer, from every compressed cache": 2.0 * model.matrix_weights * PROBES * CACHES,
    }


def analysis_bytes(model: Architecture, tokens: int, bytes_per_number: int = 2) -> dict[str, float]:
    """Bytes that have to be in memory at once while a prompt is measured, at a budget of a tenth; an allocator needs
    some room above their sum.

    The compressed caches are kept side by side until the answer is decoded. A layer at work has its queries, keys and
    values, also in 32 bits, the attention rows of the probes, and its feed-forward.
    """
    cache = kv_cache_bytes(tokens, model.layers, model.kv_heads, model.head_dim, bytes_per_number)
    heads = model.query_heads + 2 * model.kv_heads
    tensors = heads * model.head_dim * (bytes_per_number + 4) + 3 * model.intermediate * bytes_per_number
    return {
        "Weights": model.weights * bytes_per_number,
        "Compressed caches": CACHES * 0.1 * cache,
        "One layer at work": tokens * (tensors + 4 * (PROBES + WINDOW) * model.query_heads * 4),
    }
