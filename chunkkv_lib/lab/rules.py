"""The rules of the lab's page on a layer's codes, chosen by the library's own compressors.

The page does the same in JavaScript (assets/rules.js); a test compares the two over hundreds of settings.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..compressors import METHODS, SnapKV, budget_tokens
from ..compressors.base import WindowCompressor
from .codes import PROBES, SCORES, WINDOWS, LayerCodes


@dataclass(frozen=True)
class Setting:
    """One position of the page's controls, for one method.

    budget      per cent of the prompt's tokens that stay
    share       "kv_head": every KV head has a set of its own; "layer": one set for all heads of a layer
    chunk_size  of ChunkKV, window of the three methods, kernel of SnapKV; the others ignore them
    seed        of Random
    """

    method: str = "ChunkKV"
    budget: float = 10.0
    share: str = "kv_head"
    chunk_size: int = 10
    window: int = 8
    kernel: int = 7
    seed: int = 0

    def tokens(self, n: int) -> int:
        """How many of n tokens stay: not fewer than the smallest window."""
        return max(budget_tokens(self.budget / 100, n), min(n, WINDOWS[0]))

    def fitting_window(self, n: int) -> int:
        """The chosen window, or the largest that fits into the budget."""
        return max([w for w in WINDOWS if w <= min(self.window, self.tokens(n))], default=n)


def kept_tokens(codes: LayerCodes, setting: Setting, layer: int) -> Tensor:
    """What the rule keeps of one layer: positions [S, b], S = H or 1."""
    n = codes.columns.shape[1]
    tokens, window = setting.tokens(n), setting.fitting_window(n)
    scores = token_scores(codes, setting.method, setting.share, window, layer, setting.seed)
    options = {
        "ChunkKV": {"window": window, "chunk_size": setting.chunk_size},
        "SnapKV": {"window": window, "kernel": setting.kernel},
        "H2O": {"window": window},
    }.get(setting.method, {})
    return keep(METHODS[setting.method](tokens, **options), scores, n)


def keep(method, scores: Tensor, n: int) -> Tensor:
    """The library's choice by scores alone."""
    if isinstance(method, WindowCompressor):
        scores = scores[:, : n - method.window]
    if isinstance(method, SnapKV):
        scores = method.pool_positions(scores)
    return method.keep(scores, n)


def token_scores(codes: LayerCodes, method: str, share: str, window: int, layer: int, seed: int = 0) -> Tensor:
    """What a rule asks of every token: whole numbers [S, n] in float64, before pooling and chunks."""
    heads, n = codes.columns.shape
    positions = np.arange(n)
    match method:
        case "ChunkKV" | "SnapKV":
            scores = SCORES[codes.votes[WINDOWS.index(window) if window in WINDOWS else 0]]
        case "H2O":
            scores = SCORES[codes.columns]
        case "Oracle":
            rows = (PROBES[codes.probes] * codes.weights[..., None]).sum(1)  # [H * G, n]
            scores = rows.reshape(heads, -1, n).sum(1)
        case "Random":
            sets = 1 if share == "layer" else heads
            return torch.from_numpy(random_numbers(seed, layer, sets, n))
        case "StreamingLLM":
            scores = np.where(positions < 4, 2 * n - positions, positions)[None].repeat(heads, 0)
        case "Recent":
            scores = positions[None].repeat(heads, 0)
    return torch.from_numpy(scores.sum(0, keepdims=True) if share == "layer" else scores).double()


def random_numbers(seed: int, layer: int, sets: int, n: int) -> np.ndarray:
    """A draw of its own for every seed, layer, head and token, [sets, n], the same on every machine."""
    head, position = np.arange(sets, dtype=np.uint32)[:, None], np.arange(n, dtype=np.uint32)
    x = (np.uint32((seed + 1) * 0x9E3779B1 % 2**32) ^ ((np.uint32(64 * layer + 1) + head) * np.uint32(0x85EBCA77))
         ^ ((position + np.uint32(1)) * np.uint32(0xC2B2AE3D)))  # fmt: skip
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return (x ^ x >> np.uint32(16)).astype(np.float64)
