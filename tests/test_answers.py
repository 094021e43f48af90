"""What is found, written and foretold, on records small enough to recompute by hand."""

from types import SimpleNamespace

import pandas as pd
import pytest
from common import refused

from chunkkv_lib.report import answers, reach
from chunkkv_lib.report import damage as dm
from chunkkv_lib.report.records import PRIMARY, damage
from chunkkv_lib.runs import Parameters

CODE = "1234567890123456"
LENGTHS, DEPTHS = (5, 16), (0, 40, 100)
#: label -> digits that the model writes rightly; a rule at 2 % writes one less
RIGHT = {
    "Full": 16, "ChunkKV": 5, "SnapKV": 4, "H2O": 0, "Random": 0, "SnapKV, kernel 1": 1, "SnapKV, kernel 15": 8,
    "SnapKV, kernel 25": 13, "ChunkKV, chunk_size 5": 3, "ChunkKV, chunk_size 20": 10, "ChunkKV, chunk_size 40": 16,
    "SnapKV, budget 0.02": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def needles():
    """Every depth and length twice; a code is found where it is written whole. Metrics grow with a rule's place."""
    ids = [f"needle:code:{k}:{depth:03d}:{i:02d}" for i in range(2) for k in LENGTHS for depth in DEPTHS]
    rows, layers = [], []
    for id in ids:
        code = CODE[: int(id.split(":")[2])]
        for place, (method, right) in enumerate(RIGHT.items()):
            text = code[:right] + ("x<b>" if right < len(code) else ".")
            rows.append({"sequence": id, "method": method, "score": float(right >= len(code)), "written": text})
            if method != "Full":
                layers += [{"sequence": id, "method": method, "layer": layer, "kv_l1_loss": 0.9 + place / 1000 + layer,
                            "attention_cosine_similarity": place / 100} for layer in (-1, 1)]  # fmt: skip
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
    table = dm.rules(needles).set_index("rule")
    assert "Full" not in table.index and len(table) == 10 and table.loc["SnapKV", "found"] == 0
    assert table.loc["ChunkKV", "found"] == 0.5 and table.loc["ChunkKV", PRIMARY[0]] == pytest.approx(0.901)
    drawn = dm.rules_figure(table.reset_index(), {"Random": "dice"})
    assert drawn.axes[0].xaxis_inverted() and not drawn.axes[1].xaxis_inverted(), "better is to the right"
    assert [text.get_text() for text in drawn.axes[1].texts] == ["dice"]


def test_damage_to_a_score_by_hand():
    table = pd.DataFrame({"sequence": ["A:0"] * 2, "method": ["Full", "SnapKV"], "nll": [1.0, 1.5],
                          "score": [0.8, 0.5], "token_f1": [1.0, 0.4]})  # fmt: skip
    mine = damage(table).iloc[0]
    assert mine["method"] == "SnapKV" and mine["score_loss"] == pytest.approx(0.3) and mine["answer_change"] == 0.6
