"""Which tokens survive: a prompt's text in a page where method, layer, head and budget can be chosen.

The page works without scripts: it then shows the first choice. `book/assets/survival.js` makes the controls work, from
the data that is written beside the text; nothing is fetched.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .prompt import _html, quoted
from .style import look

if TYPE_CHECKING:
    from IPython.display import HTML

Layers = Sequence[ArrayLike]  # kept [S, b] or scores [S, p] of every layer


def survival_view(
    texts: Sequence[str],
    kept: Mapping[str, Mapping[float, Layers]],
    dataset: str,
    scores: Mapping[str, Layers] | None = None,
    evidence: Iterable[tuple[int, int]] = (),
    chunk_size: int = 10,
    window: int = 8,
    layer: int = 0,
    budget: float | None = None,
    name: str = "survival",
) -> HTML:
    """The prompt's text twice, side by side, with what two methods keep of it, and controls to change what is shown.

    texts     of all n prompt tokens (`prompt.token_texts`)
    kept      method -> budget -> kept positions [S, b] of every layer; the same budgets and layers for every method
    scores    method -> scores [S, p] of every layer, p <= n; shown as a rank when a token is pointed at
    evidence  passages that hold the answer, as token positions (first, behind the last); outlined
    layer, budget  what is shown first; budget None: the first
    name      id of the view in the page
    raises    InputError: fewer than two methods, or methods with other budgets than the first.
    """
    data = survival_data(texts, kept, dataset, scores, evidence, chunk_size, window)
    if len(data["methods"]) < 2:
        raise InputError(f"the view compares two methods, but kept holds {len(data['methods'])}; give at least two.")
    first = 0 if budget is None else data["budgets"].index(budget)
    payload = json.dumps(data | {"layer": layer, "budget": first}, ensure_ascii=False).replace("<", "\\u003c")
    panels = "".join(_panel(data, kept, method, data["budgets"][first], layer, f"{name}-{i}", i)
                     for i, method in enumerate(data["methods"][:2]))  # fmt: skip
    return _html(
        f'<div class="survival" id="{name}">{_controls(data, first, layer, name)}'
        f'<div class="survival-panels">{panels}</div>'
        f'<script type="application/json" class="survival-data">{payload}</script></div>'
    )


def survival_data(
    texts: Sequence[str],
    kept: Mapping[str, Mapping[float, Layers]],
    dataset: str,
    scores: Mapping[str, Layers] | None = None,
    evidence: Iterable[tuple[int, int]] = (),
    chunk_size: int = 10,
    window: int = 8,
) -> dict:
    """What the script reads: texts, names, and one bit per method, budget, layer, head and token, as base64.

    raises  InputError: methods whose budgets differ.
    """
    budgets = list(next(iter(kept.values())))
    for method, by_budget in kept.items():
        if list(by_budget) != budgets:
            raise InputError(f"{method} has the budgets {list(by_budget)}, the first method {budgets}; give the same.")
    n, shape = len(texts), [np.asarray(sets).shape[0] for sets in next(iter(kept.values()))[budgets[0]]]
    masks = {method: [_bits(layers, n) for layers in by_budget.values()] for method, by_budget in kept.items()}
    ranks = {method: _ranks(layers, n) for method, layers in (scores or {}).items() if method in kept}
    return {
        "texts": [quoted(text, dataset).replace("\n", " ⏎ ") for text in texts],
        "methods": [[method, look(method).colour] for method in kept],
        "budgets": budgets,
        "layers": len(shape),
        "heads": shape[0],
        "masks": masks,
        "ranks": ranks,
        "evidence": [list(span) for span in evidence],
        "chunk": chunk_size,
        "window": window,
    }


def _bits(layers: Layers, n: int) -> str:
    """Kept positions of every layer and head as bits, token by token, each head's padded to whole bytes."""
    mask = np.zeros((len(layers), len(np.asarray(layers[0])), n), dtype=bool)
    for index, sets in enumerate(layers):
        np.put_along_axis(mask[index], np.asarray(sets), True, axis=1)
    return base64.b64encode(np.packbits(mask, axis=-1).tobytes()).decode()


def _ranks(layers: Layers, n: int) -> str:
    """Scores as the percentage of scored positions that lie below, one byte each; 255 where there is no score."""
    ranks = np.full((len(layers), len(np.asarray(layers[0])), n), 255, dtype=np.uint8)
    for index, values in enumerate(layers):
        values = np.asarray(values)
        order = values.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        ranks[index, :, : values.shape[1]] = 100 * order // max(values.shape[1] - 1, 1)
    return base64.b64encode(ranks.tobytes()).decode()


def _controls(data: dict, budget: int, layer: int, name: str) -> str:
    budgets = [f"{100 * one:g} %" if isinstance(one, float) else f"{one} tokens" for one in data["budgets"]]
    heads = [f"head {head}" for head in range(data["heads"])] + ["all heads"]
    return (
        f'<div class="survival-controls">'
        f"{_choice(f'{name}-budget', 'Budget', budgets, budget)}"
        f'<label for="{name}-layer">Layer <output>{layer}</output></label>'
        f'<input type="range" id="{name}-layer" data-control="layer" value="{layer}" '
        f'min="0" max="{data["layers"] - 1}">'
        f"{_choice(f'{name}-head', 'KV head', heads, 0)}</div>"
    )


def _choice(name: str, label: str, options: Sequence[str], chosen: int) -> str:
    listed = "".join(
        f'<option value="{i}"{" selected" if i == chosen else ""}>{html.escape(option)}</option>'
        for i, option in enumerate(options)
    )
    control = name.rsplit("-", 1)[1]
    return f'<label for="{name}">{label}</label><select id="{name}" data-control="{control}">{listed}</select>'


def _panel(data: dict, kept, method: tuple, budget: float, layer: int, name: str, chosen: int) -> str:
    """One method's text: a select for the method, a line that counts, the text, a line about the token pointed at."""
    title, colour = method
    stays = set(np.asarray(kept[title][budget][layer])[0].tolist())
    evidence = {position for first, stop in data["evidence"] for position in range(first, stop)}
    body = "".join(_token(text, i in stays, i in evidence) for i, text in enumerate(data["texts"]))
    found = len(stays & evidence)
    counted = f"keeps {len(stays):,} of {len(data['texts']):,} tokens"
    counted += f", {found} of {len(evidence)} evidence tokens" if evidence else ""
    return (
        f'<div class="survival-panel" style="--kept: {colour}">'
        f"{_choice(f'{name}-method', 'Method', [one for one, _ in data['methods']], chosen)}"
        f'<p class="survival-count" aria-live="polite">{html.escape(title)} {counted}.</p>'
        f'<div class="survival-text" tabindex="0" role="group" aria-label="The prompt as {html.escape(title)} keeps '
        f'it. Arrow keys go from token to token.">{body}</div>'
        f'<p class="survival-token" aria-live="polite"></p></div>'
    )


def _token(text: str, stays: bool, evidence: bool) -> str:
    kinds = " ".join(["k4"] * stays + ["ev"] * evidence)
    text = html.escape(text)
    return f'<span class="{kinds}">{text}</span>' if kinds else text
