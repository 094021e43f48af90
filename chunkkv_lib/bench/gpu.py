"""What the analysis costs on a GPU: a random model of Llama-3-8B's shape, against a plain prefill and the hardware.

Speed does not depend on what the weights say, so nothing is downloaded. Every operation is held against two ceilings
measured on the same device: a large matrix product and a large copy.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import column_sums, log_sum_exp
from ..errors import InputError, unknown
from ..files import write_text
from ..measure import analyse
from ..metrics import masses
from ..models.load import pick_device
from ..runs.driver import described_code, machine
from ..sequences import Sequence
from .driver import ANSWER_TOKENS
from .ours import prefill

CALLS = 10  # of a single operation, timed together

#: Fields of transformers' LlamaConfig. "tiny" only shows that everything runs.
SHAPES = {
    "llama-3-8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 256,
    },
}  # fmt: skip


def bench_gpu(
    lengths: tuple[int, ...] = (7950, 32768),
    repeats: int = 5,
    device: str = "cuda",
    shape: str = "llama-3-8b",
    output: str | Path = "data/bench/gpu.json",
) -> dict:
    """Measure, print a table, write JSON. Returns the report.

    lengths  tokens of the prompts; 32 answer tokens follow. The rows of the report are one per length and operation
    device   "cuda" or "cuda:1"; "cpu" with shape "tiny" only tries the code
    raises InputError: no such device or shape, a prompt or a number of repeats that is too small.
    """
    if shape not in SHAPES:
        raise unknown("shape", shape, SHAPES)
    if shape != "tiny" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise InputError(
            f"shape={shape!r} on device={device!r} needs a CUDA GPU, and this machine has "
            f"{torch.cuda.device_count()}. Time the CPU with `python -m chunkkv_lib bench`, or only try the code with "
            "--shape tiny --device cpu."
        )
    device = pick_device(device)
    for tokens in lengths:
        if tokens < 128 or repeats < 1:  # the methods keep 10 %, their windows are up to 8 tokens
            raise InputError(
                f"tokens={tokens} and repeats={repeats} do not work; give at least 128 tokens and 1 repeat."
            )
    model = random_model(shape, device, max(lengths) + ANSWER_TOKENS)
    ceilings = measured_ceilings(device, repeats)
    rows = []
    for tokens in lengths:
        found = whole_steps(model, tokens, repeats) | pieces(model.config, tokens, device, repeats)
        rows += [{"tokens": tokens, "operation": name} | row | achieved(row, ceilings) for name, row in found.items()]
    report = {
        "shape": shape, "dtype": "bfloat16", "device": device, "repeats": repeats, "ceilings": ceilings, "rows": rows,
        "code": described_code(), "versions": versions(), "machine": machine(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    write_text(output, json.dumps(report, indent=2) + "\n")
    show(report, output)
    return report


def versions() -> dict[str, str]:
    """Versions of what the times depend on; "-" for a package that is not there."""
    found = {"python": platform.python_version()}
    for name in ("torch", "triton", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "-"
    return found


def random_model(shape: str, device: str, positions: int) -> nn.Module:
    """A Llama with random weights in bfloat16, made on the device itself."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=positions)
    with torch.random.fork_rng([device] if device.startswith("cuda") else []), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


def whole_steps(model: nn.Module, tokens: int, repeats: int) -> dict[str, dict]:
    """The plain prefill and the complete analysis, interleaved.

    return  for each: seconds and their ratio to the prefill's (median, lowest, highest round), seconds that the GPU was
            at work, peak bytes above the model, operations, and the bytes of the weights
    """
    device, config = model.device, model.config
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (tokens + ANSWER_TOKENS,), generator=generator)
    sequence = Sequence.from_ids(ids[:tokens], ids[tokens:], id="bench")
    steps = {"prefill": lambda: prefill(model, list(sequence.prompt_ids)), "analysis": lambda: analyse(model, sequence)}
    peaks = {name: peak_bytes(step, device) for name, step in steps.items()}  # warms up, too
    busy = {name: busy_seconds(step, device) for name, step in steps.items()}
    seconds = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(one_time(step, device))
    linear = sum(part.weight.numel() for part in model.model.layers.modules() if isinstance(part, nn.Linear))
    sweep = config.num_hidden_layers * causal_product(config, tokens)
    work = 2 * linear * tokens + 2 * sweep  # every token through every matrix; logits and weighted sum of the values
    flops = {"prefill": work, "analysis": work + sweep}  # and logits again, for the column sums
    weights = sum(x.numel() * x.element_size() for x in model.parameters())
    found = {}
    for name in steps:
        ratios = [mine / plain for mine, plain in zip(seconds[name], seconds["prefill"])]
        found[name] = {
            "seconds": statistics.median(seconds[name]), "time_ratio": statistics.median(ratios),
            "time_ratio_low": min(ratios), "time_ratio_high": max(ratios),
            "busy_seconds": busy[name], "peak": peaks[name], "flops": flops[name], "bytes": weights,
        }  # fmt: skip
    return found


def causal_product(config, n: int) -> int:
    """Floating-point operations of one layer's causal q.k over n tokens: two for each pair and channel."""
    return config.num_attention_heads * config.head_dim * n * n


def pieces(config, n: int, device: str, repeats: int) -> dict[str, dict]:
    """Single operations on one layer's tensors: the model's own attention, and what the analysis adds to it."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(heads: int) -> Tensor:
        return torch.randn(heads, n, config.head_dim, generator=generator, device=device, dtype=torch.bfloat16)

    queries = draw(config.num_attention_heads)
    keys, values = draw(config.num_key_value_heads), draw(config.num_key_value_heads)
    lse = log_sum_exp(queries, keys)
    product, size = causal_product(config, n), keys.element_size()
    read = size * (queries.numel() + keys.numel())

    def attend() -> Tensor:
        return F.scaled_dot_product_attention(queries[None], keys[None], values[None], is_causal=True, enable_gqa=True)

    plans = {  # name: (what runs, operations, bytes that it must at least read and write)
        "attention": (attend, 2 * product, read + size * (values.numel() + queries.numel())),
        "log_sum_exp": (lambda: log_sum_exp(queries, keys), product, read + 4 * lse.numel()),
        "column_sums": (lambda: column_sums(queries, keys, lse), product, read + 8 * lse.numel()),
        "masses": (lambda: (masses(keys), masses(values)), 6 * keys.numel(), 2 * size * keys.numel()),
    }
    with torch.inference_mode():
        return {
            name: {"seconds": median_time(run, device, repeats), "flops": flops, "bytes": moved}
            for name, (run, flops, moved) in plans.items()
        }


def measured_ceilings(device: str, repeats: int) -> dict[str, float]:
    """What the device really reaches: TFLOP/s of a large bfloat16 matrix product, GB/s of a large copy."""
    side, count = (8192, 1 << 30) if device.startswith("cuda") else (256, 1 << 20)
    a = torch.ones(side, side, dtype=torch.bfloat16, device=device)
    product = median_time(lambda: a @ a, device, repeats)
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = median_time(lambda: target.copy_(source), device, repeats)
    return {"tflops": 2 * side**3 / product / 1e12, "gb_per_second": 2 * count / copy / 1e9}


def achieved(row: dict, ceilings: dict[str, float]) -> dict[str, float]:
    """Speed of one operation, and its shares of the ceilings; the larger share says what bounds it."""
    speed = {"tflops": row["flops"] / row["seconds"] / 1e12, "gb_per_second": row["bytes"] / row["seconds"] / 1e9}
    return speed | {f"{name}_share": speed[name] / ceilings[name] for name in speed}


def median_time(step: Callable[[], object], device: str | torch.device, repeats: int) -> float:
    """Median seconds of a step among others like it, after one run to warm up (the first compiles).

    Several are asked for at once, so that a GPU does not wait for the CPU between them.
    """
    step()

    def several() -> None:
        for _ in range(CALLS):
            step()

    return statistics.median(one_time(several, device) / CALLS for _ in range(repeats))


def one_time(step: Callable[[], object], device: str | torch.device) -> float:
    """Seconds until a step's result is there, on a GPU too."""
    synchronize(device)
    started = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str | torch.device) -> None:
    """Wait for a GPU to finish what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(step: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a step needs at its peak above what was there before; None on the CPU."""
    if device.type != "cuda":
        step()
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before


def busy_seconds(step: Callable[[], object], device: torch.device) -> float | None:
    """Seconds for which a GPU's kernels run during a step, however late the CPU asks for them; None on the CPU."""
    if device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        synchronize(device)
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6


def show(report: dict, output: str | Path) -> None:
    """Print the table."""
    titles = f"{'operation':<12} {'ms':>9} {'busy ms':>9} {'ratio':>6} {'TFLOP/s':>8} {'of peak':>8} "
    titles += f"{'GB/s':>8} {'of peak':>8} {'peak MiB':>9}"
    length = None
    for row in report["rows"]:
        if row["tokens"] != length:
            length = row["tokens"]
            print(f"{length:,} tokens\n{titles}")
        busy = _cell(row.get("busy_seconds"), 1000, "9.1f")
        ratio, peak = _cell(row.get("time_ratio"), 1, "6.2f"), _cell(row.get("peak"), 1 / 2**20, "9.0f")
        line = f"{row['operation']:<12} {1000 * row['seconds']:>9.3f} {busy} {ratio} {row['tflops']:>8.2f} "
        line += f"{row['tflops_share']:>8.1%} {row['gb_per_second']:>8.1f} {row['gb_per_second_share']:>8.1%} {peak}"
        print(line.rstrip())
    ceilings = report["ceilings"]
    print(f"measured peaks: {ceilings['tflops']:.2f} TFLOP/s, {ceilings['gb_per_second']:.1f} GB/s; ", end="")
    print(f"written to {output}")


def _cell(value: float | None, factor: float, form: str) -> str:
    return " " * int(form.partition(".")[0]) if value is None else format(factor * value, form)
