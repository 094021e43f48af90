"""What all compressors share: the budget, the pooling over heads, and the choice of the highest scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..attention import PromptAttention
from ..attention.gpu import kernels
from ..errors import InputError, unknown

SELECTION = "compressors.triton_selection"
GRANULARITIES = ("kv_head", "query_head", "layer")
GROUPS = {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}


def budget_tokens(budget: float | int, n: int) -> int:
    """Tokens that stay of a prompt of n: a float in (0, 1] is a fraction, rounded, at least 1; an int is a count.

    raises InputError: 0, negative, a float above 1, an int above n, or no number at all.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise InputError(f"budget={budget!r} is no number; give a fraction in (0, 1] or a token count: 0.1 or 512.")
    if isinstance(budget, float):
        if not 0 < budget <= 1:
            raise InputError(
                f"budget={budget} is outside (0, 1], where a float is the fraction that stays; "
                "0.1 keeps 10 %. For a token count pass an int."
            )
        return max(1, round(n * budget))
    if budget < 1:
        raise InputError(
            f"budget={budget} tokens keeps nothing; it must lie between 1 and the prompt's tokens. "
            "For a fraction pass a float such as 0.1."
        )
    if budget > n:
        raise InputError(
            f"budget={budget} tokens does not fit a prompt of {n} tokens; it must lie between 1 and {n}. "
            "Lower the budget, or give a fraction such as 0.1."
        )
    return budget


def check_kept(kept: Tensor, n: int) -> None:
    """Raise InputError unless `kept [S, b]` is int64, ascending and unique per row, inside 0..n-1."""
    if kept.dim() != 2 or kept.dtype != torch.int64:
        raise InputError(f"kept has shape {tuple(kept.shape)} and dtype {kept.dtype}; expected [S, b] int64.")
    if kept.numel() and (int(kept.min()) < 0 or int(kept.max()) >= n):
        raise InputError(
            f"kept positions span {int(kept.min())}..{int(kept.max())}; they must lie in 0..{n - 1}, "
            "the prompt's positions. Pass the tensors that the kept set was chosen from."
        )
    if not (kept[:, 1:] > kept[:, :-1]).all():
        raise InputError("kept positions are not ascending and unique in every row; sort them and drop repeats.")


def kept_from_mask(mask: Tensor, tokens: int) -> Tensor:
    """The positions of the True entries: mask [S, n] with `tokens` of them in every row -> [S, tokens] ascending."""
    if (triton := kernels(SELECTION, mask)) and mask.shape[1] <= triton.MAX_POSITIONS:
        return triton.positions(mask, tokens)
    # With the count given, a GPU's result is not waited for.
    return torch.nonzero_static(mask, size=mask.shape[0] * tokens)[:, 1].view(mask.shape[0], tokens)


def highest(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` highest scores of each row, ties to the lower position: [S, p] -> [S, p] bool."""
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    triton = kernels(SELECTION, scores)
    if triton and scores.dtype == torch.float32 and scores.shape[1] <= triton.MAX_POSITIONS:
        return triton.highest(scores, count)
    # topk leaves the order of ties open, so it only tells the lowest score that stays; a full sort costs more.
    lowest = scores.topk(count, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    above, level = scores > lowest, scores == lowest
    return above | (level & (level.cumsum(-1) <= count - above.sum(-1, keepdim=True)))


@dataclass(frozen=True)
class Compressor:
    """Chooses the prompt positions that stay in one layer's cache.

    budget       part that stays: float in (0, 1] is a fraction of the prompt, int a number of tokens
    granularity  "kv_head": one set per KV head, what a GQA cache can store; "query_head": one per query head, as
                 with keys and values repeated before caching; "layer": one set for the whole layer
    group        how the scores of query heads that share a set become one: "mean", "max" or "sum"
    """

    #: Whether the choice depends on positions alone, so that it is the same in every layer.
    by_position: ClassVar[bool] = False

    budget: float | int = 0.1
    granularity: str = "kv_head"
    group: str = "mean"

    def __post_init__(self) -> None:
        budget_tokens(self.budget, self.budget if isinstance(self.budget, int) else 1)
        if self.granularity not in GRANULARITIES:
            raise unknown("granularity", self.granularity, GRANULARITIES)
        if self.group not in GROUPS:
            raise unknown("group", self.group, GROUPS)

    def scores(self, queries: Tensor, keys: Tensor, attention: PromptAttention | None = None) -> Tensor:
        """Score of every position the method ranks: [S, p] float32, higher stays; p is n, or n - window."""
        raise TypeError(f"{type(self).__name__} chooses by position and has no scores")

    def select(self, queries: Tensor, keys: Tensor, attention: PromptAttention | None = None) -> Tensor:
        """The positions that stay.

        queries    [Hq, n, d] floating point: the prompt's, after RoPE
        keys       [Hkv, n, d] floating point: the prompt's, after RoPE
        attention  the same prompt's `PromptAttention`, to share its pieces between methods; None: made here
        return     [S, b] int64, ascending, unique, b = `budget_tokens(budget, n)` exactly
        raises InputError: shapes that do not fit, NaN or infinity, a budget or window that does not fit the prompt.
        """
        attention = attention or PromptAttention(queries, keys)
        tokens = budget_tokens(self.budget, attention.n)
        return kept_from_mask(self._mask(attention, tokens), tokens)

    def _mask(self, attention: PromptAttention, tokens: int) -> Tensor:
        """Mask [S, n] with exactly `tokens` True in every row."""
        raise NotImplementedError

    def _sets(self, attention: PromptAttention) -> int:
        heads = {"kv_head": attention.keys.shape[0], "query_head": attention.queries.shape[0], "layer": 1}
        return heads[self.granularity]

    def _pool_heads(self, scores: Tensor, attention: PromptAttention) -> Tensor:
        """Scores per query head [Hq, p] -> per kept set [S, p]."""
        sets = self._sets(attention)
        return GROUPS[self.group](scores.unflatten(0, (sets, -1)), dim=1)


@dataclass(frozen=True)
class WindowCompressor(Compressor):
    """A compressor that always keeps the last `window` tokens and ranks the positions before them.

    window  tokens: the most recent ones, inside the budget
    """

    window: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(window=self.window)

    def _mask(self, attention: PromptAttention, tokens: int) -> Tensor:
        if self.window > tokens:
            raise InputError(
                f"window={self.window} is larger than the budget of {tokens} tokens (budget={self.budget} of a "
                f"{attention.n}-token prompt); the window counts into the budget. Lower the window to at most "
                f"{tokens}, or raise the budget."
            )
        past = self._past_mask(self.scores(attention.queries, attention.keys, attention), tokens - self.window)
        return torch.cat([past, past.new_ones(past.shape[0], self.window)], -1)

    def _past_mask(self, scores: Tensor, room: int) -> Tensor:
        """Which `room` of the positions before the window stay: scores [S, n - window] -> bool mask."""
        return highest(scores, room)

    def _window_sums(self, attention: PromptAttention, logits: bool = False) -> Tensor:
        """Attention from the window's queries to each position before it, summed over them: [S, n - window]."""
        rows = attention.window_logits(self.window) if logits else attention.window_rows(self.window)
        return self._pool_heads(rows[..., : attention.n - self.window].sum(1), attention)


def positive(**fields: int) -> None:
    """Raise InputError for a field that is not an int of at least 1."""
    for name, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r} does not work; it must be a whole number of at least 1.")
