"""The GPU benchmark's code, tried on the CPU with a tiny model; its numbers mean nothing there."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from chunkkv_lib.bench.gpu import achieved, bench_gpu, causal_product, random_model
from chunkkv_lib.bench.gpu_report import GpuReport, gpu_pieces_table, gpu_steps_table, load_gpu_report
from chunkkv_lib.book import provenance
from chunkkv_lib.book.chapters import read_notebook
from chunkkv_lib.errors import InputError
from chunkkv_lib.report import tables

pytestmark = pytest.mark.usefixtures("one_thread")

USED = gpu_steps_table, gpu_pieces_table, provenance
OPERATIONS = ["prefill", "analysis", "attention", "log_sum_exp", "column_sums", "masses"]


def test_a_tiny_model_on_the_cpu(tmp_path, capsys):
    state = torch.get_rng_state()
    report = bench_gpu((130, 200), repeats=1, device="cpu", shape="tiny", output=tmp_path / "gpu.json")
    assert torch.equal(torch.get_rng_state(), state)
    assert json.loads((tmp_path / "gpu.json").read_text()) == report
    rows = report["rows"]
    assert [(row["tokens"], row["operation"]) for row in rows] == [(n, name) for n in (130, 200) for name in OPERATIONS]
    assert all(row["seconds"] > 0 and row["tflops"] > 0 and row["gb_per_second_share"] > 0 for row in rows)
    assert rows[1]["seconds"] / rows[0]["seconds"] == rows[1]["time_ratio"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in OPERATIONS) and "gpu.json" in printed and "200 tokens" in printed

    loaded = load_gpu_report(tmp_path / "gpu.json")
    assert loaded.value(200, "column_sums", "seconds") == rows[10]["seconds"]
    assert "tiny with random weights, bfloat16 · " in loaded.line and loaded.manifest["name"] == "bench-gpu"
    steps, parts = gpu_steps_table(loaded, "tab-x"), gpu_pieces_table(loaded, "tab-y")
    assert len(steps.splitlines()) == 5 + 4 + 1 and len(parts.splitlines()) == 5 + 8 + 1
    assert "| – | – |" in steps  # no GPU was at work, and its memory was not measured
    assert "tab-costs-gpu" in shown_by_the_chapter(loaded)


def shown_by_the_chapter(report: GpuReport) -> str:
    """What the cell of chapter 13 displays that shows the file, which only machines with a GPU have."""
    path = Path(__file__).resolve().parents[1] / "chapters" / "13_costs.ipynb"
    (cell,) = (cell for cell in read_notebook(path).cells if "gpu_pieces_table(gpu" in cell.source)
    shown = []
    names = {"gpu": report, "display": lambda *outputs: shown.extend(outputs), "tables": tables}
    exec(cell.source, names | {function.__name__: function for function in USED})
    first, second, source = shown
    assert source.csv.startswith("tokens,operation") and report.line in source.line
    return first.data + second.data


def test_numbers_in_the_tables():
    common = {"tokens": 7950, "tflops": 300.4, "tflops_share": 0.5, "gb_per_second": 1234.0, "gb_per_second_share": 0.4}
    plain = {"operation": "prefill", "seconds": 0.25, "time_ratio": 1.0, "time_ratio_low": 1.0, "time_ratio_high": 1.0}
    whole = plain | {"operation": "analysis", "seconds": 0.3, "time_ratio": 1.2}
    whole |= {"time_ratio_low": 1.19, "time_ratio_high": 1.25}
    rows = [
        common | plain | {"busy_seconds": 0.24, "peak": 2**31},
        common | whole | {"busy_seconds": 0.276, "peak": 3 * 2**29},
        common | {"operation": "column_sums", "seconds": 0.00056},
    ]
    facts = {"ceilings": {"tflops": 600.0, "gb_per_second": 3000.0}, "shape": "llama-3-8b"}
    report = GpuReport(pd.DataFrame(rows), facts)
    steps, parts = gpu_steps_table(report), gpu_pieces_table(report)
    assert "| 7,950 | complete analysis | 300 | 1.20 (1.19 to 1.25) | 276 | 1.15 | 1.5 GiB |" in steps
    assert "| 7,950 | Column sums of attention | 0.56 | 300 (50%) | 1,234 (40%) |" in parts
    assert report.summary.endswith("llama-3-8b: at 7,950 tokens the analysis took 1.20 times the prefill's time.")
    with pytest.raises(InputError, match="there are 7950 tokens"):
        report.value(100, "analysis", "seconds")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "x.json").write_text('{"rows": [{"tokens": 1}]}')
    for path in (tmp_path / "x.json", tmp_path / "none.json"):
        with pytest.raises(InputError, match="python -m chunkkv_lib bench-gpu"):
            load_gpu_report(path)


def test_operations_by_hand():
    config = random_model("tiny", "cpu", 200).config
    # 4 heads x 16 channels x 10 x 10 pairs, of which half are causal, two operations each
    assert causal_product(config, 10) == 6400
    wanted = {"tflops": 6.0, "gb_per_second": 2.0, "tflops_share": 0.5, "gb_per_second_share": 0.25}
    assert achieved({"flops": 3e12, "bytes": 1e9, "seconds": 0.5}, {"tflops": 12.0, "gb_per_second": 8.0}) == wanted
