"""Verdicts: records made so that the right one is known, and each turned around so that a wrong one would show."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_records import tiny_run

from chunkkv_lib.report.claims import (
    CANNOT_TELL,
    NOT_SUPPORTED,
    SUPPORTED,
    claims,
    claims_side_by_side,
    damage_claims,
    layer_claims,
    say,
    table_claims,
    verdict,
    verdict_range,
)
from chunkkv_lib.report.records import paper_table_11
from chunkkv_lib.report.statistics import Interval

PAPER = paper_table_11()
CATEGORIES = tuple(PAPER["category"].unique())
L1, COSINE = "kv_l1_loss", "attention_cosine_similarity"


def records_of(l1, cosine, category=lambda name: 0.0, categories=CATEGORIES, layers=8, **options):
    """Records with given means by method; `category(name)` is added to both, noise comes from `tiny_run`."""
    records = tiny_run(methods=tuple(l1), categories=categories, layers=layers, **options).records
    for metric, values in ((L1, l1), (COSINE, cosine)):
        own = records.groupby("method")[metric].transform("mean")
        records[metric] += records["method"].map(values) - own + records["category"].map(category)
    return records


LIKE_THE_PAPER = {"ChunkKV": 0.877, "SnapKV": 0.893, "H2O": 0.891, "Random": 0.90}
COSINES = {"ChunkKV": 0.384, "SnapKV": 0.378, "H2O": 0.376, "Random": 0.31}


def verdicts(found):
    return {claim.statement: claim.verdict for claim in found}


def order(method, baseline):
    return {
        L1: f"{method} loses less L1 mass than {baseline}, in every sub-category",
        COSINE: f"{method} has a higher attention cosine than {baseline}, in every sub-category",
    }


# -------------------------------------------------------------------------------- one interval
def test_verdict_by_hand():
    above, below, around = (Interval(x, x - 1, x + 1, 9) for x in (2.0, -2.0, 0.5))
    assert [verdict(found, 1) for found in (above, below, around)] == [SUPPORTED, NOT_SUPPORTED, CANNOT_TELL]
    assert [verdict(found, -1) for found in (above, below, around)] == [NOT_SUPPORTED, SUPPORTED, CANNOT_TELL]
    assert verdict(Interval(2.0, np.nan, np.nan, 1), 1) == CANNOT_TELL
    said = [say(found, "below", "above", "neither") for found in (above, below, around)]
    assert said == ["above", "below", "neither"]


def test_verdict_range_by_hand():
    cases = {(1.2, 1.8): SUPPORTED, (0.2, 0.8): NOT_SUPPORTED, (2.1, 3): NOT_SUPPORTED, (0.8, 1.5): CANNOT_TELL}
    for (low, high), expected in cases.items():
        assert verdict_range(Interval((low + high) / 2, low, high, 9), 1, 2) == expected
    assert verdict_range(Interval(1.5, np.nan, np.nan, 1), 1, 2) == CANNOT_TELL


# -------------------------------------------------------------------------------- the table's claims
def test_the_paper_s_own_numbers_support_its_order():
    found = verdicts(table_claims(records_of(LIKE_THE_PAPER, COSINES), PAPER))
    for pair in (("ChunkKV", "SnapKV"), ("ChunkKV", "H2O")):
        assert found[order(*pair)[L1]] == found[order(*pair)[COSINE]] == SUPPORTED
    assert found[order("H2O", "SnapKV")[L1]] == found[order("SnapKV", "H2O")[COSINE]] == SUPPORTED
    assert found["All three lose a smaller share of L1 mass than of tokens"] == SUPPORTED


def test_exchanged_methods_turn_the_verdicts_around():
    swap = {"ChunkKV": "SnapKV", "SnapKV": "ChunkKV", "H2O": "H2O", "Random": "Random"}
    l1, cosine = ({m: values[swap[m]] for m in values} for values in (LIKE_THE_PAPER, COSINES))
    found = verdicts(table_claims(records_of(l1, cosine), PAPER))
    assert found[order("ChunkKV", "SnapKV")[L1]] == found[order("ChunkKV", "SnapKV")[COSINE]] == NOT_SUPPORTED
    assert found[order("H2O", "SnapKV")[L1]] == NOT_SUPPORTED  # H2O is now behind "SnapKV"
    assert found[order("SnapKV", "H2O")[COSINE]] == SUPPORTED


def test_the_sub_category_farthest_on_the_other_side_decides_and_is_named():
    records = records_of(LIKE_THE_PAPER, COSINES)
    for category, much in (("Few-shot Learning", 0.03), ("Summarization", 0.05)):
        records.loc[(records["method"] == "ChunkKV") & (records["category"] == category), L1] += much
    claim = next(c for c in table_claims(records, PAPER) if c.statement == order("ChunkKV", "SnapKV")[L1])
    assert claim.verdict == NOT_SUPPORTED and claim.evidence.endswith("ChunkKV − SnapKV, Summarization")
    assert claim.evidence.startswith("clearly so in 3 of 5") and claim.number.low > 0 and claim.number.n == 6


def test_a_sub_category_without_a_difference_leaves_it_open():
    records = records_of(LIKE_THE_PAPER, COSINES)
    rows = records["category"] == "Summarization"
    snapkv = records.loc[rows & (records["method"] == "SnapKV"), L1].to_numpy()
    sign = np.where(records.loc[rows & (records["method"] == "ChunkKV"), "sequence"].str[-1].astype(int) % 2, 1, -1)
    records.loc[rows & (records["method"] == "ChunkKV"), L1] = snapkv + 0.01 * sign
    assert verdicts(table_claims(records, PAPER))[order("ChunkKV", "SnapKV")[L1]] == CANNOT_TELL


@pytest.mark.parametrize(
    ("chunkkv", "expected"),
    [(0.877, SUPPORTED), (0.8925, NOT_SUPPORTED), (0.80, NOT_SUPPORTED), (0.91, NOT_SUPPORTED)],
)
def test_about_two_per_cent_is_neither_less_than_half_of_it_nor_the_other_way(chunkkv, expected):
    found = verdicts(table_claims(records_of(LIKE_THE_PAPER | {"ChunkKV": chunkkv}, COSINES), PAPER))
    assert found["ChunkKV's L1 loss is about 2 % below SnapKV's"] == expected


@pytest.mark.parametrize(("few_shot", "expected"), [(0.01, SUPPORTED), (-0.01, NOT_SUPPORTED), (0.0, CANNOT_TELL)])
def test_few_shot_learning_as_the_odd_row(few_shot, expected):
    records = records_of(LIKE_THE_PAPER, COSINES)
    own = (records["category"] == "Few-shot Learning") & (records["method"] == "ChunkKV")
    records.loc[own, L1] += few_shot  # less gain
    records.loc[own, COSINE] -= few_shot
    found = verdicts(table_claims(records, PAPER))
    assert found["ChunkKV gains least L1 loss in few-shot learning"] == expected
    assert found["ChunkKV gains least attention cosine in few-shot learning"] == expected


def test_the_highest_row_and_the_flat_rows():
    higher = lambda name: 0.05 * (name == "Few-shot Learning")  # noqa: E731
    found = verdicts(table_claims(records_of(LIKE_THE_PAPER, COSINES, category=higher), PAPER))
    assert found["The attention cosine is highest in few-shot learning"] == SUPPORTED
    lower = verdicts(table_claims(records_of(LIKE_THE_PAPER, COSINES, category=lambda n: -higher(n)), PAPER))
    assert lower["The attention cosine is highest in few-shot learning"] == NOT_SUPPORTED

    flat = "SnapKV's and H2O's L1 losses hardly move with the task, ChunkKV's do"
    records = records_of(LIKE_THE_PAPER, COSINES)
    moves = records["category"].map({name: 0.01 * i for i, name in enumerate(CATEGORIES)})
    for mover, expected in (("ChunkKV", SUPPORTED), ("SnapKV", NOT_SUPPORTED)):
        moved = records.copy()
        moved.loc[moved["method"] == mover, L1] += moves
        assert verdicts(table_claims(moved, PAPER))[flat] == expected


# -------------------------------------------------------------------------------- layers and answers
@pytest.mark.parametrize(("inside", "expected"), [(True, SUPPORTED), (False, NOT_SUPPORTED)])
def test_a_gain_inside_or_outside_the_paper_s_layers(inside, expected):
    equal = {"ChunkKV": 0.9, "SnapKV": 0.9, "H2O": 0.9}
    records = records_of(equal, {"ChunkKV": 0.4, "SnapKV": 0.4, "H2O": 0.4}, layers=32)
    in_band = records["layer"].between(5, 25)
    records.loc[(records["method"] == "ChunkKV") & (in_band == inside), L1] -= 0.02
    late = records["layer"].between(0, 5) | records["layer"].between(20, 30)
    records.loc[(records["method"] == "ChunkKV") & (late == inside), COSINE] += 0.02
    found = verdicts(layer_claims(records))
    for baseline in ("SnapKV", "H2O"):
        gain = f"ChunkKV's gain over {baseline} in"
        assert found[f"{gain} L1 loss is larger in layers 5–25 of 32 than outside"] == expected
        assert found[f"{gain} cosine is larger in layers 0–5 and 20–30 of 32 than outside"] == expected


def test_overlap_of_neighbouring_layers():
    records, overlap = records_of(LIKE_THE_PAPER, COSINES), "ChunkKV's kept sets change least from layer to layer"
    assert verdicts(layer_claims(records))[overlap] == CANNOT_TELL  # all 0.3
    records.loc[records["method"] == "ChunkKV", "overlap_layer_below"] += 0.2
    assert verdicts(layer_claims(records))[overlap] == SUPPORTED
    records.loc[records["method"] == "H2O", "overlap_layer_below"] += 0.4
    assert verdicts(layer_claims(records))[overlap] == NOT_SUPPORTED


def answers_of(run, increase):
    """The run's answers with a given increase of the NLL by method, and some noise."""
    answers = run.answers.merge(run.sequences[["sequence", "category", "dataset"]], on="sequence")
    full = answers["sequence"].map(answers[answers["method"] == "Full"].set_index("sequence")["nll"])
    noise = np.random.default_rng(1).normal(0, 0.01, len(answers)) * (answers["method"] != "Full")
    answers["nll"] = full + answers["method"].map({"Full": 0.0} | increase) + noise
    return answers


@pytest.mark.parametrize(("sign", "l1", "cosine"), [(1, SUPPORTED, NOT_SUPPORTED), (-1, NOT_SUPPORTED, SUPPORTED)])
def test_a_metric_that_goes_with_the_damage_and_one_that_goes_against_it(sign, l1, cosine):
    """In these records a method with a lower L1 loss has a lower cosine: only one of them can predict."""
    run = tiny_run(categories=CATEGORIES)
    records = records_of(
        {"ChunkKV": 0.88, "SnapKV": 0.89, "H2O": 0.90, "Random": 0.91},
        {"ChunkKV": 0.60, "SnapKV": 0.65, "H2O": 0.70, "Random": 0.75},
    )
    increase = {"ChunkKV": 0.1, "SnapKV": 0.5, "H2O": 0.9, "Random": 1.3}
    found = verdicts(damage_claims(records, answers_of(run, {m: sign * x for m, x in increase.items()})))
    for who in ("the three methods", "all methods and controls"):
        assert found[f"Among {who}, less L1 loss goes with less damage to the answer"] == l1
        assert found[f"Among {who}, a higher attention cosine goes with less damage to the answer"] == cosine
    less = SUPPORTED if sign > 0 else NOT_SUPPORTED
    assert found["With ChunkKV the answer suffers less than with SnapKV"] == less
    assert found["With ChunkKV the answer suffers less than with H2O"] == less


def test_equal_damage_cannot_be_told_apart():
    run = tiny_run(categories=CATEGORIES)
    answers = answers_of(run, {"ChunkKV": 0.5, "SnapKV": 0.5, "H2O": 0.5, "Random": 0.5})
    same = answers["method"] == "SnapKV"
    wiggle = np.where(answers.loc[same, "sequence"].str[-1].astype(int) % 2, 0.2, -0.2)
    answers.loc[same, "nll"] = answers.loc[answers["method"] == "ChunkKV", "nll"].to_numpy() + wiggle
    found = verdicts(damage_claims(records_of(LIKE_THE_PAPER, COSINES), answers))
    assert found["With ChunkKV the answer suffers less than with SnapKV"] == CANNOT_TELL


# -------------------------------------------------------------------------------- all together
def whole(run):
    records = run.answers.merge(run.sequences[["sequence", "category", "dataset"]], on="sequence")
    return SimpleNamespace(records=run.records, answer_records=records)


def test_single_sequences_support_and_refute_nothing():
    run = tiny_run(per_category=2, categories=CATEGORIES)
    one = run.sequences["sequence"].str.endswith("-1")  # sequence 0 of each row has no likelihood
    names = run.sequences.loc[one, "sequence"]
    for table in ("records", "answers", "sequences"):
        frame = getattr(run, table)
        setattr(run, table, frame[frame["sequence"].isin(names)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = claims(whole(run), PAPER)
    per_row = [claim for claim in found if claim.number.n == 1]
    assert per_row and {claim.verdict for claim in per_row} == {CANNOT_TELL}


def test_claims_of_some_rows_leave_out_what_needs_the_others():
    found = claims(whole(tiny_run(categories=("Summarization",))), PAPER)
    assert not any("few-shot" in claim.statement for claim in found)
    assert len({claim.statement for claim in found}) == len(found)


def test_side_by_side_has_a_row_per_statement_and_a_dash_where_a_run_is_silent():
    run = whole(tiny_run(categories=CATEGORIES))
    everything, some = claims(run, PAPER), table_claims(run.records, PAPER)
    text = claims_side_by_side({"Published": everything, "Live": some}, "verdicts", "tab-x")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "verdict |" not in line][1:]
    silent = [row for row in rows if row.endswith("| – | – |")]
    assert len(rows) == len(everything) and len(silent) == len(everything) - len(some)
    assert all(f"**{claim.verdict}**" in row for claim, row in zip(everything, rows, strict=True))
