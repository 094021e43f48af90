"""Random inputs of the tasks: layers of odd sizes, kept sets, tables of numbers; all drawn from the generator."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def between(g: torch.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=g))


def layer(g: torch.Generator, probes: int = 0) -> tuple[Tensor, Tensor]:
    """Queries [Hq, n, d] and keys [Hkv, n, d] of a small layer of odd sizes, with peaked attention."""
    n, kv_heads, group = between(g, 41, 97), between(g, 1, 3), between(g, 1, 3)
    d = 2 * between(g, 3, 8)
    keys = torch.randn(kv_heads, n, d, generator=g)
    return 2 * torch.randn(group * kv_heads, probes or n, d, generator=g), keys


def grouped_layer(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same with at least two KV heads of two query heads each, where reading the wrong KV head shows."""
    n, kv_heads, group = between(g, 41, 97), between(g, 2, 3), between(g, 2, 3)
    d = 2 * between(g, 3, 8)
    return 2 * torch.randn(group * kv_heads, n, d, generator=g), torch.randn(kv_heads, n, d, generator=g)


def kept_set(g: torch.Generator, sets: int, n: int) -> Tensor:
    """A random kept set [sets, b] of n positions."""
    count = between(g, 3, n // 2)
    return torch.stack([torch.randperm(n, generator=g)[:count].sort().values for _ in range(sets)])


def budget_and_length(g: torch.Generator) -> tuple[float | int, int]:
    """A budget, fraction or count, and a prompt length that is no round number for it."""
    kind, n = between(g, 0, 4), between(g, 2, 199)
    return [(0.1, 10 * n + 7), (0.25, 4 * n + 3), (0.003, n), (1.0, 10 * n), (7, 10 * n)][kind]


def cache_sizes(g: torch.Generator) -> tuple[int, int, int, int, int]:
    """Tokens, layers, KV heads, head dimension and bytes per number of some model."""
    return between(g, 1, 9000), between(g, 2, 40), between(g, 1, 16), 16 * between(g, 2, 9), between(g, 1, 4)


def decoding_step(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A new token's query [Hq, d], keys and values [Hkv, n, d], and what stayed, [Hkv, b]."""
    queries, keys = grouped_layer(g)
    return queries[:, -1], keys, torch.randn(keys.shape, generator=g), kept_set(g, *keys.shape[:2])


def tokens_and_limit(g: torch.Generator) -> tuple[tuple[int, ...], int]:
    """Token ids of a prompt, and a limit that it may exceed, odd or even."""
    ids = torch.randint(0, 50_000, (between(g, 30, 120),), generator=g).tolist()
    return tuple(ids), between(g, 17, 80)


def cache(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Keys (or values) [Hkv, n, d] and what stayed, [Hkv, b]."""
    _, keys = layer(g)
    keys = keys * torch.rand(*keys.shape[:2], 1, generator=g) * 3  # tokens of different sizes, as in a model
    return keys, kept_set(g, *keys.shape[:2])


def window(g: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """A layer and the size of an observation window."""
    queries, keys = grouped_layer(g)
    return queries, keys, between(g, 2, 9)


def normalised(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A layer with the log-sum-exp [Hq, n] of its causal logits."""
    from ..attention import log_sum_exp

    queries, keys = grouped_layer(g)
    return queries, keys, log_sum_exp(queries, keys)


def selection(g: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """A layer and a budget in tokens."""
    queries, keys = layer(g)
    return queries, keys, between(g, 14, 30)


def sized_cache(g: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """Keys and values [Hkv, n, d] of different sizes, and a budget in tokens."""
    keys, _ = cache(g)
    sizes = torch.rand(*keys.shape[:2], 1, generator=g) * 10  # values larger than keys: adding them raw would show
    return keys, sizes * torch.randn(keys.shape, generator=g), between(g, 5, 30)


def probes(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the tokens after a prompt [Hq, m, d], the prompt's keys, and what stayed."""
    queries, keys = layer(g, probes=between(g, 1, 5))
    return queries, keys, kept_set(g, *keys.shape[:2])


def two_sets(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two kept sets of the same prompt, of different sizes."""
    n = between(g, 20, 60)
    return kept_set(g, 2, n), kept_set(g, 2, n)


def p_values(g: torch.Generator) -> tuple[np.ndarray]:
    """Some p-values in no order, small ones among them."""
    return (torch.rand(between(g, 4, 12), generator=g, dtype=torch.float64).pow(3).numpy(),)


def differences(g: torch.Generator) -> tuple[np.ndarray]:
    """Paired differences of 5 or 6 sequences: few enough for all signs, and for one of these to count."""
    shift = 0.2 * between(g, 0, 4)
    return (torch.randn(between(g, 5, 6), generator=g, dtype=torch.float64).add(shift).numpy(),)


def values_with_gaps(g: torch.Generator) -> tuple[np.ndarray]:
    """A metric [sequences, layers] with a few missing values, but none in the first layer."""
    values = torch.randn(between(g, 3, 8), between(g, 4, 12), generator=g, dtype=torch.float64)
    values += 3 * torch.arange(len(values), dtype=torch.float64)[:, None]  # sequences differ
    values[:, 1:][torch.rand(values[:, 1:].shape, generator=g) < 0.3] = torch.nan
    return (values.numpy(),)


def two_tables(g: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two measures [sequences, settings] that agree within a sequence more than between sequences."""
    x = torch.randn(between(g, 4, 9), between(g, 4, 8), generator=g, dtype=torch.float64)
    y = (x + torch.randn(x.shape, generator=g, dtype=torch.float64)).exp()
    level = 5 * torch.randn(len(x), 1, generator=g, dtype=torch.float64)
    return x.numpy(), (y + level).numpy()
