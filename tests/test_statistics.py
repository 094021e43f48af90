"""Intervals, tests, correlations and averages against hand examples and independent loops."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_records import tiny_run

from chunkkv_lib.errors import InputError
from chunkkv_lib.report import records as rec
from chunkkv_lib.report import statistics as st

RNG = np.random.default_rng(7)


def coverage(make, truth=0.0, repetitions=300, **options):
    """Share of the samples whose interval holds the truth; make(generator) -> values, groups."""
    found = (st.interval(*make(np.random.default_rng(i)), resamples=1000, **options) for i in range(repetitions))
    return np.mean([one.low <= truth <= one.high for one in found])


def clustered(documents, each):
    """Sequences of which those of one document share most of their value."""

    def make(rng):
        groups = np.repeat(np.arange(documents), each)
        return rng.normal(size=documents)[groups] + rng.normal(0, 0.4, size=len(groups)), groups

    return make


@pytest.mark.parametrize(
    ("make", "least", "most"),
    [(lambda rng: rng.normal(size=3), 0.92, 0.98), (lambda rng: rng.normal(size=6), 0.92, 0.98),
     (lambda rng: rng.normal(size=30), 0.92, 0.98), (lambda rng: rng.exponential(size=30) - 1, 0.87, 0.97)],
    ids=["3 normal", "6 normal", "30 normal", "30 skewed"],
)  # fmt: skip
def test_intervals_cover_as_they_say(make, least, most):
    assert least <= coverage(lambda rng: (make(rng), None)) <= most


def test_an_interval_for_many_comparisons_covers_with_few_values():
    """At 99.5 % the largest of the resamples of 6 values would be the end: it misses 4 % of the time."""
    assert coverage(lambda rng: (rng.normal(size=6), None), repetitions=600, level=0.995) >= 0.985
    values = np.random.default_rng(3).normal(size=6)
    found, student = st.interval(values, level=0.995), stats.t.ppf(0.9975, 5) * values.std(ddof=1) / np.sqrt(6)
    assert found.high - found.estimate == pytest.approx(student, rel=0.05)


def test_intervals_of_clustered_values_resample_documents():
    make = clustered(12, 5)
    assert 0.91 <= coverage(make) <= 0.98
    assert coverage(lambda rng: (make(rng)[0], None)) < 0.8  # what it is not to know of them
    # of unequal size: with {0} and {6, 6, 6}, a resample has the mean 0, 4.5 or 6
    drawn = st.resampled_means(np.array([[0.0], [6.0], [6.0], [6.0]]), [np.array([0]), np.array([1, 2, 3])])
    assert set(np.round(drawn[:, 0], 9)) == {0, 4.5, 6} and np.mean(drawn == 4.5) == pytest.approx(0.5, abs=0.03)


def test_the_document_travels_in_the_index():
    values, groups = clustered(8, 3)(RNG)
    index = pd.MultiIndex.from_arrays([np.arange(24), groups], names=["sequence", "document"])
    by_hand, alone = st.interval(values, groups), st.interval(values)
    assert st.interval(pd.Series(values, index)) == by_hand
    assert by_hand.high - by_hand.low > 1.2 * (alone.high - alone.low)
    with pytest.raises(InputError, match="one for each"):
        st.interval(values, groups[1:])


def test_the_smallest_margin_is_that_of_two_one_sided_tests():
    values = RNG.normal(0.1, 1, size=200)
    margin = st.smallest_margin(values)
    p = [stats.ttest_1samp(values, side * margin).statistic * -side for side in (1, -1)]
    assert stats.t.sf(min(p), 199) == pytest.approx(0.05, abs=0.01)


def test_columns_share_resamples_and_the_seed_decides():
    column = RNG.normal(size=9)
    np.random.seed(1)
    found = st.interval(np.stack([column, column, 2 * column, np.ones(9)], axis=1))
    np.random.seed(2)
    alone, other = st.interval(column), st.interval(column, seed=1)
    assert found.low[0] == found.low[1] and found.high[2] == pytest.approx(2 * found.high[0])
    assert (found.low[3], found.high[3]) == (1, 1)
    assert (alone.low, alone.high) == pytest.approx((found.low[0], found.high[0])) != (other.low, other.high)


def test_nan_sequences_are_left_out_and_counted():
    with_gap = st.interval([1.0, np.nan, 3.0, 5.0])
    assert with_gap == st.interval([1.0, 3.0, 5.0]) and with_gap.n == 3
    table = np.array([[np.nan, 1.0, 2.0], [np.nan, np.nan, 4.0], [np.nan, 3.0, 6.0]])  # layer 0 unmeasured, a gap
    found = st.interval(table)
    assert found.n == 2 and np.isnan(found.estimate[0]) and np.isnan(found.low[0])
    assert found.estimate[1:].tolist() == [2.0, 4.0]


def test_one_document_has_a_mean_and_no_interval_none_has_nothing():
    one = st.interval([[1.0, 2.0], [3.0, 4.0]], ["a", "a"])
    assert one.estimate.tolist() == [2.0, 3.0] and np.isnan(one.low).all() and one.n == 2
    assert not one.excludes(0).any()
    for empty in ([], [np.nan, np.nan]):
        none = st.interval(empty)
        assert math.isnan(none.estimate) and none.n == 0


def test_an_end_at_zero_is_not_clear():
    assert st.Interval(1.0, 0.5, 1.5, 9).excludes() and st.Interval(-1.0, -1.5, -0.5, 9).excludes()
    assert not st.Interval(0.1, -0.5, 0.7, 9).excludes() and not st.Interval(1.0, 0.0, 2.0, 9).excludes()
    assert not st.Interval(-0.1, -0.2, -1e-17, 9).excludes()  # zero but for rounding


@pytest.mark.parametrize(("values", "options"), [(3.0, {}), ([1.0, np.inf], {}), ([1.0, 2.0], {"level": 95})])
def test_values_without_a_mean_and_levels_in_per_cent_are_refused(values, options):
    with pytest.raises(InputError):
        st.interval(values, **options)


def of_documents(values, count):
    """Values whose index names the document of each, `count` in all, in blocks of equal size."""
    return pd.Series(values, pd.Index(np.arange(count).repeat(len(values) // count), name="document"))


def test_wilcoxon_p_by_counting_all_signs_with_each_document_once():
    difference = np.array([0.3, -0.1, 0.8, 0.4, 0.25, 0.9])
    ranks = np.array([3, 1, 5, 4, 2, 6])
    sums = np.array(list(itertools.product([0, 1], repeat=6))) @ ranks  # of the positive ones
    expected = min(1, 2 * np.mean(sums >= ranks[difference > 0].sum()))
    assert st.paired_test(difference) == pytest.approx(expected)
    assert st.paired_test(of_documents(np.repeat(difference, 4), 6)) == pytest.approx(expected)
    assert st.paired_test(of_documents([1.0, 2.0, 3.0], 1)) == 1.0  # one document shows nothing


def test_effect_sizes_by_hand():
    difference = [1.0, 2.0, -1.0, np.nan]  # mean 2/3, deviation sqrt(7/3)
    assert st.cohen_d(difference) == pytest.approx((2 / 3) / math.sqrt(7 / 3))
    assert st.rank_biserial(difference) == pytest.approx((1.5 + 3 - 1.5) / 6)
    assert st.rank_biserial([0.0, 2.0, -1.0]) == pytest.approx((2 - 1) / 3)  # an equal pair has no rank
    assert st.paired_test([0.0, 0.0]) == 1.0 and st.cohen_d([0.0, 0.0]) == st.rank_biserial([0.0, 0.0]) == 0.0
    assert st.cohen_d([1.0, 1.0]) == math.inf


def test_holm_by_hand_and_without_counting_nan():
    assert st.holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)
    assert st.holm([[0.6, 0.9]]).shape == (1, 2) and st.holm([0.6, 0.9]).max() <= 1
    assert np.isnan(st.holm([np.nan])).all()


def test_correlations_are_spearmans():
    x, y = np.round(RNG.normal(size=(8, 4)), 1), np.round(RNG.normal(size=(8, 4)), 1)  # rounding makes ties
    one = stats.spearmanr(x[:, 0], y[:, 0]).statistic
    assert st.rank_correlation(x[:, 0], y[:, 0]).estimate == pytest.approx(one)
    within = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert st.within_sequence_rank_correlation(x, y).estimate == pytest.approx(sum(within) / 8)


def test_rank_correlation_covers_the_truth_and_knows_documents():
    hits = np.zeros(2)
    for i in range(60):
        rng = np.random.default_rng(i)
        shared = rng.normal(size=(2, 12)).repeat(4, axis=1)
        x, y = shared + rng.normal(0, 0.3, size=(2, 48))  # independent, but not within a document
        both = st.rank_correlation(of_documents(x, 12), y), st.rank_correlation(x, y)
        hits += [found.low <= 0 <= found.high for found in both]
    assert hits[0] / 60 >= 0.88 > 0.8 > hits[1] / 60


def test_correlations_leave_nan_out():
    x, y = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4))
    gap = y.copy()
    gap[0] = np.nan
    assert st.rank_correlation(x[:, 0], gap[:, 0]).estimate == st.rank_correlation(x[1:, 0], y[1:, 0]).estimate
    assert st.within_sequence_rank_correlation(x, gap).n == 5
    gap[1, 0] = np.nan  # 3 methods left: still ranked
    gap[2, :2] = np.nan  # 2 left: not
    assert st.within_sequence_rank_correlation(x, gap).n == 4
    assert math.isnan(st.rank_correlation(np.ones(5), RNG.normal(size=5)).estimate)
    assert st.rank_correlation([np.nan], [1.0]).n == 0


def test_means_are_over_layers_first_then_over_sequences():
    records = tiny_run().records.drop(index=[0, 1])  # the first sequence counts once, with two layers less
    for method, values in rec.sequence_means(records, "kv_l1_loss").items():
        by_sequence = records[records["method"] == method].groupby("sequence", sort=False)["kv_l1_loss"]
        assert values.tolist() == pytest.approx([np.mean(one) for _, one in by_sequence]) and len(values) == 12
    shuffled = tiny_run().records.sample(frac=1, random_state=0)
    assert rec.layer_values(shuffled, "kv_l1_loss", "H2O").columns.tolist() == [0, 1, 2, 3]
    assert rec.sequence_means(records, "overlap_layer_below").to_numpy() == pytest.approx(0.3)  # not in layer 0
    assert rec.sequence_means(records, "attention_cosine_prompt").isna().all(axis=None)


def test_comparisons_correct_over_the_whole_table():
    found = rec.comparisons(tiny_run().records)
    assert len(found) == 8 and found["p_holm"].tolist() == pytest.approx(st.holm(found["p"]).tolist())
    row = found[(found["metric"] == "kv_l1_loss") & (found["baseline"] == "SnapKV")].iloc[0]
    assert row["difference"] == pytest.approx(-0.01, abs=0.003) and row["high"] < 0 and row["rank_biserial"] == -1
    alone = rec.comparisons(tiny_run(per_category=1).records, ["kv_l1_loss"])
    assert alone["n"].tolist() == [1] * 4 and alone[["p", "p_holm", "difference"]].isna().all(axis=None)


def test_comparisons_resample_documents_and_take_rows_apart():
    run = tiny_run(per_category=8)
    records = run.records.assign(document=run.records["sequence"].str[-1].astype(int) // 4)  # two documents a row
    shared = records["document"] * records["method"].map({"ChunkKV": 0.02}).fillna(0)
    records["kv_l1_loss"] += shared
    plain, known = (rec.comparisons(r, ["kv_l1_loss"]) for r in (records.drop(columns="document"), records))
    assert plain["difference"].tolist() == pytest.approx(known["difference"].tolist())
    assert (known["high"] - known["low"] > 2 * (plain["high"] - plain["low"])).all()
    assert (known["p"] > plain["p"]).all() and (known["margin"] > plain["margin"]).all()
    assert rec.comparisons(records, ["kv_l1_loss"], by="dataset")["dataset"].unique().tolist() == ["a"]


def test_damage_is_the_increase_over_the_full_cache_of_the_same_sequence():
    run = tiny_run()
    hurt = rec.damage(run.answers)
    assert "Full" not in set(hurt["method"]) and hurt["nll_increase"].isna().sum() == 8
    assert hurt.loc[hurt["method"] == "H2O", "nll_increase"].dropna().to_numpy() == pytest.approx(0.7)
    with pytest.raises(InputError, match="'Full'"):
        rec.damage(hurt)
    records, hurt = (table.assign(document=table["sequence"]) for table in (run.records, hurt))
    x, y = rec.metric_and_damage(records, hurt, "kv_l1_loss", "kl", ["H2O", "ChunkKV"])
    assert x.index.equals(y.index) and list(x) == list(y) == ["H2O", "ChunkKV"] and "document" in x.index.names
    assert y["H2O"].to_numpy() == pytest.approx(0.07)


def test_unknown_names_are_answered_with_the_known_ones():
    records = tiny_run().records
    for call in (
        lambda: rec.choose(records, category="Single Document QA"),
        lambda: rec.choose(records, methods=["chunkkv"]),
        lambda: rec.sequence_means(records, "kv_l2_loss"),
        lambda: rec.comparisons(records, pairs=[("ChunkKV", "Oracle")]),
    ):
        with pytest.raises(InputError, match="Known: "):
            call()


def test_paper_table_has_the_printed_numbers():
    paper = rec.paper_table_11()
    assert len(paper) == 15 and paper["category"].nunique() == 5
    means = paper.groupby("method")[list(rec.PRIMARY)].mean()
    assert means.loc["ChunkKV"].tolist() == pytest.approx([0.87692, 0.38388])
    assert means.loc["SnapKV"].tolist() == pytest.approx([0.89278, 0.37884])
    assert means.loc["H2O"].tolist() == pytest.approx([0.89112, 0.37674])
