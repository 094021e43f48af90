"""Figures: what is drawn is the table that is published, axes are named, nothing is left behind, bytes repeat."""

import warnings
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_records import tiny_run

from chunkkv_lib.errors import InputError
from chunkkv_lib.report import arithmetic, definitions, diagrams, layers, prompt, style, table_11
from chunkkv_lib.report.records import paper_table_11

RUN = tiny_run()
WORDS = ["<s>", "The", "key", "is", "7", "4", "2", ".", "What", "was", "the", "$key\n"]
KEPT = {"ChunkKV": [[[0, 1, 2, 10, 11]]] * 4, "SnapKV": [[[0, 4, 5, 10, 11], [0, 1, 6, 10, 11]]] * 4}
SCORES = {"ChunkKV": np.arange(12), "SnapKV": [0.5] * 10 + [np.nan] * 2}
SHARES = np.linspace(0, 0.6, 12)
ANSWERS = pd.DataFrame({"method": ["Full", "ChunkKV", "Random"], "nll": [1.0, 1.2, 4.9]})
ROW = "Single-Document QA"


def beside(run):
    return table_11.side_by_side(paper_table_11(), run)


EVERY = {
    "figure_6": lambda run: layers.figure_6(layers.layer_means(run.records, ROW), ROW),
    "figure_6, whole": lambda run: layers.figure_6(layers.layer_means(run.records, ROW), whole=True),
    "layer_differences": lambda run: layers.layer_differences(layers.layer_gaps(run.records, ROW)),
    "leads_figure": lambda run: table_11.leads_figure(beside(run)),
    "ranks_figure": lambda run: definitions.ranks_figure(definitions.definition_ranks(run.records)),
    "cosines_figure": lambda run: definitions.cosines_figure(definitions.definition_ranks(run.records), (0.35, 0.43)),
    "ruler": lambda run: table_11.ruler(beside(run)),
    "kept_raster": lambda run: prompt.kept_raster(KEPT, 12, {"evidence": (3, 7)}),
    "passage_bars": lambda run: prompt.passage_bars({"ChunkKV": SHARES, "Oracle": SHARES[::-1]}, WORDS, [4, 5], 0.1),
    "answer_dots": lambda run: prompt.answer_dots(ANSWERS),
    "token_strip": lambda run: diagrams.token_strip(WORDS, SCORES, KEPT | {"SnapKV": [0, 4]}, chunk_size=3, window=2),
}


def line(ax, label):
    return next(drawn for drawn in ax.lines if drawn.get_label() == label)


def texts(figure):
    return [found.get_text() for found in figure.findobj(mpl.text.Text) if found.get_text()]


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_is_named_small_enough_and_leaves_no_trace(name):
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = EVERY[name](RUN)
        image = style.svg(figure)
    assert dict(mpl.rcParams) == before and not plt.get_fignums()
    assert figure.get_size_inches()[0] <= 7 and b"<svg" in image
    named = [ax for ax in figure.axes if ax.get_xlabel() or any(one.get_text() for one in ax.get_xticklabels())]
    assert named, "no axis says what it shows"
    sizes = [found.get_fontsize() for found in figure.findobj(mpl.text.Text) if found.get_text().strip()]
    assert min(sizes) >= 9


@pytest.mark.parametrize("name", ["figure_6", "layer_differences", "leads_figure", "ranks_figure"])
def test_few_sequences_draw_without_intervals(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = EVERY[name](tiny_run(per_category=1, layers=2))
    assert any("no interval" in text for text in texts(figure)) or name in ("leads_figure", "ranks_figure")


def test_the_user_s_own_settings_of_matplotlib_change_nothing():
    plain = style.show(EVERY["figure_6"](RUN)).data
    assert plain.startswith(("<?xml", "<svg"))
    with mpl.rc_context({"text.usetex": True, "font.size": 30, "axes.facecolor": "red", "lines.linestyle": ":"}):
        assert style.show(EVERY["figure_6"](RUN)).data == plain


@pytest.mark.parametrize("name", ["a$b$", r"$\frac{", "long" * 40, "$"])
def test_names_from_outside_are_no_markup(name):
    run = tiny_run()
    for table in (run.records, run.answers):
        table["method"] = table["method"].replace("H2O", name)
    means = layers.layer_means(run.records, ROW, methods=["ChunkKV", "SnapKV", name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = layers.figure_6(means)
        style.svg(figure)
    assert style.brief(name, 23) in texts(figure) and figure.axes[0].get_position().width > 0.36


def test_methods_are_told_apart_and_labels_reach_contrast():
    assert len({look.marker for look in style.LOOKS.values()}) == len(style.LOOKS)
    assert len({style.LOOKS[m].colour for m in ("ChunkKV", "SnapKV", "H2O")}) == 3
    assert style.look("MyMethod") == style.look("MyMethod") in style.OTHERS
    for look in style.LOOKS.values():
        assert 1.05 / (style.luminance(style.legible(look.colour)) + 0.05) >= 4.5
    assert style.luminance((1, 1, 1)) == pytest.approx(1) and style.text_on("#000000") == "white"
    assert style.text_on("#FFFFFF") == style.text_on("#DEEBF7") == style.INK


def test_spread_by_hand():
    assert style.spread([1.0, 1.0, 0.99], 0.1) == pytest.approx([0.9, 1.0, 0.8])  # nothing leaves the axes
    moved = style.spread([0.3, 0.31, 0.305, 0.9], 0.1)
    assert np.diff(np.sort(moved)).min() >= 0.1 - 1e-12 and np.argsort(moved).tolist() == [0, 2, 1, 3]


def test_figure_6_draws_the_published_table_and_the_budget_line():
    """Of five sequences, where a plain percentile interval would be narrower by a third."""
    run = tiny_run(per_category=5)
    table = layers.layer_means(run.records, "Few-shot Learning")
    figure = layers.figure_6(table, "Few-shot Learning")
    l1, cosine = figure.axes
    assert l1.get_ylabel() == "KV-cache L1 loss\n← lower is better"
    assert cosine.get_ylabel() == "Attention cosine similarity\nhigher is better →"
    assert cosine.get_xlabel().startswith("Layer")
    for ax, metric in ((l1, "kv_l1_loss"), (cosine, "attention_cosine_similarity")):
        assert len(ax.collections) == 3  # a band for each method, none for the control
        for place, method in enumerate(("ChunkKV", "SnapKV", "H2O", "Random")):
            rows = table[(table["method"] == method) & (table["metric"] == metric)]
            assert line(ax, method).get_ydata() == pytest.approx(rows["estimate"].to_numpy())
            if method != "Random":
                corners = ax.collections[place].get_paths()[0].vertices[:, 1]
                assert set(rows[["low", "high"]].to_numpy().ravel().round(9)) <= set(corners.round(9))
    chosen = run.records[(run.records["category"] == "Few-shot Learning") & (run.records["method"] == "H2O")]
    assert line(l1, "H2O").get_ydata() == pytest.approx(chosen.groupby("layer")["kv_l1_loss"].mean().to_numpy())
    assert {"y axis does not start at 0", "Random"} <= set(texts(figure))


def test_means_are_of_what_was_measured_and_refuse_what_is_absent():
    records = tiny_run(methods=("ChunkKV", "Random")).records
    assert list(layers.layer_means(records)["method"].unique()) == ["ChunkKV", "Random"]
    with pytest.raises(InputError, match="Known: ChunkKV, Random"):
        layers.layer_means(records, methods=["SnapKV"])
    with pytest.raises(InputError, match="pass `methods`"):
        layers.layer_means(records.assign(method="mine"))


def test_views_of_the_axis():
    means = layers.layer_means(RUN.records, ROW)
    figure = layers.figure_6(means)
    assert any("outside (mean): Random 0.40" in text.replace("\n", " ") for text in texts(figure))
    assert figure.axes[1].get_ylim()[0] > 0.9
    whole = layers.figure_6(means, whole=True)
    assert all(ax.get_ylim() == (0, 1) for ax in whole.axes) and "Random" in texts(whole)
    high = means.assign(estimate=means["estimate"].clip(0.999), low=0.999, high=1.0)
    assert layers.figure_6(high).axes[1].get_ylim()[1] == 1  # no cosine lies beyond


def test_paper_bands_keep_their_relative_depth():
    shaded = {}
    for count in (32, 64):
        figure = layers.figure_6(layers.layer_means(tiny_run(layers=count, per_category=2).records, ROW))
        shaded[count] = [[(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches] for ax in figure.axes]
    assert shaded[32] == [[(4.5, 25.5)], [(-0.5, 5.5), (19.5, 30.5)]]
    assert shaded[64] == [[(9.5, 51.5)], [(-0.5, 11.5), (39.5, 61.5)]]


def test_a_band_is_ranked_among_all_of_its_width():
    """A gain in layers 3 to 10 makes the paper's band, 5 to 25, larger inside than outside, but not the first."""
    records = tiny_run(layers=32).records
    records.loc[(records["method"] == "ChunkKV") & records["layer"].between(0, 10), "kv_l1_loss"] -= 0.05
    row = layers.band_contrasts(records, ["kv_l1_loss"], [("ChunkKV", "SnapKV")]).iloc[0]
    assert row["layers"] == "5–25 of 32" and row["bands"] == 12 and row["rank"] == 6 and row["best"] == "0–20"
    assert row["behind"].estimate > 0 and row["behind"].excludes(0)
    gap = records.pivot_table("kv_l1_loss", "layer", "method", "mean", sort=True)
    gap = gap["ChunkKV"] - gap["SnapKV"]
    assert row["contrast"].estimate == pytest.approx(gap[5:26].mean() - gap.drop(range(5, 26)).mean())


def test_layer_differences_draw_their_table_and_mark_what_is_clear():
    gaps = layers.layer_gaps(RUN.records, ROW, pairs=[("ChunkKV", "SnapKV")])
    gaps.loc[gaps.index[0], "clear"] = False
    figure = layers.layer_differences(gaps, ROW)
    drawn = figure.axes[0].lines[0]
    wide = RUN.records[RUN.records["category"] == ROW].pivot_table("kv_l1_loss", "layer", "method")
    assert drawn.get_ydata() == pytest.approx((wide["ChunkKV"] - wide["SnapKV"]).to_numpy())
    assert drawn.get_markevery() == [1, 2, 3]  # differences of five standard deviations, but the first
    assert any(text.startswith("ChunkKV − SnapKV, Single-Document QA, n = 6") for text in texts(figure))


def test_hollow_is_the_paper_and_every_lead_is_drawn_once_in_its_own_row():
    leads = table_11.leads_figure(beside(RUN))
    ax = leads.axes[0]
    dots = [found for found in ax.lines if len(found.get_xdata()) == 1]
    hollow = [found.get_xdata()[0] for found in dots if found.get_fillstyle() == "none"]
    assert len(dots) == 5 * 2 + 2 * 2 and len(hollow) == 10
    assert min(hollow) == pytest.approx(100 * (0.8741 - 0.8921) / 0.8921, abs=0.5)
    rows = [label.get_text().replace("-\n", "-").replace("\n", " ") for label in ax.get_yticklabels()]
    assert rows[2] == "Summarization"
    printed = paper_table_11().pivot(index="category", columns="method", values="kv_l1_loss")
    for dot in dots:
        if dot.get_fillstyle() == "none":
            one = printed.loc[rows[round(dot.get_ydata()[0])]]
            gaps = [100 * (one["ChunkKV"] - one[other]) / one[other] for other in ("SnapKV", "H2O")]
            assert min(abs(dot.get_xdata()[0] - gap) for gap in gaps) < 1e-6


def test_definitions_show_ranks_in_the_right_direction_and_skip_the_unmeasured():
    records = RUN.records[RUN.records["method"].isin(["ChunkKV", "H2O"])]
    ranks = definitions.definition_ranks(records, "Few-shot Learning")
    (ax,) = definitions.ranks_figure(ranks).axes[:1]
    colours = {label.get_text(): label.get_color() for label in ax.get_xticklabels()}
    assert colours == {name: style.legible(style.look(name).colour) for name in ("ChunkKV", "H2O")}
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert len(rows) == 3 and rows[0] == "KV-cache L1 loss" and not any("prompt" in row for row in rows)
    assert [found.get_text() for found in ax.texts[:4]] == ["1", "2", "1", "2"]
    assert ranks["family"].tolist() == [definitions.SIZES] * 2 + [definitions.ATTENTION] * 4
    cosines = definitions.cosines_figure(ranks, (0.35, 0.43)).axes[0]
    means = ranks[ranks["metric"] == "attention_cosine_similarity"].set_index("method")["estimate"]
    assert set(means) <= {drawn.get_xdata()[0] for drawn in cosines.lines}
    assert cosines.get_xlim() == (0, 1)
    snapkv = RUN.records[RUN.records["method"] == "SnapKV"][["sequence", "method", "layer", "kv_l1_loss"]]
    equal = definitions.definition_ranks(pd.concat([snapkv, snapkv.assign(method="Random")]))
    assert equal["rank"].tolist() == [1, 1] and equal["tied"].tolist() == [False, True]
    assert [one.get_text() for one in definitions.ranks_figure(equal).axes[0].texts] == ["1", "1="]


def test_the_ruler_has_each_mean_once_and_the_paper_hollow():
    found = beside(RUN)
    ax = table_11.ruler(found).axes[0]
    dots = [drawn for drawn in ax.lines if len(drawn.get_xdata()) == 1]
    hollow = [drawn.get_xdata()[0] for drawn in dots if drawn.get_fillstyle() == "none"]
    printed = paper_table_11().groupby("method", sort=False)["kv_l1_loss"].mean()
    assert sorted(hollow) == pytest.approx(sorted(printed)) and len(dots) == 3 + 4
    ours = found[(found["source"] == "Here") & (found["metric"] == "kv_l1_loss") & (found["method"] == "Random")]
    (upright,) = (drawn for drawn in ax.lines if list(drawn.get_ydata()) == [0, 1])  # of the axes' height
    assert upright.get_xdata()[0] == pytest.approx(ours["estimate"].mean())


def test_bubbles_tick_what_is_right_and_write_texts_as_texts():
    columns = {"first": {"Full": "in the <b>17th", "H2O": "1873\n\nor so"}, "then": {"Full": "no", "H2O": "17th"}}
    shown = prompt.bubbles(columns, lambda text: "17th" in text).data
    assert "in the &lt;b&gt;17th" in shown and "1873 or so" in shown and "<b>" not in shown
    assert shown.count("✓") == shown.count('aria-label="right"') == 2 and shown.count("✗") == 2


def test_bars_and_dots_are_where_their_numbers_are():
    bars = [patch.get_height() for patch in EVERY["passage_bars"](RUN).axes[0].patches]
    assert [height for height in bars if height != 1] == pytest.approx(SHARES)  # the others mark tokens
    ax = EVERY["answer_dots"](RUN).axes[0]
    assert [drawn.get_xdata()[0] for drawn in ax.lines if len(drawn.get_xdata()) == 1] == [1.2, 4.9]
    assert [text.get_text() for text in ax.texts] == ["full cache, 1.00", "1.20", "4.90"]


@pytest.mark.parametrize(("looks", "found"), [([0.0] * 40 + [0.1] * 20 + [0.0] * 8, (41, 61)), ([0.2] * 15, (1, 8))])
def test_without_evidence_the_passage_is_what_the_answer_looks_at(looks, found):
    rows = torch.tensor([0.9, *looks])[None, None]  # position 0 and the window do not count, whatever they get
    prompts = [SimpleNamespace(probe_rows=lambda: rows)]
    assert prompt.passage(SimpleNamespace(evidence_spans=()), prompts, window=8) == found
    assert prompt.passage(SimpleNamespace(evidence_spans=((3, 5),)), [], 8) == (3, 5)


def test_kept_shares_by_hand_and_binned_without_losing_mass():
    assert prompt.kept_share([[0, 2], [0, 1]], 4).tolist() == [1, 0.5, 0.5, 0]
    image = prompt.kept_raster({"H2O": [[[7]], [np.arange(0, 1003, 4)]]}, 1003, {}).axes[0].images[0].get_array()
    assert image.shape == (2, prompt.COLUMNS) and image[1].mean() == pytest.approx(0.25, abs=0.01)
    assert image[0].argmax() == 3 and image[0].max() == pytest.approx(1 / 3)  # positions 0 1, 2 3 4, 5 6, 7 8 9


def test_token_strip_colours_what_stays_and_prints_every_score():
    ax = EVERY["token_strip"](RUN).axes[0]
    cells = [found.get_text() for found in ax.texts]
    assert cells[:2] == ["0", "1"] and cells[22:24] == ["–", "–"]
    assert [found.get_fontweight() for found in ax.texts[:4]] == ["bold", "bold", "bold", "normal"]
    assert sum(not patch.get_fill() for patch in ax.patches) == 4  # chunks of 3 in the 10 tokens before the window


def test_cache_size_of_llama_3_8b_by_hand():
    """2 x 32 layers x 8 heads x 128 channels x 2 bytes = 128 KiB per token, so 1 GiB at 8192 tokens."""
    assert arithmetic.kv_cache_bytes(8192, layers=32, kv_heads=8, head_dim=128) == 2**30
    shown = {2**30: "1 GiB", 1536: "1.5 KiB", 1023 * 2**20: "1,020 MiB"}
    shown[5760] = "5.63 KiB"  # 5.625: halves are rounded up, as browsers do
    assert {size: arithmetic.readable(size) for size in shown} == shown


def test_serving_memory_by_hand():
    """Ten layers, one KV head of 4 numbers: 160 bytes per token. The work: 6 tokens x (4 x 8 + 3 x 16) x 2 = 960."""
    tiny = arithmetic.Architecture(10, 8, 16, 10, 2, 1, 4, tied=True)
    weights = 2 * tiny.weights
    found = arithmetic.serving_memory(tiny, 6, 3, weights + 960 + 10_000)
    assert found["whole"] == (960, weights + 960 + 960, 10)
    assert found["after"] == (480, weights + 960 + 960, 19)  # (10,000 - 480 about to be deleted) / 480
    assert found["layer"] == (480, weights + 960 + 480 + 48, 20)
    assert arithmetic.serving_memory(tiny, 6, 3, 100)["whole"][2] == 0
