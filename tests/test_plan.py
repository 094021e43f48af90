"""The plan: every statement can be judged, and is older than the run that judges it."""

from collections.abc import Iterable
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import yaml
from common import ROOT, refused
from synthetic_records import needle_ids, run_of

from chunkkv_lib.compressors import preset
from chunkkv_lib.errors import InputError
from chunkkv_lib.report import plan, reach
from chunkkv_lib.report.statistics import Interval
from chunkkv_lib.runs import Parameters
from chunkkv_lib.runs.folder import read_manifest
from chunkkv_lib.runs.variants import SETTINGS, variants
from chunkkv_lib.sequences.needles import ANSWER_TOKENS, FORMS

PLAN = yaml.safe_load((ROOT / "data" / "plan.yml").read_text(encoding="utf-8"))
STATEMENTS = {one["id"]: one for one in PLAN["statements"]}
CONFIRMING = sorted({run for one in PLAN["statements"] for run in one.get("runs", ())})
APPENDIX = {
    "set-1", "set-2", "fig-0", "l1-1", "l1-2", "cos-1", "cos-2", "avg-1", "size-1", "size-2", "seq-1", "mid-1",
    "why-1", "why-2", "why-3", "why-4",
}  # fmt: skip


def test_every_statement_says_how_it_is_judged():
    """Of A.1's own statements, all of which stand in the plan, the claims of the same id judge some."""
    assert len(STATEMENTS) == len(PLAN["statements"]) and STATEMENTS.keys() >= APPENDIX
    labels = {"Full", "Recent", "SnapKV-15", "ChunkKV-15"}
    labels |= variants("reach", {name: preset()[name] for name in SETTINGS["reach"][0]}).keys()
    for id, one in STATEMENTS.items():
        assert one["says"].endswith(".") and one["statistic"]
        assert {*one.get("rests_on", ())} < STATEMENTS.keys()
        if one["statistic"].startswith("none;") or "rests_on" in one:
            continue
        assert one["direction"] in ("above", "below", "within") and one["runs"] and one["smallest"] >= 0
        assert one["direction"] != "within" or one["smallest"] > 0
        assert "value" in one or id in APPENDIX
        value = one.get("value", {})
        assert "spearman" in value or {value[key] for key in ("of", "minus") if key in value} <= labels
        assert {*value.get("kendall", ()), *value.get("among", ())} <= labels
        for place in (value.get("where", {}), value.get("split", {})):
            assert {*place.get("form", ())} <= FORMS.keys() and {*place.get("answer_tokens", ())} <= {*ANSWER_TOKENS}


@pytest.mark.parametrize("run", CONFIRMING)
def test_the_plan_is_older_than_the_runs_that_judge_it(run):
    folder = ROOT / "data" / "runs" / run
    if (manifest := read_manifest(folder)) is None:
        pytest.skip(f"{run} has not been measured yet")
    assert datetime.fromisoformat(manifest["started"]) > datetime.fromisoformat(PLAN["fixed"])
    drawn = {"needles": "needle_seeds", "second-question": "second_question_seeds"}
    if (source := manifest["parameters"]["source"]) in drawn:
        assert manifest["parameters"]["seed"] not in PLAN["excluded"][drawn[source]]


def test_no_confirming_run_holds_a_text_that_was_looked_at():
    def texts(names):
        found = [ROOT / "data" / "runs" / name / "sequences.parquet" for name in names]
        return {text for path in found if path.exists() for text in pd.read_parquet(path)["text_hash"]}

    known = texts(PLAN["excluded"]["texts_of"])
    assert known and not known & texts(CONFIRMING)


def needles() -> list[dict]:
    ids = needle_ids(6, (2, 5, 9, 16))
    return [{"sequence": id, "document": f"d{i % 8}", "category": "0 %"} for i, id in enumerate(ids)]


def asked(count: int, of_document: int = 1, asks: Iterable[str] = ("own", "other")) -> list[dict]:
    return [{"sequence": f"{ask}{i}", "document": f"d{i // of_document}", "category": ask}
            for i in range(count) for ask in asks]  # fmt: skip


def test_a_rule_that_finds_what_its_reach_spans_has_a_difference_of_one():
    sequences = needles()
    length = np.array([int(one["sequence"].split(":")[2]) for one in sequences])
    for family, rules in plan.REACHES.items():
        spans = run_of("needles", sequences, {label: (reach >= length) * 1.0 for label, reach in rules.items()})
        found = plan.compute(spans, {"reach": family})
        assert (found.estimate, found.low, found.high) == (1, 1, 1)
        blind = run_of("needles", sequences, dict.fromkeys(rules, (length < 9) * 1.0))
        assert plan.compute(blind, {"reach": family}).estimate == 0


def test_a_paired_difference_by_hand_with_one_taken_from_another():
    sequences = asked(20, 2)
    other = np.array([one["category"] == "other" for one in sequences])
    noise = np.random.default_rng(0).normal(size=40)
    run = run_of("second-question", sequences, {"SnapKV": noise + 1 + 2 * other, "Full": noise}, "nll")
    value = {"column": "nll", "of": "SnapKV", "minus": "Full"}
    assert plan.compute(run, value | {"where": {"category": ["other"]}}).estimate == pytest.approx(3)
    split = plan.compute(run, value | {"where": {"category": ["other"]}, "split": {"category": ["own"]}})
    assert (split.low, split.estimate, split.high) == pytest.approx((2, 2, 2)) and split.n == 40
    assert plan.compute(run, {"column": "nll", "of": "Full"}).estimate == pytest.approx(noise.mean())
    for wrong, said in (({"column": "kl"}, "no column 'kl'"), ({"minus": "H2O"}, "no method 'H2O'")):
        with refused(said, "measure it"):
            plan.compute(run, value | wrong)


def test_the_order_of_methods_between_two_windows():
    sequences = asked(9, asks="ab")
    value = {"kendall": list("wxyz"), "column": "nll", "between": ["a", "b"]}
    for tau in (1, -1):
        side = np.array([1 if one["category"] == "a" else tau for one in sequences])
        run = run_of("second-question", sequences, {name: k * side for k, name in enumerate("wxyz")}, "nll")
        assert plan.compute(run, value).estimate == pytest.approx(tau)


def test_what_foretells_is_a_correlation_of_differences():
    rng = np.random.default_rng(1)
    sequences = [{"sequence": str(i), "document": f"d{i // 2}", "category": "row"} for i in range(60)]
    error, base = rng.normal(size=(3, 60)), rng.normal(size=60)
    run = run_of("open", sequences, {name: 5 * k + base + error[k] for k, name in enumerate("xyz")}, "injected_error")
    noise = rng.normal(size=(3, 60))
    for column, values in {"kl": error, "attention_cosine_similarity": -error, "kv_l1_loss": noise}.items():
        run.answers[column] = values.T.ravel()

    def between(first):
        return plan.compute(run, {"spearman": [first, "kl"], "pairs": [["x", "y"]]})

    assert between("injected_error").estimate == between("attention_cosine_similarity").estimate == pytest.approx(1)
    assert abs(between("kv_l1_loss").estimate) < 0.3
    gain = plan.compute(run, {"spearman": ["injected_error", "kl"], "minus": "kv_l1_loss", "among": list("xyz")})
    assert gain.estimate > 0.6 and gain.low > 0.4


@pytest.mark.parametrize(
    ("low", "high", "direction", "verdict"),
    [
        (0.11, 0.3, "above", "confirmed"), (0.05, 0.3, "above", "left open"), (0.01, 0.09, "above", "refuted"),
        (-0.3, -0.11, "below", "confirmed"), (-0.3, 0.0, "below", "left open"), (-0.09, 0.3, "below", "refuted"),
        (-0.09, 0.09, "within", "confirmed"), (-0.2, 0.05, "within", "left open"), (0.11, 0.2, "within", "refuted"),
        (float("nan"), float("nan"), "above", "left open"),
    ],
)  # fmt: skip
def test_verdicts_by_hand(low, high, direction, verdict):
    assert plan.judge(Interval((low + high) / 2, low, high, 9), direction, 0.1) == verdict


def test_judged_has_a_row_for_each_statement_and_run_that_is_there():
    sequences = needles()
    labels = {label for rules in plan.REACHES.values() for label in rules}
    made = {"needles-smollm2": run_of("needles", sequences, {label: np.ones(len(sequences)) for label in labels})}

    def load(name):
        if name in made:
            return made[name]
        raise InputError("no such run.")

    table = plan.judged(load)
    assert set(table["run"]) == {"needles-smollm2"} and "reach-snapkv" in set(table["id"])
    assert set(table["verdict"]) <= {"confirmed", "refuted", "left open"} and not table["known"].any()
    text = plan.judged_table(table, "Judged.", "tab-x")
    assert "(`reach-snapkv`) | **refuted** | 0.00 [0.00," in text and "| Run |" not in text
    assert "| Run |" in plan.judged_table(pd.concat([table, table.assign(run="b")]), "Judged.")


def test_what_the_window_saw_by_method():
    sequences = asked(8)
    side = np.array([one["category"] == "other" for one in sequences]) * 1.0
    made = run_of("second-question", sequences, {"Full": np.full(16, 2.0), "SnapKV": 3 + side}, "nll")
    made.layers = made.sequences[["sequence"]].assign(method="SnapKV", evidence_kept=0.5)
    made.parameters = Parameters(source="second-question", asks=("own", "other"))
    table = reach.asked(made).set_index(["method", "asks"])
    assert list(table.index) == [("SnapKV", "own"), ("SnapKV", "other")] and list(table["estimate"]) == [1, 2]
    assert list(reach.asked(made, "evidence_kept")["estimate"]) == [0.5, 0.5]
