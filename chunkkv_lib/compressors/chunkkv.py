"""ChunkKV: whole chunks of neighbouring tokens stay or go together."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import PromptAttention
from ..errors import check_known, check_whole
from .base import PoolingCompressor


@dataclass(frozen=True)
class ChunkKV(PoolingCompressor):
    """Keep the chunks of `chunk_size` neighbours that the last queries attend to most (arXiv 2502.00299, Algorithm 1).

    Chunks are cut from position 0 over the positions before the window; the last may be short. The best chunks stay
    until the budget is full; of the last one only its first tokens that fit. Of equal chunks the lower one stays. On
    purpose not as in Algorithm 1: the window is not chunked, so no position can be kept twice and none of the best is
    overwritten.

    chunk_size  tokens; the paper's main runs use 10
    aggregate   a chunk's score is the "sum" of its tokens' (Algorithm 1) or their "mean" (kvpress)
    score       "softmax": attention of the window's queries; "logits": the raw q.k that Algorithm 1 prints
    """

    chunk_size: int = 10
    aggregate: str = "sum"
    score: str = "softmax"
    pooling: str = "avg"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(chunk_size=self.chunk_size)
        check_known("aggregate", self.aggregate, ("sum", "mean"))
        check_known("score", self.score, ("softmax", "logits"))

    def scores(self, attention: PromptAttention) -> Tensor:
        """Token scores before chunking, of the positions before the window: [S, n - window]."""
        return self.pool_positions(self.window_sums(attention, self.score == "logits"))

    def chunk_scores(self, scores: Tensor) -> Tensor:
        """Token scores [S, p] -> chunk scores [S, ceil(p / chunk_size)]."""
        past, size = scores.shape[-1], self.chunk_size
        sums = F.pad(scores, (0, -past % size)).view(len(scores), -1, size).sum(-1)
        if self.aggregate == "sum":
            return sums
        lengths = (past - torch.arange(0, past, size, device=scores.device)).clamp(max=size)  # the last may be short
        return sums / lengths

    def keep(self, scores: Tensor, n: int) -> Tensor:
        """The tokens of the best chunks until the budget is full, and the window: [S, n - window] -> [S, b]."""
        room, past, size = self.room(n), scores.shape[-1], self.chunk_size
        order = self.chunk_scores(scores).sort(dim=-1, descending=True, stable=True).indices  # ties: the lower chunk
        ranked = (order[..., None] * size + torch.arange(size, device=scores.device)).flatten(1)  # best chunk first
        ranked = ranked[ranked < past].view(len(scores), past)  # without the places that a short last chunk lacks
        return self.with_window(ranked[:, :room].sort(-1).values, n)
