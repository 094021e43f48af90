"""Intervals, tests, correlations and averages against hand examples and independent loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from synthetic_records import tiny_run

from chunkkv_lib.errors import InputError
from chunkkv_lib.report import records as rec
from chunkkv_lib.report import statistics as st

RNG = np.random.default_rng(7)


# -------------------------------------------------------------------------------- intervals
def quantile(values, q):
    """Linear quantile, written out."""
    values, place = sorted(values), q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def test_interval_of_a_sample_of_two_by_hand():
    """Resamples of {0, 1} have the means 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    found = st.mean_interval([0.0, 1.0])
    assert (found.estimate, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 2)
    narrow = st.mean_interval([0.0, 1.0], level=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_percentile_interval_is_the_quantile_of_all_resamples():
    values = [0.0, 1.0, 5.0, 6.0]
    means = [sum(pick) / 4 for pick in itertools.product(values, repeat=4)]  # all 256, equally likely
    found = st.mean_interval(values, resamples=20000, level=0.8)
    assert found.low == pytest.approx(quantile(means, 0.1), abs=0.26)
    assert found.high == pytest.approx(quantile(means, 0.9), abs=0.26)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    samples = RNG.normal(3, 1, size=(40, 400))
    found = st.mean_interval(samples, resamples=500)
    assert 0.90 < np.mean((found.low <= 3) & (found.high >= 3)) < 0.98


def test_expanded_interval_keeps_its_promise_for_few_sequences():
    """Hesterberg's table: 6 values need the 0.24 % percentile for 95 %, 100 need 2.31 %."""
    assert (1 - st.expanded_level(6)) / 2 == pytest.approx(0.0024, abs=1e-4)
    assert (1 - st.expanded_level(100)) / 2 == pytest.approx(0.0231, abs=1e-4)
    samples = np.random.default_rng(1).normal(3, 1, size=(6, 1000))
    plain, wide = (st.mean_interval(samples, method=method) for method in ("percentile", "expanded"))
    covered = [np.mean((found.low <= 3) & (found.high >= 3)) for found in (plain, wide)]
    assert covered[0] < 0.89 and 0.92 < covered[1] < 0.97
    two = st.mean_interval([0.0, 1.0], method="expanded")
    assert (two.low, two.high) == (0, 1)


def test_layers_share_resamples_so_equal_columns_get_equal_bands():
    column = RNG.normal(size=9)
    found = st.mean_interval(np.stack([column, column, 2 * column], axis=1))
    assert found.low[0] == found.low[1] and found.high[2] == pytest.approx(2 * found.high[0])
    alone = st.mean_interval(column)
    assert (alone.low, alone.high) == pytest.approx((found.low[0], found.high[0]))


def test_seed_decides_and_nothing_else():
    values = RNG.normal(size=12)
    np.random.seed(1)
    first = st.mean_interval(values)
    np.random.seed(2)
    assert st.mean_interval(values) == first
    assert st.mean_interval(values, seed=1) != first


def test_bca_moves_towards_the_long_tail():
    skewed = np.exp(RNG.normal(size=30))
    plain, corrected = st.mean_interval(skewed), st.mean_interval(skewed, method="BCa")
    assert corrected.low > plain.low and corrected.high > plain.high
    assert corrected.estimate == plain.estimate == pytest.approx(sum(skewed) / 30)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_constant_values_have_an_interval_of_no_width(method):
    found = st.mean_interval([[1.0, 0.5], [1.0, 0.7], [1.0, 0.9]], method=method)
    assert (found.low[0], found.high[0]) == (1.0, 1.0) and found.low[1] < 0.7 < found.high[1]


def test_nan_sequences_are_left_out_and_counted():
    with_gap = st.mean_interval([1.0, np.nan, 3.0, 5.0])
    assert with_gap == st.mean_interval([1.0, 3.0, 5.0]) and with_gap.n == 3
    table = np.array(
        [[np.nan, 1.0, 2.0], [np.nan, np.nan, 4.0], [np.nan, 3.0, 6.0]]
    )  # layer 0 unmeasured, row 1 has a gap
    found = st.mean_interval(table)
    assert found.n == 2 and np.isnan(found.estimate[0]) and np.isnan(found.low[0])
    assert found.estimate[1:].tolist() == [2.0, 4.0]


def test_one_sequence_has_a_mean_and_no_interval_none_has_nothing():
    one = st.mean_interval([[1.0, 2.0]])
    assert one.estimate.tolist() == [1.0, 2.0] and np.isnan(one.low).all() and one.n == 1
    assert not one.excludes(0).any()
    for empty in ([], [np.nan, np.nan]):
        none = st.mean_interval(empty)
        assert math.isnan(none.estimate) and none.n == 0
    assert st.mean_interval(np.empty((0, 3))).estimate.shape == (3,)


def test_excludes_needs_the_whole_interval_on_one_side():
    assert st.Interval(1.0, 0.5, 1.5, 9).excludes() and st.Interval(-1.0, -1.5, -0.5, 9).excludes()
    assert not st.Interval(0.1, -0.5, 0.7, 9).excludes() and not st.Interval(1.0, 0.0, 2.0, 9).excludes()


@pytest.mark.parametrize(
    ("options", "word"),
    [({"level": 95}, "0.95"), ({"resamples": 0}, "at least 1"), ({"method": "bca"}, "'BCa'")],
)
def test_wrong_options_name_the_remedy(options, word):
    with pytest.raises(InputError, match=word):
        st.mean_interval([1.0, 2.0], **options)


@pytest.mark.parametrize("values", [3.0, [1.0, np.inf]])
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(InputError):
        st.mean_interval(values)


# -------------------------------------------------------------------------------- pairs
def test_paired_difference_uses_the_pairing():
    base = RNG.normal(0, 100, size=20)  # sequences differ far more than methods
    found = st.paired_difference(base + 1 + RNG.normal(0, 0.1, 20), base)
    assert found.estimate == pytest.approx(1, abs=0.1) and found.high - found.low < 0.2 and found.excludes()


@pytest.mark.parametrize("function", [st.paired_difference, st.paired_test, st.cohen_d, st.rank_biserial, st.compare])
@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        ([1.0], [2.0], "at least 2"),
        ([1.0, np.nan, 2.0], [1.0, 2.0, np.nan], "1 complete pair"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "equal shapes"),
    ],
)
def test_too_few_or_mismatched_pairs(function, a, b, word):
    with pytest.raises(InputError, match=word):
        function(a, b)


def test_tests_want_one_value_per_sequence():
    with pytest.raises(InputError, match="average over layers"):
        st.paired_test(np.ones((3, 2)), np.zeros((3, 2)))
    with pytest.raises(InputError, match="'permutation'"):
        st.paired_test([1.0, 2.0], [0.0, 0.0], kind="permutations")


def test_permutation_p_by_counting_all_signs():
    difference = np.array([0.3, -0.1, 0.8, 0.4, 0.25, 0.9])
    means = [np.mean(difference * signs) for signs in itertools.product([1, -1], repeat=6)]
    expected = np.mean([abs(mean) >= abs(difference.mean()) - 1e-12 for mean in means])
    assert st.paired_test(difference, np.zeros(6), "permutation") == pytest.approx(expected)


def test_wilcoxon_p_by_counting_all_signs():
    difference = np.array([0.3, -0.1, 0.8, 0.4, 0.25, 0.9])  # ranks 3 1 5 4 2 6
    ranks = np.array([3, 1, 5, 4, 2, 6])
    sums = np.array(
        [sum(r for r, s in zip(ranks, signs, strict=True) if s > 0) for signs in itertools.product([1, -1], repeat=6)]
    )
    expected = min(1, 2 * np.mean(sums >= ranks[difference > 0].sum()))
    assert st.paired_test(difference, np.zeros(6)) == pytest.approx(expected)


def test_equal_pairs_show_no_effect():
    same = [0.5, 0.6, 0.7]
    assert st.paired_test(same, same) == st.paired_test(same, same, "permutation") == 1.0
    assert st.cohen_d(same, same) == st.rank_biserial(same, same) == 0.0
    assert st.cohen_d([2.0, 2.0], [1.0, 1.0]) == math.inf


def test_effect_sizes_by_hand():
    a, b = (
        [1.0, 2.0, 3.0, np.nan],
        [0.0, 0.0, 4.0, 1.0],
    )  # differences 1, 2, -1: mean 2/3, deviation sqrt(7/3)
    assert st.cohen_d(a, b) == pytest.approx((2 / 3) / math.sqrt(7 / 3))
    assert st.rank_biserial(a, b) == pytest.approx((1.5 + 3 - 1.5) / 6)
    assert st.rank_biserial([1.0, 2.0, 0.0], [1.0, 0.0, 1.0]) == pytest.approx((2 - 1) / 3)  # an equal pair has no rank


def test_holm_by_hand_and_without_counting_nan():
    assert st.holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)
    assert st.holm([[0.6, 0.9]]).shape == (1, 2) and st.holm([0.6, 0.9]).max() <= 1
    assert np.isnan(st.holm([np.nan])).all()


# -------------------------------------------------------------------------------- correlations
def ranks_by_loop(values):
    return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]


def pearson_by_loop(x, y):
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def test_correlations_against_loops():
    x, y = np.round(RNG.normal(size=(8, 4)), 1), np.round(RNG.normal(size=(8, 4)), 1)  # rounding makes ties
    pooled = pearson_by_loop(ranks_by_loop(x.ravel()), ranks_by_loop(y.ravel()))
    assert st.rank_correlation(x, y, resamples=50).estimate == pytest.approx(pooled)
    within = [pearson_by_loop(ranks_by_loop(a), ranks_by_loop(b)) for a, b in zip(x, y, strict=True)]
    assert st.within_sequence_rank_correlation(x, y, resamples=50).estimate == pytest.approx(sum(within) / 8)
    rx, ry = (np.reshape(ranks_by_loop(v.ravel()), v.shape) for v in (x, y))
    partial = pearson_by_loop((rx - rx.mean(0)).ravel(), (ry - ry.mean(0)).ravel())
    assert st.partial_rank_correlation(x, y, resamples=50).estimate == pytest.approx(partial)


def test_correlations_separate_methods_from_sequences():
    """x and y rank the methods alike, while within a method they have nothing in common."""
    methods = np.array([0.0, 10.0, 20.0, 30.0])
    x, y = methods + RNG.normal(size=(60, 4)), methods + RNG.normal(size=(60, 4))
    assert st.rank_correlation(x, y, resamples=50).estimate > 0.9
    assert st.within_sequence_rank_correlation(x, y, resamples=50).estimate == 1.0
    assert not st.partial_rank_correlation(x, y, resamples=50).excludes(0)


def test_correlation_interval_resamples_whole_sequences():
    """With two sequences a resample is one of them twice, or both: three possible values."""
    x, y = np.array([[1.0, 2, 3], [1, 2, 3]]), np.array([[1.0, 2, 3], [3, 2, 1]])
    found = st.rank_correlation(x, y, resamples=200)
    assert (found.estimate, found.low, found.high) == pytest.approx((0, -1, 1))
    assert st.rank_correlation(x, y, resamples=200) == found and found.n == 2


def test_correlations_leave_nan_out():
    x, y = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4))
    gap = y.copy()
    gap[0] = np.nan
    assert st.rank_correlation(x, gap, resamples=50).estimate == pytest.approx(
        st.rank_correlation(x[1:], y[1:], resamples=50).estimate
    )
    assert st.within_sequence_rank_correlation(x, gap, resamples=50).n == 5
    gap[1, 0] = np.nan  # 3 methods left: still ranked
    gap[2, :2] = np.nan  # 2 left: not
    assert st.within_sequence_rank_correlation(x, gap, resamples=50).n == 4


def test_correlation_of_constants_and_of_one_sequence():
    assert math.isnan(st.rank_correlation(np.ones((5, 3)), RNG.normal(size=(5, 3))).estimate)
    one = st.rank_correlation([[1.0, 2.0, 3.0]], [[1.0, 2.0, 4.0]], resamples=50)
    assert one.estimate == pytest.approx(1) and math.isnan(one.low) and one.n == 1
    with pytest.raises(InputError, match="sequences, methods"):
        st.rank_correlation([1.0, 2.0], [1.0, 2.0], resamples=50)


def test_jaccard_by_hand():
    assert st.jaccard([1, 2, 3], [2, 3, 4, 5]) == pytest.approx(2 / 5)
    assert st.jaccard(np.array([[1, 2]]), [3]) == 0 and st.jaccard([], []) == 1


# -------------------------------------------------------------------------------- records
def test_averages_are_over_layers_first_then_over_sequences():
    """Two layers in one sequence and one in the other: the sequences weigh the same."""
    table = pd.DataFrame(
        {
            "sequence": ["a", "a", "b"],
            "method": "ChunkKV",
            "category": "QA",
            "layer": [0, 1, 0],
            "kv_l1_loss": [0.0, 1.0, 1.0],
        }
    )
    found = rec.averages(table, ["kv_l1_loss"]).iloc[0]
    assert found["estimate"] == pytest.approx(0.75) and found["n"] == 2


def test_averages_against_a_loop():
    run = tiny_run()
    found = rec.averages(run.records).set_index(["category", "method", "metric"])
    for (category, method, metric), row in found.iterrows():
        sums = {}
        for line in run.records.itertuples():
            if (line.category, line.method) == (category, method):
                sums.setdefault(line.sequence, []).append(getattr(line, metric))
        assert row["estimate"] == pytest.approx(np.mean([np.mean(v) for v in sums.values()])) and row["n"] == 6


def test_layers_are_in_order_whatever_the_order_of_the_rows():
    run = tiny_run()
    shuffled = run.records.sample(frac=1, random_state=0)
    assert rec.layer_values(shuffled, "kv_l1_loss", "H2O").columns.tolist() == [0, 1, 2, 3]


def test_nan_layer_does_not_count():
    means = rec.sequence_means(tiny_run().records, "overlap_layer_below")
    assert means.to_numpy() == pytest.approx(0.3)
    assert rec.sequence_means(tiny_run().records, "attention_cosine_prompt").isna().all(axis=None)


def test_comparisons_correct_over_the_whole_table():
    found = rec.comparisons(tiny_run().records)
    assert len(found) == 8 and found["p_holm"].tolist() == pytest.approx(st.holm(found["p"]).tolist())
    row = found[(found["metric"] == "kv_l1_loss") & (found["baseline"] == "SnapKV")].iloc[0]
    assert row["difference"] == pytest.approx(-0.01, abs=0.003) and row["high"] < 0 and row["rank_biserial"] == -1


def test_comparison_of_one_sequence_is_empty_but_there():
    found = rec.comparisons(tiny_run(per_category=1).records, ["kv_l1_loss"])
    assert found["n"].tolist() == [1] * 4 and found[["p", "p_holm", "difference"]].isna().all(axis=None)


def test_damage_is_the_increase_over_the_full_cache_of_the_same_sequence():
    hurt = rec.damage(tiny_run().answers)
    assert "Full" not in set(hurt["method"]) and hurt["nll_increase"].isna().sum() == 8
    assert hurt.loc[hurt["method"] == "H2O", "nll_increase"].dropna().to_numpy() == pytest.approx(0.7)
    with pytest.raises(InputError, match="'Full'"):
        rec.damage(hurt)


def test_unknown_names_are_answered_with_the_known_ones():
    records = tiny_run().records
    for call in (
        lambda: rec.choose(records, category="Single Document QA"),
        lambda: rec.choose(records, methods=["chunkkv"]),
        lambda: rec.present(records, ["Oracle"], ()),
        lambda: rec.sequence_means(records, "kv_l2_loss"),
        lambda: rec.comparisons(records, pairs=[("ChunkKV", "Oracle")]),
    ):
        with pytest.raises(InputError, match="Known: "):
            call()


def test_paper_table_has_the_printed_numbers(tmp_path):
    paper = rec.paper_table_11()
    assert len(paper) == 15 and paper["category"].nunique() == 5
    assert paper.groupby("method")["kv_l1_loss"].mean().to_dict() == pytest.approx(
        {"ChunkKV": 0.87692, "SnapKV": 0.89278, "H2O": 0.89112}
    )
    assert paper.groupby("method")["attention_cosine_similarity"].mean().to_dict() == pytest.approx(
        {"ChunkKV": 0.38388, "SnapKV": 0.37884, "H2O": 0.37674}
    )
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for path in (tmp_path / "absent.csv", tmp_path / "other.csv"):
        with pytest.raises(InputError, match="restore the file"):
            rec.paper_table_11(path)
