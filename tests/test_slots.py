"""Caches compared slot by slot, against loops in float64."""

import pytest
import torch
from common import tiny_model, token_ids

from chunkkv_lib.attention import PromptAttention
from chunkkv_lib.compressors import SnapKV
from chunkkv_lib.runs.slots import RULES, slot_metrics, slots, stored
from chunkkv_lib.sequences import Sequence


def test_against_loops_in_float64():
    torch.manual_seed(0)
    x = torch.randn(3, 17, 4, dtype=torch.float64)
    order = torch.stack([torch.randperm(17)[:5] for _ in range(3)])
    for s in range(3):
        filled = torch.stack([x[s, order[s, i * 5 // 17]] for i in range(17)])
        l1 = (x[s] - filled).abs().sum() / x[s].abs().sum()
        cosine = (x[s] * filled).sum() / (x[s].norm() * filled.norm())
        assert [found[s].item() for found in slot_metrics(x, order)] == pytest.approx([l1.item(), cosine.item()])


def test_storage_by_score_holds_the_same_positions_best_first_and_the_window_last():
    torch.manual_seed(1)
    attention = PromptAttention(torch.randn(4, 60, 8), torch.randn(2, 60, 8))
    method = SnapKV(budget=20, granularity="query_head")
    kept, order = method.choose(attention), stored(method, attention, True)
    assert torch.equal(order.sort(1).values, kept) and not torch.equal(order, kept)
    assert torch.equal(order[:, -8:], torch.arange(52, 60).expand(4, 8))
    scores = method.scores(attention).gather(1, order[:, :-8])
    assert (scores[:, 1:] <= scores[:, :-1]).all() and torch.equal(stored(method, attention, False), kept)


def test_a_sequence_gives_a_row_for_each_rule():
    sequence = Sequence.from_ids(token_ids(90).tolist(), [5])
    table = slots(tiny_model(), sequence)
    assert list(table["rule"]) == [*RULES] and not table.isna().any().any()
    l1 = table.set_index("rule")["l1_keys"]
    assert l1["Random, by position"] != l1["Random, by score"] and (l1 > 0).all()
