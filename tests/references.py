"""The specification in numpy and float64, from its sentences: n x n matrices, loops, nothing of the library.

Arrays: queries [Hq, r, d], keys and values [Hkv, n, d], scores [heads, positions], kept: one list of positions per set.
"""

import math

import numpy as np
import torch


def random_layer(query_heads=4, kv_heads=2, n=37, d=5, seed=0, scale=1.0, dtype=torch.float64):
    """Queries, keys and values of one prompt, with a few heavy keys so that scores are well apart."""
    g = np.random.default_rng(seed)
    queries, keys, values = (g.standard_normal((heads, n, d)) for heads in (query_heads, kv_heads, kv_heads))
    keys[:, g.choice(n, size=max(1, n // 8), replace=False)] *= 2.5
    return tuple(torch.from_numpy(scale * x).to(dtype) for x in (queries, keys, values))


def array(x: torch.Tensor) -> np.ndarray:
    """A tensor's values as they are, in float64."""
    return x.detach().cpu().double().numpy()


def logits(queries, keys):
    """q.k / sqrt(d) of every query with every key; query head h reads KV head h // (Hq // Hkv)."""
    group = len(queries) // len(keys)
    return np.stack([q @ keys[h // group].T / math.sqrt(q.shape[1]) for h, q in enumerate(queries)])


def softmax(values, sees):
    """Softmax of each row over the keys that it sees; the others get exactly 0."""
    hidden = np.where(sees, values, -np.inf)
    powers = np.exp(hidden - hidden.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def causal(positions, n):
    """Which of keys 0..n-1 the queries at these positions see: those not after them."""
    return np.array([[key <= position for key in range(n)] for position in positions])


def attention(queries, keys, positions=None):
    """Attention rows; without positions the queries are the prompt's own."""
    n = keys.shape[1]
    return softmax(logits(queries, keys), causal(range(n) if positions is None else positions, n))


def log_sum_exp(queries, keys):
    """Of every query's logits with the keys that it sees."""
    n = keys.shape[1]
    return np.logaddexp.reduce(np.where(causal(range(n), n), logits(queries, keys), -np.inf), axis=-1)


def window_sums(queries, keys, window, raw=False):
    """Attention (or raw logits) of the last `window` queries, summed over them, to the positions before them."""
    rows = logits(queries, keys) if raw else attention(queries, keys)
    past = keys.shape[1] - window
    return rows[:, past:, :past].sum(1)


def column_sums(queries, keys, unmasked_before=0):
    """Attention received by each key from all queries; those before `unmasked_before` see all keys (the old error)."""
    n = keys.shape[1]
    sees = causal([n - 1 if i < unmasked_before else i for i in range(n)], n)
    return softmax(logits(queries, keys), sees).sum(1)


def pool_heads(scores, kv_heads, granularity, group):
    """Scores of query heads -> scores of the sets they share."""
    sets = {"kv_head": kv_heads, "query_head": len(scores), "layer": 1}[granularity]
    size = len(scores) // sets
    how = {"mean": np.mean, "max": np.max, "sum": np.sum}[group]
    return np.stack([how(scores[s * size : (s + 1) * size], axis=0) for s in range(sets)])


def pool_positions(scores, kind, kernel):
    """Maximum, or average with zeros beyond both ends, over `kernel` neighbours around each position."""
    out = np.empty_like(scores)
    for s, row in enumerate(scores):
        for i in range(len(row)):
            near = row[max(0, i - kernel // 2) : i + kernel // 2 + 1]
            out[s, i] = near.max() if kind == "max" else near.sum() / kernel
    return out


def tokens(budget, n):
    """How many tokens stay."""
    return max(1, round(n * budget)) if isinstance(budget, float) else budget


def top(row, count):
    """Positions of the highest scores, equal ones from the left, in position order."""
    return sorted(sorted(range(len(row)), key=lambda i: (-row[i], i))[:count])


def chunks(past, size):
    """Positions 0..past-1 cut into chunks from 0; the last may be short."""
    return [list(range(start, min(start + size, past))) for start in range(0, past, size)]


def chunk_scores(row, size, aggregate):
    """One score per chunk."""
    sums = [sum(row[i] for i in chunk) for chunk in chunks(len(row), size)]
    return sums if aggregate == "sum" else [s / len(c) for s, c in zip(sums, chunks(len(row), size))]


def best_chunks(row, size, aggregate, count):
    """Whole chunks, best first, until `count` positions are found; of the last one only its first."""
    scores, found = chunk_scores(row, size, aggregate), []
    for c in sorted(range(len(scores)), key=lambda c: (-scores[c], c)):
        found += chunks(len(row), size)[c][: count - len(found)]
    return sorted(found)


def heads_of_set(s, sets, heads):
    """The cache heads that kept set s of `sets` speaks for."""
    return range(s * heads // sets, (s + 1) * heads // sets) if sets <= heads else [s * heads // sets]


def l1_loss(x, kept):
    """Sum of |x| over evicted positions / sum of |x| over all positions, per kept set."""
    losses = []
    for s, stays in enumerate(kept):
        mass = np.abs(x[list(heads_of_set(s, len(kept), len(x)))]).sum(-1)
        gone = [i for i in range(x.shape[1]) if i not in stays]
        losses.append(mass[:, gone].sum() / mass.sum())
    return np.array(losses)


def zero_filled(x, stays):
    """A copy along the last-but-one axis (positions) with evicted entries zero."""
    out = np.zeros_like(x)
    out[..., list(stays), :] = x[..., list(stays), :]
    return out


def cosine(a, b):
    """Cosine of two flattened arrays; 0 where one of them is all 0."""
    a, b = np.ravel(a), np.ravel(b)
    return float(a @ b / max(math.sqrt(a @ a) * math.sqrt(b @ b), 1e-300))


def set_of_head(h, sets, heads):
    """The kept set that query head h reads."""
    return h * sets // heads


def masked_rows(rows, kept):
    """Rows [Hq, r, n] with evicted positions zero."""
    out = np.zeros_like(rows)
    for h in range(len(rows)):
        stays = list(kept[set_of_head(h, len(kept), len(rows))])
        out[h][:, stays] = rows[h][:, stays]
    return out


def compressed_rows(rows, kept):
    """Attention rows after eviction: evicted positions zero, the rest renormalised to sum 1."""
    out = masked_rows(rows, kept)
    return out / out.sum(-1, keepdims=True)


def row_cosines(rows, compressed):
    """[Hq, r] cosines between rows, one by one."""
    return np.array([[cosine(a, b) for a, b in zip(*pair)] for pair in zip(rows, compressed)])
