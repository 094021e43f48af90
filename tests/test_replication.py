"""Several runs on one question: layers on a common axis of depth, and the same texts measured twice."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_records import tiny_run

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.replication import depth_figure, depth_gaps, measured_twice, same_sign
from chunkkv_lib.report.style import SERIES

CATEGORY = "Single-Document QA"


def test_layers_of_two_depths_lie_on_one_axis():
    runs = {"shallow": tiny_run(layers=4), "deep": tiny_run(layers=10, seed=1)}
    found = depth_gaps(runs, CATEGORY, ["kv_l1_loss"], ("ChunkKV", "H2O"))
    assert found.groupby("run", sort=False).size().to_dict() == {"shallow": 4, "deep": 10}
    for label, run in runs.items():
        mine = found[found["run"] == label]
        records = run.records[run.records["category"] == CATEGORY]
        mean = records.pivot_table("kv_l1_loss", "layer", "method", "mean")
        np.testing.assert_allclose(mine["estimate"], mean["ChunkKV"] - mean["H2O"], atol=1e-12)
        layers = len(mine)
        np.testing.assert_allclose(mine["depth"], (np.arange(layers) + 0.5) / layers)


def test_a_run_without_the_category_is_left_out():
    runs = {"has": tiny_run(), "lacks": tiny_run(categories=("Few-shot Learning",))}
    assert set(depth_gaps(runs, CATEGORY)["run"]) == {"has"}
    with pytest.raises(InputError, match="Summarization"):
        depth_gaps(runs, "Summarization")


def test_slices_of_depth_with_the_same_sign():
    runs = {"a": tiny_run(layers=4), "b": tiny_run(layers=8, seed=2)}
    gaps = depth_gaps(runs, CATEGORY, ["kv_l1_loss"], ("ChunkKV", "H2O"))  # always below zero
    gaps.loc[(gaps["run"] == "b") & (gaps["layer"] < 2), "estimate"] = 0.5
    found = same_sign(gaps, bins=4)
    assert found["same"].tolist() == [False, True, True, True]
    assert found.loc[0, "b"] == pytest.approx(0.5)


def test_the_figure_has_a_line_per_run_and_refuses_too_many():
    gaps = depth_gaps({"a": tiny_run(layers=4), "b": tiny_run(layers=8, seed=2)}, CATEGORY)
    figure = depth_figure(gaps, "Subject")
    assert len(figure.axes) == 2
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["a, n = 6", "b, n = 6"]
    many = {str(i): tiny_run() for i in range(len(SERIES) + 1)}
    with pytest.raises(InputError, match=f"at most {len(SERIES)}"):
        depth_figure(depth_gaps(many, CATEGORY), "Subject")


def test_what_two_runs_measured_of_the_same_texts_is_compared_by_pairs():
    first, second = tiny_run(), tiny_run(per_category=4)
    first.answer_records, second.answer_records = first.answers, second.answers
    shifted = second.records["method"] == "H2O"
    second.records.loc[shifted, "kv_l1_loss"] = (
        first.records.merge(second.records.loc[shifted, ["sequence", "method", "layer"]])["kv_l1_loss"].to_numpy()
        + 0.25
    )
    found = measured_twice(first, second, ["ChunkKV", "H2O"]).set_index(["metric", "method"])
    h2o, damage = found.loc[("kv_l1_loss", "H2O")], found.loc[("nll_increase", "ChunkKV")]
    assert h2o["n"] == 8 and damage["n"] == 6  # the first answers have no likelihood
    assert h2o[["estimate", "low", "high"]].tolist() == pytest.approx([0.25] * 3)
    assert h2o["second"] - h2o["first"] == pytest.approx(0.25)
    common = first.records["sequence"].isin(second.records["sequence"]) & (first.records["method"] == "H2O")
    assert h2o["first"] == pytest.approx(first.records.loc[common, "kv_l1_loss"].mean())
    assert damage["estimate"] == 0 and damage["first"] == pytest.approx(10 * (1 - 0.95))
    second.records["sequence"] += "x"
    with pytest.raises(InputError, match="no sequence in common"):
        measured_twice(first, second)
