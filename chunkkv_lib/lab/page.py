"""The lab as HTML: controls, text, numbers and data of its prompts in one fragment, which needs nothing from elsewhere.

Without scripts the fragment shows one setting, as text and table; assets/lab.js makes everything else.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from .codes import LayerCodes
from .rules import METHODS, Setting, kept_tokens, measured

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("rules", "codes", "metrics", "expression", "results", "charts", "view", "tour", "lab")
#: Of the book's figures; the reader's own rule has one of the spare colours.
COLOURS = {
    "ChunkKV": "#0072B2", "SnapKV": "#D55E00", "H2O": "#009E73", "StreamingLLM": "#6b6b6b", "Recent": "#6b6b6b",
    "Random": "#6b6b6b", "Oracle": "#6b6b6b", "Own rule": "#CC79A7",
}  # fmt: skip
LEFT, RIGHT = Setting("ChunkKV"), Setting("SnapKV")  # what a page opens with
TOUR = (
    (
        "The sink",
        "The first token says nothing about the answer, yet most heads look at it whatever comes: an attention sink. "
        "A rule that counts attention keeps it. Recent loses it, and the attention cosine falls wherever the "
        "answer's tokens look there.",
    ),
    (
        "A chunk cut through a word",
        "Chunks are cut by counting from the first token, not by meaning. Here a border may fall inside a word or "
        "number of the outlined passage. Move the chunk size by one and watch which part stays.",
    ),
    (
        "An answer longer than the reach",
        "SnapKV brings a token's neighbours along as far as half its kernel, here one to each side; ChunkKV brings a "
        "whole chunk. Where the question's words stand far from the answer's, only a long reach joins them. Raise "
        "the kernel to 15 and compare.",
    ),
    (
        "A head that keeps it all",
        "Heads differ: of all heads, this one is furthest ahead of the others of its layer in keeping the outlined "
        "passage. Choose another head, or one set for the whole layer: then all heads must agree.",
    ),
    (
        "Random",
        "A random choice of a tenth of the tokens loses about nine tenths of the cache's L1 mass. Compare the other "
        "rules: the L1 loss can hardly tell them apart, the attention cosine can.",
    ),
    (
        "Oracle",
        "The oracle looks into the future: it keeps what the answer's own tokens attend to. What it drops of the "
        "outlined passage, these tokens did not look at in this layer.",
    ),
)
DRAWS = (1, 2, 3, 4)  # seeds of the random choices, as in lab.js
METRICS = (("l1", "KV cache L1 loss"), ("cosine", "Attention cosine"), ("evidence", "Evidence kept"))


def lab_fragment(prompts: Many[tuple[dict, Many[LayerCodes]]], links: Iterable[tuple[Setting, Setting]] = ()) -> str:
    """The whole lab: prompts as `prompt_data` makes them, the first is shown first.

    links  recorded settings of the first prompt to begin with, left and right
    """
    data, layers = prompts[0]
    found, kept = zip(*(_every_layer(layers, side, data["marked"]) for side in (LEFT, RIGHT)))
    layer = furthest_apart(*found)
    draws = [_every_layer(layers, Setting("Random", LEFT.budget, seed=seed), data["marked"])[0] for seed in DRAWS]
    chance = [{name: np.mean([one[name] for one in each]) for name, _ in METRICS} for each in zip(*draws)]
    addresses = []
    for sides in links:
        at = furthest_apart(*(_every_layer(layers, side, data["marked"])[0] for side in sides))
        address = html.escape(urlencode(_controls_at(*sides, at)))
        names = [one.method + f" with chunks of {one.chunk_size}" * (one.chunk_size != 10) for one in sides]
        wrote = [f"from the cache of {name} “{_written(data, one)}”" for name, one in zip(names, sides)]
        words = html.escape(f"At {sides[0].budget:g} % the model writes {' and '.join(wrote)}")
        addresses.append(f'<button type="button" data-address="lab&amp;{address}">{words}</button>')
    written = {
        "prompts": [one for one, _ in prompts],
        "colours": COLOURS,
        "asked": [_asked(one) for one, _ in prompts],
    }
    payload = json.dumps(written, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    scripts = "".join(f"<script>{asset(f'{name}.js')}</script>" for name in SCRIPTS)
    return (
        f"<style>{asset('lab.css')}</style>"
        f'<div class="lab" id="lab"><form autocomplete="off">'
        f'<p class="lab-still">The controls need JavaScript. Without it you see one setting: the budget is '
        f"{LEFT.budget:g} %, layer {layer}.</p>"
        f'<div class="lab-asked">{_asked(data)}</div>'
        f'<div class="lab-tour lab-links">{"".join(addresses)}</div>'
        f"{_tour()}{_controls([one['name'] for one, _ in prompts], data['layers'], layer)}</form>"
        f'<p class="lab-problem" role="status"></p>'
        f"{_strips(data)}"
        f'<div class="lab-panels">{_panel("left", LEFT, data, kept[0][layer])}'
        f"{_panel('right', RIGHT, data, kept[1][layer])}</div>{LEGEND}"
        f"{_numbers([*found, chance], layer, sorted({one[1] for one in data['written']}))}{_charts()}"
        f"{_static_table(data, layers)}"
        f'<script type="application/json" class="lab-data">{payload}</script></div>{scripts}'
    )


def furthest_apart(left: Many[Mapping[str, float]], right: Many[Mapping[str, float]]) -> int:
    """The layer in which the side that keeps more of the evidence is furthest ahead: something happens there."""
    ahead = np.array([a["evidence"] - b["evidence"] for a, b in zip(left, right, strict=True)])
    return int(np.argmax(ahead * np.sign(ahead.sum() or 1)))


def _every_layer(layers: Many[LayerCodes], setting: Setting, marked: Many[int]) -> tuple[list[dict], list[np.ndarray]]:
    kept = [kept_tokens(codes, setting, i).numpy() for i, codes in enumerate(layers)]
    return [measured(codes, one, marked) for codes, one in zip(layers, kept)], kept


def _written(data: Mapping, setting: Setting) -> str:
    """What the model wrote from this cache; "" where it was not recorded."""
    return next((one[-1] for one in data["written"] if one[:-1] == list(vars(setting).values())), "")


def _controls_at(left: Setting, right: Setting, layer: int) -> dict[str, object]:
    """Two settings as the page's controls: what only one rule uses is taken from that one."""
    chunk, kernel = (left.chunk_size, right.kernel) if left.method == "ChunkKV" else (right.chunk_size, left.kernel)
    return {
        "prompt": 0, "left": left.method, "right": right.method, "budget": f"{left.budget:g}", "chunk": chunk,
        "window": left.window, "kernel": kernel, "share": left.share, "head": "all", "layer": layer,
    }  # fmt: skip


def lab_page(prompts: Many[tuple[dict, Many[LayerCodes]]], title: str) -> str:
    """The lab as a page of its own."""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{asset('page.css')}</style></head>"
        f"<body><main><h1>{html.escape(title)}</h1>{INTRODUCTION}{lab_fragment(prompts)}</main></body></html>"
    )


def asset(name: str) -> str:
    """The text of a style sheet or script of the lab."""
    return (ASSETS / name).read_text(encoding="utf-8")


# --- the parts of the page ----------------------------------------------------------------------------------------

INTRODUCTION = (
    "<p>A language model keeps a key and a value for every token it has read. Compression keeps some of them. Here "
    "you change the rule that chooses, and see at once what stays of the text, and what two common metrics say. All "
    "numbers come from one run of the model; nothing is fetched.</p>"
)
LEGEND = (
    '<p class="lab-legend"><span class="k1">one quarter</span> <span class="k2">half</span> '
    '<span class="k3">three quarters</span> <span class="k4">all</span> of the heads keep the token; '
    "<mark>outlined</mark>: the passage that holds the answer. The two texts scroll together.</p>"
)


def _asked(data: Mapping) -> str:
    texts = [html.escape(data[name]) for name in ("answer", "full")]
    return (
        f"<p>The text ends with a question. The right answer is “{texts[0]}”; with its full cache the model writes "
        f"“{texts[1]}”. Attention is that of the tokens which write "
        f"{' and '.join(f'“{html.escape(one.strip())}”' for one in data['probes'])}. {data['credit']}</p>"
    )


def _controls(names: Many[str], layers: int, layer: int) -> str:
    methods = (*METHODS, "Own rule")
    parts = [
        _select("prompt", "Text", [(i, name) for i, name in enumerate(names)], 0) if len(names) > 1
        else '<input type="hidden" name="prompt" value="0">',
        _select("left", "Rule on the left", [(one, one) for one in methods], LEFT.method),
        _select("right", "Rule on the right", [(one, one) for one in methods], RIGHT.method),
        _slider("budget", "Budget", 1, 100, LEFT.budget, 0.5),
        _slider("chunk", "Chunk size (ChunkKV)", 1, 50, LEFT.chunk_size),
        _select("window", "Window: last tokens, which vote and stay", [(w, w) for w in (4, 8, 16, 32)], LEFT.window),
        _slider("kernel", "Pooling kernel (SnapKV)", 1, 31, LEFT.kernel, 2),
        _select("share", "Kept sets", [("kv_head", "one per KV head"), ("layer", "one per layer")], "kv_head"),
        _select("head", "Heads shown", [("all", "all, deeper colour: more heads")], "all"),
        '<div><input type="checkbox" name="whole" id="lab-whole"> <label for="lab-whole">Charts from 0 to 1</label>'
        "</div>",
    ]  # fmt: skip
    weights = "".join(
        f'<div><label for="lab-w-{name}">Weight of {label} <output for="lab-w-{name}">{value}</output></label>'
        f'<input type="range" id="lab-w-{name}" data-part="{name}" min="-2" max="2" step="0.1" value="{value}"></div>'
        for name, label, value in (("votes", "window votes", 1), ("columns", "column sums", 0),
                                   ("values", "value size", 0), ("position", "position", 0))
    )  # fmt: skip
    own = (
        '<fieldset class="lab-own" hidden><legend>Own rule</legend>'
        f"{weights}"
        '<div class="lab-wide"><label for="lab-formula">Score of a token: votes, columns, keys, values (mean 1), '
        "position (0 to 1); + - * / ^ ( ), log exp sqrt abs min max</label>"
        '<input type="text" id="lab-formula" name="formula" value="votes" spellcheck="false" maxlength="300"></div>'
        + _select("unit", "Stays as", [("tokens", "single tokens"), ("pooled", "tokens, pooled by the kernel"),
                                       ("chunks", "whole chunks")], "tokens")
        + "</fieldset>"
    )  # fmt: skip
    return (
        f'<div class="lab-controls">{"".join(parts)}</div>{own}'
        f'<div class="lab-layer">{_slider("layer", "Layer", 0, layers - 1, layer)}'
        '<button type="button" class="lab-play" aria-pressed="false">Play the layers</button></div>'
    )


def _select(name: str, label: str, options: Iterable[tuple[object, object]], chosen: object) -> str:
    listed = "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}>{html.escape(str(text))}</option>'
        for value, text in options
    )
    return f'<div><label for="lab-{name}">{label}</label><select id="lab-{name}" name="{name}">{listed}</select></div>'


def _slider(name: str, label: str, low: float, high: float, value: float, step: float = 1) -> str:
    return (
        f'<div><label for="lab-{name}">{label} <output for="lab-{name}">{value:g}</output></label><input type="range" '
        f'id="lab-{name}" name="{name}" min="{low}" max="{high}" step="{step}" value="{value:g}"></div>'
    )


def _tour() -> str:
    stops = "".join(
        f'<button type="button" data-text="{html.escape(text)}">{i}. {html.escape(name)}</button>'
        for i, (name, text) in enumerate(TOUR, start=1)
    )
    return (
        f'<div class="lab-tour" role="group" aria-label="A tour in six stops">{stops}</div>'
        '<div class="lab-tour"><button type="button" class="lab-find-left">Find where the left rule keeps more of the '
        'answer</button><button type="button" class="lab-find-right">Find where the right rule does</button>'
        '</div><p class="lab-stop" role="status"></p>'
    )


def _strips(data: Mapping) -> str:
    what = "evidence kept" if data["marked"] else "attention cosine"
    return (
        f'<div class="lab-strips" aria-hidden="true"><p>{what.capitalize()}, layer by layer; press a field to see that '
        'layer.</p><div class="lab-strip lab-strip-left"></div><div class="lab-strip lab-strip-right"></div></div>'
    )


def _panel(side: str, setting: Setting, data: Mapping, kept: np.ndarray) -> str:
    """One rule's text, as it is before the script takes over."""
    marked = set(data["marked"])
    counts = np.bincount(kept.ravel(), minlength=data["n"])
    tokens = []
    for i, (text, count) in enumerate(zip(data["texts"], counts)):
        shown = html.escape(text).replace("\n", " ⏎ ")
        if count:
            shown = f'<span class="k{-(-4 * count // len(kept))}">{shown}</span>'
        opens, closes = i in marked and i - 1 not in marked, i in marked and i + 1 not in marked
        tokens.append("<mark>" * opens + shown + "</mark>" * closes)
    return (
        f'<section class="lab-{side}" aria-label="The text on the {side}">'
        f'<p class="lab-told" aria-live="polite">{setting.method} keeps {kept.shape[1]} of {data["n"]} tokens.</p>'
        f'<div class="lab-text" tabindex="0" role="group" aria-label="The prompt, kept tokens marked" '
        f'style="--kept: {COLOURS[setting.method]}">{"".join(tokens)}</div>'
        '<details><summary>The kept pieces as a list</summary><ul class="lab-list"></ul></details></section>'
    )


def _numbers(found: Many[Many[Mapping[str, float]]], layer: int, budgets: Many[float]) -> str:
    """The numbers of both rules and of a random choice in one layer, and their means over layers."""
    rows = []
    for metric, label in METRICS:
        for every in ("", "1"):
            where = f"mean of {len(found[0])} layers" if every else f"layer <output>{layer}</output>"
            values = [np.mean([one[metric] for one in (side if every else side[layer : layer + 1])]) for side in found]
            cells = "".join(f"<td>{value:.3f}</td>" for value in values)
            rows.append(
                f'<tr data-metric="{metric}" data-all="{every}"><th scope="row">{label}, {where}</th>{cells}</tr>'
            )
    heads = "".join(f'<th scope="col" class="lab-head-{side}">{one.method}</th>'
                    for side, one in (("left", LEFT), ("right", RIGHT)))  # fmt: skip
    return (
        '<div class="lab-scroll" tabindex="0" role="region" aria-label="Numbers"><table class="lab-numbers">'
        "<caption>Small: the difference from a random choice of as many tokens, mean of four draws.</caption>"
        f'<thead><tr><td></td>{heads}<th scope="col">A random choice</th></tr></thead><tbody>{"".join(rows)}'
        '<tr class="lab-wrote"><th scope="row">The model wrote, from this cache (recorded at '
        f"{', '.join(f'{budget:g}' for budget in budgets)} %)</th><td></td><td></td><td></td></tr>"
        "</tbody></table></div>"
    )


def _charts() -> str:
    titles = {"l1": "KV cache L1 loss by layer", "cosine": "Attention cosine by layer"}
    figures = "".join(
        f'<figure><figcaption>{title}</figcaption><svg class="lab-chart lab-chart-{name}" role="img" '
        f'aria-label="{title}; the table above has the numbers"></svg></figure>'
        for name, title in titles.items()
    )
    return (
        f'<div class="lab-charts">{figures}</div><p class="lab-legend lab-key">Thick: the left rule; dashed: the right '
        "rule; thin: ChunkKV, SnapKV and H2O with the paper's settings at this budget; dotted: a random choice.</p>"
    )


def _static_table(data: Mapping, layers: Many[LayerCodes]) -> str:
    """All rules at the opening budget; the only numbers where there is no script."""
    rows = []
    for method in METHODS:
        setting = Setting(method, LEFT.budget)
        found, _ = _every_layer(layers, setting, data["marked"])
        cells = "".join(f"<td>{np.mean([one[metric] for one in found]):.3f}</td>" for metric, _ in METRICS)
        rows.append(f'<tr><th scope="row">{method}</th>{cells}<td>{html.escape(_written(data, setting))}</td></tr>')
    heads = "".join(f'<th scope="col">{label}</th>' for label in ("Rule", *(one for _, one in METRICS), "It wrote"))
    return (
        f'<details class="lab-all"><summary>All rules at {LEFT.budget:g} %, means over layers</summary>'
        '<div class="lab-scroll" tabindex="0" role="region" aria-label="All rules"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )
