"""What all compressors share: the budget, the pooling of scores, and the choice of the highest."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import PromptAttention
from ..errors import InputError, check_known, check_whole

GRANULARITIES = ("kv_head", "query_head", "layer")
GROUPS = {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}
POOLINGS = ("max", "avg")


def budget_tokens(budget: float | int, n: int) -> int:
    """Tokens that stay of a prompt of n: a float in (0, 1] is a fraction, rounded, at least 1; an int is a count.

    raises InputError: 0, negative, a float above 1, an int above n, or no number at all.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise InputError(f"budget={budget!r} is no number; give a fraction in (0, 1] or a token count: 0.1 or 512.")
    if isinstance(budget, float):
        if not 0 < budget <= 1:
            raise InputError(f"budget={budget} is outside (0, 1]; 0.1 keeps 10 %. For a token count pass an int.")
        return max(1, round(n * budget))
    if budget < 1:
        raise InputError(f"budget={budget} keeps no token; an int must lie between 1 and the prompt's tokens.")
    if budget > n:
        raise InputError(f"budget={budget} does not fit {n} tokens; give one between 1 and {n}, or a fraction: 0.1.")
    return budget


def check_kept(kept: Tensor, n: int) -> None:
    """Raise InputError unless `kept [S, b]` is int64, ascending and unique per row, inside 0..n-1."""
    if kept.dim() != 2 or kept.dtype != torch.int64:
        raise InputError(f"kept has shape {tuple(kept.shape)} and dtype {kept.dtype}; expected [S, b] int64.")
    if kept.numel() and (int(kept.min()) < 0 or int(kept.max()) >= n):
        found = f"{int(kept.min())}..{int(kept.max())}"
        raise InputError(f"kept positions span {found}; they must lie in the prompt's own, 0..{n - 1}.")
    if not (kept[:, 1:] > kept[:, :-1]).all():
        raise InputError("kept positions are not ascending and unique in every row; sort them and drop repeats.")


def highest(scores: Tensor, count: int) -> Tensor:
    """Positions of the `count` <= p highest scores of each row, ties to the lower: [S, p] -> [S, count] ascending."""
    if count == 0:
        return torch.empty(len(scores), 0, dtype=torch.int64, device=scores.device)
    # topk leaves the order of ties open, so it only tells the lowest score that stays; a full sort takes 7 times as
    # long. Of the scores level with it the first ones fill the room that the higher ones leave.
    lowest = scores.topk(count, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    above, level = scores > lowest, scores == lowest
    stays = above | (level & (level.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    # With the number of results given, a GPU is not waited for.
    return torch.nonzero_static(stays, size=len(scores) * count)[:, 1].reshape(-1, count).contiguous()


@dataclass(frozen=True)
class Compressor:
    """Chooses the prompt positions that stay in one layer's cache: those with the highest scores.

    A method implements `scores`. One that chooses otherwise than by the highest scores overrides `keep` too; one that
    has no scores overrides `choose` alone.
    Where a method has a field `seed`, a measurement replaces it by a number of its own for every layer and sequence,
    so that draws are independent and still the same on every machine.

    budget       part that stays: float in (0, 1] is a fraction of the prompt, int a number of tokens
    granularity  "kv_head": one set per KV head, what a GQA cache can store; "query_head": one per query head, as
                 with keys and values repeated before caching; "layer": one set for the whole layer
    group        how the scores of query heads that share a set become one: "mean", "max" or "sum"
    """

    budget: float | int = 0.1
    granularity: str = "kv_head"
    group: str = "mean"

    def __post_init__(self) -> None:
        budget_tokens(self.budget, self.budget if isinstance(self.budget, int) else 1)
        check_known("granularity", self.granularity, GRANULARITIES)
        check_known("group", self.group, GROUPS)

    def scores(self, attention: PromptAttention) -> Tensor:
        """Score of every position that is ranked: [S, p], higher stays; p is `attention.n` (less a window)."""
        raise NotImplementedError(f"{type(self).__name__} must implement scores(self, attention)")

    def keep(self, scores: Tensor, n: int) -> Tensor:
        """The positions that stay of a prompt of n, from scores alone: [S, p] -> [S, b] int64, ascending, unique."""
        return highest(scores, self.room(n))

    def room(self, n: int) -> int:
        """How many positions are chosen by score, of a prompt of n; InputError for a budget that does not fit it."""
        return budget_tokens(self.budget, n)

    def choose(self, attention: PromptAttention) -> Tensor:
        """The positions that stay [S, b], from a prompt's pieces that several methods may share."""
        n, sets = attention.n, self.sets(attention)
        ranked = n - budget_tokens(self.budget, n) + self.room(n)  # told before any work: a budget that does not fit
        scores = self.scores(attention)
        if scores.shape != (sets, ranked):
            raise InputError(
                f"{type(self).__name__}.scores gave shape {tuple(scores.shape)}; expected {(sets, ranked)}: a row per "
                "kept set, a score per ranked position. Pass scores per query head through pool_heads."
            )
        return self.keep(scores, n)

    def select(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The positions that stay: queries [Hq, n, d], keys [Hkv, n, d], floating point, after RoPE -> [S, b] int64.

        raises InputError: shapes that do not fit, NaN or infinity, a budget or window that does not fit the prompt.
        """
        return self.choose(PromptAttention(queries, keys))

    def sets(self, attention: PromptAttention) -> int:
        """S, the number of kept sets in a layer."""
        heads = {"kv_head": attention.keys.shape[0], "query_head": attention.queries.shape[0], "layer": 1}
        return heads[self.granularity]

    def pool_heads(self, scores: Tensor, attention: PromptAttention) -> Tensor:
        """Scores per query head [Hq, p] -> per kept set [S, p], by `group`."""
        return GROUPS[self.group](scores.unflatten(0, (self.sets(attention), -1)), dim=1)


@dataclass(frozen=True)
class WindowCompressor(Compressor):
    """A compressor that always keeps the last `window` tokens and ranks the positions before them.

    window  tokens: the most recent ones, inside the budget
    """

    window: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(window=self.window)

    def keep(self, scores: Tensor, n: int) -> Tensor:
        """The highest of the positions before the window, and the window: [S, n - window] -> [S, b]."""
        return self.with_window(highest(scores, self.room(n)), n)

    def with_window(self, past: Tensor, n: int) -> Tensor:
        """Positions before the window [S, room], followed by those of the window: [S, b]."""
        recent = torch.arange(n - self.window, n, device=past.device)
        return torch.cat([past, recent.expand(len(past), -1)], -1)

    def room(self, n: int) -> int:
        """Tokens of the budget that the window leaves to the positions before it."""
        tokens = budget_tokens(self.budget, n)
        if self.window > tokens:
            raise InputError(
                f"window={self.window} is larger than the budget of {tokens} tokens (budget={self.budget} of a "
                f"{n}-token prompt), into which it counts. Lower the window, or raise the budget."
            )
        return tokens - self.window

    def window_sums(self, attention: PromptAttention, logits: bool = False) -> Tensor:
        """Attention from the window's queries to each position before it, summed over them: [S, n - window]."""
        rows = attention.window_logits(self.window) if logits else attention.window_rows(self.window)
        return self.pool_heads(rows[..., : attention.n - self.window].sum(1), attention)


@dataclass(frozen=True)
class PoolingCompressor(WindowCompressor):
    """A window compressor that pools scores over neighbouring positions.

    kernel   positions pooled together, odd; 1: none
    pooling  "max" or "avg"
    """

    kernel: int = 1
    pooling: str = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("pooling", self.pooling, POOLINGS)
        check_whole(kernel=self.kernel)
        if self.kernel % 2 == 0:
            raise InputError(f"kernel={self.kernel} is even; pooling needs a middle. Use {self.kernel + 1}.")

    def pool_positions(self, scores: Tensor) -> Tensor:
        """Scores [S, p], each replaced by the highest or mean one around it.

        Average pooling counts the zero padding at both ends, as SnapKV and kvpress do. Max-pooling makes plateaus of
        equal scores; of these the lower positions stay first.
        """
        if self.kernel == 1 or scores.shape[-1] == 0:
            return scores
        pool = F.max_pool1d if self.pooling == "max" else F.avg_pool1d
        return pool(scores[None], self.kernel, stride=1, padding=self.kernel // 2)[0]
