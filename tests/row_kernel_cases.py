"""Inputs for the Triton kernels on rows and scores, and their results, written to a file from a process of their own.

TRITON_INTERPRET=1 python tests/row_kernel_cases.py results.pt     # on the CPU, by Triton's interpreter
"""

from __future__ import annotations

import sys

import torch

#: name -> query heads, KV heads, sets, rows, positions, head dimension, methods.
ROWS = {
    "as in a run": (8, 2, 2, 32, 300, 64, 7),
    "one of everything": (1, 1, 1, 1, 1, 8, 1),
    "a set per query head": (6, 3, 6, 5, 130, 24, 3),
    "a set for the layer": (4, 2, 1, 8, 64, 128, 20),
    "one more than a block": (2, 1, 1, 17, 65, 16, 15),
}
#: name -> scores and how many stay.
SCORES = {
    "different": (torch.randn(3, 500, generator=torch.Generator().manual_seed(1)), 50),
    "many ties": (torch.randint(0, 4, (4, 333), generator=torch.Generator().manual_seed(2)).float(), 100),
    "all the same": (torch.zeros(2, 70), 7),
    "both zeros": (torch.tensor([[0.0, -0.0, 0.0, -0.0, 1.0, -1.0]]), 3),
    "negative": (-torch.rand(2, 129, generator=torch.Generator().manual_seed(3)), 128),
    "everything": (torch.rand(1, 33, generator=torch.Generator().manual_seed(4)), 33),
    "one": (torch.tensor([[5.0]]), 1),
    "tiny and huge": (torch.tensor([[1e-40, 3e38, -3e38, 0.0, 1e-38, 2e-40, -1e-40]]), 4),
}


def inputs(name: str, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows [Hq, r, n], values [Hkv, n, d] in bfloat16 as a view into NaN, masks [M, S, n] of a case."""
    heads, kv_heads, sets, r, n, d, methods = ROWS[name]
    generator = torch.Generator().manual_seed(len(name))
    rows = torch.randn(heads, r, n, generator=generator).softmax(-1)
    around = torch.full((n + 3, kv_heads + 1, d + 2), torch.nan, dtype=torch.bfloat16)
    values = around[:n, :kv_heads, :d].transpose(0, 1).copy_(torch.randn(kv_heads, n, d, generator=generator))
    masks = torch.rand(methods, sets, n, generator=generator) < 0.2
    return (
        rows.to(device),
        values.to(device) if device == "cpu" else around.to(device)[:n, :kv_heads, :d].transpose(0, 1),
        masks.to(device),
    )


def kept_sets(name: str) -> torch.Tensor:
    """Some positions per set: [M, S, b], from one to more than a program takes at once."""
    _, _, sets, _, n, _, methods = ROWS[name]
    drawn = torch.rand(methods, sets, n, generator=torch.Generator().manual_seed(5)).argsort(-1)
    return drawn[..., : (n + 1) // 2].sort(-1).values


def results(device: str = "cpu") -> dict[str, dict[str, torch.Tensor]]:
    """What every kernel computes of every case."""
    from chunkkv_lib.attention import triton_rows
    from chunkkv_lib.compressors import triton_selection

    found = {}
    for name in ROWS:
        rows, values, masks = inputs(name, device)
        found[name] = {
            "sums": triton_rows.kept_sums(rows, masks),
            "outputs": triton_rows.kept_outputs(rows, values, kept_sets(name).to(device)),
            "weighted": triton_rows.weighted_sums(rows, values),
            "masses": triton_rows.masses(values),
        }
    for name, (scores, count) in SCORES.items():
        mask = triton_selection.highest(scores.to(device), count)
        found[name] = {"mask": mask, "positions": triton_selection.positions(mask, count)}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save(results(), sys.argv[1])
