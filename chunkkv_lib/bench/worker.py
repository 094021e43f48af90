"""Inside one measuring process: steps timed in turns, or one step alone for its peak memory.

A job comes as JSON on standard input, its result goes out as JSON on standard output. This file also runs in the
environment of a peer, so it needs the standard library and torch alone.
"""

from __future__ import annotations

import contextlib
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Step = Callable[[list[int]], float]  # prompt ids -> tokens per head that are in the cache afterwards


def serve(load: Callable[[dict], Mapping[str, Step]]) -> None:
    """Do the job on standard input.

    load  job -> steps by name; the job has model, folder, dtype, device, prompt, answer, warm_up, repeats, and step:
          the name of the one whose peak memory is wanted, or None to time all of them
    """
    job = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # whatever libraries print must not get into the result
        steps = load(job)
        if job["step"] is None:
            result = in_turns(steps, job["prompt"], job["repeats"], job["device"])
        else:
            result = {"bytes": peak_memory(steps[job["step"]], job["prompt"], job["warm_up"], job["device"])}
    json.dump(result, sys.stdout)


def in_turns(steps: Mapping[str, Step], prompt: list[int], repeats: int, device: str = "cpu") -> dict[str, dict]:
    """Seconds of every step, `repeats` rounds of all steps one after the other, and the tokens each leaves.

    A disturbance of the machine thus meets all steps alike. One round before them is not timed.
    """
    kept = {name: step(prompt) for name, step in steps.items()}
    seconds = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(_seconds(step, prompt, device))
    return {"seconds": seconds, "kept_tokens": kept}


def _seconds(step: Step, prompt: list[int], device: str) -> float:
    started = time.perf_counter()
    step(prompt)
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peak_memory(step: Step, prompt: list[int], warm_up: list[int], device: str = "cpu") -> int:
    """Bytes that a step needs at its peak above the loaded model; of this process on a CPU (Linux only)."""
    step(warm_up)  # touches the weights and starts the threads
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(prompt)
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    step(prompt)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {name} on {platform.system()}")
