"""What the analysis costs on a GPU: a random model of Llama-3-8B's shape, against a plain prefill and the hardware.

Speed does not depend on what the weights say, so nothing is downloaded. Every operation is held against two ceilings
measured on the same device: a large matrix product and a large copy.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import column_sums, log_sum_exp
from .bench.driver import ANSWER_TOKENS
from .bench.ours import prefill
from .errors import InputError, unknown
from .files import write_text
from .measure import analyse
from .measure.driver import machine, versions
from .metrics import token_mass
from .models.load import pick_device
from .sequences import Sequence

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
    tokens: int = 7950,
    repeats: int = 5,
    device: str = "cuda",
    shape: str = "llama-3-8b",
    output: str | Path = "data/bench/gpu-kernels.json",
) -> dict:
    """Measure, print a table, write JSON. Returns the report.

    tokens   of the prompt; 32 answer tokens follow
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
    if tokens < 128 or repeats < 1:  # the methods keep 10 %, their windows are up to 8 tokens
        raise InputError(f"tokens={tokens} and repeats={repeats} do not work; give at least 128 tokens and 1 repeat.")
    model = random_model(shape, device, tokens + ANSWER_TOKENS)
    ids = torch.randint(model.config.vocab_size, (tokens + ANSWER_TOKENS,), generator=torch.Generator().manual_seed(0))
    sequence = Sequence.from_ids(ids[:tokens], ids[tokens:], id="bench")
    ceilings = measured_ceilings(device, repeats)
    rows = whole_steps(model, sequence, repeats) | pieces(model.config, tokens, device, repeats)
    for row in rows.values():
        row |= achieved(row, ceilings)
    report = {
        "shape": shape, "dtype": "bfloat16", "device": device, "tokens": tokens, "repeats": repeats,
        "time_ratio": rows["analysis"]["seconds"] / rows["prefill"]["seconds"],
        "ceilings": ceilings, "operations": rows, "versions": versions(), "machine": machine(),
    }  # fmt: skip
    write_text(output, json.dumps(report, indent=2) + "\n")
    show(report, output)
    return report


def random_model(shape: str, device: str, positions: int) -> nn.Module:
    """A Llama with random weights in bfloat16, made on the device itself."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=positions)
    with torch.random.fork_rng([device] if device.startswith("cuda") else []), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


def whole_steps(model: nn.Module, sequence: Sequence, repeats: int) -> dict[str, dict]:
    """The plain prefill and the complete analysis, interleaved: seconds, peak bytes above the model, operations."""
    device, config, n = model.device, model.config, len(sequence.prompt_ids)
    steps = {"prefill": lambda: prefill(model, list(sequence.prompt_ids)), "analysis": lambda: analyse(model, sequence)}
    peaks = {name: peak_bytes(step, device) for name, step in steps.items()}  # warms up, too
    seconds = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(one_time(step, device))
    linear = sum(part.weight.numel() for part in model.model.layers.modules() if isinstance(part, nn.Linear))
    sweep = config.num_hidden_layers * causal_product(config, n)
    work = 2 * linear * n + 2 * sweep  # every token through every matrix; logits and weighted sum of the values
    flops = {"prefill": work, "analysis": work + 2 * sweep}  # and logits again, for log-sum-exp and column sums
    weights = sum(x.numel() * x.element_size() for x in model.parameters())
    return {
        name: {"seconds": statistics.median(seconds[name]), "flops": flops[name], "bytes": weights, "peak": peaks[name]}
        for name in steps
    }


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
        "token_mass": (lambda: (token_mass(keys), token_mass(values)), 4 * keys.numel(), 2 * size * keys.numel()),
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
    """Median seconds of a step, after one run to warm up (the first compiles)."""
    step()
    return statistics.median(one_time(step, device) for _ in range(repeats))


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


def show(report: dict, output: str | Path) -> None:
    """Print the table."""
    print(f"{'operation':<12} {'ms':>9} {'TFLOP/s':>8} {'of peak':>8} {'GB/s':>8} {'of peak':>8} {'peak MiB':>9}")
    for name, row in report["operations"].items():
        peak = f"{row['peak'] / 2**20:>9.0f}" if row.get("peak") is not None else ""
        print(
            f"{name:<12} {1000 * row['seconds']:>9.3f} {row['tflops']:>8.2f} {row['tflops_share']:>8.1%} "
            f"{row['gb_per_second']:>8.1f} {row['gb_per_second_share']:>8.1%} {peak}"
        )
    ceilings = report["ceilings"]
    print(f"measured peaks: {ceilings['tflops']:.2f} TFLOP/s, {ceilings['gb_per_second']:.1f} GB/s; ", end="")
    print(f"analysis / prefill {report['time_ratio']:.2f}; written to {output}")
