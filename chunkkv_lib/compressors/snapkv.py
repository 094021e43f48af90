"""SnapKV: the positions that the last queries attend to, with their neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..attention import PromptAttention
from .base import WindowCompressor, check_pooling, pool_positions


@dataclass(frozen=True)
class SnapKV(WindowCompressor):
    """Keep the positions that the last `window` queries attend to most, and the window (arXiv 2404.14469).

    A score is the window's softmax attention, summed over its queries, pooled over heads, then along positions; of
    equal scores the lower position stays.
    The defaults are those of the runner used at the ChunkKV paper's time (KVCache-Factory: window 8, max-pool 7).

    kernel   positions pooled together, odd; 1 switches pooling off
    pooling  "max" or "avg"
    """

    kernel: int = 7
    pooling: str = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pooling(self.pooling, self.kernel)

    def scores(self, attention: PromptAttention) -> Tensor:
        """Pooled window attention of the positions before the window: [S, n - window]."""
        return pool_positions(self.window_sums(attention), self.pooling, self.kernel)
