"""Three right answers to every task, each written from the task's text alone and in a way of its own: loops, tensors,
other libraries. The order of their sums, their ties and the kinds of their results differ, and all must pass."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

# --- attention: query head h reads KV head h // group -------------------------------------------------------------


def one_row(q, k, at):
    """Shares of one query head's token `at` over the tokens before it and itself."""
    return (k[: at + 1] @ q[at] / math.sqrt(len(q[at]))).softmax(0)


def window_repeated(q, k, w):
    heads, n, d = q.shape
    logits = q[:, -w:] @ k.repeat_interleave(heads // len(k), 0).mT / d**0.5
    seen = torch.ones(n, n, dtype=torch.bool).tril()[-w:]
    return logits.masked_fill(~seen, -torch.inf).softmax(-1)


def window_looped(q, k, w):
    heads, n, _ = q.shape
    rows = torch.zeros(heads, w, n, dtype=q.dtype)
    for h, i in product(range(heads), range(w)):
        at = n - w + i
        rows[h, i, : at + 1] = one_row(q[h], k[h // (heads // len(k))], at)
    return rows


def window_grouped(q, k, w):
    heads, n, d = q.shape
    grouped = q[:, n - w :].reshape(len(k), -1, w, d)
    logits = torch.einsum("kgwd,knd->kgwn", grouped, k) * d**-0.5 + torch.full((w, n), -1e9).triu(n - w + 1)
    return F.softmax(logits, -1).reshape(heads, w, n)


def evicted_looped(q, k, v, kept):
    group, rows = len(q) // len(k), []
    for h, query in enumerate(q):
        stays = kept[h // group]
        rows.append((k[h // group, stays] @ query / len(query) ** 0.5).softmax(0) @ v[h // group, stays])
    return torch.stack(rows)


def evicted_by_torch(q, k, v, kept):
    at, group = kept[..., None].expand(-1, -1, k.shape[2]), len(q) // len(k)
    k, v = (x.gather(1, at).repeat_interleave(group, 0) for x in (k, v))
    return F.scaled_dot_product_attention(q[:, None], k, v)[:, 0]


def evicted_masked(q, k, v, kept):
    gone = torch.full(k.shape[:2], -torch.inf).scatter_(1, kept, 0.0)
    logits = torch.einsum("kgd,knd->kgn", q.view(len(k), -1, q.shape[1]), k) / q.shape[1] ** 0.5 + gone[:, None]
    return torch.einsum("kgn,knd->kgd", logits.softmax(-1), v).reshape(q.shape)


def sums_by_row(q, k):
    total = torch.zeros(q.shape[:2])
    k = k.repeat_interleave(len(q) // len(k), 0)
    for i in range(q.shape[1]):
        total[:, : i + 1] += (torch.einsum("hd,hnd->hn", q[:, i], k[:, : i + 1]) / q.shape[2] ** 0.5).softmax(-1)
    return total


def sums_of_tiles(q, k):
    heads, n, d = q.shape
    k = k.repeat_interleave(heads // len(k), 0)
    total = torch.zeros(heads, n)
    for start in range(0, n, 512):
        stop = min(start + 512, n)
        logits = q[:, start:stop] @ k[:, :stop].mT / d**0.5
        later = torch.arange(stop) > torch.arange(start, stop)[:, None]
        total[:, :stop] += logits.masked_fill(later, -torch.inf).softmax(-1).sum(1)
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


def normalised_by_row(q, k, lse):
    total = torch.zeros(q.shape[:2])
    k = k.repeat_interleave(len(q) // len(k), 0)
    for i in range(q.shape[1]):
        total[:, : i + 1] += ((k[:, : i + 1] @ q[:, i, :, None])[..., 0] / q.shape[2] ** 0.5 - lse[:, i : i + 1]).exp()
    return total


def normalised_by_key(q, k, lse):
    k, columns = k.repeat_interleave(len(q) // len(k), 0), []
    for j in range(q.shape[1]):
        columns.append(((q[:, j:] @ k[:, j, :, None])[..., 0] / q.shape[2] ** 0.5 - lse[:, j:]).exp().sum(1))
    return torch.stack(columns, 1)


def normalised_in_tiles(q, k, lse):
    n, k = q.shape[1], k.repeat_interleave(len(q) // len(k), 0)
    columns = []
    for keys, at in zip(k.split(100, 1), torch.arange(n).split(100)):
        first = int(at[0])
        shares = (q[:, first:] @ keys.mT / q.shape[2] ** 0.5 - lse[:, first:, None]).exp()
        columns.append((shares * (torch.arange(first, n)[:, None] >= at)).sum(1))
    return torch.cat(columns, 1)


# --- choosing what stays: scores [Hkv, n - 8] of the positions before the window ----------------------------------


def end_votes(q, k):
    return window_repeated(q, k, 8).sum(1).unflatten(0, (len(k), -1)).mean(1)[:, :-8]


def end_votes_exact(q, k):
    votes = window_looped(q.double(), k.double(), 8).sum(1)
    return votes.view(len(k), -1, votes.shape[1]).sum(1)[:, : votes.shape[1] - 8]  # their order is that of the means


def all_votes(q, k):
    return sums_by_row(q, k).unflatten(0, (len(k), -1)).mean(1)[:, :-8]


def all_votes_exact(q, k):
    return window_repeated(q.double(), k.double(), q.shape[1]).sum(1).unflatten(0, (len(k), -1)).mean(1)[:, :-8]


def pooled(votes):
    return F.max_pool1d(votes[None], 7, stride=1, padding=3)[0]


def pooled_by_slices(votes):
    return F.pad(votes, (3, 3), value=-torch.inf).unfold(1, 7, 1).amax(-1)


def scaled(votes):
    return votes / votes.sum(1, keepdim=True)


def by_topk(scores, budget, n):
    window = torch.arange(n - 8, n).expand(len(scores), -1)
    return torch.cat([scores.topk(budget - 8).indices, window], 1).sort().values


def by_argsort(scores, budget, n):
    everything = torch.full((len(scores), n), torch.inf, dtype=scores.dtype)
    everything[:, : n - 8] = scores
    return everything.argsort(1, descending=True)[:, :budget].sort(1).values


def by_lists(scores, budget, n):
    rows = (sorted(range(n - 8), key=lambda i: -row[i])[: budget - 8] for row in scores.tolist())
    return torch.tensor([sorted(row) + list(range(n - 8, n)) for row in rows])


def rules(*rows):
    """The right answers of a task that chooses by scores: a way to score, and a way to choose, each."""
    return [
        lambda q, k, budget, scores=scores, choose=choose: choose(scores(q, k), budget, k.shape[1])
        for scores, choose in rows
    ]


def chunks_of_lists(q, k, budget):
    n, kept = k.shape[1], []
    for row in end_votes(q, k):
        found = []
        for chunk in sorted(torch.arange(n - 8).split(10), key=lambda chunk: -float(row[chunk].sum())):
            found += chunk.tolist()[: budget - 8 - len(found)]
        kept.append(sorted(found) + list(range(n - 8, n)))
    return torch.tensor(kept)


def chunks_of_a_table(q, k, budget):
    votes, past = end_votes(q, k), k.shape[1] - 8
    sums = F.pad(votes, (0, -past % 10)).unflatten(1, (-1, 10)).sum(-1)
    places = (sums.argsort(1, descending=True)[..., None] * 10 + torch.arange(10)).flatten(1)
    places = torch.stack([row[row < past][: budget - 8] for row in places])
    return torch.cat([places, torch.arange(past, past + 8).expand(len(k), -1)], 1).sort().values


def chunks_one_by_one(q, k, budget):
    n, kept = k.shape[1], []
    for row in end_votes_exact(q, k):
        stays, sums = [*range(n - 8, n)], [float(chunk.sum()) for chunk in row.split(10)]
        while len(stays) < budget:
            best = max(range(len(sums)), key=sums.__getitem__)
            sums[best] = -1.0
            stays += list(range(10 * best, min(10 * best + 10, n - 8)))[: budget - len(stays)]
        kept.append(sorted(stays))
    return torch.tensor(kept)


def largest_by_topk(keys, values, budget):
    return (
        sum(x.abs().sum(-1) / x.abs().sum((1, 2))[:, None] for x in (keys, values)).topk(budget).indices.sort().values
    )


def largest_by_lists(keys, values, budget):
    sizes = (scaled(x.abs().sum(2)) for x in (keys, values))
    rows = (sorted(range(len(row)), key=row.__getitem__, reverse=True)[:budget] for row in sum(sizes).tolist())
    return torch.tensor([sorted(row) for row in rows])


def largest_by_numpy(keys, values, budget):
    sizes = [np.abs(x.numpy().astype(float)).sum(-1) for x in (keys, values)]
    share = sum(size / size.sum(1, keepdims=True) for size in sizes) / 2
    return torch.from_numpy(np.sort(np.argsort(share, axis=1)[:, ::-1][:, :budget], axis=1))


# --- what was lost ------------------------------------------------------------------------------------------------


def loss_by_loops(x, kept):
    gone = [[i for i in range(x.shape[1]) if i not in set(row)] for row in kept.tolist()]
    return torch.stack([one[rows].abs().sum() / one.abs().sum() for one, rows in zip(x, gone)])


def loss_by_zeros(x, kept):
    at, left = kept[..., None].expand(-1, -1, x.shape[2]), torch.zeros_like(x)
    left.scatter_(1, at, x.gather(1, at))
    return (x - left).abs().sum((1, 2)) / x.abs().sum((1, 2))


def loss_by_gather(x, kept):
    size = x.abs().sum(-1)
    return 1 - size.gather(1, kept).sum(1) / size.sum(1)


def cosine_by_mask(q, k, kept):
    group = len(q) // len(k)
    full = (q @ k.repeat_interleave(group, 0).mT / q.shape[2] ** 0.5).softmax(-1)
    stays = torch.zeros(k.shape[:2]).scatter_(1, kept, 1.0).repeat_interleave(group, 0)[:, None]
    return F.cosine_similarity(full, full * stays, dim=-1)


def cosine_by_norms(q, k, kept):
    cosines, group = torch.zeros(q.shape[:2]), len(q) // len(k)
    for h, i in product(range(len(q)), range(q.shape[1])):
        full = (k[h // group] @ q[h, i] / q.shape[2] ** 0.5).softmax(0)
        cosines[h, i] = full[kept[h // group]].norm() / full.norm()
    return cosines


def cosine_of_its_own_softmax(q, k, kept):
    """The shares of a compressed cache add up to 1 again, which changes no cosine."""
    logits = torch.einsum("kgmd,knd->kgmn", q.view(len(k), -1, *q.shape[1:]), k) / q.shape[2] ** 0.5
    gone = torch.ones(k.shape[:2], dtype=torch.bool).scatter_(1, kept, False)[:, None, None]
    left = logits.masked_fill(gone, -torch.inf).softmax(-1)
    return F.cosine_similarity(logits.softmax(-1), left, dim=-1).view(q.shape[:2])


def overlap_by_sets(kept, other):
    pairs = zip(kept.tolist(), other.tolist())
    return torch.tensor([len({*a} & {*b}) / len({*a} | {*b}) for a, b in pairs])


def overlap_by_masks(kept, other):
    n = 1 + int(max(kept.max(), other.max()))
    a, b = (torch.zeros(len(x), n, dtype=torch.bool).scatter_(1, x, True) for x in (kept, other))
    return (a & b).sum(1) / (a | b).sum(1)


def overlap_by_isin(kept, other):
    shared = torch.stack([torch.isin(a, b).sum() for a, b in zip(kept, other)]).double()
    return shared / (kept.shape[1] + other.shape[1] - shared)


# --- numbers ------------------------------------------------------------------------------------------------------


def budget_by_type(budget, n):
    return budget if type(budget) is int else max(1, round(n * budget))


def budget_by_numpy(budget, n):
    return max(int(np.rint(budget * n)), 1) if isinstance(budget, float) else budget


def budget_by_floor(budget, n):
    return budget if budget >= 2 else (math.floor(n * budget + 0.5) or 1)


def cut_by_slices(ids, limit):
    return ids if len(ids) <= limit else ids[: limit - limit // 2] + ids[len(ids) - limit // 2 :]


def cut_one_by_one(ids, limit):
    ids = list(ids)
    while len(ids) > limit:
        del ids[(limit + 1) // 2]
    return ids


def cut_by_mask(ids, limit):
    at = np.arange(len(ids))
    return np.array(ids)[(len(ids) <= limit) | (at < math.ceil(limit / 2)) | (at >= len(ids) - limit // 2)]


def holm_by_pandas(p):
    ascending = pd.Series(p).sort_values()
    return (ascending * np.arange(len(p), 0, -1)).cummax().clip(upper=1).sort_index().to_numpy()


def holm_by_loop(p):
    found, last = [0.0] * len(p), 0.0
    for i, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        last = found[at] = max(last, min(1, (len(p) - i) * p[at]))
    return found


def holm_by_torch(p):
    ascending, order = torch.from_numpy(p).sort()
    steps = (ascending * torch.arange(len(p), 0, -1)).cummax(0).values.clamp(max=1)
    return torch.empty_like(steps).scatter_(0, order, steps)


def flips_by_product(difference):
    means = [abs(np.mean(np.multiply(signs, difference))) for signs in product((1, -1), repeat=len(difference))]
    return np.mean(np.array(means) >= abs(difference.mean()) - 1e-12)


def flips_by_bits(difference):
    far, seen = 0, abs(sum(difference))
    for bits in range(2 ** len(difference)):
        total = abs(sum(x if bits >> i & 1 else -x for i, x in enumerate(difference)))
        far += total > seen or math.isclose(total, seen)
    return far / 2 ** len(difference)


def flips_at_random(difference):
    signs = np.random.default_rng(0).choice([-1, 1], size=(20_000, len(difference)))
    return (np.abs((signs * difference).mean(1)) >= abs(difference.mean()) * (1 - 1e-9)).mean()


def ranks(x):
    return x.argsort(axis=1).argsort(axis=1)


def agreement_by_formula(x, y):
    n = x.shape[1]
    return float((1 - 6 * ((ranks(x) - ranks(y)) ** 2).sum(1) / (n * (n * n - 1))).mean())


RIGHT = {
    "budget_tokens": [budget_by_type, budget_by_numpy, budget_by_floor],
    "kv_cache_bytes": [
        lambda tokens, layers, heads, d, size: 2 * tokens * layers * heads * d * size,
        lambda *sizes: np.prod([2, *sizes], dtype=np.int64),
        lambda tokens, layers, heads, d, size: sum(tokens * layers * heads * d * size for _ in ("key", "value")),
    ],
    "truncate_middle": [cut_by_slices, cut_one_by_one, cut_by_mask],
    "window_attention": [window_repeated, window_looped, window_grouped],
    "evicted_attention": [evicted_looped, evicted_by_torch, evicted_masked],
    "column_sums": [sums_by_row, sums_of_tiles, sums_of_grouped_tiles],
    "tiled_sums": [normalised_by_row, normalised_by_key, normalised_in_tiles],
    "snapkv": rules(
        (lambda q, k: pooled(end_votes(q, k)), by_topk),
        (lambda q, k: pooled_by_slices(end_votes(q, k)), by_argsort),
        (lambda q, k: pooled(end_votes_exact(q, k)), by_lists),
    ),
    "chunkkv": [chunks_of_lists, chunks_of_a_table, chunks_one_by_one],
    "h2o": rules((all_votes, by_topk), (all_votes, by_argsort), (all_votes_exact, by_lists)),
    "both_votes": rules(
        (lambda q, k: scaled(all_votes(q, k)) + scaled(pooled(end_votes(q, k))), by_topk),
        (lambda q, k: scaled(all_votes(q, k)) + scaled(pooled_by_slices(end_votes(q, k))), by_argsort),
        (lambda q, k: (scaled(all_votes_exact(q, k)) + scaled(pooled(end_votes_exact(q, k)))) / 2, by_lists),
    ),
    "small_keys": rules(
        (lambda q, k: -k[:, :-8].norm(dim=-1), by_topk),
        (lambda q, k: -(k[:, :-8] ** 2).sum(-1), by_argsort),
        (lambda q, k: torch.from_numpy(-np.linalg.norm(k.numpy(), axis=-1))[:, :-8], by_lists),
    ),
    "largest": [largest_by_topk, largest_by_lists, largest_by_numpy],
    "kv_l1_loss": [loss_by_loops, loss_by_zeros, loss_by_gather],
    "attention_cosine": [cosine_by_mask, cosine_by_norms, cosine_of_its_own_softmax],
    "overlap": [overlap_by_sets, overlap_by_masks, overlap_by_isin],
    "layers_first": [
        lambda values: np.nanmean(np.nanmean(values, axis=1)),
        lambda values: pd.DataFrame(values).mean(axis=1).mean(),
        lambda values: sum(sum(x for x in row if x == x) / sum(x == x for x in row) for row in values) / len(values),
    ],
    "holm": [holm_by_pandas, holm_by_loop, holm_by_torch],
    "sign_flip": [flips_by_product, flips_by_bits, flips_at_random],
    "rank_agreement": [
        lambda x, y: np.mean([spearmanr(a, b)[0] for a, b in zip(x, y)]),
        lambda x, y: np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(ranks(x), ranks(y))]),
        agreement_by_formula,
    ],
}
