"""Verdicts: records made so that the right one is known, and each turned around so that a wrong one would show."""

from __future__ import annotations

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_records import tiny_run

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.claims import (
    ALL,
    CANNOT_TELL,
    CONTRADICTION,
    LARGER,
    NONE,
    NOT_COMPARABLE,
    NOT_EVERY,
    NOT_SEEN,
    OTHER_WAY,
    SMALLER,
    SOME,
    SUPPORTED,
    UNTOLD,
    agreement,
    agreement_table,
    claims,
    claims_frame,
    claims_table,
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
    return {claim.id: claim.verdict for claim in found}


# -------------------------------------------------------------------------------- one interval
def test_verdict_by_hand():
    above, below, around = (Interval(x, x - 1, x + 1, 9) for x in (2.0, -2.0, 0.5))
    assert [verdict(found, 1) for found in (above, below, around)] == [SUPPORTED, OTHER_WAY, CANNOT_TELL]
    assert [verdict(found, -1) for found in (above, below, around)] == [OTHER_WAY, SUPPORTED, CANNOT_TELL]
    assert verdict(Interval(2.0, np.nan, np.nan, 1), 1) == verdict(Interval(-0.1, -0.2, 0.0, 9), -1) == CANNOT_TELL
    said = [say(found, "below", "above", "neither") for found in (above, below, around)]
    assert said == ["above", "below", "neither"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.2, 1.8, SUPPORTED), (0.2, 0.8, SMALLER), (-0.3, 0.8, SMALLER), (2.1, 3, LARGER), (0.8, 1.5, CANNOT_TELL),
     (-3, -2.1, OTHER_WAY), (np.nan, np.nan, CANNOT_TELL)],
)  # fmt: skip
def test_verdict_range_by_hand(low, high, expected):
    assert verdict_range(Interval((low + high) / 2, low, high, 9), 1, 2) == expected
    assert verdict_range(Interval(-(low + high) / 2, -high, -low, 9), -2, -1) == expected


# -------------------------------------------------------------------------------- the table's claims
def test_the_paper_s_own_numbers_support_its_order():
    found = verdicts(table_claims(records_of(LIKE_THE_PAPER, COSINES), PAPER))
    for pair in (("ChunkKV", "SnapKV"), ("ChunkKV", "H2O")):
        assert found[f"l1-1-{pair[1].lower()}"] == found[f"avg-1-{pair[1].lower()}"] == SUPPORTED
    assert found["table-h2o-l1"] == found["table-snapkv-cosine"] == SUPPORTED
    assert found["table-random-l1"] == SUPPORTED


def test_exchanged_methods_turn_the_verdicts_around():
    swap = {"ChunkKV": "SnapKV", "SnapKV": "ChunkKV", "H2O": "H2O", "Random": "Random"}
    l1, cosine = ({m: values[swap[m]] for m in values} for values in (LIKE_THE_PAPER, COSINES))
    found = verdicts(table_claims(records_of(l1, cosine), PAPER))
    assert found["l1-1-snapkv"] == found["avg-1-snapkv"] == OTHER_WAY
    assert found["table-h2o-l1"] == OTHER_WAY  # H2O is now behind "SnapKV"
    assert found["table-snapkv-cosine"] == SUPPORTED


def test_the_sub_category_farthest_on_the_other_side_decides_and_is_named():
    records = records_of(LIKE_THE_PAPER, COSINES)
    for category, much in (("Few-shot Learning", 0.03), ("Summarization", 0.05)):
        records.loc[(records["method"] == "ChunkKV") & (records["category"] == category), L1] += much
    claim = next(c for c in table_claims(records, PAPER) if c.id == "l1-1-snapkv")
    assert claim.verdict == NOT_EVERY and claim.evidence.endswith("ChunkKV − SnapKV, Summarization")
    assert claim.evidence.startswith("clearly so in 3 of 5") and claim.number.low > 0 and claim.number.n == 6


def test_a_sub_category_without_a_difference_leaves_it_open():
    records = records_of(LIKE_THE_PAPER, COSINES)
    rows = records["category"] == "Summarization"
    snapkv = records.loc[rows & (records["method"] == "SnapKV"), L1].to_numpy()
    sign = np.where(records.loc[rows & (records["method"] == "ChunkKV"), "sequence"].str[-1].astype(int) % 2, 1, -1)
    records.loc[rows & (records["method"] == "ChunkKV"), L1] = snapkv + 0.01 * sign
    assert verdicts(table_claims(records, PAPER))["l1-1-snapkv"] == CANNOT_TELL


@pytest.mark.parametrize(
    ("chunkkv", "expected"),
    [(0.877, SUPPORTED), (0.8925, SMALLER), (0.80, LARGER), (0.91, OTHER_WAY)],
)
def test_about_two_per_cent_is_neither_less_than_half_of_it_nor_the_other_way(chunkkv, expected):
    found = verdicts(table_claims(records_of(LIKE_THE_PAPER | {"ChunkKV": chunkkv}, COSINES), PAPER))
    assert found["size-1-snapkv"] == expected


@pytest.mark.parametrize(("few_shot", "expected"), [(0.01, SUPPORTED), (-0.01, OTHER_WAY), (0.0, CANNOT_TELL)])
def test_few_shot_learning_as_the_odd_row(few_shot, expected):
    records = records_of(LIKE_THE_PAPER, COSINES)
    own = (records["category"] == "Few-shot Learning") & (records["method"] == "ChunkKV")
    records.loc[own, L1] += few_shot  # less gain
    records.loc[own, COSINE] -= few_shot
    found = verdicts(table_claims(records, PAPER))
    assert found["table-few-shot-l1"] == expected
    assert found["table-few-shot-cosine"] == expected


def test_the_highest_row_and_the_flat_rows():
    higher = lambda name: 0.05 * (name == "Few-shot Learning")  # noqa: E731
    found = verdicts(table_claims(records_of(LIKE_THE_PAPER, COSINES, category=higher), PAPER))
    assert found["table-few-shot-level"] == SUPPORTED
    lower = verdicts(table_claims(records_of(LIKE_THE_PAPER, COSINES, category=lambda n: -higher(n)), PAPER))
    assert lower["table-few-shot-level"] == OTHER_WAY

    records = records_of(LIKE_THE_PAPER, COSINES)
    moves = records["category"].map({name: 0.01 * i for i, name in enumerate(CATEGORIES)})
    for mover, expected in (("ChunkKV", SUPPORTED), ("SnapKV", NOT_SEEN)):
        moved = records.copy()
        moved.loc[moved["method"] == mover, L1] += moves
        assert verdicts(table_claims(moved, PAPER))["table-flat-rows"] == expected


def test_a_metric_without_room_is_not_comparable():
    cosines = {"ChunkKV": 0.978, "SnapKV": 0.977, "H2O": 0.90, "Oracle": 0.995}
    records = records_of(LIKE_THE_PAPER | {"Oracle": 0.9}, cosines)
    found = {claim.id: claim for claim in table_claims(records[records["method"] != "Random"], PAPER)}
    assert found["size-2-snapkv"].verdict == NOT_COMPARABLE and "the Oracle itself is only 1.8 %" in found[
        "size-2-snapkv"].evidence  # fmt: skip
    assert found["table-few-shot-cosine"].verdict == found["table-few-shot-level"].verdict == NOT_COMPARABLE
    assert found["size-2-h2o"].verdict == LARGER and found["size-1-snapkv"].verdict != NOT_COMPARABLE


@pytest.mark.parametrize(("worse", "expected"), [(0, SUPPORTED), (2, SMALLER), (5, OTHER_WAY)])
def test_consistent_means_nearly_every_sequence(worse, expected):
    records = records_of(LIKE_THE_PAPER, COSINES, per_category=6)
    chosen = records["sequence"].str[-1].astype(int) < worse  # of six in each row
    records.loc[chosen & (records["method"] == "ChunkKV"), L1] += 0.1
    found = {claim.id: claim for claim in table_claims(records, PAPER)}["seq-1-loss-snapkv"]
    assert found.verdict == expected and found.number.estimate == pytest.approx(1 - worse / 6)


# -------------------------------------------------------------------------------- layers and answers
def test_a_gain_in_the_paper_s_layers_in_others_or_most_in_others():
    equal = {"ChunkKV": 0.9, "SnapKV": 0.9, "H2O": 0.9}
    plain = records_of(equal, dict.fromkeys(equal, 0.4), layers=32)

    def judged(first, last):
        records = plain.copy()
        chosen = (records["method"] == "ChunkKV") & records["layer"].between(first, last)
        records.loc[chosen, L1] -= 0.02
        return {claim.id: claim for claim in layer_claims(records)}["l1-2-snapkv"]

    assert judged(5, 25).verdict == SUPPORTED and "rank 1 of 12" in judged(5, 25).evidence
    assert judged(26, 31).verdict == OTHER_WAY
    assert judged(0, 16).verdict == SMALLER and "the first is 0–20" in judged(0, 16).evidence


def test_layers_counted_and_the_middle_third():
    equal = {"ChunkKV": 0.9, "SnapKV": 0.9, "H2O": 0.9}
    records = records_of(equal, dict.fromkeys(equal, 0.4), layers=32)
    chunk = records["method"] == "ChunkKV"
    for (first, last), expected in (((0, 20), SUPPORTED), ((0, 9), CANNOT_TELL)):
        raised = records.copy()
        raised.loc[chunk & raised["layer"].between(first, last), COSINE] += 0.05
        found = {claim.id: claim for claim in layer_claims(raised)}["cos-1-h2o"]
        assert found.verdict == expected
    lowered = records.assign(**{COSINE: records[COSINE] - 0.05 * chunk})
    assert verdicts(layer_claims(lowered))["cos-1-h2o"] == OTHER_WAY
    middle = chunk & records["layer"].between(11, 20)
    best = records.assign(**{COSINE: records[COSINE] + 0.05 * middle, L1: records[L1] - 0.05 * middle})
    assert verdicts(layer_claims(best))["mid-1-snapkv"] == SUPPORTED
    assert (
        verdicts(layer_claims(records.assign(**{COSINE: records[COSINE] + 0.05 * middle})))["mid-1-snapkv"] != SUPPORTED
    )


def test_a_model_of_two_layers_has_no_middle():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = verdicts(layer_claims(tiny_run(layers=2).records))
    assert found["mid-1-snapkv"] == found["l1-2-h2o"] == CANNOT_TELL


def test_overlap_of_neighbouring_layers():
    records = records_of(LIKE_THE_PAPER, COSINES)
    assert verdicts(layer_claims(records))["table-2-overlap"] == CANNOT_TELL  # all 0.3
    records.loc[records["method"] == "ChunkKV", "overlap_layer_below"] += 0.2
    assert verdicts(layer_claims(records))["table-2-overlap"] == SUPPORTED
    records.loc[records["method"] == "H2O", "overlap_layer_below"] += 0.4
    assert verdicts(layer_claims(records))["table-2-overlap"] == NOT_EVERY


def answers_of(run, increase):
    """The run's answers with a given increase of the NLL by method, and some noise."""
    answers = run.answers.merge(run.sequences[["sequence", "category", "dataset"]], on="sequence")
    full = answers["sequence"].map(answers[answers["method"] == "Full"].set_index("sequence")["nll"])
    noise = np.random.default_rng(1).normal(0, 0.01, len(answers)) * (answers["method"] != "Full")
    answers["nll"] = full + answers["method"].map({"Full": 0.0} | increase) + noise
    return answers


@pytest.mark.parametrize(("sign", "l1", "cosine"), [(1, SUPPORTED, OTHER_WAY), (-1, OTHER_WAY, SUPPORTED)])
def test_a_metric_that_goes_with_the_damage_and_one_that_goes_against_it(sign, l1, cosine):
    """In these records a method with a lower L1 loss has a lower cosine: only one of them can predict."""
    run = tiny_run(categories=CATEGORIES)
    records = records_of(
        {"ChunkKV": 0.88, "SnapKV": 0.89, "H2O": 0.90, "Random": 0.91},
        {"ChunkKV": 0.60, "SnapKV": 0.65, "H2O": 0.70, "Random": 0.75},
    )
    increase = {"ChunkKV": 0.1, "SnapKV": 0.5, "H2O": 0.9, "Random": 1.3}
    judged = damage_claims(records, answers_of(run, {m: sign * x for m, x in increase.items()}))
    found, order = verdicts(judged), next(claim for claim in judged if claim.id == "order-l1")
    assert (found["order-l1"], found["order-cosine"]) == (l1, cosine)
    assert "of one order that 100 %" in order.evidence and order.ours
    assert found["why-1-snapkv"] == found["why-2-snapkv"] == CANNOT_TELL  # within a pair there is noise alone
    assert found["why-4-snapkv"] == found["why-4-h2o"] == (SUPPORTED if sign > 0 else OTHER_WAY)


def test_equal_damage_cannot_be_told_apart_and_says_within_what():
    run = tiny_run(categories=CATEGORIES)
    answers = answers_of(run, {"ChunkKV": 0.5, "SnapKV": 0.5, "H2O": 0.5, "Random": 0.5})
    same = answers["method"] == "SnapKV"
    wiggle = np.where(answers.loc[same, "sequence"].str[-1].astype(int) % 2, 0.2, -0.2)
    answers.loc[same, "nll"] = answers.loc[answers["method"] == "ChunkKV", "nll"].to_numpy() + wiggle
    found = {c.id: c for c in damage_claims(records_of(LIKE_THE_PAPER, COSINES), answers)}["why-4-snapkv"]
    assert found.verdict == CANNOT_TELL and "equivalent within ±0.0" in found.evidence


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


def test_ids_are_those_of_the_appendix_or_ours_and_rows_that_lack_are_left_out():
    everything = claims(whole(tiny_run(categories=CATEGORIES)), PAPER)
    ids = [claim.id for claim in everything]
    assert len(set(ids)) == len(ids) and all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)+", one) for one in ids)
    appendix = {"fig-0", "l1-1", "l1-2", "cos-1", "cos-2", "avg-1", "size-1", "size-2", "seq-1", "mid-1", "why-1",
                "why-2", "why-4"}  # fmt: skip
    assert appendix <= {"-".join(one.split("-")[:2]) for one in ids}
    some = claims(whole(tiny_run(categories=("Summarization",))), PAPER)
    assert not any("few-shot" in claim.id or claim.id == "fig-0" for claim in some)


def test_several_runs_as_a_frame_and_as_tables():
    run = whole(tiny_run(categories=CATEGORIES))
    everything, some = claims(run, PAPER), table_claims(run.records, PAPER)
    found = claims_frame({"Published": everything, "Live": some})
    text = claims_table(found, "verdicts", "tab-x")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "verdict |" not in line][1:]
    silent = [row for row in rows if row.endswith("| – | – |")]
    assert len(rows) == len(everything) and len(silent) == len(everything) - len(some)
    assert all(f"**{claim.verdict}**" in row for claim, row in zip(everything, rows, strict=True))
    together = agreement_table(found, "together")
    assert len(together.splitlines()) == len(everything) + 5
    with pytest.raises(InputError, match="no run"):
        claims_frame({})


@pytest.mark.parametrize(
    ("given", "together"),
    [
        ((SUPPORTED, SUPPORTED), ALL),
        ((OTHER_WAY, SMALLER), NONE),
        ((SUPPORTED, NOT_EVERY, CANNOT_TELL), CONTRADICTION),
        ((SUPPORTED, CANNOT_TELL), SOME),
        ((NOT_SEEN, NOT_COMPARABLE), SOME),
        ((CANNOT_TELL, NOT_COMPARABLE), UNTOLD),
        ((), UNTOLD),
    ],
)
def test_several_verdicts_together(given, together):
    assert agreement(given) == agreement(reversed(given)) == together
