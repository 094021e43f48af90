"""One sequence: every method's kept sets, what they lose in every layer, and what that does to the answer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..attention import PromptAttention
from ..capture import Layer, capture
from ..compressors import Compressor, Random, preset
from ..decoding import CompressedCache, decode, score_tensors
from ..errors import InputError
from ..kept_sets import KeptSets
from ..sequences import Sequence
from .layer_sums import COLUMNS, LayerSums, columns, layer_sums


def analyse(
    model: PreTrainedModel,
    sequence: Sequence,
    methods: Mapping[str, Compressor] | None = None,
    reuse: int = 1,
    all_queries: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compress one sequence's cache with every method and measure the loss, in one forward pass and one short one.

    sequence     prompt and answer token ids; the answer is teacher-forced after the prompt, its queries are the probes
    methods      name -> compressor; None: all methods at 10 %, preset "paper"
    reuse        N: layers l with l mod N != 0 take the kept sets of the layer below (the paper's index reuse); 1: off
    all_queries  also the attention cosine of all prompt queries, a second sweep over the attention
    return       two DataFrames: one row per method and layer, and one per method ("Full" first) for the answer
    raises InputError: an empty prompt or answer, a sequence longer than the model's positions, a budget or window
        that does not fit the prompt, layers that cannot be measured.
    """
    methods = dict(preset() if methods is None else methods)
    prompt, answer = _tokens(sequence.prompt_ids, "prompt"), _tokens(sequence.answer_ids, "answer")
    if not methods:
        raise InputError("no method was given; name at least one, or pass None for all.")
    if reuse < 1:
        raise InputError(f"reuse={reuse} does not work; it must be at least 1, where 1 means no reuse.")
    visitor = _Visitor(sequence, len(prompt), methods, reuse, all_queries)
    ids, answer = torch.cat([prompt, answer]), answer.to(model.device)  # once a GPU is busy, this would wait for it
    full = capture(model, ids, visitor, logits_to_keep=len(answer))
    answers = _answers(model, visitor.caches, list(methods), full[:-1], answer.to(full.device))
    layers = visitor.table()
    answers = answers()
    for frame in (layers, answers):
        frame.insert(0, "sequence", sequence.id)
    return layers, answers


def _tokens(ids: object, what: str) -> Tensor:
    tokens = torch.as_tensor(ids, dtype=torch.int64).cpu()
    if tokens.dim() != 1 or len(tokens) == 0:
        raise InputError(f"the {what} has shape {tuple(tokens.shape)}; at least 1 token in one dimension is needed.")
    return tokens


class _Visitor:
    """Looks at one layer after the other, as the forward pass reaches it."""

    def __init__(
        self, sequence: Sequence, n: int, methods: dict[str, Compressor], reuse: int, all_queries: bool
    ) -> None:
        self.sequence, self.n, self.methods = sequence, n, methods
        self.reuse, self.all_queries = reuse, all_queries
        self.caches: dict[tuple[str, ...], CompressedCache] = {}  # methods that keep equally many share a batch
        self.layers: list[LayerSums] = []
        self.below: KeptSets | None = None

    def __call__(self, layer: Layer) -> None:
        n = self.n
        keys, values = layer.keys[:, :n], layer.values[:, :n]
        attention = PromptAttention(
            layer.queries[:, :n], keys, None if layer.lse is None else layer.lse[:, :n], layer.queries[:, n:],
            finite=True,  # `table` looks at all layers at once
        )  # fmt: skip
        below = self.below and self.below.to(keys.device)  # a model may be spread over several GPUs
        kept = below if below and layer.index % self.reuse else self._select(layer.index, attention, below)
        spans = self.sequence.evidence_spans
        self.layers.append(layer_sums(layer.index, attention, values, kept, below, spans, self.all_queries))
        by_name = dict(zip(self.methods, kept.kepts))
        for names in _equally_large(by_name):
            cache = self.caches.setdefault(names, CompressedCache(n))
            cache.add(keys, values, [by_name[name] for name in names])
        self.below = kept

    def _select(self, index: int, attention: PromptAttention, below: KeptSets | None) -> KeptSets:
        kepts = []
        for i, method in enumerate(self.methods.values()):
            if below and method.by_position:  # the same in every layer
                kepts.append(below.kepts[i])
            else:
                kepts.append(self._seeded(method, index).select(attention.queries, attention.keys, attention))
        return KeptSets(kepts, self.n, check=False)

    def _seeded(self, method: Compressor, index: int) -> Compressor:
        """Random draws anew for every sequence and layer, the same on every machine and in every order."""
        if not isinstance(method, Random):
            return method
        return replace(method, seed=zlib.crc32(f"{method.seed} {self.sequence.id} {index}".encode()))

    def table(self) -> pd.DataFrame:
        """Everything measured, one row per layer and method; InputError where a layer holds NaN or infinity."""
        numbers = columns(self.layers, self.below)
        records = []
        for at, layer in enumerate(self.layers):
            for i, (name, kept) in enumerate(zip(self.methods, self.below.kepts)):
                mine = {column: numbers[column][at][i] if column in numbers else float("nan") for column in COLUMNS}
                records.append({"method": name, "kept_tokens": kept.shape[1], "layer": layer.index} | mine)
        order = ["method", "kept_tokens", *COLUMNS]
        order.insert(order.index("overlap_layer_below"), "layer")
        return pd.DataFrame(records, columns=order)


def _equally_large(kept: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """The methods' names, grouped by the number of tokens they keep."""
    sizes = sorted({positions.shape[1] for positions in kept.values()})
    return [tuple(name for name, positions in kept.items() if positions.shape[1] == size) for size in sizes]


def _answers(
    model: PreTrainedModel,
    caches: Mapping[tuple[str, ...], CompressedCache],
    methods: list[str],
    full: Tensor,
    answer: Tensor,
) -> Callable[[], pd.DataFrame]:
    """Likelihood of the answer's tokens after the first, whose prediction no compression can touch.

    The work is begun here; the function that comes back waits for it and makes the table.
    """
    targets = answer[1:]
    scores = {"Full": score_tensors(full, full, targets)}
    for names, cache in caches.items():
        compressed = decode(model, cache, answer[:-1]) if len(targets) else [full] * len(names)
        scores |= {name: score_tensors(logits, full, targets) for name, logits in zip(names, compressed)}

    def table() -> pd.DataFrame:
        names = ("Full", *methods)
        numbers = torch.stack([torch.stack(list(scores[name].values())) for name in names]).tolist()
        values = [dict(zip(scores["Full"], row)) for row in numbers]
        return pd.DataFrame(
            [{"method": name, "scored_tokens": len(targets)} | row for name, row in zip(names, values)]
        )

    return table
