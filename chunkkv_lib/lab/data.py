"""One prompt run through a model: all that the lab's page shows of it, ready for JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel

from ..attention import PromptAttention
from ..capture import Layer, capture
from ..decoding import CompressedCache, decode, generate
from ..errors import InputError
from ..runs.answers import opening
from ..sequence import Sequence
from ..sequences.encoding import token_texts
from .codes import WINDOWS, LayerCodes, layer_codes, packed
from .rules import METHODS, Setting, kept_tokens

PROBES = 2  # tokens of the answer whose attention is shown
BUDGETS = (5.0, 10.0, 20.0, 40.0)
#: Settings for which the page tells what the model wrote; all other settings are only looked at.
RECORDED = tuple(
    [Setting(method, budget) for budget in BUDGETS for method in METHODS]
    + [Setting("ChunkKV", budget, chunk_size=size) for budget in BUDGETS for size in (5, 20)]
    + [Setting("SnapKV", budget, kernel=1) for budget in BUDGETS]
)


def prompt_data(
    model: PreTrainedModel,
    tokenizer: Any,
    sequence: Sequence,
    credit: str = "",
    recorded: Iterable[Setting] = RECORDED,
    max_new_tokens: int = 8,
) -> tuple[dict, list[LayerCodes]]:
    """What the page's scripts read of a prompt (assets/codes.js), and every layer's codes.

    sequence        its evidence is outlined in the page
    credit          one line: whose text it is
    recorded        settings whose caches the model writes an answer from
    max_new_tokens  of such an answer
    raises InputError: a prompt too short for a window, or what `capture` refuses.
    """
    n, answer, recorded = len(sequence.prompt_ids), list(sequence.answer_ids), list(recorded)
    windows = [window for window in WINDOWS if window < n]
    if not windows or not answer:
        raise InputError(f"the prompt has {n} tokens and the answer {len(answer)}; give more than 4, and at least 1.")
    shown = probe_tokens(tokenizer, answer)
    rows = torch.tensor([n - 1 + i for i in shown])  # the queries that predict these tokens
    layers: list[LayerCodes] = []
    caches = {setting.tokens(n): CompressedCache(n, reread=True) for setting in (*recorded, Setting(budget=100.0))}

    def visit(layer: Layer) -> None:
        keys, values, at = layer.keys[:, :n], layer.values[:, :n], len(layers)
        log_sums = None if layer.log_sums is None else layer.log_sums[:, :n]
        attention = PromptAttention(layer.queries[:, :n], keys, log_sums, layer.queries[:, rows])
        layers.append(layer_codes(attention, values, windows))
        for tokens, cache in caches.items():
            settings = [one for one in recorded if one.tokens(n) == tokens]
            kept = [kept_tokens(layers[-1], one, at) for one in settings]
            cache.add(keys, values, kept + ([torch.arange(n)[None]] if tokens == n else []))

    capture(model, torch.tensor([*sequence.prompt_ids, *answer]), visit)
    stops, written = _line_ends(tokenizer), {}
    for tokens, cache in caches.items():
        settings = [one for one in recorded if one.tokens(n) == tokens] + ["full"] * (tokens == n)
        # The prompt's last token is read once more, so that the answer's first one comes from the compressed cache too.
        logits = decode(model, cache, torch.tensor(sequence.prompt_ids[-1:]), append=True, logits_to_keep=1)[:, 0]
        ids = generate(model, cache, [opening(row, stops)[0] for row in logits], max_new_tokens, stops)
        written |= dict(zip(settings, (tokenizer.decode(row).strip() for row in ids), strict=True))
    heads = len(layers[0].columns)
    return {
        "name": sequence.id,
        "credit": credit,
        "n": n,
        "layers": len(layers),
        "heads": heads,
        "group": len(layers[0].probes) // heads,
        "windows": windows,
        "texts": token_texts(tokenizer, sequence.prompt_ids, sequence.prompt_text),
        "answer": sequence.answers[0] if sequence.answers else tokenizer.decode(answer).strip(),
        "probes": [tokenizer.decode([answer[i]]) for i in shown],
        "marked": [i for first, stop in sequence.evidence_spans for i in range(first, stop)],
        "full": written.pop("full"),
        "written": [[*vars(setting).values(), text] for setting, text in written.items()],
        "weights": [int(x) for layer in layers for x in layer.weights.ravel()],
        "codes": packed(layers),
    }, layers


def probe_tokens(tokenizer: Any, answer: list[int]) -> list[int]:
    """Which tokens of the answer are looked at: the first that are not blank, at most PROBES."""
    words = [i for i, token in enumerate(answer) if tokenizer.decode([token]).strip()]
    return (words or [0])[:PROBES]


def _line_ends(tokenizer: Any) -> list[int]:
    """Tokens at which an answer ends: the end of a text, and a line break."""
    breaks = [ids[0] for text in ("\n", "\n\n") if len(ids := tokenizer.encode(text, add_special_tokens=False)) == 1]
    return breaks + [token for token in (tokenizer.eos_token_id,) if token is not None]
