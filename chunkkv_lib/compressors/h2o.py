"""H2O: the heavy hitters, positions that gathered the most attention over the whole prompt."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..attention import PromptAttention
from ..errors import InputError
from .base import WindowCompressor, check_pooling, pool_positions


@dataclass(frozen=True)
class H2O(WindowCompressor):
    """Keep the positions with the largest accumulated attention, and the recent window (arXiv 2306.14048).

    A score is the column sum of the full causal softmax over all n prompt queries; of equal scores the lower position
    stays. The recent window is the runner's 8 tokens at the ChunkKV paper's time; the H2O paper itself splits the
    budget in half.

    causal   False takes the sums as KVCache-Factory did until June 2026, when only the last corner was masked
    kernel   positions pooled together before the choice, odd; 1: none, as in the H2O paper
    pooling  "max" or "avg"
    """

    causal: bool = True
    kernel: int = 1
    pooling: str = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.causal, bool):
            raise InputError(f"causal={self.causal!r} does not work; it must be True or False.")
        check_pooling(self.pooling, self.kernel)

    def scores(self, attention: PromptAttention) -> Tensor:
        """Accumulated attention of the positions before the window: [S, n - window]."""
        attention.check_window(self.window)
        sums = attention.column_sums() if self.causal else attention.unmasked_column_sums(self.window)
        past = self.pool_heads(sums[:, : attention.n - self.window], attention)
        return pool_positions(past, self.pooling, self.kernel)
