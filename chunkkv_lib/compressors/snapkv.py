"""SnapKV: the positions that the last queries attend to, with their neighbours."""

from dataclasses import dataclass

from torch import Tensor

from ..attention import PromptAttention
from .base import PoolingCompressor


@dataclass(frozen=True)
class SnapKV(PoolingCompressor):
    """Keep the positions that the last `window` queries attend to most, and the window (arXiv 2404.14469).

    A score is the window's softmax attention, summed over its queries, pooled over heads, then along positions; of
    equal scores the lower position stays.
    The defaults are those of the runner used at the ChunkKV paper's time (KVCache-Factory: window 8, max-pool 7).
    """

    kernel: int = 7

    def scores(self, attention: PromptAttention) -> Tensor:
        """Pooled window attention of the positions before the window: [S, n - window]."""
        return self.pool_positions(self.window_sums(attention))
