"""Sensitivity runs: which variants there are and what each label means; how records are read along an axis and across
runs, which agrees with the records; and unlike runs are not compared."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from common import refused
from tiny import measured

from chunkkv_lib.compressors import ChunkKV, SnapKV, preset
from chunkkv_lib.report import sensitivity
from chunkkv_lib.report.records import PRIMARY
from chunkkv_lib.report.style import INK, svg
from chunkkv_lib.runs import load_run
from chunkkv_lib.runs.variants import AXES, SETTINGS, along, variants

CHANGES = {"per_category": 3, "max_tokens": 700, "budget": 0.1, "methods": ("ChunkKV", "SnapKV", "Random")}


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


@pytest.fixture(scope="module")
def run(setting, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sensitivity"
    return load_run(measured(setting, folder, **CHANGES | {"budget": 0.3, "variants": "sensitivity"}))


def test_budgets_lose_what_they_evict(run):
    found = sensitivity.axis_means(run, "budget")
    random = found[(found["method"] == "Random") & (found["metric"] == "kv_l1_loss")]
    assert random["budget"].tolist() == [0.025, 0.05, 0.1, 0.2, 0.3, 0.5]
    np.testing.assert_allclose(random["estimate"], 1 - random["budget"], atol=0.03)
    assert (random["n"] == 6).all() and (random["low"] < random["estimate"]).all()
    assert set(found["metric"]) == {*PRIMARY, sensitivity.OUTCOME}
    wide = sensitivity.variant_means(run, "kv_l1_loss")  # a column for each variant, of the same sequences
    assert len(wide) == 6 and {"Random", "Random, budget 0.1", "SnapKV, kernel 15"} <= set(wide)
    np.testing.assert_allclose(wide["Random, budget 0.1"] - wide["Random, budget 0.5"], 0.4, atol=0.05)
    assert set(sensitivity.variant_means(run, "nll_increase")) == set(wide)


def test_the_unchanged_method_is_a_point_of_every_axis(run):
    plain = run.records[run.records["method"] == "ChunkKV"].groupby("sequence")[PRIMARY[1]].mean().mean()
    for field, value in (("budget", 0.3), ("chunk_size", 10), ("window", 8), ("preset", "paper")):
        found = sensitivity.axis_means(run, field)
        here = found[(found["metric"] == PRIMARY[1]) & (found["method"] == "ChunkKV") & (found[field] == value)]
        assert here["estimate"].item() == pytest.approx(plain)


def test_the_figure_draws_the_means_and_the_straight_line_of_the_budget(run):
    means = sensitivity.axis_means(run, "budget")
    figure = sensitivity.axis_figure(means, "budget", "Label of the axis", "Subject", 0.3)
    loss, _, hurt = figure.axes
    at = [0.025, 0.05, 0.1, 0.2, 0.3, 0.5]
    (straight,) = (line for line in loss.lines if line.get_linestyle() == ":" and line.get_color() == INK)
    assert set(straight.get_xdata()) == {*at} and straight.get_ydata() == pytest.approx(1 - straight.get_xdata())
    drawn = {line.get_label(): line.get_ydata() for line in hurt.lines}
    mine = means[(means["metric"] == "nll_increase") & (means["method"] == "ChunkKV")]
    assert drawn["ChunkKV"] == pytest.approx(mine.sort_values("budget")["estimate"])
    assert svg(figure) == svg(figure)


def test_runs_are_compared_on_the_sequences_they_share_and_layer_by_layer(setting, tmp_path):
    changes = {1: {"reuse": 1}, 2: {"reuse": 2, "per_category": 2}}
    runs = {i: load_run(measured(setting, tmp_path / f"{i}", **CHANGES | own)) for i, own in changes.items()}
    found = sensitivity.across_runs(runs, "reuse", ("kv_l1_loss",), ("ChunkKV",))
    assert found["reuse"].tolist() == [1, 2] and (found["n"] == 4).all()
    change = sensitivity.reuse_by_layer(runs, "attention_cosine_similarity", "SnapKV").set_index("layer")["change"]
    first, second = (run.records[run.records["method"] == "SnapKV"] for run in runs.values())
    own = [one.groupby("layer")["attention_cosine_similarity"].mean()
           for one in (first[first["sequence"].isin(second["sequence"])], second)]  # fmt: skip
    np.testing.assert_allclose(change, (own[1] - own[0]).loc[change.index], atol=1e-6)
    assert (change[0::2] == 0).all() and (change[1::2] != 0).all()  # every second layer takes the set below
    with refused("'1'", "--profile sensitivity"):
        sensitivity.axis_means(runs[1], "budget")
    other = load_run(measured(setting, tmp_path / "other", **CHANGES | {"max_tokens": 300, "per_category": 2}))
    with refused("max_tokens=700", "seed alone"):
        sensitivity.across_runs({0: other, 1: runs[1]}, "seed")
