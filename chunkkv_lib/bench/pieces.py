"""Time of the pieces of one layer: its own attention, and the ways to score the prompt's tokens by attention.

    python -m chunkkv_lib.bench.pieces [data/bench/pieces.json]     # measure and record
    load_pieces("data/bench/pieces.json")                           # read the record back

A page that shows the record is the same whenever it is built; one that measures anew never is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ..attention import attention_rows, column_sums, log_sum_exp
from ..errors import InputError
from ..files import write_text
from ..report.guide import ARCHITECTURES, Architecture
from .worker import in_turns

OWN = "the layer's own attention"
MODEL, TOKENS, ROUNDS, WINDOW = "smollm2-135m", 2048, 15, 8


@dataclass(frozen=True)
class Pieces:
    """Times of one layer's pieces.

    seconds  piece -> seconds of every round, in the order they were taken
    facts    tokens, rounds, sizes of the layer, versions, machine, load before, date
    """

    seconds: dict[str, list[float]]
    facts: dict

    @property
    def milliseconds(self) -> dict[str, float]:
        """The median of every piece."""
        return {piece: 1000 * median(taken) for piece, taken in self.seconds.items()}

    @property
    def busy(self) -> bool:
        """Whether other work kept the machine busy when this was measured."""
        return self.facts["load_before"] > 0.5 * self.facts["machine"]["cores"]

    @property
    def manifest(self) -> dict:
        """For `provenance`: everything that is known, under a name of its own."""
        return {"name": "bench-pieces", **self.facts, "seconds": self.seconds}

    @property
    def line(self) -> str:
        """One line to stand under a table."""
        facts, machine = self.facts, self.facts["machine"]
        return " · ".join(
            [
                f"One layer of {facts['model']}'s shape, random float32 tensors on the CPU, {facts['tokens']:,} tokens",
                f"{machine['cores']} cores, {machine['threads']} threads, {machine['instructions']}",
                f"median of {facts['rounds']} rounds", f"torch {facts['versions']['torch']}", facts["finished"][:10],
            ]
        )  # fmt: skip


def random_layer(model: Architecture, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [Hq, n, d], keys and values [Hkv, n, d] of standard normal numbers, in the shape of a model's layer."""
    generator = torch.Generator().manual_seed(seed)
    heads = (model.query_heads, model.kv_heads, model.kv_heads)
    return tuple(torch.randn(count, tokens, model.head_dim, generator=generator) for count in heads)


def layer_pieces(queries: Tensor, keys: Tensor, values: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What is timed: name -> a function of nothing. Queries [Hq, n, d], keys and values [Hkv, n, d]."""
    n = keys.shape[1]
    lse, window = log_sum_exp(queries, keys), torch.arange(max(n - WINDOW, 0), n)
    attention = torch.nn.functional.scaled_dot_product_attention
    return {
        OWN: lambda: attention(queries[None], keys[None], values[None], is_causal=True, enable_gqa=True),
        f"rows of the window, {WINDOW} queries": lambda: attention_rows(queries[:, -WINDOW:], keys, window),
        "column sums, log-sum-exp at hand": lambda: column_sums(queries, keys, lse),
        "column sums, log-sum-exp computed first": lambda: column_sums(queries, keys),
        "column sums of the full matrix": lambda: attention_rows(queries, keys, torch.arange(n)).sum(1),
    }


def measure_pieces(model: str = MODEL, tokens: int = TOKENS, rounds: int = ROUNDS) -> Pieces:
    """Time every piece on the CPU, all of them in turns after one round that does not count.

    model   a name in `guide.ARCHITECTURES`: the layer has its shape
    raises  InputError: an unknown model, no tokens, no round.
    """
    if model not in ARCHITECTURES:
        raise InputError(f"model={model!r} is not one of {', '.join(ARCHITECTURES)}; choose one of these.")
    if tokens < 1 or rounds < 1:
        raise InputError(f"tokens={tokens} and rounds={rounds} measure nothing; give at least 1 of each.")
    from ..runs.driver import described_code, machine, versions

    load, shape = round(os.getloadavg()[0], 2), ARCHITECTURES[model]
    pieces = layer_pieces(*random_layer(shape, tokens))
    with torch.inference_mode():
        seconds = in_turns({name: lambda _, run=run: run() for name, run in pieces.items()}, [], rounds)["seconds"]
    facts = {
        "model": model, "tokens": tokens, "rounds": rounds, "dtype": "float32", "device": "cpu",
        "query_heads": shape.query_heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "code": described_code(), "versions": versions(), "machine": machine(), "load_before": load,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return Pieces(seconds, facts)


def write_pieces(pieces: Pieces, path: str | Path) -> None:
    """Write the record as JSON, atomically."""
    write_text(path, json.dumps(pieces.facts | {"seconds": pieces.seconds}, indent=1) + "\n")


def load_pieces(path: str | Path) -> Pieces:
    """Read a record back. InputError: no such file, or another kind of file."""
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
        seconds = facts.pop("seconds")
        facts["tokens"], seconds[OWN]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a record of a layer's pieces ({error}). Make one: python -m chunkkv_lib.bench.pieces."
        ) from error
    return Pieces(seconds, facts)


def main(arguments: list[str]) -> int:
    """Measure and record; the file may be named. Returns the exit status."""
    path = Path(arguments[0] if arguments else "data/bench/pieces.json")
    pieces = measure_pieces()
    write_pieces(pieces, path)
    print(pieces.line, *(f"{taken:8.1f} ms  {name}" for name, taken in pieces.milliseconds.items()), path, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
