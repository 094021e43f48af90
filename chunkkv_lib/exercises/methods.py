"""`check_method`: whether a compressor of one's own keeps what every compressor promises."""

import secrets
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from ..attention import PromptAttention
from ..compressors import Compressor, budget_tokens
from ..errors import InputError
from . import inputs

BUDGETS = (0.1, 0.5, 1.0, 19)  # of prompts of 80 tokens and more, so that a window of 8 fits


def check_method(method: Callable[..., Compressor], seed: int | None = None, report: Callable = print) -> bool:
    """Try a method on random layers of odd sizes; say which promise it breaks, or that it keeps them all.

    method  called as `method(budget=...)`: a class, or a function that makes a compressor
    seed    repeats an earlier check; it is part of what is reported
    return  whether `choose` gives, for every layer and budget: int64 positions of the prompt, ascending, each once,
            exactly as many as the budget, in as many rows as its granularity says; the same when asked again; its
            window among them, if it has one; and leaves queries and keys as they were
    raises  InputError: something that cannot be called.
    """
    if not callable(method):
        raise InputError(f"check_method needs a class, not a {type(method).__name__}; pass {type(method).__name__}.")
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    generator = torch.Generator().manual_seed(seed)
    name = getattr(method, "__name__", "method")
    layers = []
    for kv_heads, group in ((1, 1), (2, 3), (3, 2)):
        n, d = inputs.between(generator, 80, 140), 2 * inputs.between(generator, 3, 8)
        layers.append([torch.randn(heads, n, d, generator=generator) for heads in (kv_heads * group, kv_heads)])
    for (queries, keys), budget in product(layers, BUDGETS):
        if problem := _broken_promise(method, queries, keys, budget):
            sizes = f"queries {list(queries.shape)}, keys {list(keys.shape)}, budget={budget!r}"
            report(f"✗ {name}: {problem}\n  inputs: {sizes}; again: check_method({name}, seed={seed})")
            return False
    report(f"✓ {name} keeps its promises in {len(layers) * len(BUDGETS)} cases (seed {seed})")
    return True


def _broken_promise(method: Callable[..., Compressor], queries: Tensor, keys: Tensor, budget: float | int) -> str:
    """The first promise that is broken on this layer, in one sentence; "" if none is."""
    before = queries.clone(), keys.clone()
    try:
        made = method(budget=budget)
        if not isinstance(made, Compressor):
            return "a run cannot use it: derive the class from Compressor or WindowCompressor, and implement scores."
        # as a run calls it, with one prompt's attention that all methods share
        kept = made.choose(PromptAttention(queries, keys))
        again = made.choose(PromptAttention(*(x.clone() for x in before)))
        if type(made).scores is not Compressor.scores and not made.scores(PromptAttention(*before)).isfinite().all():
            return "scores holds NaN or infinity; every ranked position needs a number."
    except Exception as error:  # whatever one's own code raises is the answer
        return f"it raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if not (torch.equal(before[0], queries) and torch.equal(before[1], keys)):
        return "it changed the queries or keys; work on a copy, or without in-place operations."
    n, tokens = keys.shape[1], budget_tokens(budget, keys.shape[1])
    if not isinstance(kept, Tensor) or kept.dim() != 2 or kept.dtype != torch.int64:
        what = f"{list(kept.shape)} {kept.dtype}" if isinstance(kept, Tensor) else type(kept).__name__
        return f"select returned {what}, expected positions [sets, {tokens}] of dtype int64."
    sets = made.sets(PromptAttention(queries, keys))
    if len(kept) != sets:
        return (
            f"it returned {len(kept)} sets; its granularity {made.granularity!r} means {sets} here: pass scores per "
            "query head through pool_heads."
        )
    if kept.shape[1] != tokens:
        return f"it keeps {kept.shape[1]} tokens of {n}, expected exactly {tokens}."
    if int(kept.min()) < 0 or int(kept.max()) >= n:
        return f"positions span {int(kept.min())} to {int(kept.max())}; a prompt of {n} tokens has 0 to {n - 1}."
    if not (kept.diff(dim=1) > 0).all():
        return "positions are not ascending, or one is kept twice."
    window = getattr(made, "window", 0)
    if window and not (kept[:, -window:] == torch.arange(n - window, n)).all():
        return f"the last {window} tokens, its window, do not all stay."
    return "" if torch.equal(kept, again) else "it chose otherwise when asked again; draw from a fixed seed."
