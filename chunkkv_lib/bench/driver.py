"""The benchmark: every step at every length, each library in processes of its own, into one JSON file.

Times are taken in one process per library and length, all steps in turns; peak memory in a fresh process for each
step. Ratios are to the plain prefill of the same library in the same process, so that versions do not mix.
"""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from transformers import AutoConfig

from ..errors import InputError, unknown
from ..files import write_text
from ..models.load import DTYPES, load_tokenizer, pick_device
from ..report.guide import Architecture
from ..runs.driver import described_code, machine, versions
from .peers import REQUIREMENTS, peer_python
from .report import OURS, arithmetic, check, growth, measured_row

ANSWER_TOKENS = 32
SHORTEST = 128  # tokens: shorter prompts have no room for an observation window in 10 %
WARM_UP = 256  # tokens of the first step in a process that measures memory
LENGTHS = (1024, 2048, 4096, 8192)


def bench(
    lengths: tuple[int, ...] = LENGTHS,
    repeats: int = 5,
    model: str = "smollm2-135m",
    dtype: str = "float32",
    device: str = "cpu",
    output: str | Path = "data/bench/latest.json",
    peers: bool = False,
    peer_repeats: int | None = None,
) -> dict:
    """Measure, print a table, write JSON after every length. Returns what is written.

    lengths  tokens of the prompt; where prompt and answer would not fit the model's positions, the prompt is shortened
    peers    also kvpress, in an environment of its own that is installed on the first use
    peer_repeats  timed rounds of the peer, whose slow steps need fewer; None: as many as `repeats`
    raises InputError: a length, model, dtype or device that is not there; a peer that cannot be installed.
    """
    device = pick_device(device)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    rounds = {OURS: repeats, "kvpress": repeats if peer_repeats is None else peer_repeats}
    for name, value in (("repeats", repeats), ("peer_repeats", rounds["kvpress"])):
        if value < 1:
            raise InputError(f"{name}={value} measures nothing; give at least 1.")
    tokenizer = load_tokenizer(model)
    config = AutoConfig.from_pretrained(tokenizer.name_or_path).get_text_config()
    tokens = {length: prompt_tokens(length, config.max_position_embeddings) for length in lengths}
    here = Path(__file__).parent
    workers = {OURS: [sys.executable, "-m", "chunkkv_lib.bench.ours"]}
    if peers:
        workers["kvpress"] = [str(peer_python()), str(here / "kvpress_cases.py")]
    report = {
        "model": model, "dtype": dtype, "device": device, "repeats": repeats,
        "peer_repeats": rounds["kvpress"], "answer_tokens": ANSWER_TOKENS,
        "code": described_code(), "versions": versions(), "peers": peer_versions(peers), "machine": machine(),
        "load_before": round(os.getloadavg()[0], 2), "failures": [], "rows": [],
    }  # fmt: skip
    print(HEAD)
    for length in tokens:
        job = {"model": model, "folder": tokenizer.name_or_path, "dtype": dtype, "device": device}
        job |= texts(tokenizer, tokens[length])
        for library, command in workers.items():
            try:
                for row in measure(command, job | {"repeats": rounds[library]}, length, library):
                    report["rows"].append(row)
                    print(printed(row), flush=True)
            except WorkerError as error:
                report["failures"].append({"length": length, "library": library, "why": str(error)})
                print(f"{length:>7}  {library}: failed, {error}", flush=True)
        _complete(report, Architecture.of(config), tokens)
        write_text(output, json.dumps(report, indent=2) + "\n")
    print(*summary(report), f"written to {output}", sep="\n")
    return report


def _complete(report: dict, model: Architecture, tokens: dict[int, int]) -> None:
    measured = {row["length"] for row in report["rows"]}
    grown = growth(report["rows"])
    report["limit"] = arithmetic(model, {length: n for length, n in tokens.items() if length in measured})
    report |= {"growth": grown, "checks": check(report["rows"], grown)}
    report["finished"] = datetime.now(UTC).isoformat(timespec="seconds")


def prompt_tokens(length: int, positions: int) -> int:
    """Prompt tokens at a nominal length: as many, unless the answer would not fit the model's positions."""
    if not SHORTEST <= length <= positions:
        raise InputError(
            f"a length of {length} tokens cannot be measured; this model takes {SHORTEST} to {positions}. "
            "Choose other --lengths."
        )
    return min(length, positions - ANSWER_TOKENS)


def texts(tokenizer, length: int) -> dict[str, list[int]]:
    """Real prose that every Python brings along: a prompt of `length` tokens, the answer after it, and a warm-up."""
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    ids = tokenizer(text[: 12 * (length + ANSWER_TOKENS)], add_special_tokens=False).input_ids
    return {"prompt": ids[:length], "answer": ids[length : length + ANSWER_TOKENS], "warm_up": ids[:WARM_UP]}


# --- processes ----------------------------------------------------------------------------------------------------


class WorkerError(RuntimeError):
    """A measuring process ended without a result; the message is the last line that it said."""


def measure(command: list[str], job: dict, length: int, library: str) -> Iterator[dict]:
    """The rows of one library at one length: one process for all times, one more per step for its memory."""
    timed = run_worker(command, job | {"step": None})
    peaks: dict[str, int] = {}
    for step in timed["seconds"]:
        peaks[step] = run_worker(command, job | {"step": step})["bytes"]
        yield measured_row(length, len(job["prompt"]), library, step, timed, peaks)


def run_worker(command: list[str], job: dict) -> dict:
    """The JSON that a measuring process answers to a job. WorkerError if it fails."""
    environment = dict(os.environ)
    if command[0] != sys.executable:
        environment.pop("PYTHONPATH", None)  # a peer must not find this environment's packages
    if Path(job["folder"]).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"  # the model is here, nobody needs to ask the hub
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise WorkerError(f"{lines[-1][:200] if lines else 'no message'} (exit status {done.returncode})")
    return json.loads(done.stdout)


def peer_versions(peers: bool) -> dict[str, str]:
    """Pinned versions of the peer's environment that a number may depend on; empty without peers."""
    pins = dict(line.split("==") for line in REQUIREMENTS.read_text().split() if "==" in line)
    return {name: pins[name] for name in ("kvpress", "torch", "transformers", "numpy")} if peers else {}


# --- what is printed ----------------------------------------------------------------------------------------------

HEAD = f"{'tokens':>7}  {'':32} {'seconds':>8} {'ratio':>6} {'(range)':>13} {'MiB':>7} {'ratio':>6} {'kept':>7}"


def printed(row: dict) -> str:
    """One measured row as a line under HEAD."""
    memory = f"{row['memory_ratio']:.2f}" if row["memory_ratio"] else "-"
    spread = f"({row['time_ratio_low']:.2f} to {row['time_ratio_high']:.2f})"
    name = f"{row['library']}, {row['step']}"
    return (
        f"{row['tokens']:>7}  {name:32} {row['seconds']:>8.2f} {row['time_ratio']:>6.2f} "
        f"{spread:>13} {row['peak_bytes'] / 2**20:>7.0f} {memory:>6} {row['kept_tokens']:>7.1f}"
    )


def summary(report: dict) -> Iterator[str]:
    """Growth, the arithmetic's limit, and the limits with their verdicts, as lines."""
    for one in report["growth"]:
        found = {what: one[f"{what}_exponent"] for what in ("time", "memory")}
        values = ", ".join(f"{what} ~ tokens^{p:.2f}" for what, p in found.items() if p is not None)
        yield f"growth of {one['library']}, {one['step']}: {values or 'unknown, one length only'}"
    for one in report["limit"]:
        yield f"arithmetic at {one['tokens']} tokens: the analysis is {one['time_ratio']:.2f} times the prefill"
    for one in report["checks"]:
        where = f" at {one['length']} tokens" if one["length"] else ""
        hard = f", hard limit {one['hard']:.2f}" if one["hard"] else ""
        value = "-" if one["value"] is None else f"{one['value']:.2f}"
        yield f"{one['what']}{where}: {value}, goal {one['goal']:.2f}{hard}: {one['verdict']}"
    if report["load_before"] > 0.5 * report["machine"]["cores"]:
        yield f"the machine was busy (load {report['load_before']}): do not trust these times"
