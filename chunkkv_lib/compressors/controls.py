"""Controls: what a method must be measured against before its numbers mean anything."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention import PromptAttention
from ..errors import check_whole
from .base import Compressor


@dataclass(frozen=True)
class Recent(Compressor):
    """Keep the last tokens of the prompt."""

    def scores(self, attention: PromptAttention) -> Tensor:
        """The positions themselves: [S, n]."""
        positions = torch.arange(attention.n, dtype=torch.float32, device=attention.keys.device)
        return positions.expand(self.sets(attention), -1)


@dataclass(frozen=True)
class StreamingLLM(Recent):
    """Keep the first `sinks` tokens and the most recent ones (arXiv 2309.17453).

    sinks  tokens at the start, inside the budget; with a smaller budget only its first tokens stay
    """

    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(least=0, sinks=self.sinks)

    def scores(self, attention: PromptAttention) -> Tensor:
        """Later positions are higher, except that the sinks are above all, the first one highest: [S, n]."""
        positions = super().scores(attention)
        return torch.where(positions < self.sinks, 2 * attention.n - positions, positions)


@dataclass(frozen=True)
class Random(Compressor):
    """Keep a uniformly random set, drawn anew for every head.

    seed   of the draw; the same seed and shapes give the same set on every machine
    block  neighbours that stay or go together, cut from position 0: random chunks; of the last one the first tokens
    """

    seed: int = 0
    block: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(least=None, seed=self.seed)
        check_whole(block=self.block)

    def scores(self, attention: PromptAttention) -> Tensor:
        """Uniform random numbers, one for each block: [S, n]."""
        n, generator = attention.n, torch.Generator().manual_seed(self.seed)  # on the CPU: devices draw differently
        drawn = torch.rand(self.sets(attention), -(-n // self.block), dtype=torch.float32, generator=generator)
        return drawn.repeat_interleave(self.block, 1)[:, :n].to(attention.keys.device)


@dataclass(frozen=True)
class Oracle(Compressor):
    """Keep the positions that the probe queries really attend to: an upper bound that looks into the future.

    No method can keep more of the probes' attention mass (summed over probes and over the heads that share a set).
    Needs probe queries: `Oracle().choose(PromptAttention(queries, keys, probe_queries=q))`.
    """

    def scores(self, attention: PromptAttention) -> Tensor:
        """Attention of the probe queries, summed over them: [S, n]."""
        return self.pool_heads(attention.probe_rows().sum(1), attention)
