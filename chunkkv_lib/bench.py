"""What the analysis costs, as ratios to a plain prefill of the same tokens on the same machine.

Times are taken in one process, the two interleaved, medians compared. Peak memory is taken in a fresh process each,
above the loaded and warmed-up model.
"""

from __future__ import annotations

import json
import platform
import pydoc_data.topics
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .files import write_text
from .measure import analyse
from .measure.driver import machine, versions
from .models import load_model
from .sequences import Sequence

ANSWER_TOKENS = 32
TIME_LIMIT, MEMORY_LIMIT = 2.0, 1.25  # ratios to the plain prefill, at 4096 tokens


def bench(
    lengths: tuple[int, ...] = (1024, 2048, 4096),
    repeats: int = 5,
    model: str = "smollm2-135m",
    dtype: str = "float32",
    output: str | Path = "data/bench/latest.json",
) -> list[dict]:
    """Measure, print a table, write JSON. Returns one row per prompt length."""
    loaded, tokenizer = load_model(model, "cpu", dtype)
    rows = []
    print(f"{'tokens':>7} {'prefill s':>10} {'analysis s':>11} {'ratio':>6} ", end="")
    print(f"{'prefill MiB':>12} {'analysis MiB':>13} {'ratio':>6}")
    for length in lengths:
        sequence = reference_sequence(tokenizer, length)
        row = {"tokens": length} | times(loaded, sequence, repeats)
        row |= {f"{what}_bytes": peak_memory(what, length, model, dtype) for what in ("prefill", "analysis")}
        row["memory_ratio"] = row["analysis_bytes"] / row["prefill_bytes"]
        rows.append(row)
        print(
            f"{length:>7} {row['prefill_seconds']:>10.2f} {row['analysis_seconds']:>11.2f} {row['time_ratio']:>6.2f} "
            f"{row['prefill_bytes'] / 2**20:>12.0f} {row['analysis_bytes'] / 2**20:>13.0f} {row['memory_ratio']:>6.2f}",
            flush=True,
        )
    report = {"model": model, "dtype": dtype, "repeats": repeats, "rows": rows}
    report |= {"versions": versions(), "machine": machine()}
    write_text(output, json.dumps(report, indent=2) + "\n")
    print(f"limits at 4096 tokens: time {TIME_LIMIT:.2f}, memory {MEMORY_LIMIT:.2f}; written to {output}")
    return rows


def reference_sequence(tokenizer, length: int) -> Sequence:
    """Real prose that every Python brings along, cut to a prompt of `length` tokens and an answer."""
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    ids = tokenizer(text[: 12 * (length + ANSWER_TOKENS)], add_special_tokens=False).input_ids
    return Sequence.from_ids(ids[:length], ids[length : length + ANSWER_TOKENS], id="bench")


def times(model, sequence: Sequence, repeats: int) -> dict[str, float]:
    """Median seconds of the plain prefill and of the whole analysis, interleaved, and their ratio."""
    seconds = {"prefill": [], "analysis": []}
    steps = {"prefill": lambda: prefill(model, sequence), "analysis": lambda: analyse(model, sequence)}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(_seconds(step))
    medians = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()}
    return medians | {"time_ratio": medians["analysis_seconds"] / medians["prefill_seconds"]}


def prefill(model, sequence: Sequence) -> object:
    """The plain prefill that a serving system pays: SDPA attention, full cache kept. Returns the cache."""
    with torch.inference_mode():
        ids = torch.tensor([sequence.prompt_ids], device=model.device)
        return model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values


def _seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def peak_memory(what: str, length: int, model: str, dtype: str) -> int:
    """Bytes that "prefill" or "analysis" needs above the model at its peak, in a process of its own (Linux)."""
    command = [sys.executable, "-m", "chunkkv_lib.bench", what, str(length), model, dtype]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _peak_memory_here(what: str, length: int, model_name: str, dtype: str) -> int:
    model, tokenizer = load_model(model_name, "cpu", dtype)
    step = {"prefill": prefill, "analysis": analyse}[what]
    step(model, reference_sequence(tokenizer, 256))  # touch the weights, start the threads
    sequence = reference_sequence(tokenizer, length)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    result = step(model, sequence)
    peak = _status("VmHWM")
    del result
    return peak - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {name} on {platform.system()}")


if __name__ == "__main__":
    print(_peak_memory_here(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
