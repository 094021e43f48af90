"""The benchmark: how processes are measured, what is made of the numbers, how it is drawn; and kvpress's kept sets."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from common import refused
from tiny import tiny_model
from transformers import LlamaConfig

from chunkkv_lib import bench
from chunkkv_lib.__main__ import main
from chunkkv_lib.attention import attention_rows
from chunkkv_lib.book import guests
from chunkkv_lib.report import arithmetic, costs
from chunkkv_lib.report.costs import cost_ratios, load_report
from chunkkv_lib.report.style import svg

SMOL = arithmetic.ARCHITECTURES["smollm2-135m"]
CPU = Path(__file__).parents[1] / "data" / "bench" / "cpu.json"
PIECES = {"the layer's own attention": [0.002, 0.001, 0.003], "column sums, log-sum-exp at hand": [0.004, 0.004, 0.9]}


def test_a_tiny_model_and_a_tiny_paper(tmp_path, capsys, monkeypatch):
    """Real processes, all steps; nothing but the sizes differs from `make bench`."""
    tiny = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    monkeypatch.setattr(bench, "LLAMA_3_8B", bench.LLAMA_3_8B | tiny)
    monkeypatch.setattr(bench, "PAPER_TOKENS", 150)
    monkeypatch.setattr(bench, "MEMORY_REPEATS", 0)  # a process for each step and repeat, with nothing to measure
    model, output = str(tiny_model(tmp_path / "model")), tmp_path / "x" / "latest.json"
    written = bench.bench((128,), rounds=2, model=model, output=output)
    assert json.loads(output.read_text()) == written and not written["failures"]
    steps = {(row["model"], row["tokens"], row["step"]) for row in written["rows"]}
    assert steps == {(model, 128, step) for step in ("prefill", "all methods", "SnapKV + ChunkKV")} | {
        ("one layer of Llama-3-8B", 150, "prefill"), ("one layer of Llama-3-8B", 150, "all methods"),
    }  # fmt: skip
    assert [len(row["seconds"]) for row in written["rows"]] == [2, 2, 2, 1, 1]  # of the paper's setting one round
    assert all(min(row["seconds"]) > 0 for row in written["rows"])
    kept = {row["step"]: row["kept_tokens"] for row in written["rows"] if row["tokens"] == 128}
    assert kept == {"prefill": 128, "all methods": 13, "SnapKV + ChunkKV": 13}
    printed = capsys.readouterr().out
    assert "one layer of Llama-3-8B" in printed and str(output) in printed
    found = load_report(output)
    assert len(found.pieces) == 5 and found.pieces["ratio"][0] == 1 and len(found.paper) == 2


def test_a_step_that_fails_is_recorded_and_nothing_measured_is_an_error(tmp_path, monkeypatch):
    def fail(python: str, job: dict) -> dict:
        if job["library"] == "pieces":
            return {"seconds": PIECES}
        raise ChildProcessError("out of memory (exit status 1)")

    monkeypatch.setattr(bench, "run_worker", fail)
    model, output = str(tiny_model(tmp_path / "model")), tmp_path / "latest.json"
    with refused("nothing could be measured", "out of memory"):
        bench.bench((128,), model=model, output=output)
    assert [one["length"] for one in json.loads(output.read_text())["failures"]] == [128, bench.PAPER_TOKENS]


def test_steps_are_timed_in_turns_and_seconds_are_those_of_one_call(monkeypatch):
    calls, ticks = [], iter(range(0, 300, 12))
    monkeypatch.setattr(bench, "timer", lambda: next(ticks))
    steps = {name: lambda prompt, name=name: calls.append((name, prompt)) or 7.0 for name in "ab"}
    found = bench.in_rounds(steps, [1, 2], rounds=3, calls=3)
    assert calls == [*[("a", [1, 2])] * 3, *[("b", [1, 2])] * 3] * 3
    assert found == {"seconds": {"a": [4.0] * 3, "b": [4.0] * 3}, "kept_tokens": {"a": 7.0, "b": 7.0}}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_peak_memory_counts_what_is_freed_again_and_not_what_was_there():
    code = (
        "from chunkkv_lib.bench import peak_memory\nimport torch\nhere = torch.ones(60_000_000)\n"
        "torch.ones(120_000_000)\n"
        "def step(prompt):\n    for _ in range(3):\n        torch.ones(20_000_000)\n    return 0\n"
        "print(peak_memory(step, [1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 75e6 < int(done.stdout) < 100e6  # 80 MB, not the 240 MB that are there, nor an earlier peak, nor a sum


def test_a_worker_that_fails_names_its_last_line_whatever_libraries_print():
    job = {"folder": "", "library": "pieces", "prompt": [0] * 40, "rounds": 1, "device": "cpu", "dtype": "float32"}
    job |= {"step": None, "query_heads": 4, "kv_heads": 2, "head_dim": 8}
    assert len(bench.run_worker(sys.executable, job)["seconds"]) == 5
    with pytest.raises(ChildProcessError, match=r"KeyError: 'other' \(exit status 1\)"):
        bench.run_worker(sys.executable, job | {"library": "other"})


def test_every_piece_computes_what_its_name_says():
    layer = [torch.randn(heads, 50, 8, generator=torch.Generator().manual_seed(heads)) for heads in (4, 2, 2)]
    own, rows, *sums = (run() for run in bench.layer_pieces(*layer).values())
    full = attention_rows(layer[0], layer[1], torch.arange(50))
    torch.testing.assert_close(own, full @ layer[2].repeat_interleave(2, dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows, full[:, -8:])
    assert len(sums) == 3
    for one in sums:
        torch.testing.assert_close(one, full.sum(1), rtol=1e-4, atol=1e-5)


def test_prompt_and_answer_fit_the_positions_and_bad_options_are_refused(tmp_path):
    assert [bench.prompt_tokens(length, 8192) for length in (1024, 8160, 8161, 8192)] == [1024, 8160, 8160, 8160]
    for length in (0, 127, 8193):
        with refused(f"--lengths {length} does", "128 to 8192 tokens"):
            bench.prompt_tokens(length, 8192)
    model, output = str(tiny_model(tmp_path / "model")), tmp_path / "x.json"
    for part, options in {"float32": {"dtype": "float31"}, "rounds=0": {"rounds": 0}, "cpu": {"device": "x"}}.items():
        with refused(part):
            bench.bench((128,), model=model, output=output, **options)
    assert not output.exists()


def test_the_peers_environment_is_made_once_and_errors_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CHUNKKV_CACHE", str(tmp_path))
    made = []
    monkeypatch.setattr(bench.venv, "create", lambda folder, **_: made.append(folder) or folder.mkdir(parents=True))
    with refused("could not be installed", "--peers"):  # there is no Python in the folder
        bench.peer_python()
    (made[0] / "complete").touch()
    assert bench.peer_python() == made[0] / "bin" / "python" and len(made) == 1


def test_rows_compare_round_by_round_with_the_prefill_of_the_same_process(tmp_path, capsys):
    """In the committed record, with numbers that can be divided by hand."""
    found, path = json.loads(CPU.read_text()), tmp_path / "cpu.json"
    for text in (None, "{", "[]", "{}"):
        if text is not None:
            path.write_text(text)
        with refused("cpu.json", "make bench"):
            load_report(path)
    plain, *_, step = (row for row in found["rows"] if (row["library"], row["length"]) == ("kvpress", 4096))
    plain |= {"seconds": [2.0, 1.0, 1.25], "peak_bytes": [100, 110]}
    step |= {"seconds": [2.0, 3.0, 2.5], "peak_bytes": [150, 165]}
    found["pieces"]["seconds"], found["load_before"] = PIECES, 1.1
    path.write_text(json.dumps(found))
    report = load_report(path)
    row = report.rows[(report.rows["library"] == "kvpress") & (report.rows["length"] == 4096)].iloc[-1]
    assert (row["seconds"], row["time_ratio"], row["time_ratio_low"], row["time_ratio_high"]) == (2.5, 2.0, 1.0, 3.0)
    assert row["memory_ratio"] == 1.5
    text = costs.costs_table(report, 4096, "tab-x")
    assert "4,096 prompt tokens" in text and "kvpress ObservedAttention" in text and "| 2.00 (1.00 to 3.00) |" in text
    assert report.pieces.iloc[1].tolist() == ["column sums, log-sum-exp at hand", 4.0, 2.0]
    assert "smollm2-135m, float32 on cpu" in report.line and report.line.endswith(found["finished"][:10])
    costs.print_report(report)
    assert "busy (load 1.1)" in capsys.readouterr().out
    step["peak_bytes"] = []
    path.write_text(json.dumps(found))
    assert np.isnan(load_report(path).rows["memory_ratio"]).sum() == 1


def test_the_arithmetic_is_the_guides_and_stays_below_one_and_a_half():
    """The ratio of multiplications: only the column sums' share grows with the prompt."""
    points = load_report(CPU).rows.drop_duplicates("tokens")
    assert points["tokens"].tolist() == [1024, 2048, 4096, 8160]
    for n, ratio in zip(points["tokens"], points["arithmetic"]):
        assert ratio == arithmetic.analysis_flops(SMOL, n) / arithmetic.prefill_flops(SMOL, n)
        assert ratio == pytest.approx(1 + 0.5 * n / (n + arithmetic.even_length(SMOL)))
    assert 1.49 < arithmetic.analysis_flops(SMOL, 10**7) / arithmetic.prefill_flops(SMOL, 10**7) < 1.5
    parts = arithmetic.analysis_parts(SMOL, 1000)
    assert sum(list(parts.values())[:2]) == arithmetic.analysis_flops(SMOL, 1000) and len(parts) == 7
    llama = arithmetic.Architecture.of(LlamaConfig(**bench.LLAMA_3_8B))
    assert llama == arithmetic.ARCHITECTURES["Meta-Llama-3-8B-Instruct"]


def test_the_figure_draws_what_was_measured():
    report = load_report(CPU)
    figure = cost_ratios(report)
    assert b"<svg" in svg(figure)
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    for name, step in (("all methods", "all methods"), ("kvpress ObservedAttention", "ObservedAttention")):
        assert drawn[name] == pytest.approx(report.rows.loc[report.rows["step"] == step, "time_ratio"])
    assert drawn["arithmetic"] == pytest.approx(report.rows["arithmetic"].unique())
    with refused("plain prefill"):
        cost_ratios(replace(report, rows=report.rows[report.rows["step"] == "prefill"]))


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
