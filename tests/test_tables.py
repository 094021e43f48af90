"""Tables: the right numbers in the right cells, every column named, nothing missing in silence."""

import math
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from synthetic_records import MANIFEST, tiny_run

from chunkkv_lib.__main__ import app
from chunkkv_lib.book.chapters import read_notebook
from chunkkv_lib.report import arithmetic, damage, tables
from chunkkv_lib.report import table_11 as t11
from chunkkv_lib.report.records import PRIMARY, metric_and_damage, paper_table_11
from chunkkv_lib.report.records import damage as rec_damage
from chunkkv_lib.report.statistics import Interval, within_sequence_rank_correlation
from chunkkv_lib.runs import Parameters

RUNS, CHAPTERS = (Path(__file__).parents[1] / name for name in ("data/runs", "chapters"))
RUN = tiny_run()
PAPER = paper_table_11()


def read(text):
    """The caption and the cells of a MyST table, as a reader of the page would get them."""
    first, *rest = text.splitlines()
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in rest if line.startswith("|")]
    header, _, *rows = [[cell.strip(" ") for cell in line] for line in lines]
    return first.removeprefix(":::{table} "), pd.DataFrame(rows, columns=header)


def test_a_table_is_a_numbered_directive_without_an_index():
    rows = pd.DataFrame({"Method": ["a|b", "two\nlines"], "n": [1, 2]})
    text = tables.show(tables.myst_table(rows, "A\ncaption.", "tab-x", right=["n"])).data
    head = [":::{table} A caption.", ":name: tab-x", "", "| Method | n |", "| :--- | ---: |"]
    assert text.splitlines() == [*head, "| a\\|b | 1 |", "| two lines | 2 |", ":::"]


def test_numbers_as_they_are_printed():
    assert tables.number(Interval(math.nan, math.nan, math.nan, 0)) == "–"
    assert tables.number(Interval(0.5, math.nan, math.nan, 1)) == "0.5000"
    assert tables.number(Interval(-0.01234, -0.02, 0.5, 9), 3) == "−0.012 [−0.020,\N{NO-BREAK SPACE}0.500]"
    assert [tables.budget_text(b) for b in (0.1, 0.025, 512, None)] == ["10 %", "2.5 %", "512 tokens", "not recorded"]
    # a bound is rounded away from what it bounds
    assert [tables.at_most(*one) for one in ((0.1539, 2), (0.15, 2), (3.11, 0))] == ["0.16", "0.15", "4"]
    assert [tables.at_least(*one) for one in ((0.1539, 2), (0.3, 1), (3.11, 0))] == ["0.15", "0.3", "3"]


def table_of(run, methods=None):
    return read(t11.table_11(t11.side_by_side(PAPER, run, methods), run))


def test_table_11_puts_the_run_beside_the_paper_and_never_mixes_them():
    caption, table = table_of(RUN)
    columns = [f"{source}: {what}" for source in ("Paper", "Here") for what in ("L1 loss", "attention cosine")]
    assert list(table.columns) == ["Sub-category", "Method", *columns, "n"]
    assert table["Sub-category"].unique().tolist() == PAPER["category"].unique().tolist()
    assert "Paper: Llama-3-8B-Instruct" in caption and "Here: smollm2-135m, data open, budget 10 %" in caption
    rows = table.set_index(["Sub-category", "Method"])
    found = RUN.records.groupby(["category", "method"])["kv_l1_loss"].mean()
    for (category, method), row in rows.iterrows():
        if (key := (category, method.removesuffix(" (control)"))) in found.index:
            assert f"{found[key]:.4f}" in row["Here: L1 loss"] and row["n"] == "6"
    assert rows.loc[("Summarization", "H2O"), "Paper: L1 loss"] == "0.8913"
    assert rows.loc[("Summarization", "ChunkKV"), ["Here: L1 loss", "n"]].tolist() == ["–", "0"]
    assert rows.loc[("Few-shot Learning", "Random (control)"), "Paper: L1 loss"] == "–"
    assert table_of(RUN, ["SnapKV", "Random"])[1]["Method"].unique().tolist() == ["SnapKV", "Random (control)"]


def test_table_11_bold_is_the_best_of_the_three_methods_by_its_printed_digits():
    means = {"ChunkKV": 0.90001, "SnapKV": 0.90002, "H2O": 0.95, "Random": 0.5}
    equal = tiny_run()
    equal.records["kv_l1_loss"] = equal.records["method"].map(means)
    for run, column, best in ((RUN, "Paper: L1 loss", ["ChunkKV"]), (RUN, "Here: attention cosine", ["SnapKV"]),
                              (equal, "Here: L1 loss", ["ChunkKV", "SnapKV"])):  # fmt: skip
        block = table_of(run)[1].set_index(["Sub-category", "Method"]).loc["Few-shot Learning", column]
        assert [method for method, cell in block.items() if cell.startswith("**")] == best


def test_leads_are_paired_percentages_of_the_other_method_s_mean():
    found = t11.side_by_side(PAPER, RUN).set_index(["source", "category", "method", "metric"])
    paper, ours = (found.loc[(source, "Single-Document QA", "SnapKV", "kv_l1_loss")] for source in ("Paper", "Here"))
    assert paper["lead"] == pytest.approx(100 * (0.8741 - 0.8921) / 0.8921) and np.isnan(paper["lead_low"])
    rows = RUN.records[RUN.records["category"] == "Single-Document QA"]
    mean = rows.groupby("method")["kv_l1_loss"].mean()
    assert ours["lead"] == pytest.approx(100 * (mean["ChunkKV"] - mean["SnapKV"]) / mean["SnapKV"])
    assert ours["lead_low"] < ours["lead"] < ours["lead_high"] < 0
    assert found.xs("Random", level="method")["lead"].isna().all()
    assert t11.side_by_side(PAPER.iloc[:0], tiny_run(methods=("SnapKV", "Random")))["lead"].isna().all()


def test_leads_under_each_setting_and_bold_where_they_are_against_the_paper():
    methods = {"ChunkKV": (0.90, 0.95), "SnapKV": (0.91, 0.96), "H2O": (0.92, 0.93)}
    rows = [(f"s{i}", "QA", 0, name + part, *methods[name]) for i in range(4) for parts in t11.SETTINGS.values()
            for name, part in zip(methods, parts, strict=True) if part is not None]  # fmt: skip
    records = pd.DataFrame(rows, columns=["sequence", "category", "layer", "method", *PRIMARY])
    found = t11.leads_by_setting(records.drop_duplicates(["sequence", "method"]))
    first = found[(found["setting"] == "window 32") & (found["baseline"] == "SnapKV")]["lead"]
    assert first.tolist() == pytest.approx([100 * (0.90 - 0.91) / 0.91, 100 * (0.95 - 0.96) / 0.96])
    assert len(found) == 2 * (2 * len(t11.SETTINGS) - 4)  # four of the settings touch one pair only
    _, table = read(t11.settings_table(found, "settings", "tab-settings"))
    row = table.set_index("Setting").loc["as in this book"]
    assert row.tolist() == ["−1.10", "**−1.04**", "−2.17", "+2.15"]
    assert table.set_index("Setting").loc["SnapKV's kernel 15"].tolist()[2:] == ["–", "–"]


def related(slope, n=60):
    """Records in which the methods' order never changes, and the difference in cosine foretells that in damage."""
    rng, names = np.random.default_rng(0), [f"s{i}" for i in range(n)]
    ahead, rows = rng.normal(0, 0.01, n), []
    answers = [pd.DataFrame({"sequence": names, "method": "Full", "nll": 1.0, "kl": 0.0})]
    for method, l1, cosine, mean in (("ChunkKV", 0.89, 0.95, 0.3), ("SnapKV", 0.9, 0.94, 0.3), ("H2O", 0.92, 0.9, 0.5)):
        lead, about = ahead * (method == "ChunkKV"), {"sequence": names, "method": method}
        metrics = {"kv_l1_loss": rng.normal(l1, 1e-4, n), "attention_cosine_similarity": cosine + lead}
        rows.append(pd.DataFrame(about | {"category": "QA", "layer": 0} | metrics))
        hurt = rng.normal(mean, 0.05, n) - 5 * slope * lead
        answers.append(pd.DataFrame(about | {"nll": 1 + hurt, "kl": hurt}))
    return pd.concat(rows), rec_damage(pd.concat(answers))


@pytest.mark.parametrize("slope", [1, -1])
def test_pairwise_tells_a_metric_that_foretells_from_an_order_that_never_changes(slope):
    records, hurt = related(slope)
    found = damage.pairwise(records, hurt, names=("nll_increase",)).set_index(["metric", "baseline"])
    cosine, l1 = found.loc[(PRIMARY[1], "SnapKV")], found.loc[(PRIMARY[0], "SnapKV")]
    assert slope * cosine["estimate"] > 0.4 and cosine["low"] * cosine["high"] > 0
    assert (cosine["right"] > 0.5) == (slope > 0) and l1["low"] < 0 < l1["high"] and l1["n"] == 60
    assert within_sequence_rank_correlation(*metric_and_damage(records, hurt, PRIMARY[0], "nll_increase")).excludes(0)
    both = damage.pairwise(records, hurt, PRIMARY[:1], pairs=[("ChunkKV", "SnapKV")])
    _, long = read(damage.pairwise_table({"a": both, "b": both[:1]}, "Told?"))
    assert long["Definition"].tolist() == ["KV-cache L1 loss"] * 2 and long["a"][1].endswith("n = 60")
    assert long["Damage"].tolist() == ["Increase of the answer's NLL", "KL divergence from the full cache"]
    assert long["b"].tolist()[1] == "–" != long["b"].tolist()[0]


def test_provenance_line_says_everything_in_one_line():
    assert tables.provenance_line(MANIFEST) == (
        "Run `tiny` · model smollm2-135m, float32 on cpu · data open · n = 12 sequences · budget 10 % · "
        "measurement version 1 · torch 2.13.0, transformers 5.23.0 · 2026-11-24"
    )
    running = MANIFEST | {"status": "interrupted", "sequences": {"wanted": 12, "measured": 5}}
    assert "(interrupted: 5 of 12)" in tables.provenance_line(running)


def test_weights_and_a_prefill_by_hand():
    """The paper's model has 8.03 billion, as its card says; norms are left out here. The other has one layer, one head
    of 2 entries, hidden 2, feed-forward 4, and reads three tokens.
    """
    assert arithmetic.ARCHITECTURES["Meta-Llama-3-8B-Instruct"].weights == pytest.approx(8.03e9, rel=0.001)
    tiny = arithmetic.Architecture(10, 2, 4, 1, 1, 1, 2, tied=True)
    assert tiny.matrix_weights == 4 * 2 * 2 + 3 * 2 * 4 and tiny.weights == tiny.matrix_weights + 20
    assert arithmetic.prefill_flops(tiny, 3) == 2 * 40 * 3 + 2 * 9 * 2
    assert arithmetic.analysis_flops(tiny, 3) == arithmetic.prefill_flops(tiny, 3) + 9 * 2


def test_every_option_is_explained_and_every_parameter_is_one_of_measure():
    """What the page of commands prints of them."""
    commands = typer.main.get_command(app).commands
    assert all(one.help for command in commands.values() for one in command.params)
    options = {one.name: one.help for one in commands["measure"].params}
    for field in fields(Parameters):
        assert options[field.name].startswith(field.metadata["help"])
        assert not options[field.name].endswith("(default: )")


def test_every_column_of_a_run_is_explained_on_a_page():
    cells = [cell for name in ("commands", "definitions") for cell in read_notebook(CHAPTERS / f"{name}.ipynb").cells]
    text = "\n".join(cell.source for cell in cells)
    paths = [path for run in ("published", "answers", "needles-smollm2") for path in (RUNS / run).glob("*.parquet")]
    columns = {column for path in paths for column in pd.read_parquet(path).columns}
    assert len(columns) > 40
    assert [one for one in sorted(columns) if f"| `{one}` |" not in text and f'    "{one}": ' not in text] == []
