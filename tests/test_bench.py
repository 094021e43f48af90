"""The benchmark: how processes are measured, what is made of the numbers, and how it is drawn."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from common import refused
from tiny import tiny_model
from transformers import LlamaConfig

from chunkkv_lib import bench
from chunkkv_lib.attention import attention_rows
from chunkkv_lib.report import costs
from chunkkv_lib.report.arithmetic import (
    ARCHITECTURES,
    Architecture,
    analysis_flops,
    analysis_parts,
    even_length,
    parts_table,
    prefill_flops,
)
from chunkkv_lib.report.costs import cost_ratios, load_report, step_look
from chunkkv_lib.report.style import svg

SMOL = ARCHITECTURES["smollm2-135m"]
TOKENS = {1024: 1024, 4096: 4096, 8192: 8160}
LIBRARIES = {"chunkkv_lib": ("prefill", "all methods", "SnapKV + ChunkKV"), "kvpress": ("prefill", "ObservedAttention")}
PIECES = {"the layer's own attention": [0.002, 0.001, 0.003], "column sums, log-sum-exp at hand": [0.004, 0.004, 0.9]}


def record(lengths=TOKENS, libraries=tuple(LIBRARIES), paper: bool = True) -> dict:
    """A record as the driver writes it: the prefill takes n^1.5 seconds, every further step twice the one before."""
    models = [("smollm2-135m", lengths, libraries)] + [("one layer", {7950: 7950}, ["chunkkv_lib"])] * paper
    rows = []
    for model, tokens, names in models:
        for length, n in tokens.items():
            for library in names:
                for i, step in enumerate(LIBRARIES[library]):
                    seconds = (n / 1000) ** 1.5 * 2**i
                    rows.append({
                        "model": model, "length": length, "library": library, "tokens": n, "step": step,
                        "seconds": [seconds, 1.1 * seconds, 5 * seconds], "kept_tokens": n / 10,
                        "peak_bytes": [1000 * n * (i + 1), 1020 * n * (i + 1)],
                    })  # fmt: skip
    return {
        "model": "smollm2-135m", "dtype": "float32", "device": "cpu", "rounds": 3, "load_before": 0.0, "failures": [],
        "versions": {"torch": "2"}, "machine": {"cores": 2, "threads": 2, "instructions": "AVX2"}, "rows": rows,
        "finished": "2026-01-02T03:04:05+00:00", "shapes": {"smollm2-135m": SMOL.__dict__},
        "pieces": {"model": "smollm2-135m", "tokens": 2048, "rounds": 3, "seconds": PIECES},
    }  # fmt: skip


def read(folder: Path, found: dict) -> costs.Report:
    path = folder / "cpu.json"
    path.write_text(json.dumps(found))
    return load_report(path)


@pytest.fixture
def report(tmp_path) -> costs.Report:
    return read(tmp_path, record())


# --- a whole benchmark --------------------------------------------------------------------------------------------


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
    assert steps == {(model, 128, step) for step in LIBRARIES["chunkkv_lib"]} | {
        ("one layer of Llama-3-8B", 150, "prefill"), ("one layer of Llama-3-8B", 150, "all methods"),
    }  # fmt: skip
    assert [len(row["seconds"]) for row in written["rows"]] == [2, 2, 2, 1, 1]  # of the paper's setting one round
    assert all(min(row["seconds"]) > 0 for row in written["rows"])
    kept = {row["step"]: row["kept_tokens"] for row in written["rows"] if row["tokens"] == 128}
    assert kept == {"prefill": 128, "all methods": 13, "SnapKV + ChunkKV": 13}
    printed = capsys.readouterr().out
    assert "one layer of Llama-3-8B" in printed and str(output) in printed
    found = load_report(output)
    assert len(found.pieces) == 5 and found.pieces["ratio"][0] == 1


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


# --- inside a measuring process -----------------------------------------------------------------------------------


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
    peak = bench.run_worker(sys.executable, job | {"step": "column sums of the full matrix", "prompt": [0] * 2000})
    assert peak["bytes"] is None or 64e6 < peak["bytes"] < 300e6  # one matrix has 64 MB
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


# --- options ------------------------------------------------------------------------------------------------------


def test_prompt_and_answer_fit_the_positions():
    assert [bench.prompt_tokens(length, 8192) for length in (1024, 8160, 8161, 8192)] == [1024, 8160, 8160, 8160]
    for length in (0, 127, 8193):
        with refused(f"{length} tokens", "128 to 8192", "--lengths"):
            bench.prompt_tokens(length, 8192)


def test_nothing_is_measured_with_bad_options(tmp_path):
    model, output = str(tiny_model(tmp_path / "model")), tmp_path / "x.json"
    for part, options in {"float32": {"dtype": "float31"}, "rounds=0": {"rounds": 0}, "cpu": {"device": "x"}}.items():
        with refused(part):
            bench.bench((128,), model=model, output=output, **options)
    assert not output.exists()


def test_the_peers_environment_is_made_once_and_errors_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CHUNKKV_CACHE", str(tmp_path))
    made = []
    monkeypatch.setattr(
        bench.venv, "create", lambda folder, **options: made.append(folder) or folder.mkdir(parents=True)
    )
    with refused("could not be installed", "--peers"):  # there is no Python in the folder
        bench.peer_python()
    (made[0] / "complete").touch()
    assert bench.peer_python() == made[0] / "bin" / "python" and len(made) == 1


# --- what is made of the numbers ----------------------------------------------------------------------------------


def test_rows_compare_round_by_round_with_the_prefill_of_the_same_process(tmp_path):
    found = record({8192: 8160})
    plain, step = (row for row in found["rows"] if row["library"] == "kvpress")
    plain |= {"seconds": [1.0, 2.0, 4.0], "peak_bytes": [100, 110]}
    step |= {"seconds": [3.0, 2.0, 8.0], "peak_bytes": [150, 165]}
    row = read(tmp_path, found).rows.set_index(["library", "step"]).loc[("kvpress", "ObservedAttention")]
    assert (row["seconds"], row["time_ratio"], row["time_ratio_low"], row["time_ratio_high"]) == (3.0, 2.0, 1.0, 3.0)
    assert row["memory_ratio"] == 1.5 and row["tokens"] == 8160
    step["peak_bytes"] = []
    assert np.isnan(read(tmp_path, found).rows["memory_ratio"].iloc[-1])


def test_the_arithmetic_is_the_guides_and_stays_below_one_and_a_half(report):
    assert report.limit["tokens"].tolist() == [1024, 4096, 8160]
    for n, ratio in zip(report.limit["tokens"], report.limit["time_ratio"]):
        assert ratio == analysis_flops(SMOL, n) / prefill_flops(SMOL, n)
        assert ratio == pytest.approx(1 + 0.5 * n / (n + even_length(SMOL)))
    assert 1.49 < analysis_flops(SMOL, 10**7) / prefill_flops(SMOL, 10**7) < 1.5


def test_parts_add_up_and_only_the_column_sums_gain_weight():
    short, long = analysis_parts(SMOL, 1000), analysis_parts(SMOL, 8000)
    assert short["column sums, H2O's scores"] == analysis_flops(SMOL, 1000) - prefill_flops(SMOL, 1000)
    share = {part: long[part] / long["prefill"] - short[part] / short["prefill"] for part in short if part != "prefill"}
    assert [part for part, gain in share.items() if gain > 0] == ["column sums, H2O's scores"]
    text = parts_table({"SmolLM2": (SMOL, 1000)}, "Parts.", "tab-x")
    assert "Column sums, H2O's scores | 7.00 %" in text and "Prefill" not in text


def test_an_architecture_is_read_from_a_configuration():
    fields = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
              "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}  # fmt: skip
    assert Architecture.of(LlamaConfig(**fields)) == SMOL
    assert Architecture.of(LlamaConfig(**bench.LLAMA_3_8B)) == ARCHITECTURES["Meta-Llama-3-8B-Instruct"]


def test_a_report_is_read_back(report):
    assert len(report.rows) == 15 and len(report.paper) == 3 and report.paper["tokens"].unique() == [7950]
    assert report.pieces["milliseconds"].tolist() == pytest.approx([2, 4])
    assert report.pieces["ratio"].tolist() == pytest.approx([1, 2])
    assert report.manifest["name"] == "bench-cpu" and "rows" not in report.manifest
    assert "smollm2-135m, float32 on cpu" in report.line and report.line.endswith("2026-01-02")


def test_a_machine_with_other_work_is_called_busy(tmp_path, capsys):
    found = read(tmp_path, record() | {"load_before": 1.1})
    costs.print_report(found)
    assert "busy (load 1.1)" in capsys.readouterr().out


def test_the_committed_report_can_be_read_and_another_file_is_refused(tmp_path):
    assert len(load_report(Path(__file__).parents[1] / "data" / "bench" / "cpu.json").rows)
    path = tmp_path / "cpu.json"
    for text in (None, "{", "[]", "{}"):
        if text is not None:
            path.write_text(text)
        with refused("cpu.json", "make bench"):
            load_report(path)


# --- pictures and tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("libraries", "lengths"), [(("chunkkv_lib",), {1024: 1024}), (("chunkkv_lib", "kvpress"), TOKENS)]
)
def test_figures_draw_what_was_measured(libraries, lengths, tmp_path):
    found = read(tmp_path, record(lengths, libraries))
    figure = cost_ratios(found)
    assert b"<svg" in svg(figure)
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    assert "kvpress prefill" not in drawn
    assert ("kvpress ObservedAttention" in drawn) == ("kvpress" in libraries)
    ours = found.rows[(found.rows["library"] == "chunkkv_lib") & (found.rows["step"] == "all methods")]
    assert drawn["all methods"].get_ydata() == pytest.approx(ours["time_ratio"])
    assert drawn["arithmetic"].get_ydata() == pytest.approx(found.limit["time_ratio"])


def test_figures_without_numbers_are_refused_and_peers_are_dashed(report):
    with refused("plain prefill"):
        cost_ratios(replace(report, rows=report.rows[report.rows["step"] == "prefill"]))
    assert step_look("kvpress", "ObservedAttention").colour == step_look("kvpress", "H2O").colour
    assert step_look("kvpress", "SnapKV").line != "-" == step_look("chunkkv_lib", "all methods").line


def test_tables_and_single_numbers(report):
    text = costs.costs_table(report, 8192, "tab-x")
    assert "8,160 prompt tokens" in text and "kvpress ObservedAttention" in text and "| 2.00 (2.00 to 2.00) |" in text
    assert "| Column sums, log-sum-exp at hand | 4.0 | 2.00 |" in costs.pieces_table(report)
    assert report.value("all methods", "time_ratio", 4096) == pytest.approx(2)
    assert report.value("ObservedAttention", "time_ratio", 4096, "kvpress") == pytest.approx(2)
    assert np.isnan(report.value("ObservedAttention", "time_ratio", 4096))
