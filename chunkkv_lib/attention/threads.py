"""Independent pieces of work on the CPU, one thread for each.

Many small operations in a row lose much of a second core: after each of them all threads must meet, and waking a
thread can take longer than its share of the work. Pieces that never meet do not have this price.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def in_threads(work: Callable[[Piece], Result], pieces: Sequence[Piece], device: torch.device) -> list[Result]:
    """work(piece) for every piece, results in order; without gradients.

    On the CPU as many at a time as torch has threads, each piece in one of them; on other devices one after the other.
    What a piece computes does not depend on the number of threads.
    """

    def without_gradients(piece: Piece) -> Result:
        with torch.inference_mode():  # a mode belongs to its thread
            return work(piece)

    threads = min(torch.get_num_threads(), len(pieces))
    if threads < 2 or device.type != "cpu":
        return [without_gradients(piece) for piece in pieces]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(without_gradients, pieces))
    finally:
        torch.set_num_threads(before)
