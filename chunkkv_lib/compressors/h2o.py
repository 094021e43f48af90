"""H2O: the heavy hitters, positions that gathered the most attention over the whole prompt."""

from dataclasses import dataclass

from torch import Tensor

from ..attention import PromptAttention, unmasked_column_sums
from .base import PoolingCompressor


@dataclass(frozen=True)
class H2O(PoolingCompressor):
    """Keep the positions with the largest accumulated attention, and the recent window (arXiv 2306.14048).

    A score is the column sum of the full causal softmax over all n prompt queries; of equal scores the lower position
    stays. The recent window is the runner's 8 tokens at the ChunkKV paper's time; the H2O paper itself splits the
    budget in half.

    causal  False takes the sums as KVCache-Factory did until June 2026, when only the last corner was masked
    """

    causal: bool = True

    def scores(self, attention: PromptAttention) -> Tensor:
        """Accumulated attention of the positions before the window: [S, n - window]."""
        attention.check_window(self.window)
        prompt = attention.queries, attention.keys
        sums = attention.column_sums() if self.causal else unmasked_column_sums(*prompt, self.window)
        return self.pool_positions(self.pool_heads(sums[:, : attention.n - self.window], attention))
