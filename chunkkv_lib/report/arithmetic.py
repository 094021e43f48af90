"""What a cache, a forward pass and an analysis cost by formula: bytes, multiplications, tables, one figure.

Formulas count what cannot be avoided. Numbers per second come from a finished run, never from a data sheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import ArrayLike

from ..errors import InputError
from .style import SERIES, headline, label_ends, panels, styled
from .tables import myst_table

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
LENGTHS = tuple(2**power for power in range(9, 18))  # 512 to 131072 tokens


def kv_cache_bytes(
    tokens: ArrayLike, layers: int, kv_heads: int, head_dim: int, bytes_per_number: int = 2
) -> ArrayLike:
    """Bytes of one sequence's KV cache: keys and values of all layers, KV heads and tokens."""
    return 2 * layers * kv_heads * head_dim * bytes_per_number * tokens


def readable(size: float) -> str:
    """A number of bytes with a binary unit: 1536 -> "1.5 KiB"."""
    power = min(max(int(np.log2(max(size, 1)) // 10), 0), len(UNITS) - 1)
    return f"{size / 1024**power:.3g} {UNITS[power]}"


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
    def of(cls, config: Any) -> Architecture:
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


def analysis_parts(
    model: Architecture, tokens: int, probes: int = 32, methods: int = 7, window: int = 8
) -> dict[str, float]:
    """Multiplications and additions of every part of an analysis, the prefill first.

    probes   answer tokens: they ride along in the forward pass, and are decoded again from every compressed cache
    methods  compressed caches; window: queries whose attention rows score the prompt
    Sorting scores and adding up losses cost a few operations per cached number, and are counted as such.
    """
    rows = 2 * tokens * model.head_dim * model.query_heads * model.layers  # q.k of one query per head, all layers
    cache = 2 * tokens * model.kv_heads * model.head_dim * model.layers
    return {
        "prefill": prefill_flops(model, tokens),
        "column sums, H2O's scores": rows * tokens / 2,
        "attention rows of the window": rows * window,
        "attention rows of the probes": rows * probes,
        "losses of keys and values": 4.0 * cache,  # absolute values and squares, each added up
        "the answer, in the forward pass": 2.0 * model.matrix_weights * probes + 2 * rows * probes,
        "the answer, from every compressed cache": 2.0 * model.matrix_weights * probes * methods,
    }


def analysis_bytes(
    model: Architecture, tokens: int, budget: float = 0.1, methods: int = 7, bytes_per_number: int = 2, probes: int = 32
) -> dict[str, float]:
    """What has to be in memory at once while a prompt is measured, in bytes.

    budget   part that stays, as a fraction; methods compressed caches are kept side by side until the answer is decoded
    return   part -> bytes; their sum is a lower bound, an allocator needs some room above it
    """
    cache = kv_cache_bytes(tokens, model.layers, model.kv_heads, model.head_dim, bytes_per_number)
    heads = model.query_heads + 2 * model.kv_heads
    return {
        "weights": model.weights * bytes_per_number,
        "compressed caches": methods * budget * cache,
        "feed-forward of one layer": 3 * tokens * model.intermediate * bytes_per_number,
        "queries, keys, values of one layer": tokens * heads * model.head_dim * (bytes_per_number + 4),
        "attention rows of the probes": 4 * (probes + 8) * tokens * model.query_heads * 4,
    }


def achieved_flops(run: Any, model: Architecture) -> float:
    """What a run got done per second, everything included: its sequences' `analysis_flops` by its seconds."""
    work = sum(analysis_flops(model, tokens) for tokens in run.sequences["prompt_tokens"])
    return work / run.manifest["seconds"]


def cost_table(models: Mapping[str, tuple[Architecture, int, int]], caption: str, name: str = "") -> str:
    """Memory of measuring one prompt: weights, caches, and the rest, which is one layer's at a time.

    models  label -> architecture, tokens, bytes per number
    """
    rows = []
    for label, (model, tokens, size) in models.items():
        parts = analysis_bytes(model, tokens, bytes_per_number=size)
        total, row = sum(parts.values()), {"Model": label, "Prompt tokens": f"{tokens:,}"}
        row |= {part.capitalize(): readable(parts.pop(part)) for part in ("weights", "compressed caches")}
        row |= {"One layer at work": readable(sum(parts.values())), "Together": f"**{readable(total)}**"}
        rows.append(row)
    table = pd.DataFrame(rows)
    return myst_table(table, caption, name, right=table.columns[1:])


def parts_table(models: Mapping[str, tuple[Architecture, int]], caption: str, name: str = "") -> str:
    """The parts of an analysis as shares of the plain prefill's work; models: label -> architecture, prompt tokens."""
    columns = {label: analysis_parts(*model) for label, model in models.items()}
    parts = list(next(iter(columns.values())))[1:]
    table = pd.DataFrame({"Part": [part[0].upper() + part[1:] for part in parts]})
    for label, found in columns.items():
        table[label] = [f"{100 * found[part] / found['prefill']:.2f} %" for part in parts]
    return myst_table(table, caption, name, table.columns[1:])


@styled
def budget_memory(
    architectures: Mapping[str, Mapping[str, int]], lengths: Sequence[int] = LENGTHS, budget: float = 0.1
) -> Figure:
    """Size of the KV cache against prompt length: whole (solid) and at the budget (dashed).

    architectures  name -> arguments of `kv_cache_bytes`: layers, kv_heads, head_dim, perhaps bytes_per_number
    raises         InputError: a budget outside (0, 1), no architecture.
    """
    if not architectures or not 0 < budget < 1:
        raise InputError(f"budget={budget} must lie between 0 and 1, and at least one architecture is needed.")
    lengths = np.asarray(lengths)
    figure, (ax,) = panels(height=4)
    ax.set(xscale="log", yscale="log", xlabel="Prompt length (tokens)", ylabel="KV cache of one sequence")
    share, ends = f"{100 * budget:.3g} %", []
    for style, (name, sizes) in zip(cycle(SERIES), architectures.items(), strict=False):
        whole = kv_cache_bytes(lengths, **sizes)
        ax.plot(lengths, whole, color=style.colour, marker="o", markersize=4)
        ax.plot(lengths, budget * whole, color=style.colour, linestyle="--")
        ends += [(whole[-1], name, style.colour), (budget * whole[-1], f"{name}, {share}", style.colour)]
    ax.set_xticks(lengths[::2], [f"{length:,}" for length in lengths[::2]], rotation=30)
    ax.yaxis.set_major_locator(LogLocator(base=8, numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda size, _: readable(size)))
    ax.minorticks_off()
    label_ends(ax, lengths[-1], ends, gap=0.065)
    headline(figure, f"Solid: whole cache. Dashed: {share} of its tokens. Both axes are logarithmic.")
    return figure
