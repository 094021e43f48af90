"""The pieces of one layer: what is timed is right, and a record says what it was measured with."""

from __future__ import annotations

import json

import pytest
import torch
from common import refused

from chunkkv_lib.attention import attention_rows
from chunkkv_lib.bench import pieces
from chunkkv_lib.report.guide import Architecture

SHAPE = Architecture(97, 32, 48, 3, 4, 2, 8, tied=True)


@pytest.fixture
def measured(monkeypatch) -> pieces.Pieces:
    monkeypatch.setitem(pieces.ARCHITECTURES, "tiny", SHAPE)
    return pieces.measure_pieces("tiny", tokens=50, rounds=3)


def test_every_piece_computes_what_its_name_says():
    layer = pieces.random_layer(SHAPE, 50)
    assert [tuple(one.shape) for one in layer] == [(4, 50, 8), (2, 50, 8), (2, 50, 8)]
    own, rows, *sums = (run() for run in pieces.layer_pieces(*layer).values())
    full = attention_rows(layer[0], layer[1], torch.arange(50))
    values = layer[2].repeat_interleave(2, dim=0)
    torch.testing.assert_close(own[0], full @ values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows, full[:, -8:])
    for one in sums:
        torch.testing.assert_close(one, full.sum(1), rtol=1e-4, atol=1e-5)


def test_the_layer_is_the_same_every_time():
    assert all(torch.equal(a, b) for a, b in zip(pieces.random_layer(SHAPE, 9), pieces.random_layer(SHAPE, 9)))


def test_every_round_is_recorded_with_the_machine_and_the_versions(measured):
    assert {len(taken) for taken in measured.seconds.values()} == {3}
    assert all(0 < taken < 1e5 for taken in measured.milliseconds.values())
    assert f"torch {torch.__version__}" in measured.line and "50 tokens" in measured.line
    assert measured.manifest["machine"]["threads"] == torch.get_num_threads()


def test_a_record_is_read_back_as_it_was_written(measured, tmp_path):
    path = tmp_path / "bench" / "pieces.json"
    pieces.write_pieces(measured, path)
    assert pieces.load_pieces(path) == measured


def test_a_machine_with_other_work_is_called_busy(measured):
    cores = measured.facts["machine"]["cores"]
    for load, busy in ((0.1 * cores, False), (0.9 * cores, True)):
        assert pieces.Pieces(measured.seconds, measured.facts | {"load_before": load}).busy is busy


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"seconds": {}})])
def test_another_file_is_refused(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with refused(path, "chunkkv_lib.bench.pieces"):
        pieces.load_pieces(path)


def test_what_measures_nothing_is_refused():
    with refused("rounds=0", "at least 1"):
        pieces.measure_pieces(rounds=0)
    with refused("'smollm3'", "smollm2-135m"):
        pieces.measure_pieces("smollm3")
