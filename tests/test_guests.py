"""Kept sets beside kvpress's: positions read from a shorter cache, and what is made of them."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from common import refused

from chunkkv_lib import bench
from chunkkv_lib.__main__ import main
from chunkkv_lib.book import guests

PRESSES = ["SnapKV", "ChunkKV", "ObservedAttention"]


def test_positions_are_those_of_equal_keys_in_any_order():
    full = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0))
    kept = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(h))[:7] for h in range(3)])
    left = full.gather(1, kept[..., None].expand(-1, -1, 8))
    assert bench.positions_of(left, full).tolist() == kept.sort().values.tolist()
    with pytest.raises(ValueError, match="not one of"):
        bench.positions_of(left + 1e-6, full)


def test_both_sides_are_measured_on_the_same_number_of_tokens(embedded, tmp_path, monkeypatch):
    """A guest that keeps every other token of the first 160: its row has its own count, and no set is ours."""
    kept = list(range(0, 160, 2))
    monkeypatch.setattr(guests, "CATEGORIES", ("Few-shot Learning",))
    monkeypatch.setattr(guests, "peer_python", lambda: Path("python"))
    monkeypatch.setattr(guests, "run_worker", lambda python, job: {press: [[[kept] * 3] * 30] for press in PRESSES})
    table = guests.compare_guests(max_tokens=256, output=tmp_path / "guests.csv")
    assert list(table["press"]) == PRESSES and (table["kept"] == 80).all() and (table["equal"] == 0).all()
    assert table["jaccard"].between(0.02, 0.6).all() and (table["kv_l1_loss_guest"] < 1).all()
    assert table["kv_l1_loss_guest"].nunique() == 1 and table["kv_l1_loss_ours"].nunique() == 3
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "guests.csv"), table, atol=1e-6, rtol=0, check_dtype=False)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: no kvpress' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(guests, "peer_python", lambda: python)
    monkeypatch.setattr(guests, "run_worker", bench.run_worker)
    with refused("kvpress failed", "no kvpress"):
        guests.compare_guests(max_tokens=256, output=tmp_path / "guests.csv")


def test_the_command_writes_where_it_is_told(monkeypatch):
    told = []
    monkeypatch.setattr(guests, "compare_guests", lambda model, output: told.append((model, output)) or pd.DataFrame())
    assert main(["bench", "--guests", "--output", "mine.csv"]) == main(["bench", "--guests"]) == 0
    assert told == [("smollm2-135m", "mine.csv"), ("smollm2-135m", "data/bench/guests.csv")]
