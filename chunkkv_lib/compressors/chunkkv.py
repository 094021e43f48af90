"""ChunkKV: whole chunks of neighbouring tokens stay or go together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import PromptAttention
from ..errors import unknown
from .base import WindowCompressor, positive
from .pooling import check_pooling, pool_positions

AGGREGATES = ("sum", "mean")
SCORES = ("softmax", "logits")


@dataclass(frozen=True)
class ChunkKV(WindowCompressor):
    """Keep the chunks of `chunk_size` neighbours that the last queries attend to most (arXiv 2502.00299, Algorithm 1).

    Chunks are cut from position 0 over the positions before the window; the last may be short. The best chunks stay
    until the budget is full; of the last one only its first tokens that fit. On purpose not as in Algorithm 1: the
    window is not chunked, so no position can be kept twice and none of the best is overwritten.

    chunk_size  tokens; the paper's main runs use 10
    aggregate   a chunk's score is the "sum" of its tokens' (Algorithm 1) or their "mean" (kvpress)
    score       "softmax": attention of the window's queries; "logits": the raw q.k that Algorithm 1 prints
    kernel      positions pooled before chunking, odd; 1: none (kvpress: 5, average)
    pooling     "avg" or "max"
    """

    chunk_size: int = 10
    aggregate: str = "sum"
    score: str = "softmax"
    kernel: int = 1
    pooling: str = "avg"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(chunk_size=self.chunk_size)
        check_pooling(self.pooling, self.kernel)
        if self.aggregate not in AGGREGATES:
            raise unknown("aggregate", self.aggregate, AGGREGATES)
        if self.score not in SCORES:
            raise unknown("score", self.score, SCORES)

    def scores(self, queries: Tensor, keys: Tensor, attention: PromptAttention | None = None) -> Tensor:
        """Token scores before chunking, of the positions before the window: [S, n - window]."""
        attention = attention or PromptAttention(queries, keys)
        return pool_positions(self._window_sums(attention, self.score == "logits"), self.pooling, self.kernel)

    def chunk_scores(self, scores: Tensor) -> Tensor:
        """Token scores [S, p] -> chunk scores [S, ceil(p / chunk_size)]."""
        padded = F.pad(scores, (0, -scores.shape[-1] % self.chunk_size))
        sums = padded.view(scores.shape[0], -1, self.chunk_size).sum(-1)
        return sums / self._lengths(scores) if self.aggregate == "mean" else sums

    def _past_mask(self, scores: Tensor, room: int) -> Tensor:
        if room == 0:
            return torch.zeros_like(scores, dtype=torch.bool)
        lengths = self._lengths(scores)
        order = self.chunk_scores(scores).sort(dim=-1, descending=True, stable=True).indices
        ordered = lengths[order]
        fits = (room - (ordered.cumsum(-1) - ordered)).clamp(min=0)  # room left when a chunk's turn comes
        allowed = torch.empty_like(fits).scatter_(1, order, fits)
        positions = torch.arange(scores.shape[-1], device=scores.device)
        return positions % self.chunk_size < allowed[:, positions // self.chunk_size]

    def _lengths(self, scores: Tensor) -> Tensor:
        """Tokens in each chunk: [chunks] int64, the last possibly short."""
        past = scores.shape[-1]
        starts = torch.arange(0, past, self.chunk_size, device=scores.device)
        return (past - starts).clamp(max=self.chunk_size)
