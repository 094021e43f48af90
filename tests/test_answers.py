"""What the chapter on written answers computes, on records small enough to recompute by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from common import refused
from scipy.stats import spearmanr

from chunkkv_lib.report import answers
from chunkkv_lib.report import damage as dm
from chunkkv_lib.report.records import damage
from chunkkv_lib.report.statistics import proportion_interval
from chunkkv_lib.report.style import svg

METHODS = ("ChunkKV", "SnapKV", "H2O", "Random", "StreamingLLM")


def run_of(categories, per_category: int, score, chance=None, seed: int = 0) -> SimpleNamespace:
    """A run whose scores are score(category, i, method); metrics and likelihoods are random."""
    rng = np.random.default_rng(seed)
    sequences, rows, layers = [], [], []
    for category in categories:
        for i in range(per_category):
            name = f"{category}:{i}"
            sequences.append({"sequence": name, "category": category, "dataset": "a"})
            sequences[-1]["chance_score"] = 0.1 if chance is None else chance(category, i)
            for method in ("Full", *METHODS):
                same = method == "Full"
                rows.append(
                    {"sequence": name, "method": method, "nll": 1.0 if same else 1 + rng.random(), "kl": rng.random(),
                     "top1_agreement": 1.0, "generated_tokens": 5, "score": score(category, i, method),
                     "prefix_agreement": 1.0 if same else rng.random(), "token_f1": 1.0 if same else rng.random(),
                     "forced_opening": i == 0}
                )  # fmt: skip
                if not same:
                    l1, cosine, kept = rng.random(3)
                    layers.append({"sequence": name, "method": method, "layer": 0, "kv_l1_loss": l1,
                                   "attention_cosine_similarity": cosine, "evidence_kept": kept})  # fmt: skip
    frames = {"sequences": sequences, "answers": rows, "layers": layers}
    run = SimpleNamespace(name="tiny", **{name: pd.DataFrame(found) for name, found in frames.items()})
    known = run.sequences[["sequence", "category", "dataset"]]
    run.answer_records, run.records = run.answers.merge(known), run.layers.merge(known)
    return run


def graded(category: str, i: int, method: str) -> float:
    """Row A: 0.8 with the full cache, less with others; row B: what anybody would score."""
    if category == "B":
        return 0.1 + 0.01 * (i % 3 - 1)
    return {"Full": 0.8, "ChunkKV": 0.7, "SnapKV": 0.5, "H2O": 0.4, "Random": 0.2, "StreamingLLM": 0.3}[
        method
    ] + i / 100


@pytest.fixture(scope="module")
def run():
    return run_of(["A", "B"], 6, graded)


@pytest.fixture(scope="module")
def needles():
    """ChunkKV finds all but the middle, StreamingLLM only the end, the full cache all."""
    found = {"ChunkKV": ("0 %", "100 %"), "StreamingLLM": ("100 %",), "Full": ("0 %", "50 %", "100 %")}
    return run_of(["0 %", "50 %", "100 %"], 4, lambda c, i, method: float(c in found.get(method, ())))


def test_damage_to_a_score_by_hand(run):
    hurt = damage(run.answers)
    assert "Full" not in set(hurt["method"])
    mine = hurt[hurt["sequence"] == "A:0"].set_index("method")
    assert mine.loc["SnapKV", "score_loss"] == pytest.approx(0.3)
    np.testing.assert_allclose(hurt["answer_change"], 1 - hurt["token_f1"])
    assert "score_loss" not in damage(run.answers.drop(columns="score"))


def test_ability_is_the_full_cache_against_the_floor(run):
    found = answers.ability(run).set_index("category")
    assert list(found.index) == ["A", "B", "All"]
    assert found.loc["A", "full"].estimate == pytest.approx(0.825) and found.loc["A", "gap"].n == 6
    assert found.loc["A", "gap"].estimate == pytest.approx(0.725) and found.loc["A", "gap"].excludes(0)
    assert found.loc["B", "gap"].estimate == pytest.approx(0) and found.loc["All", "gap"].n == 12
    assert found.loc["A", "forced"] == pytest.approx(1 / 6)
    assert answers.able(run) == ["A"]


def test_a_floor_that_is_higher_is_no_ability():
    worse = run_of(["A"], 6, graded, chance=lambda category, i: 0.9 + i / 50)
    assert answers.able(worse) == [] and answers.answer_claims(worse)[0].verdict == "not in every row"


def test_relations_are_rank_correlations_within_sequences(run):
    found = dm.relations(run.records, damage(run.answer_records), ["kv_l1_loss"], ["answer_change", "score_loss"])
    merged = damage(run.answers).merge(run.layers[["sequence", "method", "kv_l1_loss"]])
    by_hand = [
        spearmanr(group["kv_l1_loss"], group["answer_change"]).statistic for _, group in merged.groupby("sequence")
    ]
    row = found.set_index("outcome").loc["answer_change"]
    assert row["within"].estimate == pytest.approx(np.mean(by_hand)) and row["within"].n == 12
    assert found.set_index("outcome").loc["score_loss", "within"].n == 6, "row B's scores are the same for all methods"
    text = dm.relations_table(found, "Correlations.", "tab-x")
    assert ":name: tab-x" in text and "Change of the written answer | + |" in text


def test_outcomes_as_a_table(run):
    costs = dm.outcomes(damage(run.answer_records), ("score_loss", "prefix_agreement"))
    text = dm.outcomes_table(costs, "Costs.")
    assert "Loss of LongBench score ↓" in text and "in step with the full cache's ↑" in text
    assert "| Random (control) | 0.3" in text


def test_hits_are_counted_by_depth(needles):
    found = answers.hit_rates(needles)
    assert list(found["method"].unique()) == ["Full", "ChunkKV", "SnapKV", "H2O", "StreamingLLM", "Random"]
    mine = found[found["method"] == "ChunkKV"]
    assert mine["depth"].tolist() == [0, 0.5, 1] and mine["hits"].tolist() == [4, 0, 4] and (mine["n"] == 4).all()
    assert (mine["low"] >= 0).all() and (mine["high"] <= 1).all() and (mine["low"] < mine["high"]).all()
    assert answers.found_gap(needles, "ChunkKV", "StreamingLLM").estimate == pytest.approx(1 / 3)
    judged = {claim.id: claim.verdict for claim in answers.needle_claims(needles)}
    assert judged["needles-snapkv"] == "supported" and len(judged) == 4


def test_the_map_names_every_count(needles):
    drawn = answers.needle_map(answers.hit_rates(needles))
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert texts[:4] == ["4/4", "4/4", "4/4", "12/12"] and texts[4:8] == ["4/4", "0/4", "4/4", "8/12"]
    assert "12 hidden" in drawn.get_suptitle() and svg(drawn) == svg(answers.needle_map(answers.hit_rates(needles)))


def test_means_by_depth(needles):
    means = answers.depth_means(needles, ("evidence_kept", "nll_increase"), ("ChunkKV", "Random"))
    assert len(means) == 2 * 2 * 3 and (means["n"] == 4).all()
    layers = needles.records
    here = layers[(layers["method"] == "Random") & (layers["category"] == "50 %")]["evidence_kept"].mean()
    row = means[(means["metric"] == "evidence_kept") & (means["method"] == "Random") & (means["depth"] == 0.5)]
    assert row["estimate"].item() == pytest.approx(here)


def test_claims_follow_the_numbers_and_a_score_below_its_floor_supports_nothing(run):
    judged = {claim.id: claim.verdict for claim in answers.answer_claims(run)}
    assert judged["able"] == "cannot be told here" and len(judged) == 1 + 4 + 4
    scores = [id for id in judged if "score-loss" in id]
    assert len(scores) == 4 and {judged[id] for id in scores} == {"not comparable"}  # row B is at its floor
    able = {claim.id: claim.verdict for claim in answers.answer_claims(run_of(["A"], 6, graded))}
    assert able["able"] == able["score-loss-snapkv"] == "supported"


def test_a_run_without_written_answers_is_refused(run):
    plain = SimpleNamespace(name="plain", answers=run.answers.drop(columns="score"), sequences=run.sequences)
    with refused("'plain'", "--profile answers"):
        answers.ability(plain)


def test_a_share_has_wilsons_interval():
    """By the formula: centre (p + z²/2n) / (1 + z²/n), for 5 of 6."""
    z, n, p = 1.959964, 6, 5 / 6
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = proportion_interval(5, 6)
    assert (found.low, found.high) == pytest.approx(
        ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    )
    assert found.estimate == pytest.approx(p) and found.n == 6
    assert proportion_interval(0, 6).low == pytest.approx(0, abs=1e-9) and proportion_interval(0, 6).high > 0.3
    assert np.isnan(proportion_interval(0, 0).estimate)
    with refused("7 successes of 6"):
        proportion_interval(7, 6)
