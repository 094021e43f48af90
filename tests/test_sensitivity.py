"""Sensitivity: means along an axis and across runs agree with the records, and unlike runs are not compared."""

import numpy as np
import pytest
from common import refused
from tiny import measured

from chunkkv_lib.report.records import PRIMARY
from chunkkv_lib.report.sensitivity import (
    OUTCOME,
    across_runs,
    axis_figure,
    axis_means,
    reuse_by_layer,
    variant_means,
)
from chunkkv_lib.report.style import INK, svg
from chunkkv_lib.runs import load_run

CHANGES = {"per_category": 3, "max_tokens": 700, "budget": 0.1, "methods": ("ChunkKV", "SnapKV", "Random")}


@pytest.fixture(scope="module")
def run(setting, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sensitivity"
    return load_run(measured(setting, folder, **CHANGES | {"budget": 0.3, "variants": "sensitivity"}))


def test_budgets_lose_what_they_evict(run):
    found = axis_means(run, "budget")
    random = found[(found["method"] == "Random") & (found["metric"] == "kv_l1_loss")]
    assert random["budget"].tolist() == [0.025, 0.05, 0.1, 0.2, 0.3, 0.5]
    np.testing.assert_allclose(random["estimate"], 1 - random["budget"], atol=0.03)
    assert (random["n"] == 6).all() and (random["low"] < random["estimate"]).all()
    assert set(found["metric"]) == {*PRIMARY, OUTCOME}
    wide = variant_means(run, "kv_l1_loss")  # a column for each variant, of the same sequences
    assert len(wide) == 6 and {"Random", "Random, budget 0.1", "SnapKV, kernel 15"} <= set(wide)
    np.testing.assert_allclose(wide["Random, budget 0.1"] - wide["Random, budget 0.5"], 0.4, atol=0.05)
    assert set(variant_means(run, "nll_increase")) == set(wide)


def test_the_unchanged_method_is_a_point_of_every_axis(run):
    plain = run.records[run.records["method"] == "ChunkKV"].groupby("sequence")[PRIMARY[1]].mean().mean()
    for field, value in (("budget", 0.3), ("chunk_size", 10), ("window", 8), ("preset", "paper")):
        found = axis_means(run, field)
        here = found[(found["metric"] == PRIMARY[1]) & (found["method"] == "ChunkKV") & (found[field] == value)]
        assert here["estimate"].item() == pytest.approx(plain)


def test_the_figure_draws_the_means_and_the_straight_line_of_the_budget(run):
    means = axis_means(run, "budget")
    figure = axis_figure(means, "budget", "Label of the axis", "Subject", 0.3)
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
    found = across_runs(runs, "reuse", ("kv_l1_loss",), ("ChunkKV",))
    assert found["reuse"].tolist() == [1, 2] and (found["n"] == 4).all()
    change = reuse_by_layer(runs, "attention_cosine_similarity", "SnapKV").set_index("layer")["change"]
    first, second = (run.records[run.records["method"] == "SnapKV"] for run in runs.values())
    own = [one.groupby("layer")["attention_cosine_similarity"].mean()
           for one in (first[first["sequence"].isin(second["sequence"])], second)]  # fmt: skip
    np.testing.assert_allclose(change, (own[1] - own[0]).loc[change.index], atol=1e-6)
    assert (change[0::2] == 0).all() and (change[1::2] != 0).all()  # every second layer takes the set below
    with refused("'1'", "--profile sensitivity"):
        axis_means(runs[1], "budget")
    other = load_run(measured(setting, tmp_path / "other", **CHANGES | {"max_tokens": 300, "per_category": 2}))
    with refused("max_tokens=700", "seed alone"):
        across_runs({0: other, 1: runs[1]}, "seed")
