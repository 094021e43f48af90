"""What is found, written and foretold, on records small enough to recompute by hand."""

from types import SimpleNamespace

import pandas as pd
import pytest
from common import refused
from synthetic_records import needle_ids, tiny_run

from chunkkv_lib.report import answers, decide, reach, start
from chunkkv_lib.report import damage as dm
from chunkkv_lib.report.records import PRIMARY, damage
from chunkkv_lib.runs import Parameters

CODE = "1234567890123456"
#: label -> digits that the model writes rightly; a rule at 2 % writes one less
RIGHT = {
    "Full": 16, "ChunkKV": 5, "SnapKV": 4, "H2O": 0, "Random": 0, "SnapKV, kernel 1": 1, "SnapKV, kernel 15": 8,
    "SnapKV, kernel 25": 13, "ChunkKV, chunk_size 5": 3, "ChunkKV, chunk_size 20": 10, "ChunkKV, chunk_size 40": 16,
    "SnapKV, budget 0.02": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def needles():
    """Every depth and length twice; a code is found where it is written whole. Metrics grow with a rule's place."""
    ids = needle_ids(2, (5, 16), (0, 40, 100))
    rows, layers = [], []
    for id in ids:
        code = CODE[: int(id.split(":")[2])]
        for place, (method, right) in enumerate(RIGHT.items()):
            text = code[:right] + ("x<b>" if right < len(code) else ".")
            rows.append({"sequence": id, "method": method, "score": float(right >= len(code)), "written": text})
            if method != "Full":
                shares = {"attention_cosine_similarity": place / 100, "pages_freed": place / 100}
                layers += [{"sequence": id, "method": method, "layer": layer, "kv_l1_loss": 0.9 + place / 1000 + layer}
                           | shares for layer in (-1, 1)]  # fmt: skip
    sequences = [{"sequence": id, "category": "x", "dataset": "needle", "document": id[-8:]} for id in ids]
    run = SimpleNamespace(name="made", manifest={"parameters": {"source": "needles"}}, answers=pd.DataFrame(rows))
    run.sequences, run.layers = pd.DataFrame(sequences), pd.DataFrame(layers)
    run.records = run.layers.merge(run.sequences)
    run.parameters = Parameters(source="needles", variants="reach")
    return run


def test_codes_are_counted_by_setting_and_in_all(needles):
    table = answers.found(needles, "answer_tokens", ["Full", "SnapKV, kernel 15", "ChunkKV", "SnapKV, budget 0.02"])
    by_hand = {
        ("Full", 5): 6, ("Full", 16): 6, ("Full", "all"): 12, ("SnapKV, kernel 15", 5): 6, ("ChunkKV", 5): 6,
        ("SnapKV, kernel 15", 16): 0, ("ChunkKV", "all"): 6, ("SnapKV, budget 0.02", 5): 0,
    }  # fmt: skip
    hits = table.set_index(["method", "answer_tokens"])["hits"]
    assert {key: hits[key] for key in by_hand} == by_hand and set(table["n"]) == {6, 12}
    assert table.loc[table["method"] == "SnapKV, budget 0.02", ["rule", "budget"]].iloc[0].tolist() == ["SnapKV", 0.02]
    assert list(answers.found(needles, "depth", ["Full"])["depth"]) == [0, 0.4, 1, "all"]
    half = table[(table["method"] == "ChunkKV") & (table["answer_tokens"] == "all")].iloc[0]
    assert half["low"] < half["estimate"] == 0.5 < half["high"]
    with refused("no method 'Recent'"):
        answers.found(needles, "depth", ["Recent"])


def test_the_map_names_every_count_and_shades_the_better_value_of_a_metric_darker(needles):
    methods = ["Full", "ChunkKV", "Random"]
    found = answers.found(needles, "answer_tokens", methods)
    drawn = answers.needle_map(found, "Tokens", answers.beside(needles, methods))
    ax = drawn.axes[0]
    shade = {text.get_text(): sum(patch.get_facecolor()) for text, patch in zip(ax.texts, ax.patches, strict=True)}
    counts = [text.get_text() for text in ax.texts]
    assert sorted(counts[:9]) == sorted(["6", "6", "12", "6", "0", "6", "0", "0", "0"])
    assert counts[9:] == ["0.901", "0.904", "0.010", "0.040"]
    assert shade["0.901"] < shade["0.904"] and shade["0.040"] < shade["0.010"], "less loss, more cosine: darker"


def test_right_digits_and_what_reach_finds(needles):
    digits = reach.right_digits(needles)
    long = digits[digits["answer_tokens"] == 16].groupby(["family", "reach"])["right"].median()
    assert long["SnapKV"].to_dict() == {1: 1, 7: 4, 15: 8, 25: 13} and long["ChunkKV", 40] == 16
    drawn = reach.digits_figure(digits[digits["answer_tokens"] == 16])
    grey, middle = drawn.axes[0].lines[0], drawn.axes[0].lines[-1]
    assert list(grey.get_ydata()) == [1, 4, 8, 13] == list(middle.get_ydata())
    points = reach.along_reach(needles)
    found = points[points["answer_tokens"] == 5].set_index(["family", "reach"])["estimate"]
    assert [found["SnapKV", k] for k in (1, 7, 15, 25)] == [0, 0, 1, 1] and found["Full", 0] == 1
    panels = [ax.get_title(loc="left") for ax in reach.reach_figure(points).axes[:2]]
    assert panels == ["codes of 5 tokens", "codes of 16 tokens"]


def test_rules_of_one_budget_stand_beside_their_metrics(needles):
    table = answers.rules(needles)
    table = table[table["budget"] == 0.1].set_index("rule")
    assert "Full" not in table.index and len(table) == 10 and table.loc["SnapKV", "hits"] == 0
    assert table.loc["ChunkKV", "estimate"] == 0.5 and table.loc["ChunkKV", PRIMARY[0]] == pytest.approx(0.901)
    drawn = dm.rules_figure(table.reset_index(), {"Random": "dice"})
    assert drawn.axes[0].xaxis_inverted() and not drawn.axes[1].xaxis_inverted(), "better is to the right"
    assert [text.get_text() for text in drawn.axes[1].texts] == ["dice"]


def test_the_start_page_has_its_rules_in_the_order_of_what_they_find(needles):
    table = start.rules(needles).set_index("method")
    assert list(table["hits"]) == [12, 12, 6, 6, 0, 0, 0] and set(table["n"]) == {12}
    assert list(table.index[:2]) == ["Full", "ChunkKV, chunk_size 40"] and "SnapKV, kernel 1" not in table.index
    text = start.rules_table(table, "A caption.", "tab-x")
    assert "| Full cache | 12 | – | – |" in text and "| ChunkKV, chunks of 10 | 6 | 0.901 | 0.010 |" in text
    bars = start.rules_figure(table.reset_index()).axes[0].patches
    assert [bar.get_width() for bar in bars] == [1, 1, 0.5, 0.5, 0, 0, 0]


def test_each_number_for_a_decision_is_the_rule_s_own_at_the_longest_prompt(needles, monkeypatch):
    times = [("chunkkv_lib", 1024, "all methods", 9.0), ("chunkkv_lib", 8192, "prefill", 1.0),
             ("chunkkv_lib", 8192, "SnapKV + ChunkKV", 1.02), ("chunkkv_lib", 8192, "all methods", 1.5),
             ("kvpress", 8192, "all methods", 7.0)]  # fmt: skip
    bench = SimpleNamespace(rows=pd.DataFrame(times, columns=["library", "length", "step", "time_ratio"]))
    costs = pd.DataFrame([("H2O", "own", 1.0), ("H2O", "other", 2.0)], columns=["method", "asks", "estimate"])
    monkeypatch.setattr(decide, "asked", lambda run: costs)
    table = decide.decisions(needles, bench, None).set_index("rule")
    assert table.loc["H2O", "extra"] == pytest.approx(0.48)  # what the sums add to the window's
    assert table.loc["ChunkKV, chunks of 40", "extra"] == pytest.approx(0.02)
    bench.rows.loc[2, "time_ratio"] = 0.98  # by the clock's noise, and no gain
    noisy = decide.decisions(needles, bench, None).set_index("rule")["extra"]
    assert noisy["ChunkKV, chunks of 40"] == 0 and noisy["H2O"] == pytest.approx(0.5)
    text = decide.decisions_table(table.reset_index(), "A caption.", "tab-x")
    assert "| H2O | 1 | 0 | 1.00 | 2.00 | 3 % | 48 % | needs a second pass |" in text
    assert "| ChunkKV, chunks of 40 | 40 | 12 | – | – | 10 % | 2 % | yes |" in text and "StreamingLLM" not in text


def test_damage_to_a_score_by_hand():
    table = pd.DataFrame({"sequence": ["A:0"] * 2, "method": ["Full", "SnapKV"], "nll": [1.0, 1.5],
                          "score": [0.8, 0.5], "token_f1": [1.0, 0.4]})  # fmt: skip
    mine = damage(table).iloc[0]
    assert mine["method"] == "SnapKV" and mine["score_loss"] == pytest.approx(0.3) and mine["answer_change"] == 0.6


def test_what_holds_everywhere_turns_with_the_records():
    run = tiny_run(methods=("ChunkKV", "SnapKV", "H2O", "Random", "Oracle"))
    run.answer_records = run.answers.merge(run.sequences[["sequence", "category"]], on="sequence")
    run.records["kv_l1_loss"] -= 0.005 * (run.records["method"] == "Random")
    row = start.everywhere([run]).iloc[0]
    assert row["run"] == "tiny" and row["behind"] == 2  # SnapKV and H2O lose more L1 than the random choice
    assert row["order_cosine"] == pytest.approx(1)  # made so: the answer's damage is ten times what the cosine lacks
    assert row["random"] == pytest.approx(6, abs=0.1) and row["lead_l1"] == pytest.approx(-1.1, abs=0.2)
    turned = run.records.assign(kv_l1_loss=-run.records["kv_l1_loss"])
    other = start.everywhere([SimpleNamespace(**{**vars(run), "records": turned})]).iloc[0]
    assert other["order_l1"] == pytest.approx(-row["order_l1"])


def test_values_of_two_editions_stand_side_by_side():
    rows = [("a", "alike", 0.1), ("a", "random", 2.0), ("gone", "alike", 9.0), ("needles", "SnapKV", 0.5)]
    first = pd.DataFrame(rows, columns=["run", "quantity", "value"]).assign(says="what")
    now = pd.DataFrame({"run": ["a"], "alike": [0.2], "behind": [3]})
    codes = pd.DataFrame({"method": "SnapKV", "score": [1.0, 0, 0, 0]})
    found = start.editions(first, now, SimpleNamespace(name="new", answers=codes))
    assert found["Run"].tolist() == ["a", "new"] and found["First edition"].tolist() == [0.1, 0.5]
    assert found["Now"].tolist() == [0.2, 0.25] and set(found["Quantity"]) == {"what"}
