"""One sequence: every method's kept sets, what they lose in every layer, and what that does to the answer."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..attention import PromptAttention
from ..capture import Layer, capture
from ..compressors import Compressor, Random, preset
from ..decoding import CompressedCache, answer_scores, decode
from ..errors import InputError
from ..metrics import (
    lost_mean,
    lost_share,
    overlap,
    passage_survival,
    prompt_cosine,
    row_cosine,
    row_mass,
    row_output_cosine,
    token_mass,
    visible,
)
from ..sequences import Sequence

WINDOW = 8  # queries of the observation window whose attention is compared, whatever the methods' own windows


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
    layers = pd.DataFrame(visitor.records)
    answers = _answers(model, visitor.caches, list(methods), full[:-1], answer.to(full.device))
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
        self.records: list[dict] = []
        self.below: dict[str, Tensor] = {}

    def __call__(self, layer: Layer) -> None:
        n = self.n
        keys, values = layer.keys[:, :n], layer.values[:, :n]
        attention = PromptAttention(
            layer.queries[:, :n], keys, None if layer.lse is None else layer.lse[:, :n], layer.queries[:, n:]
        )
        # A model spread over several GPUs may have the layer below on another one.
        self.below = {name: positions.to(keys.device) for name, positions in self.below.items()}
        kept = self._kept(layer.index, attention)
        records = layer_records(attention, values, kept, self.all_queries)
        for record in records:
            here = kept[record["method"]]
            below = self.below.get(record["method"])
            record["layer"] = layer.index
            record["overlap_layer_below"] = float("nan") if below is None else overlap(here, below).mean().item()
            record |= _evidence_record(here, self.sequence.evidence_spans, n)
        self.records += records
        for names in _equally_large(kept):
            cache = self.caches.setdefault(names, CompressedCache(n))
            cache.add(keys, values, [kept[name] for name in names])
        self.below = kept

    def _kept(self, index: int, attention: PromptAttention) -> dict[str, Tensor]:
        if index % self.reuse:
            return self.below
        return {
            name: self._seeded(method, index).select(attention.queries, attention.keys, attention)
            for name, method in self.methods.items()
        }

    def _seeded(self, method: Compressor, index: int) -> Compressor:
        """Random draws anew for every sequence and layer, the same on every machine and in every order."""
        if not isinstance(method, Random):
            return method
        return replace(method, seed=zlib.crc32(f"{method.seed} {self.sequence.id} {index}".encode()))


def _equally_large(kept: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """The methods' names, grouped by the number of tokens they keep."""
    sizes = sorted({positions.shape[1] for positions in kept.values()})
    return [tuple(name for name, positions in kept.items() if positions.shape[1] == size) for size in sizes]


def layer_records(
    attention: PromptAttention, values: Tensor, kept: Mapping[str, Tensor], all_queries: bool = False
) -> list[dict]:
    """Every metric of one layer, one record per method; the columns are those of `layers.parquet`."""
    sets = list(kept.values())
    window, probes = attention.window_rows(min(WINDOW, attention.n)), attention.probe_rows()
    logits = visible(attention.probe_logits())
    rows = {
        "attention_cosine_similarity": row_cosine(probes, sets),
        "attention_cosine_window": row_cosine(window, sets),
        "attention_cosine_no_sink": row_cosine(probes, sets, sink=False),
        "attention_cosine_logits": row_cosine(logits, sets),
        "attention_mass": row_mass(probes, sets),
        "attention_output_cosine": row_output_cosine(probes, values, sets),
    }
    if all_queries:
        rows["attention_cosine_prompt"] = prompt_cosine(attention, sets)
    means = {name: value.flatten(1).nanmean(1).tolist() for name, value in rows.items()}
    means.setdefault("attention_cosine_prompt", [float("nan")] * len(sets))
    masses = {
        name: (token_mass(x), token_mass(x, power=2)) for name, x in (("key", attention.keys), ("value", values))
    }
    head_dim = values.shape[2]
    return [
        {"method": method, "kept_tokens": positions.shape[1]}
        | _cache_record(masses, positions, head_dim)
        | {name: means[name][i] for name in means}
        for i, (method, positions) in enumerate(kept.items())
    ]


def _cache_record(masses: dict[str, tuple[Tensor, Tensor]], kept: Tensor, head_dim: int) -> dict[str, float]:
    """Losses of keys and values of one kept set, averaged over its heads."""
    record = {}
    for name, (mass, energy) in masses.items():
        record[f"kv_l1_loss_{name}s"] = lost_share(mass, kept).mean().item()
        record[f"kv_l1_absolute_{name}s"] = lost_mean(mass, kept, head_dim).mean().item()
        record[f"{name}_cosine"] = (1 - lost_share(energy, kept)).clamp(min=0).sqrt().mean().item()
    return {"kv_l1_loss": (record["kv_l1_loss_keys"] + record["kv_l1_loss_values"]) / 2} | record


def _evidence_record(kept: Tensor, spans: tuple[tuple[int, int], ...], n: int) -> dict[str, float]:
    """What stays of the passages that hold the answer, averaged over heads; NaN where the data set marks none."""
    if not spans:
        return dict.fromkeys(("evidence_kept", "evidence_whole"), float("nan"))
    kept_share, whole_share = passage_survival(kept, spans, n)
    return {"evidence_kept": kept_share.mean().item(), "evidence_whole": whole_share.mean().item()}


def _answers(
    model: PreTrainedModel,
    caches: Mapping[tuple[str, ...], CompressedCache],
    methods: list[str],
    full: Tensor,
    answer: Tensor,
) -> pd.DataFrame:
    """Likelihood of the answer's tokens after the first, whose prediction no compression can touch."""
    targets = answer[1:]
    records = {"Full": answer_scores(full, full, targets)}
    for names, cache in caches.items():
        compressed = decode(model, cache, answer[:-1]) if len(targets) else [full] * len(names)
        records |= {name: answer_scores(logits, full, targets) for name, logits in zip(names, compressed)}
    return pd.DataFrame(
        [{"method": name, "scored_tokens": len(targets)} | records[name] for name in ("Full", *methods)]
    )
