"""Methods with changed hyper-parameters, all compared in the same forward pass.

A variant's label stands in the `method` column of the records: "ChunkKV" for the method as it is, "ChunkKV, budget 0.2"
or "SnapKV, kernel 15, budget 0.02" for a variant. Set "sensitivity" changes one hyper-parameter at a time; the others
are lists of settings.
"""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from ..compressors import PRESETS, Compressor
from ..errors import check_known

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

_WIDE, _POOLED = {"window": 32}, {"kernel": 15, "pooling": "max"}
_PER_QUERY_HEAD = {"granularity": "query_head"}
#: set -> (method -> its settings, budgets at which each is measured; none: the run's own).
SETTINGS: dict[str, tuple[dict[str, tuple[dict[str, object], ...]], tuple[float, ...]]] = {
    # every rule tuned by how many neighbours it keeps together
    "reach": (
        {
            "ChunkKV": (
                {}, {"chunk_size": 5}, {"chunk_size": 16}, {"chunk_size": 20}, {"chunk_size": 40}, _POOLED, _WIDE,
                _POOLED | _WIDE,
            ),
            "SnapKV": ({}, {"kernel": 1}, {"kernel": 15}, {"kernel": 25}, _WIDE, {"kernel": 15} | _WIDE),
            "H2O": ({}, {"kernel": 15}), "StreamingLLM": ({},), "Random": ({},), "Oracle": ({},),
        },
        (0.1, 0.02),
    ),
    # what chunks are worth by themselves
    "blocks": ({"Random": ({"block": 10},)}, ()),
    # as the code of the paper's time may have run it: a range, since the window is not known
    "query heads": (
        {
            "ChunkKV": tuple(_PER_QUERY_HEAD | {"score": "logits", "window": window} for window in (4, 8, 16, 32)),
            "SnapKV": (_PER_QUERY_HEAD,), "H2O": (_PER_QUERY_HEAD | {"causal": False},),
        },
        (),
    ),
}  # fmt: skip


def variants(name: str, methods: Mapping[str, Compressor]) -> dict[str, Compressor]:
    """Label -> compressor: the methods themselves, then the variants of a set."""
    check_known("set of variants", name, ("sensitivity", *SETTINGS))
    if name == "sensitivity":
        wanted = [
            (method, {field: value})
            for field, (owners, values) in AXES.items()
            for method in owners
            for value in values
        ]
    else:
        settings, budgets = SETTINGS[name]
        wanted = [
            (method, change | budget)
            for budget in ([{"budget": budget} for budget in budgets] or [{}])
            for method, changes in settings.items()
            for change in changes
        ]
    found = dict(methods)
    for method, changes in wanted:
        if base := methods.get(method):
            fields = {field: value for field, value in changes.items() if own_value(base, field) != value}
            label = ", ".join([method, *(f"{field} {value}" for field, value in fields.items())])
            if "preset" in fields:
                fields = PRESETS[fields["preset"]].get(type(base).__name__, {})
            changed = replace(base, **fields)
            if changed != base:  # otherwise it is measured already
                found[label] = changed
    return found


def along(records: pd.DataFrame, field: str, base: Mapping[str, Compressor]) -> pd.DataFrame:
    """The records of one axis, in its order: `method` becomes the method's name, a column named `field` its value.

    records  of a sensitivity run, `method` holding labels
    base     the methods unchanged: their records stand at their own value of the field
    """
    check_known("axis", field, AXES)
    owners, values = AXES[field]
    places = [
        (name if own_value(base[name], field) == value else f"{name}, {field} {value}", name, value)
        for name in owners
        if name in base
        for value in values
    ]
    axis = pd.DataFrame(places, columns=["label", "method", field])
    return axis.merge(records.rename(columns={"method": "label"}), on="label").drop(columns="label")


def own_value(method: Compressor, field: str) -> object:
    """The value that an unchanged method has on an axis."""
    return "paper" if field == "preset" else getattr(method, field)
