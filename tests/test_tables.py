"""Tables: the right numbers in the right cells, every column named, nothing missing in silence."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from synthetic_records import MANIFEST, tiny_run

from chunkkv_lib.errors import InputError
from chunkkv_lib.report import tables
from chunkkv_lib.report.records import averages, comparisons
from chunkkv_lib.report.statistics import Interval

RUN = tiny_run()


def read(text):
    """The caption and the cells of a MyST table, as a reader of the page would get them."""
    first, *rest = text.splitlines()
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in rest if line.startswith("|")]
    header, _, *rows = [[cell.strip(" ") for cell in line] for line in lines]
    return first.removeprefix(":::{table} "), pd.DataFrame(rows, columns=header)


# -------------------------------------------------------------------------------- any table
def test_a_table_is_a_numbered_directive_without_an_index():
    text = tables.myst_table(
        pd.DataFrame({"Method": ["a|b", "two\nlines"], "n": [1, 2]}), "A\ncaption.", "tab-x", right=["n"]
    )
    assert text.splitlines() == [
        ":::{table} A caption.",
        ":name: tab-x",
        "",
        "| Method | n |",
        "| :--- | ---: |",
        "| a\\|b | 1 |",
        "| two lines | 2 |",
        ":::",
    ]


@pytest.mark.parametrize(
    ("rows", "caption"),
    [(pd.DataFrame({"": ["a"]}), "x"), (pd.DataFrame({"a": []}), "x"), (pd.DataFrame({"a": ["b"]}), " ")],
)
def test_a_table_without_names_rows_or_caption_is_refused(rows, caption):
    with pytest.raises(InputError, match="name for each"):
        tables.myst_table(rows, caption)


def test_numbers_as_they_are_printed():
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    assert tables.number(nothing) == "–"
    assert tables.number(Interval(0.5, math.nan, math.nan, 1)) == "0.5000"
    assert tables.number(Interval(-0.01234, -0.02, 0.5, 9), 3) == "−0.012 [−0.020,\N{NO-BREAK SPACE}0.500]"
    assert [tables.p_text(p) for p in (0.0004, 0.04, 1.0, math.nan)] == ["< 0.001", "0.040", "1.000", "–"]
    assert [tables.budget_text(b) for b in (0.1, 0.025, 512, None)] == [
        "10 %",
        "2.5 %",
        "512 tokens",
        "not recorded",
    ]


def test_show_hands_markdown_to_the_notebook():
    assert tables.show("**x**").data == "**x**"


# -------------------------------------------------------------------------------- Table 11
def test_table_11_puts_sources_side_by_side_and_never_mixes_them():
    live = tiny_run(per_category=2, seed=3)
    caption, table = read(tables.table_11(tables.paper_table_11(), {"published": RUN, "this run": live}))
    assert list(table.columns) == [
        "Sub-category",
        "Method",
        "Paper: L1 loss",
        "Paper: attention cosine",
        "published: L1 loss",
        "published: attention cosine",
        "published: n",
        "this run: L1 loss",
        "this run: attention cosine",
        "this run: n",
    ]
    assert len(table) == 5 * 4 and caption.startswith("Paper Table 11.")
    assert "Paper: Llama-3-8B-Instruct" in caption and "published: smollm2-135m, data open, budget 10 %" in caption
    rows = table.set_index(["Sub-category", "Method"])
    found = averages(RUN.records).set_index(["category", "method", "metric"])
    for (category, method), row in rows.iterrows():
        name = method.removesuffix(" (control)")
        if (category, name, "kv_l1_loss") in found.index:
            assert f"{found.loc[(category, name, 'kv_l1_loss'), 'estimate']:.4f}" in row["published: L1 loss"]
            assert (row["published: n"], row["this run: n"]) == ("6", "2")
    assert rows.loc[("Summarization", "H2O"), "Paper: L1 loss"] == "0.8913"


def test_table_11_of_one_metric_speaks_of_that_metric_only():
    caption, table = read(tables.table_11(tables.paper_table_11(), {"ours": RUN}, metrics=["kv_l1_loss"]))
    assert "L1 loss: lower is better." in caption and "cosine" not in caption + "".join(table.columns)


def test_table_11_shows_what_was_not_measured():
    _, table = read(tables.table_11(tables.paper_table_11(), {"published": RUN}))
    rows = table.set_index(["Sub-category", "Method"])
    missing = rows.loc[("Summarization", "ChunkKV")]
    assert (missing["published: L1 loss"], missing["published: n"]) == ("–", "0")
    assert rows.loc[("Few-shot Learning", "Random (control)"), "Paper: L1 loss"] == "–"


def test_table_11_bold_is_the_best_of_the_three_methods():
    _, table = read(tables.table_11(tables.paper_table_11(), {"published": RUN}))
    rows = table.set_index(["Sub-category", "Method"])
    for column, best in (
        ("Paper: L1 loss", "ChunkKV"),
        ("published: L1 loss", "ChunkKV"),
        ("published: attention cosine", "SnapKV"),
    ):
        block = rows.loc["Few-shot Learning", column]
        assert [method for method, cell in block.items() if cell.startswith("**")] == [best]
    assert not rows[rows.index.get_level_values(1) == "Random (control)"].map(lambda cell: "**" in cell).any(axis=None)


def test_equal_printed_digits_share_the_rank():
    run = tiny_run()
    run.records["kv_l1_loss"] = run.records["method"].map(
        {"ChunkKV": 0.90001, "SnapKV": 0.90002, "H2O": 0.95, "Random": 0.5}
    )
    _, table = read(tables.table_11(tables.paper_table_11(), {"ours": run}, ranks=True))
    block = table[table["Sub-category"] == "Few-shot Learning"]["ours: L1 loss"].tolist()
    assert [cell.startswith("**") for cell in block] == [True, True, False, False]
    assert [cell.strip("*")[-3:] for cell in block[:3]] == ["(1)", "(1)", "(3)"] and "(" not in block[3]


def test_table_11_with_one_sequence_has_means_without_intervals():
    _, table = read(tables.table_11(tables.paper_table_11(), {"ours": tiny_run(per_category=1)}))
    cell = table.loc[table["Sub-category"] == "Few-shot Learning", "ours: L1 loss"].iloc[0]
    assert re.fullmatch(r"\*\*0\.\d{4}\*\*", cell)


def test_table_11_refuses_a_run_named_like_the_paper_and_unknown_methods():
    with pytest.raises(InputError, match="cannot be labelled 'Paper'"):
        tables.table_11(tables.paper_table_11(), {"Paper": RUN})
    with pytest.raises(InputError, match="Did you mean 'SnapKV'"):
        tables.table_11(tables.paper_table_11(), {"ours": RUN}, methods=["snapkv"])


def test_table_11_tints_every_cell_of_a_source_and_no_other():
    text = tables.table_11(tables.paper_table_11(), {"Live": RUN}, metrics=["kv_l1_loss"], tinted=True)
    plain = tables.table_11(tables.paper_table_11(), {"Live": RUN}, metrics=["kv_l1_loss"])
    row = next(line for line in text.splitlines() if "| Few-shot Learning | ChunkKV |" in line)
    cells = row.split(" | ")
    assert cells[2] == "[**0.8861**]{.paper .wraps}" and cells[3].startswith("[**0.8") and "{.live .wraps}" in cells[4]
    assert re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\{\.(?:paper|live) \.wraps\}", r"\1", text) == plain


# -------------------------------------------------------------------------------- the shape of Table 11
def test_signature_of_the_paper_is_what_its_table_shows():
    found = tables.signature(tables.paper_table_11())
    assert list(found.values()) == [
        "ChunkKV, H2O, SnapKV (5 of 5)",
        "ChunkKV, SnapKV, H2O (5 of 5)",
        "−1.78 % / −1.59 %",
        "+1.36 % / +1.93 %",
        *["Few-shot Learning"] * 5,
        "0.0048 / 0.0008 / 0.0005",
    ]


def test_signature_of_a_run_uses_the_same_rules():
    paper = tables.paper_table_11()
    _, table = read(tables.signature_table(paper, {"Live": RUN}, "shape"))
    assert table["What"].tolist() == list(tables.signature(paper))
    assert table["Live"][0] == "[ChunkKV, SnapKV, H2O (2 of 2)]{.live .wraps}"
    assert table["Live"][1] == "[SnapKV, ChunkKV, H2O (2 of 2)]{.live .wraps}"
    _, dotted = read(tables.signature_table(paper, {"qwen2.5-0.5b": RUN}, "shape"))
    assert dotted["qwen2.5-0.5b"][0].endswith("{.qwen2-5-0-5b .wraps}")
    gaps = [float(text.strip("[").split(" %")[0].replace("−", "-")) for text in table["Live"][2:4]]
    assert gaps == pytest.approx([100 * (0.89 / 0.90 - 1), 100 * (0.95 / 0.97 - 1)], abs=0.1)  # made with some noise


def test_order_text_marks_what_cannot_be_told_apart():
    run = tiny_run()
    noise = np.where(run.records["sequence"].str[-1].astype(int) % 2, 0.01, -0.0099)
    snapkv = run.records["method"] == "SnapKV"
    h2o = run.records.loc[run.records["method"] == "H2O", "kv_l1_loss"].to_numpy()
    run.records.loc[snapkv, "kv_l1_loss"] = h2o + noise[snapkv]
    assert tables.order_text(run.records, "kv_l1_loss", "Few-shot Learning") == "ChunkKV, H2O = SnapKV"
    assert tables.order_text(run.records, "kv_l1_loss", "Summarization") == "–"
    _, table = read(tables.orders_table(tables.paper_table_11(), {"Live": run}, "orders"))
    rows = table.set_index(["Metric", "Sub-category"])
    assert rows.loc[("L1 loss", "Few-shot Learning"), "Live"] == "[ChunkKV, H2O = SnapKV]{.live .wraps}"
    cosine = rows.loc[("attention cosine", "Summarization")].tolist()
    assert cosine == ["[ChunkKV, SnapKV, H2O]{.paper .wraps}", "[–]{.live .wraps}"]


# -------------------------------------------------------------------------------- results
def test_significance_table_agrees_with_the_comparisons():
    caption, table = read(tables.significance_table(RUN.records, "kv_l1_loss", source="tiny"))
    found = comparisons(RUN.records, ["kv_l1_loss"])
    assert "KV-cache L1 loss" in caption and "(tiny)" in caption and "Holm" in caption and "Below zero" in caption
    assert table["Difference"].tolist()[:2] == ["ChunkKV − SnapKV", "ChunkKV − H2O"]
    assert table["p, Holm"].tolist() == [tables.p_text(p) for p in found["p_holm"]]
    assert table["Mean [95 % interval]"][0].startswith(f"−{-found['difference'][0]:.4f} [")
    assert table["Rank-biserial"].tolist() == ["−1.00"] * 4 and table["n"].tolist() == ["6"] * 4


def test_significance_table_of_single_sequences_is_full_of_dashes():
    _, table = read(tables.significance_table(tiny_run(per_category=1).records))
    assert table["p"].tolist() == ["–"] * 4 and table["Mean [95 % interval]"].tolist() == ["–"] * 4
    assert table["n"].tolist() == ["1"] * 4 and table["Cohen's d"].tolist() == ["–"] * 4


def test_answers_table_counts_only_answers_with_a_likelihood():
    caption, table = read(tables.answers_table(RUN.answers, RUN.sequences, "Few-shot Learning"))
    row = table.set_index("Method").loc["H2O"]
    assert row["n"] == "5" and row["Increase of the answer's NLL (nats per token) ↓"].startswith("0.700 [")
    assert "Few-shot Learning" in caption and table["Method"].tolist()[-1] == "Random (control)"
    everything = read(tables.answers_table(RUN.answers))[1].set_index("Method")
    assert everything.loc["ChunkKV", "n"] == "10" and "Full" not in everything.index


def test_answers_table_refuses_an_unknown_category_or_one_it_cannot_look_up():
    with pytest.raises(InputError, match="Known: Single-Document QA, Few-shot Learning"):
        tables.answers_table(RUN.answers, RUN.sequences, "Code")
    with pytest.raises(InputError, match="pass `sequences="):
        tables.answers_table(RUN.answers, category="Few-shot Learning")


def test_correlations_table_finds_what_the_damage_was_made_from():
    _, table = read(tables.correlations_table(RUN.records, RUN.answers))
    rows = table.set_index("Metric")
    assert rows.loc["Attention cosine similarity", "Over methods, within a sequence"].startswith("−1.00")
    assert rows["n"].tolist() == ["10", "10"]


def test_claims_table_holds_verdict_and_number():
    claims = [
        tables.Claim("ChunkKV loses | least", "supported", "ChunkKV − SnapKV", Interval(-0.01, -0.02, -0.005, 100)),
        tables.Claim("Middle layers matter most", "cannot be told here"),
    ]
    _, table = read(tables.claims_table(claims))
    assert table["Verdict"].tolist() == ["supported", "cannot be told here"] and table["n"].tolist() == [
        "100",
        "0",
    ]
    assert table["Number [95 % interval]"].tolist() == ["−0.0100 [−0.0200,\N{NO-BREAK SPACE}−0.0050]", "–"]
    with pytest.raises(InputError, match="Did you mean 'supported'"):
        tables.claims_table([tables.Claim("x", "suported")])
    with pytest.raises(InputError, match="at least one row"):
        tables.claims_table([])


# -------------------------------------------------------------------------------- provenance
def test_provenance_line_says_everything_in_one_line():
    line = tables.provenance_line(MANIFEST)
    for part in (
        "`tiny`",
        "smollm2-135m",
        "data open",
        "n = 12",
        "10 %",
        "9f8e9f8e9f8e",
        "torch 2.13.0",
        "2026-11-24",
    ):
        assert part in line
    assert "\n" not in line


def test_provenance_line_admits_what_is_unfinished_or_not_recorded():
    running = MANIFEST | {"status": "interrupted", "sequences": {"wanted": 12, "measured": 5}}
    assert "(interrupted: 5 of 12)" in tables.provenance_line(running)
    assert "not recorded" in tables.provenance_line({})


def test_versions_table_lists_every_package_and_dashes_for_gaps():
    _, table = read(tables.versions_table(MANIFEST))
    values = table.set_index("What")["Value"]
    assert values["code SHA-256"] == "9f8e9f8e9f8e9f8e…"
    assert values["transformers"] == "5.23.0" and values["machine"] == "cores 2" and values["data"] == "open"
    assert (
        read(tables.versions_table({"versions": {"numpy": np.__version__}}))[1].set_index("What").loc["model", "Value"]
        == "–"
    )
