"""The table for those who ship a cache: numbers from where they were measured."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.decide import decisions, decisions_table


def needles() -> SimpleNamespace:
    answers = [{"method": name, "score": score} for name, score in
               (("H2O", 0.0), ("H2O", 0.0), ("ChunkKV", 1.0), ("ChunkKV", 0.0), ("Random", 0.0))]  # fmt: skip
    layers = [
        {"method": name, "pages_freed": share} for name, share in (("H2O", 0.1), ("ChunkKV", 0.4), ("ChunkKV", 0.6))
    ]
    return SimpleNamespace(name="made", answers=pd.DataFrame(answers), layers=pd.DataFrame(layers))


BENCH = SimpleNamespace(
    rows=pd.DataFrame(
        [("chunkkv_lib", 1024, "all methods", 9.0), ("chunkkv_lib", 8192, "prefill", 1.0),
         ("chunkkv_lib", 8192, "SnapKV + ChunkKV", 1.02), ("chunkkv_lib", 8192, "all methods", 1.5),
         ("kvpress", 8192, "all methods", 7.0)],
        columns=["library", "length", "step", "time_ratio"],
    )
)  # fmt: skip


def test_each_number_is_the_rule_s_own_at_the_longest_prompt():
    table = decisions(needles(), BENCH)
    assert list(table["rule"]) == ["H2O", "ChunkKV, chunks of 10"]
    assert list(table["extra"]) == pytest.approx([0.48, 0.02])  # what the sums add, what the window adds
    assert list(table["pages_freed"]) == pytest.approx([0.1, 0.5]) and list(table["found"]) == [0, 1]
    text = decisions_table(table, "A caption.", "tab-x")
    assert "| H2O | 1 | 0 | 10 % | 48 % | needs a second pass |" in text and "NLL" not in text
    known = decisions_table(table.assign(known=[1.0, float("nan")]), "A caption.")
    assert "| H2O | 1 | 0 | 1.00 | 10 % |" in known and "| ChunkKV, chunks of 10 | 10 | 1 | – | 50 % |" in known
    empty = needles()
    empty.answers = empty.answers[empty.answers["method"] == "Random"]
    with pytest.raises(InputError, match="none of"):
        decisions(empty, BENCH)
