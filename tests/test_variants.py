"""Sensitivity runs: which variants there are, what each label means, and how records are read along an axis."""

from dataclasses import replace

import pandas as pd
import pytest
from common import refused

from chunkkv_lib.compressors import ChunkKV, SnapKV, preset
from chunkkv_lib.runs.variants import AXES, SETTINGS, along, variants


def test_a_variant_differs_in_one_field():
    compressors = variants("sensitivity", preset())
    assert list(compressors)[:7] == list(preset())
    for label, mine in compressors.items():
        method, *changes = label.split(", ")
        plain = preset()[method]
        changed = [f"{name} {value}" for name, value in vars(mine).items() if value != getattr(plain, name)]
        assert changed == changes or changes == ["preset kvpress"], label
    assert compressors["ChunkKV, preset kvpress"] == preset("kvpress")["ChunkKV"]
    assert len(set(compressors.values())) > 40
    few = variants("sensitivity", {"SnapKV": SnapKV(budget=0.2)})  # what a method has anyway is not measured twice
    assert {type(one) for one in few.values()} == {SnapKV} and len(set(few.values())) == len(few)
    assert "SnapKV, budget 0.2" not in few and "SnapKV, budget 0.1" in few
    with refused("'sensitivty'", "'sensitivity'?"):
        variants("sensitivty", preset())


def test_the_rules_of_reach_are_tuned_alike_at_both_budgets():
    """Every setting that one family has, neighbours kept together or the window, the other has too; none twice."""
    compressors = variants("reach", {name: preset()[name] for name in SETTINGS["reach"][0]})
    assert len(set(compressors.values())) == len(compressors) == 2 * sum(map(len, SETTINGS["reach"][0].values()))
    assert compressors["SnapKV, kernel 15, budget 0.02"] == SnapKV(budget=0.02, kernel=15)
    assert compressors["ChunkKV, kernel 15, pooling max"] == ChunkKV(kernel=15, pooling="max")
    for name, one in compressors.items():
        label = f"{name}, budget 0.02"
        assert one.budget == 0.02 or compressors[label] == replace(one, budget=0.02), name
    for family in ("ChunkKV", "SnapKV"):
        assert {one.window for one in compressors.values() if type(one).__name__ == family} == {8, 32}


def test_a_set_without_budgets_takes_the_runs_own():
    compressors = variants("blocks", preset(budget=0.3))
    assert compressors["Random, block 10"] == replace(preset(budget=0.3)["Random"], block=10) and len(compressors) == 8
    compressors = variants("query heads", preset())
    windows = {one.window for one in compressors.values() if getattr(one, "score", "") == "logits"}
    assert windows == {4, 8, 16, 32} and len(compressors) == 7 + 6


@pytest.mark.parametrize("field", AXES)
def test_an_axis_holds_every_method_and_value_in_order(field):
    compressors = variants("sensitivity", preset())
    records = pd.DataFrame({"method": list(compressors), "number": range(len(compressors))})
    found = along(records, field, preset())
    owners, values = AXES[field]
    assert list(zip(found["method"], found[field])) == [(method, value) for method in owners for value in values]
    assert found["number"].is_unique
    with refused("axis 'budgets'", "'budget'?"):
        along(records, "budgets", preset())
