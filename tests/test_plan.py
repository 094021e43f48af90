"""The plan: every statement can be judged, and is older than the run that judges it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
import yaml

from chunkkv_lib.compressors import preset
from chunkkv_lib.runs.folder import read_manifest
from chunkkv_lib.runs.variants import SETTINGS, variants
from chunkkv_lib.sequences.needles import ANSWER_TOKENS, FORMS

ROOT = Path(__file__).resolve().parents[1]
PLAN = yaml.safe_load((ROOT / "data" / "plan.yml").read_text(encoding="utf-8"))
STATEMENTS = {one["id"]: one for one in PLAN["statements"]}
APPENDIX = {
    "set-1", "set-2", "fig-0", "l1-1", "l1-2", "cos-1", "cos-2", "avg-1", "size-1", "size-2", "seq-1", "mid-1",
    "why-1", "why-2", "why-3", "why-4",
}  # fmt: skip


def test_ids_are_unique_and_the_appendix_is_complete():
    assert len(STATEMENTS) == len(PLAN["statements"]) and STATEMENTS.keys() >= APPENDIX


@pytest.mark.parametrize("id", STATEMENTS)
def test_a_statement_says_how_it_is_judged(id):
    one = STATEMENTS[id]
    assert one["says"].endswith(".") and one["statistic"]
    if one["statistic"].startswith("none;"):
        return
    if "rests_on" in one:
        assert {*one["rests_on"]} < STATEMENTS.keys()
        return
    assert one["direction"] in ("above", "below", "within") and one["smallest"] >= 0 and one["runs"]
    assert one["direction"] != "within" or one["smallest"] > 0
    assert "value" in one or id in APPENDIX, "judged by the plan, or by the claims of the same id"
    labels = {"Full", "Recent", "SnapKV-15", "ChunkKV-15", "H2O, kernel 15"}
    labels |= variants("reach", {name: preset()[name] for name in SETTINGS["reach"][0]})[1].keys()
    value = one.get("value", {})
    assert "spearman" in value or {value[key] for key in ("of", "minus") if key in value} <= labels
    assert {*value.get("kendall", ()), *value.get("among", ())} <= labels
    for place in (value.get("where", {}), value.get("split", {})):
        assert {*place.get("form", ())} <= FORMS.keys() and {*place.get("answer_tokens", ())} <= {*ANSWER_TOKENS}


def confirming() -> list[str]:
    return sorted({run for one in PLAN["statements"] for run in one.get("runs", ())})


@pytest.mark.parametrize("run", confirming())
def test_the_plan_is_older_than_the_runs_that_judge_it(run):
    folder = ROOT / "data" / "runs" / run
    if (manifest := read_manifest(folder)) is None:
        pytest.skip(f"{run} has not been measured yet")
    assert datetime.fromisoformat(manifest["started"]) > datetime.fromisoformat(PLAN["fixed"])
    seed, excluded = manifest["parameters"]["seed"], PLAN["excluded"]
    if manifest["parameters"]["source"] == "needles":
        assert seed not in excluded["needle_seeds"]
    if manifest["parameters"]["source"] == "second-question":
        assert seed not in excluded["second_question_seeds"]


def test_no_confirming_run_holds_a_text_that_was_looked_at():
    def texts(names):
        found = [ROOT / "data" / "runs" / name / "sequences.parquet" for name in names]
        return {text for path in found if path.exists() for text in pd.read_parquet(path)["text_hash"]}

    known = texts(PLAN["excluded"]["texts_of"])
    assert known and not known & texts(confirming())
