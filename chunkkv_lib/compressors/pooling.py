"""Smoothing of scores along positions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, unknown
from .base import positive

POOLINGS = ("max", "avg")


def check_pooling(pooling: str, kernel: int) -> None:
    """Raise InputError for an unknown pooling or a kernel that has no middle."""
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    positive(kernel=kernel)
    if kernel % 2 == 0:
        raise InputError(f"kernel={kernel} is even; pooling needs an odd number of positions. Use {kernel + 1}.")


def pool_positions(scores: Tensor, pooling: str, kernel: int) -> Tensor:
    """Pool [S, p] over `kernel` neighbouring positions, stride 1, same length.

    Average pooling counts the zero padding at both ends, as SnapKV and kvpress do.
    """
    if kernel == 1 or scores.shape[-1] == 0:
        return scores
    pool = F.max_pool1d if pooling == "max" else F.avg_pool1d
    return pool(scores[None], kernel, stride=1, padding=kernel // 2)[0]
