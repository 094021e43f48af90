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
from ..attention.checks import not_finite
from ..capture import Layer, capture
from ..compressors import Compressor, Random, preset
from ..decoding import CompressedCache, decode, score_tensors
from ..errors import InputError
from ..kept_sets import KeptSets
from ..metrics import (
    RowSums,
    entries_per_set,
    evicted_mass,
    masses,
    prompt_cosine,
    row_cosine,
    row_output_cosine,
    survival,
)
from ..sequences import Sequence

WINDOW = 8  # queries of the observation window whose attention is compared, whatever the methods' own windows

#: Numbers of `layers.parquet`, in its order; the layer's own index stands before the overlap.
COLUMNS = (
    "kv_l1_loss",
    "kv_l1_loss_keys", "kv_l1_absolute_keys", "key_cosine",
    "kv_l1_loss_values", "kv_l1_absolute_values", "value_cosine",
    "attention_cosine_similarity", "attention_cosine_window", "attention_cosine_no_sink", "attention_cosine_logits",
    "attention_mass", "attention_output_cosine", "attention_cosine_prompt",
    "overlap_layer_below", "evidence_kept", "evidence_whole",
)  # fmt: skip
FINITE = "finite"  # beside them while measuring: 0 where a layer holds NaN or infinity


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
    full = capture(model, torch.cat([prompt, answer]), visitor, logits_to_keep=len(answer))
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
    """Looks at one layer after the other, as the forward pass reaches it.

    Nothing here asks for a value before the pass is over: on a GPU the CPU would wait for it, and then the GPU for the
    CPU, in every layer.
    """

    def __init__(
        self, sequence: Sequence, n: int, methods: dict[str, Compressor], reuse: int, all_queries: bool
    ) -> None:
        self.sequence, self.n, self.methods = sequence, n, methods
        self.reuse, self.all_queries = reuse, all_queries
        self.caches: dict[tuple[str, ...], CompressedCache] = {}  # methods that keep equally many share a batch
        self.layers: list[tuple[int, dict[str, Tensor]]] = []
        self.kept_tokens: dict[str, int] = {}
        self.below: KeptSets | None = None

    def __call__(self, layer: Layer) -> None:
        n = self.n
        keys, values = layer.keys[:, :n], layer.values[:, :n]
        attention = PromptAttention(
            layer.queries[:, :n], keys, None if layer.lse is None else layer.lse[:, :n], layer.queries[:, n:],
            finite=True,  # `table` looks at all layers at once
        )  # fmt: skip
        below = self.below and self.below.to(keys.device)  # a model may be spread over several GPUs
        kept = below if below and layer.index % self.reuse else self._select(layer.index, attention)
        columns = layer_columns(attention, values, kept, self.all_queries)
        if below is not None:
            columns["overlap_layer_below"] = kept.overlap(below)
        if self.sequence.evidence_spans:
            columns |= _evidence(kept, self.sequence.evidence_spans)
        columns[FINITE] = _finite(layer.queries if layer.lse is None else layer.lse, columns).expand(len(kept))
        self.layers.append((layer.index, columns))
        self.kept_tokens = {name: positions.shape[1] for name, positions in zip(self.methods, kept.kepts)}
        by_name = dict(zip(self.methods, kept.kepts))
        for names in _equally_large(by_name):
            cache = self.caches.setdefault(names, CompressedCache(n))
            cache.add(keys, values, [by_name[name] for name in names])
        self.below = kept

    def _select(self, index: int, attention: PromptAttention) -> KeptSets:
        compressors = (self._seeded(method, index) for method in self.methods.values())
        kepts = [method.select(attention.queries, attention.keys, attention) for method in compressors]
        return KeptSets(kepts, self.n, check=False)

    def _seeded(self, method: Compressor, index: int) -> Compressor:
        """Random draws anew for every sequence and layer, the same on every machine and in every order."""
        if not isinstance(method, Random):
            return method
        return replace(method, seed=zlib.crc32(f"{method.seed} {self.sequence.id} {index}".encode()))

    def table(self) -> pd.DataFrame:
        """Everything measured, one row per layer and method; InputError where a layer holds NaN or infinity."""
        records = []
        for index, columns in self.layers:
            numbers = torch.stack(list(columns.values())).tolist()
            values = dict(zip(columns, numbers))
            if not all(values.pop(FINITE)):
                raise not_finite(f"the queries, keys or values of layer {index}")
            for i, name in enumerate(self.methods):
                mine = {column: values[column][i] if column in values else float("nan") for column in COLUMNS}
                records.append({"method": name, "kept_tokens": self.kept_tokens[name], "layer": index} | mine)
        order = ["method", "kept_tokens", *COLUMNS]
        order.insert(order.index("overlap_layer_below"), "layer")
        return pd.DataFrame(records, columns=order)


def _equally_large(kept: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """The methods' names, grouped by the number of tokens they keep."""
    sizes = sorted({positions.shape[1] for positions in kept.values()})
    return [tuple(name for name, positions in kept.items() if positions.shape[1] == size) for size in sizes]


def layer_columns(
    attention: PromptAttention, values: Tensor, kept: KeptSets, all_queries: bool = False
) -> dict[str, Tensor]:
    """Every metric of one layer that needs its tensors: column of `layers.parquet` -> [M], one number per method."""
    window, probes = attention.window_rows(min(WINDOW, attention.n)), attention.probe_rows()
    sums = RowSums(probes, kept)
    rows = {
        "attention_cosine_similarity": sums.cosine(),
        "attention_cosine_window": row_cosine(window, kept),
        "attention_cosine_no_sink": sums.cosine(sink=False),
        "attention_cosine_logits": row_cosine(attention.probe_logits(), kept),  # the answer sees the whole prompt
        "attention_mass": sums.mass(),
        "attention_output_cosine": row_output_cosine(probes, values, kept),
    }
    if all_queries:
        rows["attention_cosine_prompt"] = prompt_cosine(attention, kept)
    return _cache_columns(attention.keys, values, kept) | {
        name: value.flatten(1).nanmean(1) for name, value in rows.items()
    }


def _cache_columns(keys: Tensor, values: Tensor, kept: KeptSets) -> dict[str, Tensor]:
    """Losses of keys and values, averaged over the heads."""
    both = torch.cat([masses(keys), masses(values)])
    lost, absolute, cosine = [], [], []
    for positions, masks in kept.groups:
        evicted, everything = evicted_mass(both, masks)
        share = evicted / everything
        lost.append(share.mean(-1))
        absolute.append(evicted.mean(-1) / entries_per_set(both[0], positions.shape[1], keys.shape[2]))
        cosine.append((1 - share).clamp(min=0).sqrt().mean(-1))
    lost, absolute, cosine = (kept.in_order(x).T for x in (lost, absolute, cosine))
    return {"kv_l1_loss": (lost[0] + lost[2]) / 2} | {
        column: value
        for name, i in (("key", 0), ("value", 2))
        for column, value in (
            (f"kv_l1_loss_{name}s", lost[i]),
            (f"kv_l1_absolute_{name}s", absolute[i]),
            (f"{name}_cosine", cosine[i + 1]),
        )
    }


def _evidence(kept: KeptSets, spans: tuple[tuple[int, int], ...]) -> dict[str, Tensor]:
    """What stays of the passages that hold the answer, averaged over heads."""
    parts = [survival(masks, spans) for _, masks in kept.groups]
    return {
        name: kept.in_order([part[i].mean(-1) for part in parts])
        for i, name in enumerate(("evidence_kept", "evidence_whole"))
    }


def _finite(queries: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
    """Whether a layer's tensors are free of NaN and infinity: a mass that is not makes its losses NaN.

    queries  or the log-sum-exp of their logits, which is smaller and shows the same
    """
    cache = columns["kv_l1_absolute_keys"].sum() + columns["kv_l1_absolute_values"].sum()
    return torch.isfinite(queries.sum(dtype=torch.promote_types(queries.dtype, torch.float32)) + cache).float()


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
