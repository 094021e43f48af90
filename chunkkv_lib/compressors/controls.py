"""Controls: what a method must be measured against before its numbers mean anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..attention import PromptAttention
from ..errors import InputError
from .base import Compressor, highest


@dataclass(frozen=True)
class Recent(Compressor):
    """Keep the last tokens of the prompt."""

    by_position: ClassVar[bool] = True

    def _mask(self, attention: PromptAttention, tokens: int) -> Tensor:
        return _by_position(self._sets(attention), attention, sinks=0, tokens=tokens)


@dataclass(frozen=True)
class StreamingLLM(Compressor):
    """Keep the first `sinks` tokens and the most recent ones (arXiv 2309.17453).

    sinks  tokens at the start, inside the budget; with a smaller budget only its first tokens stay
    """

    by_position: ClassVar[bool] = True

    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_whole(self.sinks) or self.sinks < 0:
            raise InputError(f"sinks={self.sinks!r} does not work; it must be a whole number of at least 0.")

    def _mask(self, attention: PromptAttention, tokens: int) -> Tensor:
        return _by_position(self._sets(attention), attention, min(self.sinks, tokens), tokens)


@dataclass(frozen=True)
class Random(Compressor):
    """Keep a uniformly random set, drawn anew for every head.

    seed  of the draw; the same seed and shapes give the same set on every machine
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_whole(self.seed):
            raise InputError(f"seed={self.seed!r} does not work; it must be a whole number.")

    def scores(self, queries: Tensor, keys: Tensor, attention: PromptAttention | None = None) -> Tensor:
        """Uniform random numbers: [S, n]."""
        attention = attention or PromptAttention(queries, keys)
        generator = torch.Generator().manual_seed(self.seed)  # on the CPU: devices draw differently
        drawn = torch.rand(self._sets(attention), attention.n, generator=generator)
        pinned = drawn.pin_memory() if keys.is_cuda else drawn  # the CPU need not wait until a GPU has them
        return pinned.to(keys.device, non_blocking=True)

    def _mask(self, attention: PromptAttention, tokens: int) -> Tensor:
        return highest(self.scores(attention.queries, attention.keys, attention), tokens)


@dataclass(frozen=True)
class Oracle(Compressor):
    """Keep the positions that the probe queries really attend to: an upper bound that looks into the future.

    No method can keep more of the probes' attention mass (summed over probes and over the heads that share a set).
    Needs probe queries: `Oracle().select(queries, keys, PromptAttention(queries, keys, probe_queries=q))`.
    """

    def scores(self, queries: Tensor, keys: Tensor, attention: PromptAttention | None = None) -> Tensor:
        """Attention of the probe queries, summed over them: [S, n]."""
        attention = attention or PromptAttention(queries, keys)
        return self._pool_heads(attention.probe_rows().sum(1), attention)

    def _mask(self, attention: PromptAttention, tokens: int) -> Tensor:
        return highest(self.scores(attention.queries, attention.keys, attention), tokens)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _by_position(sets: int, attention: PromptAttention, sinks: int, tokens: int) -> Tensor:
    """Mask [S, n] of the first `sinks` and the last `tokens - sinks` positions."""
    n = attention.n
    positions = torch.arange(n, device=attention.keys.device)
    return ((positions < sinks) | (positions >= n - (tokens - sinks))).expand(sets, n)
