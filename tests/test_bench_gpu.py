"""The GPU benchmark's code, tried on the CPU with a tiny model; its numbers mean nothing there."""

from __future__ import annotations

import json

import pytest
import torch

from chunkkv_lib.bench_gpu import achieved, bench_gpu, causal_product, random_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_tiny_model_on_the_cpu(tmp_path, capsys):
    state = torch.get_rng_state()
    report = bench_gpu(tokens=130, repeats=1, device="cpu", shape="tiny", output=tmp_path / "gpu.json")
    assert torch.equal(torch.get_rng_state(), state)
    assert json.loads((tmp_path / "gpu.json").read_text()) == report
    rows = report["operations"]
    assert list(rows) == ["prefill", "analysis", "attention", "log_sum_exp", "column_sums", "token_mass"]
    assert all(row["seconds"] > 0 and row["tflops"] > 0 and row["gb_per_second_share"] > 0 for row in rows.values())
    assert rows["analysis"]["seconds"] / rows["prefill"]["seconds"] == report["time_ratio"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in rows) and "gpu.json" in printed


def test_operations_by_hand():
    config = random_model("tiny", "cpu", 200).config
    # 4 heads x 16 channels x 10 x 10 pairs, of which half are causal, two operations each
    assert causal_product(config, 10) == 6400
    wanted = {"tflops": 6.0, "gb_per_second": 2.0, "tflops_share": 0.5, "gb_per_second_share": 0.25}
    assert achieved({"flops": 3e12, "bytes": 1e9, "seconds": 0.5}, {"tflops": 12.0, "gb_per_second": 8.0}) == wanted
