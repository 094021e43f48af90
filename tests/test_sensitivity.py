"""Sensitivity: means along an axis and across runs agree with the records, and unlike runs are not compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from common import refused
from tiny import tiny_longbench, tiny_model

from chunkkv_lib.report.sensitivity import (
    across_runs,
    axis_base,
    axis_best,
    axis_figure,
    axis_gap,
    axis_means,
    best_first,
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
    found = axis_means(run, "budget", ("kv_l1_loss", "nll_increase"))
    random = found[(found["method"] == "Random") & (found["metric"] == "kv_l1_loss")]
    assert random["budget"].tolist() == [0.025, 0.05, 0.1, 0.2, 0.3, 0.5]
    np.testing.assert_allclose(random["estimate"], 1 - random["budget"], atol=0.03)
    assert (random["n"] == 6).all() and (random["low"] < random["estimate"]).all()
    assert set(found["metric"]) == {"kv_l1_loss", "nll_increase"}


def test_the_unchanged_method_is_a_point_of_every_axis(run):
    plain = run.records[run.records["method"] == "ChunkKV"].groupby("sequence")["attention_mass"].mean().mean()
    for field, value in (("budget", 0.3), ("chunk_size", 10), ("window", 8), ("preset", "paper")):
        assert axis_base(run, field) == value
        found = axis_means(run, field, ("attention_mass",))
        here = found[(found["method"] == "ChunkKV") & (found[field] == value)]
        assert here["estimate"].item() == pytest.approx(plain)


def test_a_gap_is_paired_by_sequence(run):
    gap = axis_gap(run, "budget", "kv_l1_loss", "Random", 0.1, 0.5)
    assert gap.n == 6 and gap.estimate == pytest.approx(0.4, abs=0.02)
    assert axis_gap(run, "budget", "kv_l1_loss", "Random", 0.5, 0.1).estimate == pytest.approx(-gap.estimate)
    with refused("'Oracle'", "ChunkKV"):
        axis_gap(run, "budget", "kv_l1_loss", "Oracle", 0.1, 0.5)
    with refused("budget 0.15", "0.1"):
        axis_gap(run, "budget", "kv_l1_loss", "Random", 0.15, 0.5)


def test_one_category_alone(run):
    found = axis_means(run, "chunk_size", ("kv_l1_loss",), category="Multi-Document QA")
    assert (found["n"] == 3).all()


@pytest.mark.parametrize("field", ["budget", "granularity"])
def test_the_figure_draws_numbers_and_names(run, field):
    means, marked = axis_means(run, field), axis_base(run, field)
    drawn, again = (svg(axis_figure(means, field, "Label of the axis", marked, "Subject")) for _ in range(2))
    assert drawn == again and len(drawn) > 10_000


def test_runs_are_compared_on_the_sequences_they_share(settings, tmp_path):
    runs = {}
    for reuse, count in ((1, 3), (2, 2)):
        changed = replace(settings, reuse=reuse, per_category=count)
        runs[reuse] = load_run(measure(changed, tmp_path / f"{reuse}", progress=False))
    found = across_runs(runs, "reuse", ("kv_l1_loss",), ("ChunkKV",))
    assert found["reuse"].tolist() == [1, 2] and (found["n"] == 4).all()
    with refused("max_tokens=700", "seed alone"):
        other = replace(settings, max_tokens=300, per_category=2)
        across_runs({0: load_run(measure(other, tmp_path / "other", progress=False)), 1: runs[1]}, "seed")


def test_orders_in_words():
    rows = [("kv_l1_loss", "A", 1024, 0.8), ("kv_l1_loss", "B", 1024, 0.9), ("kv_l1_loss", "A", 4096, 0.95),
            ("kv_l1_loss", "B", 4096, 0.9), ("attention_mass", "A", 1024, 0.8), ("attention_mass", "B", 1024, 0.9),
            ("attention_mass", "A", 4096, 0.7), ("attention_mass", "B", 4096, 0.75),
            ("attention_mass", "Random", 4096, 0.99)]  # fmt: skip
    means = pd.DataFrame(rows, columns=["metric", "method", "max_tokens", "estimate"])
    told = best_first(means, "max_tokens", ("A", "B"))
    assert told == "L1 loss A > B at 1,024, B > A at 4,096; attention mass B > A throughout"


def test_a_run_without_variants_is_refused(settings, tmp_path):
    run = load_run(measure(replace(settings, per_category=1), tmp_path / "plain", progress=False))
    with refused("'plain'", "--profile sensitivity"):
        axis_means(run, "budget")


def test_the_best_value_comes_with_those_that_are_like_it(run):
    """A random choice loses what it evicts: the largest budget is best, and clearly so."""
    assert axis_best(run, "budget", "kv_l1_loss", "Random") == [0.5]
    best, *like = axis_best(run, "chunk_size", "nll_increase", "ChunkKV")
    for value in like:
        assert not axis_gap(run, "chunk_size", "nll_increase", "ChunkKV", value, best).excludes(0)
    assert best not in like
