"""Right answers beside the library's and those of the homework, each written from the task's text alone and in a way of
its own: loops, tensors, other libraries. The order of their sums, their ties and the kinds of their results differ."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr


def window_repeated(q, k, w):
    heads, n, d = q.shape
    logits = q[:, -w:] @ k.repeat_interleave(heads // len(k), 0).mT / d**0.5
    seen = torch.ones(n, n, dtype=torch.bool).tril()[-w:]
    return logits.masked_fill(~seen, -torch.inf).softmax(-1)


def evicted_by_torch(q, k, v, kept):
    at, group = kept[..., None].expand(-1, -1, k.shape[2]), len(q) // len(k)
    k, v = (x.gather(1, at).repeat_interleave(group, 0) for x in (k, v))
    return F.scaled_dot_product_attention(q[:, None], k, v)[:, 0]


def sums_by_row(q, k):
    total = torch.zeros(q.shape[:2])
    k = k.repeat_interleave(len(q) // len(k), 0)
    for i in range(q.shape[1]):
        total[:, : i + 1] += (torch.einsum("hd,hnd->hn", q[:, i], k[:, : i + 1]) / q.shape[2] ** 0.5).softmax(-1)
    return total


def sums_of_grouped_tiles(q, k):
    """The queries of a KV head lie one behind the other, two tiles of 256 in one table."""
    heads, n, d = q.shape
    q, k = q.double().view(len(k), -1, n, d), k.double()
    total = q.new_zeros(len(k), q.shape[1], n)
    for part, at in zip(q.split(256, 2), torch.arange(n).split(256)):
        logits = (part.flatten(1, 2) @ k.mT * d**-0.5).view(len(k), -1, len(at), n)
        total += logits.masked_fill(torch.arange(n) > at[:, None], -torch.inf).softmax(-1).sum(2)
    return total.view(heads, n).float()


def normalised_in_tiles(q, k, lse):
    n, k = q.shape[1], k.repeat_interleave(len(q) // len(k), 0)
    columns = []
    for keys, at in zip(k.split(100, 1), torch.arange(n).split(100)):
        first = int(at[0])
        shares = (q[:, first:] @ keys.mT / q.shape[2] ** 0.5 - lse[:, first:, None]).exp()
        columns.append((shares * (torch.arange(first, n)[:, None] >= at)).sum(1))
    return torch.cat(columns, 1)


def end_votes(q, k):
    """Their order is that of the means."""
    return window_repeated(q, k, 8).sum(1).unflatten(0, (len(k), -1)).sum(1)[:, :-8]


def pooled(votes):
    return F.pad(votes, (3, 3), value=-torch.inf).unfold(1, 7, 1).amax(-1)


def all_votes(q, k):
    return sums_by_row(q, k).unflatten(0, (len(k), -1)).mean(1)[:, :-8]


def scaled(votes):
    return votes / votes.sum(1, keepdim=True)


def by_topk(scores, budget, n):
    window = torch.arange(n - 8, n).expand(len(scores), -1)
    return torch.cat([scores.topk(budget - 8).indices, window], 1).sort().values


def by_lists(scores, budget, n):
    rows = (sorted(range(n - 8), key=lambda i: -row[i])[: budget - 8] for row in scores.tolist())
    return torch.tensor([sorted(row) + list(range(n - 8, n)) for row in rows])


def rule(scores, choose):
    """The right answer of a task that chooses by scores: of a way to score, and of a way to choose."""
    return lambda q, k, budget: choose(scores(q, k), budget, k.shape[1])


def largest_by_topk(keys, values, budget):
    shares = sum(scaled(x.abs().sum(-1)) for x in (keys, values))
    return shares.topk(budget).indices.sort().values


def cut_by_mask(ids, limit):
    at = np.arange(len(ids))
    return np.array(ids)[(len(ids) <= limit) | (at < math.ceil(limit / 2)) | (at >= len(ids) - limit // 2)]


RIGHT = {
    "truncate_middle": [cut_by_mask],
    "evicted_attention": [evicted_by_torch],
    "column_sums": [sums_of_grouped_tiles],
    "tiled_sums": [normalised_in_tiles],
    "h2o": [rule(all_votes, by_topk)],
    "both_votes": [rule(lambda q, k: scaled(all_votes(q, k)) + scaled(pooled(end_votes(q, k))), by_topk)],
    "small_keys": [rule(lambda q, k: torch.from_numpy(-np.linalg.norm(k.numpy(), axis=-1))[:, :-8], by_lists)],
    "largest": [largest_by_topk],
    "layers_first": [
        lambda values: sum(sum(x for x in row if x == x) / sum(x == x for x in row) for row in values) / len(values),
    ],
    "rank_agreement": [
        lambda x, y: np.mean([spearmanr(a, b)[0] for a, b in zip(x, y)]),
        lambda x, y: np.mean([np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1] for a, b in zip(x, y)]),
    ],
}
