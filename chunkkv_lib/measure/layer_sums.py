"""What is taken from every layer while the model runs, and the numbers made of it afterwards.

In a layer only sums are formed. Their quotients and means, dozens of small operations, follow for all layers at once
when the pass is over, and no value is asked for before: on a GPU the CPU would wait for it, then the GPU for the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention import PromptAttention
from ..attention.checks import not_finite
from ..kept_sets import KeptSets
from ..metrics import (
    RowSums,
    cosine_of_sums,
    entries_per_set,
    evicted_mass,
    masses,
    prompt_cosine,
    row_output_cosine,
    survival,
)

WINDOW = 8  # queries of the observation window whose attention is compared, whatever the methods' own windows

#: Numbers of `layers.parquet`, in its order.
COLUMNS = (
    "kv_l1_loss",
    "kv_l1_loss_keys", "kv_l1_absolute_keys", "key_cosine",
    "kv_l1_loss_values", "kv_l1_absolute_values", "value_cosine",
    "attention_cosine_similarity", "attention_cosine_window", "attention_cosine_no_sink", "attention_cosine_logits",
    "attention_mass", "attention_output_cosine", "attention_cosine_prompt",
    "overlap_layer_below", "evidence_kept", "evidence_whole",
)  # fmt: skip


@dataclass(frozen=True)
class LayerSums:
    """One layer's sums for M methods; lists hold one tensor per group of kept sets (`KeptSets.groups`).

    index       of the layer
    rows        column -> sums over kept positions [M, Hq, r] and over all [Hq, r], whose cosine the column is
    means       column -> [M, ...] what only has to be averaged
    evicted     [m, 4, S] of |keys|, keys squared, |values|, values squared
    everything  [4, S] the same of all positions
    shared      [m, S] positions that a set has in common with that of the layer below; empty in the lowest layer
    finite      a number that is not finite if the queries hold NaN or infinity
    kv_heads    Hkv, and head_dim: of the layer's cache
    """

    index: int
    rows: dict[str, tuple[Tensor, Tensor]]
    means: dict[str, Tensor]
    evicted: list[Tensor]
    everything: list[Tensor]
    shared: list[Tensor]
    finite: Tensor
    kv_heads: int
    head_dim: int


def layer_sums(
    index: int,
    attention: PromptAttention,
    values: Tensor,
    kept: KeptSets,
    below: KeptSets | None = None,
    evidence_spans: tuple[tuple[int, int], ...] = (),
    all_queries: bool = False,
) -> LayerSums:
    """What one layer contributes; its tensors are not held.

    attention       of the prompt, with the answer's queries as probes that see all of it
    values          [Hkv, n, d]
    kept, below     the methods' sets in this layer and in the one below it
    evidence_spans  token positions of the passages that hold the answer
    all_queries     also the cosine of all prompt queries, a second sweep over the attention
    """
    probes = attention.probe_rows()
    sums = RowSums(probes, kept)
    rows = {
        "attention_cosine_similarity": sums.sums(power=2),
        "attention_cosine_no_sink": sums.sums(power=2, first=1),
        "attention_cosine_window": RowSums(attention.window_rows(min(WINDOW, attention.n)), kept).sums(power=2),
        "attention_cosine_logits": RowSums(attention.probe_logits(), kept).sums(power=2),
    }
    means = {"attention_mass": sums.mass(), "attention_output_cosine": row_output_cosine(probes, values, kept)}
    if all_queries:
        means["attention_cosine_prompt"] = prompt_cosine(attention, kept)
    if evidence_spans:
        means |= _evidence(kept, evidence_spans)
    entries = torch.cat([masses(attention.keys), masses(values)])
    evicted = [evicted_mass(entries, masks) for _, masks in kept.groups]
    queries = attention.queries if attention.lse is None else attention.lse  # smaller, and it shows the same
    finite = queries.sum(dtype=torch.promote_types(queries.dtype, torch.float32)).isfinite()
    return LayerSums(
        index, rows, means, [part[0] for part in evicted], [part[1] for part in evicted],
        [] if below is None else kept.shared(below), finite, len(values), values.shape[2],
    )  # fmt: skip


def _evidence(kept: KeptSets, spans: tuple[tuple[int, int], ...]) -> dict[str, Tensor]:
    """What stays of the passages that hold the answer."""
    parts = [survival(masks, spans) for _, masks in kept.groups]
    return {
        name: kept.in_order([part[i].mean(-1) for part in parts])
        for i, name in enumerate(("evidence_kept", "evidence_whole"))
    }


def columns(layers: list[LayerSums], kept: KeptSets) -> dict[str, list[list[float]]]:
    """The numbers of all layers: column -> one list per layer with one number per method. Columns may be missing.

    kept  any layer's sets: how many there are, and of which shapes
    raises InputError: a layer that holds NaN or infinity.
    """
    found = _cache_columns(layers, kept)
    for name in layers[0].rows:
        sums = (_stacked([layer.rows[name][i] for layer in layers]) for i in (0, 1))
        found[name] = _mean(cosine_of_sums(*sums))
    for name in layers[0].means:
        found[name] = _mean(_stacked([layer.means[name] for layer in layers]))
    found["overlap_layer_below"] = _overlaps(layers, kept)
    fine = _stacked([layer.finite for layer in layers]) & found["kv_l1_absolute_keys"].isfinite().all(1)
    fine &= found["kv_l1_absolute_values"].isfinite().all(1)
    *numbers, fine = torch.stack([*found.values(), fine[:, None].expand(-1, len(kept)).float()]).tolist()
    for layer, row in zip(layers, fine):
        if not all(row):
            raise not_finite(f"the queries, keys or values of layer {layer.index}")
    return dict(zip(found, numbers))


def _cache_columns(layers: list[LayerSums], kept: KeptSets) -> dict[str, Tensor]:
    """Losses of keys and values, averaged over the heads: column -> [L, M]."""
    lost, absolute, cosine = [], [], []
    for group, (positions, _) in enumerate(kept.groups):
        evicted = _stacked([layer.evicted[group] for layer in layers])  # [L, m, 4, S]
        everything = _stacked([layer.everything[group] for layer in layers])[:, None]
        share = evicted / everything
        lost.append(share.mean(-1))
        cache = (layers[0].kv_heads, kept.n, positions.shape[1], layers[0].head_dim)
        absolute.append(evicted.mean(-1) / entries_per_set(*cache))
        cosine.append((1 - share).clamp(min=0).sqrt().mean(-1))
    lost, absolute, cosine = (kept.in_order(x, 1).unbind(2) for x in (lost, absolute, cosine))
    return {
        "kv_l1_loss": (lost[0] + lost[2]) / 2,
        "kv_l1_loss_keys": lost[0], "kv_l1_absolute_keys": absolute[0], "key_cosine": cosine[1],
        "kv_l1_loss_values": lost[2], "kv_l1_absolute_values": absolute[2], "value_cosine": cosine[3],
    }  # fmt: skip


def _overlaps(layers: list[LayerSums], kept: KeptSets) -> Tensor:
    """Jaccard index of each method's sets with those of the layer below, mean over its sets: [L, M]."""
    above = [layer for layer in layers if layer.shared]
    missing = torch.full((len(layers) - len(above), len(kept)), torch.nan, device=layers[0].finite.device)
    if not above:
        return missing
    parts = []
    for group, (positions, _) in enumerate(kept.groups):
        both = _stacked([layer.shared[group] for layer in above])
        parts.append((both / (2 * positions.shape[2] - both)).mean(-1))
    return torch.cat([missing, kept.in_order(parts, 1).to(missing.device)])


def _stacked(parts: list[Tensor]) -> Tensor:
    """One tensor of all layers', on the first one's device."""
    return torch.stack([part.to(parts[0].device) for part in parts])


def _mean(x: Tensor) -> Tensor:
    """[L, M, ...] -> [L, M], over what is not NaN."""
    return x.flatten(2).nanmean(2) if x.dim() > 2 else x
