"""The tables of the start page and for those who ship a cache, against numbers that can be counted by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from synthetic_records import tiny_run

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.decide import decisions, decisions_table
from chunkkv_lib.report.start import editions, everywhere, rules, rules_figure, rules_table


def needles(found: dict[str, int], n: int = 4) -> SimpleNamespace:
    answers = pd.DataFrame({"sequence": f"s{i}", "method": name, "score": float(i < hits)}
                           for name, hits in found.items() for i in range(n))  # fmt: skip
    layers = answers[answers["method"] != "Full"].assign(kv_l1_loss=0.9)
    layers["attention_cosine_similarity"] = layers["method"].map(list(found).index) / 10
    return SimpleNamespace(answers=answers, layers=layers)


def test_rules_stand_in_the_order_of_what_they_find_and_carry_their_own_metrics():
    run = needles({"Full": 4, "SnapKV": 1, "ChunkKV": 3, "Random": 0, "ChunkKV, budget 0.02": 4})
    table = rules(run)
    assert list(table["method"]) == ["Full", "ChunkKV", "SnapKV", "Random"]  # no row for what the page does not name
    assert list(table["found"]) == [4, 3, 1, 0] and set(table["n"]) == {4}
    assert list(table["attention_cosine_similarity"][1:]) == pytest.approx([0.2, 0.1, 0.3])
    assert np.isnan(table["kv_l1_loss"][0])
    text = rules_table(table, "A caption.", "tab-x")
    assert "| Full cache | 4 | – | – |" in text and "| ChunkKV, chunks of 10 | 3 | 0.900 | 0.200 |" in text
    bars = rules_figure(table).axes[0].patches
    assert [bar.get_width() for bar in bars] == [1, 0.75, 0.25, 0]


def test_what_holds_everywhere_turns_with_the_records():
    run = tiny_run(methods=("ChunkKV", "SnapKV", "H2O", "Random", "Oracle"))
    run.answer_records = run.answers.merge(run.sequences[["sequence", "category"]], on="sequence")
    run.records["kv_l1_loss"] -= 0.005 * (run.records["method"] == "Random")
    row = everywhere([run]).iloc[0]
    assert row["run"] == "tiny" and row["behind"] == 2  # SnapKV and H2O lose more L1 than the random choice
    assert row["order_cosine"] == pytest.approx(1)  # made so: the answer's damage is ten times what the cosine lacks
    assert row["random"] == pytest.approx(6, abs=0.1) and row["lead_l1"] == pytest.approx(-1.1, abs=0.2)
    turned = run.records.assign(kv_l1_loss=-run.records["kv_l1_loss"])
    other = everywhere([SimpleNamespace(**{**vars(run), "records": turned})]).iloc[0]
    assert other["order_l1"] == pytest.approx(-row["order_l1"])


def test_values_of_two_editions_stand_side_by_side():
    rows = [("a", "alike", 0.1), ("a", "random", 2.0), ("gone", "alike", 9.0), ("needles", "SnapKV", 0.5)]
    first = pd.DataFrame(rows, columns=["run", "quantity", "value"])
    now = pd.DataFrame({"run": ["a"], "alike": [0.2], "behind": [3]})
    found = editions(first, now, SimpleNamespace(name="new", answers=needles({"SnapKV": 1}).answers))
    assert found["Run"].tolist() == ["a", "new"] and found["First edition"].tolist() == [0.1, 0.5]
    assert found["Now"].tolist() == [0.2, 0.25] and "SnapKV" in found["Quantity"][1]


def test_each_number_for_a_decision_is_the_rule_s_own_at_the_longest_prompt():
    found = needles({"H2O": 0, "ChunkKV": 1, "Random": 0}, n=2)
    found.name = "made"
    found.layers["pages_freed"] = [0.1, 0.1, 0.4, 0.6, 0.0, 0.0]
    times = [("chunkkv_lib", 1024, "all methods", 9.0), ("chunkkv_lib", 8192, "prefill", 1.0),
             ("chunkkv_lib", 8192, "SnapKV + ChunkKV", 1.02), ("chunkkv_lib", 8192, "all methods", 1.5),
             ("kvpress", 8192, "all methods", 7.0)]  # fmt: skip
    bench = SimpleNamespace(rows=pd.DataFrame(times, columns=["library", "length", "step", "time_ratio"]))
    table = decisions(found, bench)
    assert list(table["rule"]) == ["H2O", "ChunkKV, chunks of 10"]
    assert list(table["extra"]) == pytest.approx([0.48, 0.02])  # what the sums add, what the window adds
    assert list(table["pages_freed"]) == pytest.approx([0.1, 0.5]) and list(table["found"]) == [0, 1]
    text = decisions_table(table, "A caption.", "tab-x")
    assert "| H2O | 1 | 0 | 10 % | 48 % | needs a second pass |" in text and "NLL" not in text
    known = decisions_table(table.assign(known=[1.0, float("nan")]), "A caption.")
    assert "| H2O | 1 | 0 | 1.00 | 10 % |" in known and "| ChunkKV, chunks of 10 | 10 | 1 | – | 50 % |" in known
    found.answers = found.answers[found.answers["method"] == "Random"]
    with pytest.raises(InputError, match="none of"):
        decisions(found, bench)
