"""Sensitivity: means along an axis and across runs agree with the records, and unlike runs are not compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from common import refused
from tiny import tiny_longbench, tiny_model

from chunkkv_lib.report.records import PRIMARY
from chunkkv_lib.report.sensitivity import (
    OUTCOME,
    across_runs,
    axis_base,
    axis_figure,
    axis_means,
    reuse_by_layer,
    variant_means,
)
from chunkkv_lib.report.style import svg
from chunkkv_lib.runs import Parameters, load_run, measure


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Parameters:
    folder = tmp_path_factory.mktemp("setting")
    return Parameters(
        model=str(tiny_model(folder / "model")), data_path=str(tiny_longbench(folder / "longbench")),
        source="longbench", categories=("Single-Document QA", "Multi-Document QA"), per_category=3, max_tokens=700,
        device="cpu", dtype="float32", methods=("ChunkKV", "SnapKV", "Random"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("runs") / "sensitivity"
    return load_run(measure(replace(settings, budget=0.3, variants="sensitivity"), folder, progress=False))


def test_budgets_lose_what_they_evict(run):
    found = axis_means(run, "budget")
    random = found[(found["method"] == "Random") & (found["metric"] == "kv_l1_loss")]
    assert random["budget"].tolist() == [0.025, 0.05, 0.1, 0.2, 0.3, 0.5]
    np.testing.assert_allclose(random["estimate"], 1 - random["budget"], atol=0.03)
    assert (random["n"] == 6).all() and (random["low"] < random["estimate"]).all()
    assert set(found["metric"]) == {*PRIMARY, OUTCOME}


def test_the_unchanged_method_is_a_point_of_every_axis(run):
    plain = run.records[run.records["method"] == "ChunkKV"].groupby("sequence")[PRIMARY[1]].mean().mean()
    for field, value in (("budget", 0.3), ("chunk_size", 10), ("window", 8), ("preset", "paper")):
        assert axis_base(run, field) == value
        found = axis_means(run, field)
        here = found[(found["metric"] == PRIMARY[1]) & (found["method"] == "ChunkKV") & (found[field] == value)]
        assert here["estimate"].item() == pytest.approx(plain)


def test_variants_are_columns_that_share_their_sequences(run):
    found = variant_means(run, "kv_l1_loss")
    assert len(found) == 6 and {"Random", "Random, budget 0.1", "SnapKV, kernel 15"} <= set(found)
    difference = (found["Random, budget 0.1"] - found["Random, budget 0.5"]).to_numpy()
    np.testing.assert_allclose(difference, 0.4, atol=0.05)
    assert set(variant_means(run, "nll_increase")) == set(found)


def test_the_figure_draws_the_means_and_the_straight_line_of_the_budget(run):
    means = axis_means(run, "budget")
    figure = axis_figure(means, "budget", "Label of the axis", axis_base(run, "budget"), "Subject", "linear")
    loss, _, hurt = figure.axes
    at = [0.025, 0.05, 0.1, 0.2, 0.3, 0.5]
    straight = [line for line in loss.lines if line.get_linestyle() == ":" and list(line.get_xdata()) == at]
    assert straight and straight[0].get_ydata() == pytest.approx([1 - budget for budget in at])
    drawn = {line.get_label(): line.get_ydata() for line in hurt.lines}
    mine = means[(means["metric"] == "nll_increase") & (means["method"] == "ChunkKV")]
    assert drawn["ChunkKV"] == pytest.approx(mine.sort_values("budget")["estimate"])
    assert svg(figure) == svg(figure)


def test_runs_are_compared_on_the_sequences_they_share_and_layer_by_layer(settings, tmp_path):
    runs = {}
    for reuse, count in ((1, 3), (2, 2)):
        changed = replace(settings, reuse=reuse, per_category=count)
        runs[reuse] = load_run(measure(changed, tmp_path / f"{reuse}", progress=False))
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
    with refused("max_tokens=700", "seed alone"):
        other = replace(settings, max_tokens=300, per_category=2)
        across_runs({0: load_run(measure(other, tmp_path / "other", progress=False)), 1: runs[1]}, "seed")
