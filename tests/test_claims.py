"""The scorecard: records made so that the right verdict is known, and each turned around so that a wrong one shows."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_records import MANIFEST, needle_ids, run_of, tiny_run

from chunkkv_lib.report import claims
from chunkkv_lib.report.claims import CANNOT_TELL, HOLDS, LARGER, NOT_EVERY, NOT_SEEN, OTHER_WAY, SMALLER, scorecard
from chunkkv_lib.report.records import paper_table_11
from chunkkv_lib.report.statistics import Interval

PAPER = paper_table_11()
CATEGORIES = tuple(PAPER["category"].unique())
L1, COSINE = "kv_l1_loss", "attention_cosine_similarity"
LIKE_THE_PAPER = {"ChunkKV": 0.877, "SnapKV": 0.893, "H2O": 0.891}
COSINES = {"ChunkKV": 0.384, "SnapKV": 0.378, "H2O": 0.376}
EQUAL = dict.fromkeys(LIKE_THE_PAPER, 0.9)


def records_of(l1=LIKE_THE_PAPER, cosine=COSINES, layers=8, **options):
    """Records with given means by method; noise comes from `tiny_run`."""
    records = tiny_run(methods=tuple(l1), categories=CATEGORIES, layers=layers, **options).records
    for metric, values in ((L1, l1), (COSINE, cosine)):
        records[metric] += records["method"].map(values) - records.groupby("method")[metric].transform("mean")
    return records


def answers_of(increase, noise=0.01, **options):
    """Answers of the same sequences with a given increase of the NLL by method, and some noise."""
    run = tiny_run(methods=tuple(increase), categories=CATEGORIES, **options)
    answers = run.answers.merge(run.sequences[["sequence", "category", "dataset"]], on="sequence")
    full = answers["sequence"].map(answers[answers["method"] == "Full"].set_index("sequence")["nll"])
    drawn = np.random.default_rng(1).normal(0, noise, len(answers)) * (answers["method"] != "Full")
    answers["nll"] = full + answers["method"].map({"Full": 0.0} | increase) + drawn
    return answers


def judged(records, answers=None, needles=None):
    answers = answers_of(dict.fromkeys(records["method"].unique(), 0.5)) if answers is None else answers
    run = SimpleNamespace(name="made", records=records, answer_records=answers, manifest=MANIFEST)
    return {claim.id: claim for claim in scorecard(run, PAPER, needles)}


def test_verdict_by_hand():
    above, below, around = (Interval(x, x - 1, x + 1, 9) for x in (2.0, -2.0, 0.5))
    assert [claims.verdict(found) for found in (above, below, around)] == [HOLDS, OTHER_WAY, CANNOT_TELL]
    assert [claims.verdict(found, -1) for found in (above, below, around)] == [OTHER_WAY, HOLDS, CANNOT_TELL]
    assert claims.verdict(above, beyond=4) == OTHER_WAY and claims.verdict(above, beyond=2) == CANNOT_TELL
    assert claims.verdict(Interval(2.0, np.nan, np.nan, 1)) == CANNOT_TELL


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.2, 1.8, HOLDS), (0.2, 0.8, SMALLER), (-0.3, 0.8, SMALLER), (2.1, 3, LARGER), (0.8, 1.5, CANNOT_TELL),
     (-3, -2.1, OTHER_WAY), (np.nan, np.nan, CANNOT_TELL)],
)  # fmt: skip
def test_verdict_range_by_hand(low, high, expected):
    assert claims.verdict_range(Interval((low + high) / 2, low, high, 9), 1, 2) == expected
    assert claims.verdict_range(Interval(-(low + high) / 2, -high, -low, 9), -2, -1) == expected


def test_the_paper_s_own_numbers_hold_and_exchanged_methods_turn_them_around():
    found = judged(records_of())
    assert {found[id].verdict for id in ("fig-0", "l1-1", "avg-1", "cos-1", "size-1", "size-2")} == {HOLDS}
    swapped = judged(records_of(*({**values, "ChunkKV": values["SnapKV"], "SnapKV": values["ChunkKV"]}
                                  for values in (LIKE_THE_PAPER, COSINES))))  # fmt: skip
    assert swapped["l1-1"].verdict == NOT_EVERY  # still ahead of H2O in the cosine, behind in the L1 loss of both
    assert swapped["size-1"].verdict == swapped["size-2"].verdict == OTHER_WAY
    assert swapped["fig-0"].verdict == swapped["seq-1"].verdict == NOT_SEEN or swapped["seq-1"].verdict == OTHER_WAY


def test_the_row_farthest_on_the_other_side_decides_and_is_named():
    records = records_of()
    for category, much in (("Few-shot Learning", 0.03), ("Summarization", 0.05)):
        records.loc[(records["method"] == "ChunkKV") & (records["category"] == category), L1] += much
    claim = claims.all_of("l1-1", claims.row_gains(records, [L1]), fails=NOT_EVERY)
    assert claim.verdict == NOT_EVERY and claim.evidence.endswith("over H2O, Summarization")
    assert claim.evidence.startswith("clearly so in 6 of 10") and claim.number.high < 0 and claim.number.n == 6


def test_a_row_without_a_difference_leaves_it_open():
    records = records_of()
    rows = records["category"] == "Summarization"
    snapkv = records.loc[rows & (records["method"] == "SnapKV"), L1].to_numpy()
    sign = np.where(records.loc[rows & (records["method"] == "ChunkKV"), "sequence"].str[-1].astype(int) % 2, 1, -1)
    records.loc[rows & (records["method"] == "ChunkKV"), L1] = snapkv + 0.01 * sign
    assert claims.all_of("l1-1", claims.row_gains(records, [L1])).verdict == CANNOT_TELL


@pytest.mark.parametrize(
    ("chunkkv", "expected"), [(0.877, HOLDS), (0.8925, SMALLER), (0.80, LARGER), (0.91, OTHER_WAY)]
)
def test_about_two_per_cent_is_neither_less_than_half_of_it_nor_the_other_way(chunkkv, expected):
    found = claims.gap_size("size-1", records_of(LIKE_THE_PAPER | {"ChunkKV": chunkkv}), PAPER, L1)
    assert found.verdict == expected and found.number.estimate == pytest.approx(100 * (chunkkv / 0.893 - 1), abs=0.1)


def test_a_metric_without_room_cannot_tell_a_smaller_gain():
    cosines = {"ChunkKV": 0.978, "SnapKV": 0.977, "H2O": 0.90, "Oracle": 0.995}
    found = claims.gap_size("size-2", records_of(LIKE_THE_PAPER | {"Oracle": 0.9}, cosines), PAPER, COSINE)
    assert found.verdict == CANNOT_TELL and "the Oracle itself is only 1.8 %" in found.evidence
    assert f"to H2O 8.67, {LARGER}" in found.evidence
    turned = records_of(LIKE_THE_PAPER | {"Oracle": 0.9}, cosines | {"ChunkKV": 0.970})
    assert claims.gap_size("size-2", turned, PAPER, COSINE).verdict == OTHER_WAY  # which needs no room


@pytest.mark.parametrize(("worse", "expected"), [(0, HOLDS), (4, SMALLER), (12, NOT_SEEN)])
def test_consistent_means_by_both_metrics_in_nearly_every_sequence(worse, expected):
    records = records_of(per_category=12)
    chosen = records["sequence"].str.rpartition("-")[2].astype(int) < worse  # of twelve in each row
    records.loc[chosen & (records["method"] == "ChunkKV"), L1] += 0.1
    found = claims.consistent("seq-1", records)
    assert found.verdict == expected and found.number.estimate == pytest.approx(1 - worse / 12)


@pytest.mark.parametrize(("first", "last", "expected"), [(5, 25, HOLDS), (26, 31, OTHER_WAY), (0, 16, SMALLER)])
def test_a_gain_in_the_paper_s_layers_in_others_or_most_in_others(first, last, expected):
    records = records_of(EQUAL, layers=32)
    records.loc[(records["method"] == "ChunkKV") & records["layer"].between(first, last), L1] -= 0.02
    assert claims.bands("l1-2", records, L1).verdict == expected


def test_most_layers_and_the_middle_third():
    records = records_of(EQUAL, EQUAL, layers=32)
    chunk = records["method"] == "ChunkKV"
    for last, expected in ((24, HOLDS), (15, CANNOT_TELL)):
        raised = records.copy()
        raised.loc[chunk & raised["layer"].le(last), COSINE] += 0.05
        raised.loc[chunk & raised["layer"].gt(last), COSINE] -= 0.05
        found = claims.most_layers("cos-1", raised, [COSINE])
        assert found.verdict == expected and found.number.estimate == (last + 1) / 32
    lowered = records.assign(**{COSINE: records[COSINE] - 0.05 * chunk})
    assert claims.most_layers("cos-1", lowered, [COSINE]).verdict == NOT_SEEN
    middle = chunk & records["layer"].between(11, 20)
    higher = records.assign(**{COSINE: records[COSINE] + 0.05 * middle})
    assert claims.middle("mid-1", higher).verdict != HOLDS  # by one metric is not by both
    assert claims.middle("mid-1", higher.assign(**{L1: records[L1] - 0.05 * middle})).verdict == HOLDS


def needles_of(shares, n=40):
    """A run of needles in memory: method -> share found, of needles that every method finds in the same order."""
    ids = needle_ids(n // 2, (5,))
    sequences = [{"sequence": id, "document": f"d{i}", "category": "0 %"} for i, id in enumerate(ids)]
    return run_of("needles", sequences, {name: (np.arange(n) < share * n) * 1.0 for name, share in shares.items()})


@pytest.mark.parametrize(
    ("shares", "matter", "evidence"),
    [((0.9, 0.4, 0.9, 0.5), HOLDS, HOLDS), ((0.9, 0.4, 0.9, 0.9), HOLDS, NOT_SEEN),
     ((0.9, 0.4, 0.9, 0.8), HOLDS, CANNOT_TELL),
     ((0.5, 0.5, 0.9, 0.9), NOT_SEEN, NOT_SEEN), ((0.5, 0.425, 0.9, 0.9), CANNOT_TELL, CANNOT_TELL)],
)  # fmt: skip
def test_needles_decide_whether_the_gain_matters_and_whether_tuning_alike_closes_it(shares, matter, evidence):
    rules = ("ChunkKV", "SnapKV", "ChunkKV, kernel 15, pooling max", "SnapKV, kernel 15")
    needles = needles_of(dict(zip(rules, shares, strict=True)))
    found = judged(records_of(), needles=needles)
    assert (found["why-3"].verdict, found["why-4"].verdict) == (matter, evidence)
    needles.manifest = needles.manifest | {"model": {"name": "another"}}
    assert judged(records_of(), needles=needles)["why-4"].verdict == ""  # says nothing about this run's model


def test_a_better_answer_must_go_with_a_better_metric_sequence_by_sequence():
    records, answers = records_of(per_category=12), answers_of({"ChunkKV": 0.2, "SnapKV": 0.6, "H2O": 0.6},
                                                              per_category=12)  # fmt: skip
    answers["kl"] = np.random.default_rng(2).normal(0.5, 0.1, len(answers))
    found = judged(records, answers)
    assert found["why-1"].verdict == NOT_SEEN or found["why-1"].number.high > claims.FORETELLS  # noise alone
    wide = records.groupby(["sequence", "method"])[[L1, COSINE]].mean()
    for metric, side, id in ((L1, 1, "why-1"), (COSINE, -1, "why-2")):
        for turn, expected in ((1, HOLDS), (-1, NOT_SEEN)):
            told = answers.copy()
            keys = zip(told["sequence"], told["method"])
            told["kl"] = [0.0 if m == "Full" else 1 + turn * side * wide.loc[(s, m), metric] for s, m in keys]
            assert judged(records, told)[id].verdict == expected, (metric, turn)


def test_equal_damage_is_not_seen_and_says_within_what():
    answers = answers_of(dict.fromkeys(LIKE_THE_PAPER, 0.5), noise=0.001)
    found = judged(records_of(), answers)["why-3"]
    assert found.verdict == NOT_SEEN and "alike within ±0.00" in found.evidence
    wild = judged(records_of(), answers_of(dict.fromkeys(LIKE_THE_PAPER, 0.5), noise=2))["why-3"]
    assert wild.verdict == CANNOT_TELL


def test_single_sequences_and_two_layers_decide_nothing():
    records, answers = records_of(layers=2), answers_of(dict.fromkeys(LIKE_THE_PAPER, 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = judged(*(frame[frame["sequence"].str.endswith("-1")] for frame in (records, answers)))
    per_row = [claim for claim in found.values() if claim.number.n == 1]
    assert per_row and {claim.verdict for claim in per_row} == {CANNOT_TELL}
    assert found["mid-1"].verdict in ("", CANNOT_TELL)


def test_ids_are_the_plan_s_and_tables_and_picture_show_every_verdict():
    made = {"One": records_of(), "Two": records_of(EQUAL, EQUAL)}
    cards = {name: list(judged(records).values()) for name, records in made.items()}
    found = claims.cards_frame(cards)
    assert list(found["id"].unique()) == [claim.id for claim in cards["One"]]
    assert set(found["verdict"]) <= {HOLDS, NOT_EVERY, SMALLER, LARGER, OTHER_WAY, NOT_SEEN, CANNOT_TELL, ""}
    assert found["says"].str.endswith(".").all()
    rows = [line for line in claims.cards_table(found, "A caption.").splitlines() if line.startswith("| `")]
    for row, one, two in zip(rows, cards["One"], cards["Two"], strict=True):
        assert (f"**{one.verdict}**" in row or not one.verdict) and (two.evidence in row or not two.verdict)
    assert "clearly so" not in claims.cards_table(found, "A caption.", brief=True)
    (ax,) = claims.cards_figure(found).axes
    written = [text.get_text().replace("\n", " ") for text in ax.texts]
    assert len(written) == len(found) + len(cards["One"]) and {HOLDS, CANNOT_TELL, *found["says"]} <= {*written}
