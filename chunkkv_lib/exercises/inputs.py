"""Random inputs of the tasks: layers of odd sizes, kept sets, tables of numbers; all drawn from the generator."""

import numpy as np
import torch
from torch import Tensor


def between(g: torch.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=g))


def grouped_layer(g: torch.Generator, probes: int = 0) -> tuple[Tensor, Tensor]:
    """Queries [Hq, n, d] and keys [Hkv, n, d] of a small layer of odd sizes, with peaked attention and at least two KV
    heads of two query heads each, where reading the wrong KV head shows; probes: as many queries after the prompt."""
    n, kv_heads, group = between(g, 41, 97), between(g, 2, 3), between(g, 2, 3)
    d = 2 * between(g, 3, 8)
    keys = torch.randn(kv_heads, n, d, generator=g)
    return 2 * torch.randn(group * kv_heads, probes or n, d, generator=g), keys


def kept_set(g: torch.Generator, sets: int, n: int) -> Tensor:
    """A random kept set [sets, b] of n positions."""
    count = between(g, 3, n // 2)
    return torch.stack([torch.randperm(n, generator=g)[:count].sort().values for _ in range(sets)])


def budget_and_length(g: torch.Generator) -> tuple[float | int, int]:
    """A budget and a prompt length: fractions with every remainder but one half, some that keep nothing, counts."""
    kind, n = between(g, 0, 4), between(g, 20, 1999)
    if kind == 0:
        return between(g, 2, n), n
    percent = between(g, 1, 99)
    while 45 <= percent * n % 100 <= 55:  # what a half is rounded to is Python's business
        percent = between(g, 1, 99)
    return (0.003, between(g, 2, 150)) if kind == 1 else (percent / 100, n)


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
    _, keys = grouped_layer(g)
    keys = keys * torch.rand(*keys.shape[:2], 1, generator=g) * 3  # tokens of different sizes, as in a model
    return keys, kept_set(g, *keys.shape[:2])


def layer_and_budget(g: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """A layer and a budget in tokens."""
    return *grouped_layer(g), between(g, 14, 38)


def long_layer(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """A layer of more tokens than tiles of 512 queries, or of 256 for two heads at once, have: only a whole table has
    two dimensions of n."""
    n, d = between(g, 514, 550), 2 * between(g, 3, 8)
    return 2 * torch.randn(4, n, d, generator=g), torch.randn(2, n, d, generator=g)


def normalised(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A long layer with the log-sum-exp [Hq, n] of its causal logits."""
    queries, keys = long_layer(g)
    logits = queries @ keys.repeat_interleave(len(queries) // len(keys), 0).mT / keys.shape[2] ** 0.5
    later = torch.ones(logits.shape[1:], dtype=torch.bool).triu(1)
    return queries, keys, logits.masked_fill(later, -torch.inf).logsumexp(-1)


def sized_cache(g: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """Keys and values [Hkv, n, d] of different sizes, and a budget in tokens."""
    keys, _ = cache(g)
    sizes = torch.rand(*keys.shape[:2], 1, generator=g) * 10  # values larger than keys: adding them raw would show
    return keys, sizes * torch.randn(keys.shape, generator=g), between(g, 5, 30)


def probes(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the tokens after a prompt [Hq, m, d], the prompt's keys, and what stayed."""
    queries, keys = grouped_layer(g, probes=between(g, 2, 5))
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
