"""The benchmark: how processes are measured, what is made of the numbers, and how it is drawn. No model is timed."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from common import refused

from chunkkv_lib.bench import driver, load_report, peers, report, worker
from chunkkv_lib.bench.cost_tables import costs_table, limits_table
from chunkkv_lib.report.figures import svg
from chunkkv_lib.report.figures.costs import cost_growth, cost_ratios, share_by_length, step_look
from chunkkv_lib.report.guide import (
    ARCHITECTURES,
    Architecture,
    analysis_flops,
    analysis_parts,
    even_length,
    parts_table,
    prefill_flops,
)

SMOL = ARCHITECTURES["smollm2-135m"]
TOKENS = {1024: 1024, 4096: 4096, 8192: 8160}
LIBRARIES = {"chunkkv_lib": ("prefill", "all methods", "SnapKV + ChunkKV"), "kvpress": ("prefill", "ObservedAttention")}


def rows(lengths=TOKENS, libraries=tuple(LIBRARIES)) -> list[dict]:
    """Rows as the driver makes them: the prefill takes n^1.5 seconds, every further step twice the one before."""
    found = []
    for length, tokens in lengths.items():
        for library in libraries:
            steps = LIBRARIES[library]
            cost = {step: (tokens / 1000) ** 1.5 * 2**i for i, step in enumerate(steps)}
            timed = {
                "seconds": {step: [seconds, 1.1 * seconds, 5 * seconds] for step, seconds in cost.items()},
                "kept_tokens": dict.fromkeys(steps, tokens / 10),
            }
            peaks = {step: 1000 * tokens * (i + 1) for i, step in enumerate(steps)}
            found += [report.measured_row(length, tokens, library, step, timed, peaks) for step in steps]
    return found


def complete(found: list[dict]) -> dict:
    written = {
        "model": "smollm2-135m", "dtype": "float32", "device": "cpu", "repeats": 3, "load_before": 0.0, "failures": [],
        "versions": {"torch": "2"}, "machine": {"cores": 2, "threads": 2, "instructions": "AVX2"}, "rows": found,
    }  # fmt: skip
    driver._complete(written, SMOL, TOKENS)
    return written


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(complete(rows())))
    return path


# --- inside a measuring process -----------------------------------------------------------------------------------


def test_steps_are_timed_in_turns_after_one_untimed_round():
    calls = []
    steps = {name: lambda prompt, name=name: calls.append((name, prompt)) or 7.0 for name in "ab"}
    found = worker.in_turns(steps, [1, 2], repeats=3)
    assert calls == [("a", [1, 2]), ("b", [1, 2])] * 4
    assert {name: len(seconds) for name, seconds in found["seconds"].items()} == {"a": 3, "b": 3}
    assert found["kept_tokens"] == {"a": 7.0, "b": 7.0}


def test_seconds_are_seconds():
    found = worker.in_turns({"sleep": lambda prompt: time.sleep(0.02) or 0}, [], repeats=2)
    assert all(0.02 <= seconds < 2 for seconds in found["seconds"]["sleep"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_peak_memory_counts_what_is_freed_again_and_not_what_was_there():
    code = (
        "from chunkkv_lib.bench.worker import peak_memory\nimport numpy as np\nhere = np.ones(30_000_000)\n"
        "np.ones(60_000_000)\n"
        "def step(prompt):\n    if prompt:\n        np.ones(10_000_000)\n    return 0\n"
        "print(peak_memory(step, [1], []))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 75e6 < int(done.stdout) < 120e6  # 80 MB, not the 240 MB that are there, nor an earlier peak


WORKER = """
from chunkkv_lib.bench.worker import serve
def steps(job):
    print("a library that talks")
    if job["prompt"] == [0]:
        raise ValueError("no such thing")
    return {"prefill": lambda prompt: len(prompt)}
serve(steps)
"""


def test_a_worker_answers_in_json_whatever_libraries_print_and_errors_name_their_last_line(tmp_path):
    job = {"folder": "", "prompt": [1, 2, 3], "repeats": 1, "device": "cpu", "step": None}
    command = [sys.executable, "-c", WORKER]
    found = driver.run_worker(command, job)
    assert found["kept_tokens"] == {"prefill": 3} and len(found["seconds"]["prefill"]) == 1
    with pytest.raises(driver.WorkerError, match=r"ValueError: no such thing \(exit status 1\)"):
        driver.run_worker(command, job | {"prompt": [0]})


# --- what is made of the numbers ----------------------------------------------------------------------------------


def test_a_row_compares_medians_within_its_own_process():
    timed = {"seconds": {"prefill": [1.0, 2.0, 4.0], "x": [3.0, 2.0, 8.0]}, "kept_tokens": {"prefill": 9, "x": 1}}
    row = report.measured_row(8192, 8160, "kvpress", "x", timed, {"prefill": 100, "x": 150})
    assert (row["seconds"], row["time_ratio"], row["time_ratio_low"], row["time_ratio_high"]) == (3.0, 1.5, 1.0, 3.0)
    assert row["memory_ratio"] == 1.5 and row["kept_tokens"] == 1 and row["tokens"] == 8160
    assert report.measured_row(8192, 8160, "kvpress", "x", timed, {})["memory_ratio"] is None


def test_exponents():
    n = [100, 200, 800]
    assert report.exponent(n, [x**1.7 for x in n]) == pytest.approx(1.7)
    assert report.exponent(n, [5 * x for x in n]) == pytest.approx(1)
    assert report.exponent(n, [None, 3.0, 12.0]) == pytest.approx(1)
    assert np.isnan(report.exponent([100, 100], [1.0, 2.0]))


def test_growth_is_taken_per_library_and_step():
    found = {(one["library"], one["step"]): one for one in report.growth(rows())}
    assert len(found) == 5
    assert all(one["time_exponent"] == pytest.approx(1.5) for one in found.values())
    assert all(one["memory_exponent"] == pytest.approx(1) for one in found.values())
    assert report.growth(rows({1024: 1024}))[0]["time_exponent"] is None


def test_the_arithmetic_is_the_guides_and_stays_below_one_and_a_half():
    found = report.arithmetic(SMOL, TOKENS)
    assert [one["tokens"] for one in found] == [1024, 4096, 8160]
    for one in found:
        n = one["tokens"]
        assert one["time_ratio"] == analysis_flops(SMOL, n) / prefill_flops(SMOL, n)
        assert one["time_ratio"] == pytest.approx(1 + 0.5 * n / (n + even_length(SMOL)))
    assert found[1]["exponentials"] == 4096**2 / 2 * 9 * 30
    assert 1.49 < analysis_flops(SMOL, 10**7) / prefill_flops(SMOL, 10**7) < 1.5


def test_parts_add_up_and_only_the_column_sums_gain_weight():
    short, long = analysis_parts(SMOL, 1000), analysis_parts(SMOL, 8000)
    assert short["column sums, H2O's scores"] == analysis_flops(SMOL, 1000) - prefill_flops(SMOL, 1000)
    share = {part: long[part] / long["prefill"] - short[part] / short["prefill"] for part in short if part != "prefill"}
    assert [part for part, gain in share.items() if gain > 0] == ["column sums, H2O's scores"]
    text = parts_table({"SmolLM2": (SMOL, 1000)}, "Parts.", "tab-x")
    assert "Column sums, H2O's scores | 7.00 %" in text and "Prefill" not in text


def test_an_architecture_is_read_from_a_configuration():
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    assert Architecture.of(config) == SMOL


@pytest.mark.parametrize(
    ("value", "verdict"), [(None, "not measured"), (1.45, "met"), (1.46, "goal missed"), (2.01, "broken")]
)
def test_verdicts(value, verdict):
    assert report.verdict(value, report.Limit("time", "time_ratio", 4096, 1.45, 2.0)) == verdict


def test_a_goal_without_a_hard_limit_is_never_broken():
    assert report.verdict(9.0, report.Limit("time", "time_ratio", 8192, 1.70)) == "goal missed"


def test_limits_are_checked_on_our_analysis_at_their_own_length():
    found = rows()
    checks = report.check(found, report.growth(found))
    assert [one["value"] for one in checks] == [2.0, 2.0, 4.0, 2.0, 2.0, pytest.approx(1)]
    missed, broken = "goal missed", "broken"
    assert [one["verdict"] for one in checks] == [missed, missed, missed, broken, broken, "met"]
    short = rows({1024: 1024})
    assert {one["verdict"] for one in report.check(short, report.growth(short))} == {"not measured"}


@pytest.mark.parametrize(("length", "tokens"), [(1024, 1024), (8160, 8160), (8161, 8160), (8192, 8160)])
def test_prompt_and_answer_fit_the_positions(length, tokens):
    assert driver.prompt_tokens(length, 8192) == tokens


@pytest.mark.parametrize("length", [0, 127, 8193])
def test_a_length_that_cannot_be_measured_is_refused(length):
    with refused(f"{length} tokens", "128 to 8192", "--lengths"):
        driver.prompt_tokens(length, 8192)


def test_nothing_is_measured_with_bad_options(tmp_path):
    output = tmp_path / "x.json"
    wrong = {"float32": {"dtype": "float31"}, "repeats=0": {"repeats": 0}, "peer_repeats=0": {"peer_repeats": 0}}
    for part, options in (wrong | {"cpu": {"device": "x"}}).items():
        with refused(part):
            driver.bench(lengths=(256,), output=output, **options)
    assert not output.exists()


# --- the file -----------------------------------------------------------------------------------------------------


def test_a_report_is_read_back(written):
    found = load_report(written)
    assert found.has_peer and len(found.rows) == 15 and len(found.limit) == 3 and len(found.checks) == 6
    needed = "length tokens library step seconds time_ratio peak_bytes memory_ratio kept_tokens"
    assert set(needed.split()) <= set(found.rows)
    assert found.manifest["name"] == "bench-cpu" and "rows" not in found.manifest
    assert found.checks["verdict"].tolist() == ["goal missed"] * 3 + ["broken"] * 2 + ["met"]
    assert "smollm2-135m, float32 on cpu" in found.line and found.facts["finished"][:10] in found.line


def test_the_committed_report_can_be_read():
    assert len(load_report(driver.Path(__file__).parents[1] / "data" / "bench" / "cpu.json").rows)


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_another_file_is_refused(text, tmp_path):
    path = tmp_path / "cpu.json"
    if text is not None:
        path.write_text(text)
    with refused("cpu.json", "make bench"):
        load_report(path)


def test_the_summary_names_growth_arithmetic_and_verdicts():
    text = "\n".join(driver.summary(complete(rows())))
    assert "growth of kvpress, ObservedAttention: time ~ tokens^1.50, memory ~ tokens^1.00" in text
    assert "at 4096 tokens: 2.00, goal 1.45, hard limit 2.00: goal missed" in text and "8160 tokens" in text
    assert "busy" not in text and "busy" in "\n".join(driver.summary(complete(rows()) | {"load_before": 3.0}))


def test_every_row_can_be_printed():
    assert all(len(driver.printed(row)) > 60 for row in rows())
    assert " - " in driver.printed(rows()[0] | {"memory_ratio": None})


# --- the peer's environment ---------------------------------------------------------------------------------------


def test_the_peers_environment_is_made_once_and_errors_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CHUNKKV_CACHE", str(tmp_path))
    pins = tmp_path / "pins.txt"
    pins.write_text("no-such-package==1\n")
    made = []

    def create(folder, **options):
        made.append(folder)
        folder.mkdir(parents=True)

    monkeypatch.setattr(peers.venv, "create", create)
    with refused("could not be installed", "--peers"):  # there is no Python in the folder
        peers.peer_python(pins)
    (made[0] / "complete").touch()
    assert peers.peer_python(pins) == peers.peer_python(pins) == made[0] / "bin" / "python" and len(made) == 1
    pins.write_text("another==1\n")
    with refused("could not be installed"):
        made[0].rmdir() if not any(made[0].iterdir()) else None
        peers.peer_python(pins)
    assert made[1] != made[0]


def test_pips_own_words_are_passed_on():
    said = "WARNING: x\nERROR: No matching distribution found\n\nnote\n"
    error = subprocess.CalledProcessError(1, "pip", stderr=said)
    assert "ERROR: No matching distribution found. Connect" in str(peers._not_installed(error))


def test_the_pins_name_exact_versions():
    assert driver.peer_versions(False) == {}
    assert driver.peer_versions(True)["kvpress"] == "0.5.5"
    lines = [line for line in peers.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line for line in lines)


# --- pictures and tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("libraries", [("chunkkv_lib",), ("chunkkv_lib", "kvpress")])
@pytest.mark.parametrize("lengths", [{1024: 1024}, TOKENS])
def test_figures_draw_what_was_measured(libraries, lengths):
    found, limit = pd.DataFrame(rows(lengths, libraries)), pd.DataFrame(report.arithmetic(SMOL, lengths))
    for figure in (cost_ratios(found, limit, {"time_ratio": 1.7}), cost_growth(found, limit)):
        assert b"<svg" in svg(figure)
        drawn = {line.get_label(): line for line in figure.axes[0].lines}
        assert "all methods" in drawn and "arithmetic" in drawn
        assert ("kvpress ObservedAttention" in drawn) == ("kvpress" in libraries)
    seconds = found[(found["library"] == "chunkkv_lib") & (found["step"] == "all methods")]["seconds"]
    assert drawn["all methods"].get_ydata() == pytest.approx(seconds)  # of the last figure


def test_the_growth_figure_puts_the_arithmetic_on_the_prefill():
    found, limit = pd.DataFrame(rows()), pd.DataFrame(report.arithmetic(SMOL, TOKENS))
    lines = {line.get_label(): line.get_ydata() for line in cost_growth(found, limit).axes[0].lines}
    assert "kvpress prefill" not in lines
    assert lines["arithmetic"] == pytest.approx(lines["prefill"] * limit["time_ratio"].to_numpy())


def test_figures_without_numbers_are_refused():
    found, limit = pd.DataFrame(rows()), pd.DataFrame(report.arithmetic(SMOL, TOKENS))
    with refused("plain prefill"):
        cost_ratios(found[found["step"] == "prefill"], limit)
    with refused("at least one length"):
        cost_growth(found[:0], limit)


def test_peers_are_dashed_in_the_colour_of_their_method():
    assert step_look("kvpress", "ObservedAttention").colour == step_look("kvpress", "H2O").colour
    assert step_look("kvpress", "SnapKV").line != "-" == step_look("chunkkv_lib", "all methods").line


def test_shares_are_drawn_in_per_cent():
    figure = share_by_length({"a": (np.array([1, 2, 4]), np.array([0.1, 0.2, 0.3]))}, "Share (%)")
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([10, 20, 30])


def test_tables(written):
    found = load_report(written)
    text = costs_table(found.rows, found.growth, 8192, "tab-x")
    assert "8,160 prompt tokens" in text and "kvpress ObservedAttention" in text and "| 2.00 (2.00 to 2.00) |" in text
    assert text.count("| 1.50 |") == 5
    with refused("length=2048", "1024, 4096, 8192"):
        costs_table(found.rows, found.growth, 2048)
    limits = limits_table(found.checks, "tab-y")
    assert limits.count("goal missed") == 3 and "all lengths" in limits and "| – |" in limits
