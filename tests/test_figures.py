"""Figures: what is drawn equals the records, axes are named, nothing global is left behind, bytes repeat."""

from __future__ import annotations

import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from synthetic_records import tiny_run

from chunkkv_lib.errors import InputError
from chunkkv_lib.report import figures
from chunkkv_lib.report.figures import layers, setting, style, tokens
from chunkkv_lib.report.records import paper_table_11

RUN = tiny_run()
WORDS = ["<s>", "The", "key", "is", "7", "4", "2", ".", "What", "was", "the", "$key\n"]
KEPT = {"ChunkKV": [[0, 1, 2, 10, 11]] * 4, "SnapKV": [[[0, 4, 5, 10, 11], [0, 1, 6, 10, 11]]] * 4}
SCORES = {"ChunkKV": np.linspace(0, 1, 12), "SnapKV": [0.5] * 10 + [np.nan] * 2}
ARCHITECTURES = {"SmolLM2-135M": {"layers": 30, "kv_heads": 3, "head_dim": 64}}
EVERY = {
    "figure_6": lambda run: figures.figure_6(run.records),
    "figure_6, zoomed": lambda run: figures.figure_6(run.records, zoom=True, controls=(), bands=False),
    "layer_differences": lambda run: figures.layer_differences(run.records),
    "table_11_figure": lambda run: figures.table_11_figure(paper_table_11(), {"published": run, "this run": run}),
    "gaps_figure": lambda run: figures.gaps_figure(paper_table_11(), {"published": run}),
    "definitions_figure": lambda run: figures.definitions_figure(run.records),
    "damage_scatter": lambda run: figures.damage_scatter(run.records, run.answers),
    "calibration_figure": lambda run: figures.calibration_figure(run.records, run.answers),
    "kept_raster": lambda run: figures.kept_raster(KEPT, WORDS),
    "token_strip": lambda run: figures.token_strip(WORDS, SCORES, KEPT | {"SnapKV": [0, 4]}, chunk_size=3, window=2),
    "budget_memory": lambda run: figures.budget_memory(ARCHITECTURES),
    "sequence_lengths": lambda run: figures.sequence_lengths(run.sequences),
}


def line(ax, label):
    return next(drawn for drawn in ax.lines if drawn.get_label() == label)


def texts(figure):
    return [found.get_text() for found in figure.findobj(mpl.text.Text) if found.get_text()]


# -------------------------------------------------------------------------------- all of them
@pytest.mark.parametrize("name", EVERY)
def test_every_figure_is_named_small_enough_and_leaves_no_trace(name):
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = EVERY[name](RUN)
        image = figures.svg(figure)
    assert dict(mpl.rcParams) == before and not plt.get_fignums()
    assert figure.get_size_inches()[0] <= 7 and b"<svg" in image
    named = [ax for ax in figure.axes if ax.get_xlabel() or any(label.get_text() for label in ax.get_xticklabels())]
    assert named, "no axis says what it shows"
    sizes = [found.get_fontsize() for found in figure.findobj(mpl.text.Text) if found.get_text().strip()]
    assert min(sizes) >= 9


@pytest.mark.parametrize(
    "name", sorted(set(EVERY) - {"figure_6, zoomed", "kept_raster", "token_strip", "budget_memory"})
)
def test_one_sequence_draws_without_intervals(name):
    answers = name in (
        "damage_scatter",
        "calibration_figure",
    )  # the first answer of these runs has no likelihood
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EVERY[name](tiny_run(per_category=1 + answers, layers=2))


def test_single_sequence_says_so():
    assert any("no interval" in text for text in texts(figures.figure_6(tiny_run(per_category=1).records)))


@pytest.mark.parametrize(("name", "ending"), [("figure_6", ".svg"), ("sequence_lengths", ".png")])
def test_saved_files_are_identical_twice(name, ending, tmp_path):
    paths = [figures.save(EVERY[name](RUN), tmp_path / f"{i}{ending}") for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(InputError, match=r"use \.svg"):
        figures.save(EVERY["budget_memory"](RUN), tmp_path / "figure.jpeg")


def test_saved_and_shown_are_the_same_picture(tmp_path):
    figure = EVERY["budget_memory"](RUN)
    assert figures.save(figure, tmp_path / "a.svg").read_text() == figures.svg(figure).decode()
    assert figures.show(figure).data.startswith(("<?xml", "<svg"))


# -------------------------------------------------------------------------------- style
def test_each_method_has_its_own_marker_and_the_three_their_own_colour():
    assert len({look.marker for look in figures.LOOKS.values()}) == len(figures.LOOKS)
    assert len({figures.LOOKS[m].colour for m in ("ChunkKV", "SnapKV", "H2O")}) == 3
    assert figures.look("MyMethod") == figures.look("MyMethod") in style.OTHERS


def test_label_colours_reach_contrast_on_white():
    for look in figures.LOOKS.values():
        assert 1.05 / (style.luminance(style.legible(look.colour)) + 0.05) >= 4.5
    assert style.luminance((1, 1, 1)) == pytest.approx(1) and style.text_on("#000000") == "white"
    assert style.text_on("#009E73") == style.INK


def test_spread_by_hand():
    assert style.spread([0.5, 0.0, 1.0], 0.1).tolist() == [0.5, 0.0, 1.0]  # far enough apart: nothing moves
    assert style.spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert style.spread([1.0, 1.0, 0.99], 0.1) == pytest.approx([0.9, 1.0, 0.8])  # nothing leaves the axes
    moved = style.spread([0.3, 0.31, 0.305, 0.9], 0.1)
    assert np.diff(np.sort(moved)).min() >= 0.1 - 1e-12 and np.argsort(moved).tolist() == [0, 2, 1, 3]


# -------------------------------------------------------------------------------- layers
def test_figure_6_draws_the_means_and_the_budget_line():
    figure = figures.figure_6(RUN.records, "Few-shot Learning")
    l1, cosine = figure.axes
    assert l1.get_ylabel() == "KV-cache L1 loss\n← lower is better"
    assert cosine.get_ylabel() == "Attention cosine similarity\nhigher is better →"
    assert cosine.get_xlabel().startswith("Layer")
    for ax, metric in ((l1, "kv_l1_loss"), (cosine, "attention_cosine_similarity")):
        for method in ("ChunkKV", "SnapKV", "H2O", "Random"):
            chosen = RUN.records[(RUN.records["category"] == "Few-shot Learning") & (RUN.records["method"] == method)]
            means = [chosen.loc[chosen["layer"] == layer, metric].mean() for layer in range(4)]
            assert line(ax, method).get_ydata() == pytest.approx(means)
        assert len(ax.collections) == 3  # a band for each method, none for the control
    assert any(set(np.round(drawn.get_ydata(), 6)) == {0.9} for drawn in l1.lines)
    assert "1 − budget = 0.90" in texts(figure) and "Random" in texts(figure)
    assert "y axis does not start at 0" in texts(figure)


def test_figure_6_band_is_the_bootstrap_interval():
    from chunkkv_lib.report.records import layer_values
    from chunkkv_lib.report.statistics import mean_interval

    ax = figures.figure_6(RUN.records, methods=["SnapKV"], controls=()).axes[0]
    chosen = RUN.records[RUN.records["category"] == "Single-Document QA"]
    found = mean_interval(layer_values(chosen, "kv_l1_loss", "SnapKV").to_numpy(), method="expanded")
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(found.high.max()) and heights.min() == pytest.approx(found.low.min())


def test_figure_6_draws_what_was_measured_and_refuses_what_was_asked_but_is_absent():
    records = tiny_run(methods=("ChunkKV", "Random")).records
    assert {drawn.get_label() for drawn in figures.figure_6(records).axes[0].lines} >= {"ChunkKV", "Random"}
    for call in (
        lambda: figures.figure_6(records, methods=["SnapKV"]),
        lambda: figures.figure_6(records, controls=["Oracle"]),
        lambda: figures.layer_differences(records),
    ):
        with pytest.raises(InputError, match="Known: ChunkKV, Random"):
            call()
    with pytest.raises(InputError, match="none of the methods"):
        figures.figure_6(records[records["method"] == "Random"])
    with pytest.raises(InputError, match=r"unknown category 'Few-shot'\. Did you mean 'Few-shot Learning'"):
        figures.figure_6(records, category="Few-shot")


def test_zoom_names_the_control_that_lies_outside():
    figure = figures.figure_6(RUN.records, zoom=True)
    assert any("outside (mean): Random 0.40" in text.replace("\n", " ") for text in texts(figure))
    assert figure.axes[1].get_ylim()[0] > 0.9


def test_paper_bands_keep_their_relative_depth():
    assert layers.paper_bands("kv_l1_loss", 32) == [(4.5, 25.5, "5–25 of 32")]
    (first, second) = layers.paper_bands("attention_cosine_similarity", 64)
    assert first[:2] == (-0.5, 11.5) and second[:2] == (39.5, 61.5)
    assert layers.paper_bands("attention_mass", 32) == []


def test_layer_differences_are_paired_and_filled_where_clear():
    ax = figures.layer_differences(RUN.records, bands=False).axes[0]
    chosen = RUN.records[RUN.records["category"] == "Single-Document QA"]
    wide = chosen.pivot_table(index="layer", columns="method", values="kv_l1_loss")
    assert ax.lines[0].get_ydata() == pytest.approx((wide["ChunkKV"] - wide["SnapKV"]).to_numpy())
    filled = [drawn for drawn in ax.lines if drawn.get_linestyle() == "None" and drawn.get_markerfacecolor() != "white"]
    assert sum(len(drawn.get_xdata()) for drawn in filled) == 8  # differences of 5 and 15 standard deviations
    assert {entry.get_text() for entry in ax.get_legend().get_texts()} == {
        "ChunkKV − SnapKV",
        "ChunkKV − H2O",
    }


# -------------------------------------------------------------------------------- averages
def test_table_11_figure_holds_every_value_once_and_names_what_is_missing():
    figure = figures.table_11_figure(paper_table_11(), {"published": RUN}, metrics=["kv_l1_loss"])
    drawn = [found.get_xdata()[0] for found in figure.axes[0].lines if len(found.get_xdata()) == 1]
    assert len(drawn) == 15 + 2 * 3
    assert sorted(drawn)[:2] == [0.8726, 0.8741]
    assert any("Not measured in published: Multi-Document QA" in text.replace("\n", " ") for text in texts(figure))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][2] == "Summarization"


def test_gaps_are_percentages_of_the_baseline():
    figure = figures.gaps_figure(paper_table_11(), {"published": RUN}, metrics=["kv_l1_loss"])
    drawn = [found.get_xdata()[0] for found in figure.axes[0].lines if len(found.get_xdata()) == 1]
    assert 100 * (0.8741 - 0.8921) / 0.8921 == pytest.approx(drawn[0]) == pytest.approx(-2.02, abs=0.005)
    assert drawn[10] == pytest.approx(100 * (0.89 - 0.90) / 0.90, abs=0.3)


def test_definitions_show_ranks_in_the_right_direction_and_skip_the_unmeasured():
    figure = figures.definitions_figure(RUN.records, "Few-shot Learning", methods=["ChunkKV", "H2O"])
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(rows) == 3 and rows[0] == "KV-cache L1 loss ↓" and not any("prompt" in row for row in rows)
    cells = [found.get_text() for found in figure.axes[0].texts]
    assert cells[:4:2] == ["1", "2"] and cells[4:8:2] == ["1", "2"]
    assert cells[1].startswith("0.89")


def test_definitions_mark_a_tie():
    records = RUN.records.copy()
    same = records["method"] == "Random"
    records.loc[same, "kv_l1_loss"] = records.loc[records["method"] == "SnapKV", "kv_l1_loss"].to_numpy()
    figure = figures.definitions_figure(records, methods=["SnapKV", "Random"], definitions=["kv_l1_loss"])
    assert [found.get_text() for found in figure.axes[0].texts][::2] == ["1", "1 ="]


# -------------------------------------------------------------------------------- damage
def test_damage_scatter_draws_each_sequence_and_states_the_rank_correlation():
    figure = figures.damage_scatter(RUN.records, RUN.answers)
    cosine = figure.axes[1]
    cloud = cosine.lines[0]
    assert len(cloud.get_xdata()) == 12 and np.isnan(cloud.get_ydata()).sum() == 2
    assert any("within a sequence: −1.00" in text for text in texts(figure))  # damage was made from the cosine
    mean = line(cosine, "H2O")
    assert mean.get_ydata() == pytest.approx([0.7]) and mean.get_xdata() == pytest.approx([0.93], abs=0.002)
    assert "nats per token" in cosine.get_ylabel()


def test_calibration_bins_have_the_mean_damage():
    ax = figures.calibration_figure(RUN.records, RUN.answers, bins=2).axes[0]
    assert line(ax, "SnapKV").get_ydata() == pytest.approx([0.3, 0.3]) and ax.get_ylim()[0] == 0


# -------------------------------------------------------------------------------- tokens
def test_kept_share_by_hand():
    assert tokens.kept_share([[0, 2], [0, 1]], 4).tolist() == [1, 0.5, 0.5, 0]
    assert tokens.kept_share([3], 4).tolist() == [0, 0, 0, 1]
    with pytest.raises(InputError, match="0 to 3"):
        tokens.kept_share([4], 4)


def test_long_raster_is_binned_without_losing_mass():
    share = np.zeros((2, 1003))
    share[0, 7], share[1, :] = 1, 0.25
    binned = tokens._binned(share)
    assert binned.shape == (2, tokens.COLUMNS) and binned[1] == pytest.approx(0.25)
    assert binned[0].argmax() == 3 and binned[0].max() == pytest.approx(1 / 3)  # positions 0 1, 2 3 4, 5 6, 7 8 9


def test_token_strip_colours_what_stays_and_prints_every_score():
    figure = EVERY["token_strip"](RUN)
    ax = figure.axes[0]
    cells = [found.get_text() for found in ax.texts]
    assert cells[:2] == ["0.00", "0.09"] and cells[22:24] == ["–", "–"]
    assert [found.get_fontweight() for found in ax.texts[:4]] == ["bold", "bold", "bold", "normal"]
    assert sum(not patch.get_fill() for patch in ax.patches) == 4  # chunks of 3 in the 10 tokens before the window
    assert [label.get_text() for label in ax.get_xticklabels()][-1] == "$key⏎"
    with pytest.raises(InputError, match="12 tokens"):
        figures.token_strip(WORDS, {"ChunkKV": [1.0]}, {"ChunkKV": [0]})
    with pytest.raises(InputError, match="at least one method"):
        figures.kept_raster({}, 4)


# -------------------------------------------------------------------------------- setting
def test_cache_size_of_llama_3_8b_by_hand():
    """2 x 32 layers x 8 heads x 128 channels x 2 bytes = 128 KiB per token, so 1 GiB at 8192 tokens."""
    size = figures.kv_cache_bytes(8192, layers=32, kv_heads=8, head_dim=128)
    assert size == 2**30 and setting.readable(size) == "1 GiB" and setting.readable(1536) == "1.5 KiB"
    assert figures.kv_cache_bytes(1, 30, 3, 64, bytes_per_number=4) == 46080


def test_memory_lines_and_their_share():
    ax = figures.budget_memory(ARCHITECTURES, lengths=(1024, 2048), budget=0.25).axes[0]
    whole, part = (drawn.get_ydata() for drawn in ax.lines[:2])
    assert whole.tolist() == [1024 * 23040, 2048 * 23040] and part.tolist() == [256 * 23040, 512 * 23040]
    for budget in (0, 1, 10):
        with pytest.raises(InputError, match="between 0 and 1"):
            figures.budget_memory(ARCHITECTURES, budget=budget)


def test_lengths_from_objects_equal_those_from_the_table():
    from types import SimpleNamespace

    objects = [
        SimpleNamespace(category=row.category, dataset=row.dataset, prompt_ids=range(row.prompt_tokens))
        for row in RUN.sequences.itertuples()
    ]
    assert figures.svg(figures.sequence_lengths(objects)) == figures.svg(figures.sequence_lengths(RUN.sequences))
    with pytest.raises(InputError, match="no sequences"):
        figures.sequence_lengths([])


def test_lengths_before_truncation_show_where_runs_cut():
    figure = figures.sequence_lengths(RUN.sequences, cuts={"a": 300, "b": 700})
    lines = {drawn.get_label(): drawn.get_xdata()[0] for drawn in figure.axes[0].lines}
    assert lines["a: 300"] == 300 and lines["b: 700"] == 700
    assert any(text.startswith("Prompts before truncation") for text in texts(figure))
