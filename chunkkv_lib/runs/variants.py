"""One hyper-parameter at a time: what a sensitivity run compares in the same forward pass.

A variant is a method with one field changed. Its label stands in the `method` column of the records, "ChunkKV" for the
method as it is and "ChunkKV, budget 0.2" for a variant; the manifest says what each label means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from ..compressors import PRESETS, Compressor
from ..errors import unknown

#: field -> (methods that are varied, values). A value that a method has anyway is measured once.
AXES: dict[str, tuple[tuple[str, ...], tuple]] = {
    "budget": (("ChunkKV", "SnapKV", "H2O", "Random", "Oracle"), (0.025, 0.05, 0.1, 0.2, 0.3, 0.5)),
    "chunk_size": (("ChunkKV",), (1, 2, 5, 10, 20, 32, 64)),
    "window": (("ChunkKV", "SnapKV", "H2O"), (4, 8, 16, 32, 64)),
    "kernel": (("SnapKV",), (1, 3, 5, 7, 15)),
    "granularity": (("ChunkKV", "SnapKV", "H2O"), ("query_head", "kv_head", "layer")),
    "group": (("ChunkKV", "SnapKV", "H2O"), ("mean", "max")),
    "score": (("ChunkKV",), ("softmax", "logits")),
    "aggregate": (("ChunkKV",), ("sum", "mean")),
    "causal": (("H2O",), (True, False)),
    "preset": (("ChunkKV", "SnapKV"), ("paper", "kvpress")),
}
SETS = {"sensitivity": tuple(AXES)}


@dataclass(frozen=True)
class Variant:
    """A label's meaning: the method, and the field and value in which it differs ("" and None for none)."""

    method: str
    field: str = ""
    value: object = None

    @property
    def label(self) -> str:
        return f"{self.method}, {self.field} {self.value}" if self.field else self.method


def variants(name: str, methods: Mapping[str, Compressor]) -> tuple[list[Variant], dict[str, Compressor]]:
    """The variants of a set, and the compressors by label: the methods themselves first.

    raises InputError: an unknown set.
    """
    if name not in SETS:
        raise unknown("set of variants", name, SETS)
    listed = [Variant(method) for method in methods]
    for field in SETS[name]:
        owners, values = AXES[field]
        listed += [Variant(method, field, value) for method in owners if method in methods for value in values]
    compressors = {one.label: _changed(methods[one.method], one) for one in listed}
    same = [one for one in listed if one.field and compressors[one.label] == methods[one.method]]
    for one in same:
        del compressors[one.label]
    return [one for one in listed if one not in same], compressors


def _changed(method: Compressor, variant: Variant) -> Compressor:
    if not variant.field:
        return method
    if variant.field == "preset":
        return replace(method, **PRESETS[variant.value].get(variant.method, {}))
    return replace(method, **{variant.field: variant.value})


def along(
    records: pd.DataFrame, listed: Iterable[Variant], field: str, base: Mapping[str, Compressor]
) -> pd.DataFrame:
    """The records of one axis, in its order: `method` becomes the method's name, a column named `field` its value.

    records  of a sensitivity run, `method` holding labels
    base     the methods unchanged: their records stand at their own value of the field
    raises InputError: a field that is no axis.
    """
    if field not in AXES:
        raise unknown("axis", field, AXES)
    owners, values = AXES[field]
    labels = {(one.method, one.value): one.label for one in listed if one.field == field}
    labels |= {(name, own_value(base[name], field)): name for name in owners if name in base}
    parts = [
        records[records["method"] == labels[name, value]].assign(method=name, **{field: value})
        for name in owners
        for value in values
        if (name, value) in labels
    ]
    return pd.concat(parts, ignore_index=True)


def own_value(method: Compressor, field: str) -> object:
    """The value that an unchanged method has on an axis."""
    return "paper" if field == "preset" else getattr(method, field)
