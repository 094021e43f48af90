"""Small things to do on a chapter's page: a calculator, the toy of twelve tokens with open numbers, a guess first."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING

from .. import budget_tokens
from ..report.arithmetic import PRESETS, readable, serving_memory
from .page import asset

if TYPE_CHECKING:
    from IPython.display import HTML

SHAPE = ("layers", "kv_heads", "head_dim", "hidden", "intermediate", "weights")
WAYS = {"whole": "Whole cache", "after": "Compressed after the prefill", "layer": "Compressed layer by layer"}
ROWS = ("The cache of one user", "Peak while one prompt is read", "Users on the device at once")


def calculator(tokens: int = 8192, budget: float = 0.1, model: str = "Llama-3-8B", device: float = 24) -> HTML:
    """Memory of a KV cache for a model, a prompt and a budget of the reader's choice; without JavaScript, for these.

    budget  part of the prompt that stays; model: a name of `PRESETS`; device: its memory in GiB
    """
    from IPython.display import HTML

    kept = budget_tokens(budget, tokens)
    found = serving_memory(PRESETS[model], tokens, kept, device * 2**30)
    rows = ""
    for row, label in enumerate(ROWS):
        most = max(found[way][row] for way in WAYS) or 1
        rows += f'<tbody><tr><th scope="rowgroup" colspan="3">{label}</th></tr><tr>'
        for way in WAYS:
            value = found[way][row]
            text = f"{value:,}" if row == 2 else readable(value)
            rows += f'<td><b>{text}</b><span style="width: {100 * value / most:.4g}%"></span></td>'
        rows += "</tr></tbody>"
    presets = {name: {one: getattr(shape, one) for one in SHAPE} for name, shape in PRESETS.items()}
    return HTML(
        f"<style>{asset('widgets.css')}</style>"
        f'<div class="lab-calculator" data-presets="{html.escape(json.dumps(presets))}">'
        f"{_calculator_form(model, tokens, budget, device)}"
        '<table><thead><tr>' + "".join(f'<th scope="col">{label}</th>' for label in WAYS.values())
        + f'</tr></thead>{rows}</table><p role="status">{model}, {tokens:,} tokens in 16-bit numbers, of '
        f"which {kept:,} stay, on a device of {device:g} GiB.</p></div><script>{asset('calculator.js')}</script>"
    )  # fmt: skip


def _calculator_form(model: str, tokens: int, budget: float, device: float) -> str:
    def numbers(*fields: tuple) -> str:
        return "".join(
            f'<label>{label} <input type="number" name="{name}" min="{low}" step="{step}" value="{value}"></label> '
            for name, label, low, step, value in fields
        )

    def choice(name: str, label: str, options: Mapping[str, str], chosen: str) -> str:
        listed = "".join(
            f'<option value="{value}"{" selected" * (value == chosen)}>{text}</option>'
            for value, text in options.items()
        )
        return f'<label>{label} <select name="{name}">{listed}</select></label> '

    bits = {"4": "32 bits", "2": "16 bits", "1": "8 bits", "0.5": "4 bits"}
    shape = numbers(
        ("layers", "Layers", 1, 1, ""), ("kv_heads", "KV heads", 1, 1, ""), ("head_dim", "Numbers per key", 1, 1, ""),
        ("hidden", "Width", 1, 1, ""), ("intermediate", "Width of the feed-forward", 1, 1, ""),
        ("weights", "Weights (billions)", 0, "any", ""),
    )  # fmt: skip
    return (
        '<form autocomplete="off" hidden><p>'
        + choice("model", "Model", {name: name for name in PRESETS} | {"": "your own shape"}, model)
        + numbers(("tokens", "Prompt tokens", 1, 1, tokens), ("device", "Device (GiB)", 0, "any", device))
        + choice("number", "Cache in", bits, "2")
        + choice("weight", "Weights in", bits, "2")
        + f'<label>Budget <input type="range" name="budget" min="0.1" max="100" step="0.1" value="{100 * budget:g}"> '
        f'<output name="share">{100 * budget:g} %</output></label></p>'
        f"<details><summary>The shape of the model</summary><p>{shape}</p></details></form>"
    )


def toy(
    words: Many[str], table: Many[Many[int]], answer: Many[int], budget: int, window: int, chunk: int, kernel: int
) -> HTML:
    """A causal attention table to be edited, and what H2O, SnapKV and ChunkKV keep of it. Needs JavaScript.

    words   of the n tokens
    table   n rows of whole numbers, row i has i + 1 of them
    answer  n numbers: the attention of the answer's token
    """
    from IPython.display import HTML

    n = len(words)
    heads = "".join(f'<th scope="col">{html.escape(word)}</th>' for word in words)
    rows = "".join(_query(i, words[i], row, words) for i, row in enumerate(table)) + _query(n, "answer", answer, words)
    kept = "".join(
        f'<tr data-method="{method}"><th scope="row">{method}</th>{"<td></td>" * (n + 1)}</tr>'
        for method in ("H2O", "SnapKV", "ChunkKV")
    )
    settings = "".join(
        f'<label>{label} <input type="number" data-setting="{name}" min="{low}" max="{high}" step="{step}" '
        f'value="{value}"></label>'
        for name, label, low, high, step, value in (
            ("budget", "Budget", 1, n, 1, budget), ("window", "Window", 1, n - 1, 1, window),
            ("chunk", "Chunk", 1, n, 1, chunk), ("kernel", "Kernel", 1, n - 1 + n % 2, 2, kernel),
        )
    )  # fmt: skip
    return HTML(
        f'<style>{asset("widgets.css")}</style><form class="lab-toy" autocomplete="off" hidden>'
        f'<p>{settings} <button type="reset">Back to the start</button></p>'
        '<div class="lab-wide" tabindex="0" role="region" aria-label="Attention table and kept tokens"><table>'
        f'<thead><tr><td></td>{heads}<th scope="col">answer sees</th></tr></thead><tbody>{rows}{kept}</tbody></table>'
        f'</div><p role="status"></p></form><script>{asset("rules.js")}</script><script>{asset("toy.js")}</script>'
    )


def _query(i: int, word: str, numbers: Many[int], words: Many[str]) -> str:
    cells = "".join(
        f'<td><input type="number" min="0" max="20" value="{number}" '
        f'aria-label="{html.escape(f"attention of {word} ({i}) to {words[key]} ({key})")}"></td>'
        for key, number in enumerate(numbers)
    )
    return f'<tr data-query="{i}"><th scope="row">{html.escape(word)}</th>{cells}</tr>'


def guess(name: str, metric: str, measured: Mapping[str, float], lower_is_better: bool) -> HTML:
    """A reader's own order of the methods, and of what a random choice scores, before the measurement is laid over.

    name      of the guess, under which the reader's browser remembers it
    metric    in words
    measured  method -> value between 0 and 1, "Random" among them. Needs JavaScript
    """
    from IPython.display import HTML

    methods = [method for method in measured if method != "Random"]
    options = '<option value="">–</option>' + "".join(f"<option>{html.escape(method)}</option>" for method in methods)
    places = "".join(f"<label>{i}. <select required>{options}</select></label> " for i in range(1, len(methods) + 1))
    values = html.escape(json.dumps({method: round(float(value), 6) for method, value in measured.items()}))
    return HTML(
        f"<style>{asset('widgets.css')}</style>"
        f'<div class="lab-guess" data-name="{html.escape(name)}" data-sign="{1 if lower_is_better else -1}" '
        f'data-measured="{values}" hidden><form autocomplete="off"><p><strong>Predict first.</strong> Order the '
        f"methods by {html.escape(metric)}, best first: {places}</p>"
        '<p><label>What does a random choice score? <input type="range" min="0" max="1" step="0.01" value="0.5"> '
        "<output>0.5</output></label></p>"
        '<p><button type="submit">Lay the measurement over it</button> Your guess stays in your browser.</p></form>'
        f'<p role="status"></p><div class="lab-laid" aria-hidden="true"></div></div>'
        f"<script>{asset('guess.js')}</script>"
    )
