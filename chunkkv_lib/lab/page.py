"""The lab as HTML: controls, text, numbers and data of its prompts in one fragment, which needs nothing from elsewhere.

assets/lab.html is the fragment, assets/page.html a page around it; both are templates of Jinja.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader

from ..report.style import OTHERS, look
from .codes import LayerCodes
from .rules import METHODS, Setting, kept_tokens, measured

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("rules", "codes", "metrics", "expression", "results", "charts", "view", "tour", "lab")
#: Of the book's figures; the reader's own rule has one of the spare colours.
COLOURS = {name: look(name).colour for name in METHODS} | {"Own rule": OTHERS[0].colour}
LEFT, RIGHT = Setting("ChunkKV"), Setting("SnapKV")  # what a page opens with
LINKS = ((LEFT, RIGHT), (Setting("ChunkKV", 20.0, chunk_size=5), Setting("SnapKV", 20.0)))  # in the book's page
DRAWS = (1, 2, 3, 4)  # seeds of the random choices, as in lab.js
METRICS = {"l1": "KV cache L1 loss", "cosine": "Attention cosine", "evidence": "Evidence kept"}


def rendered(template: str, **values: object) -> str:
    """A template of the lab, filled in."""
    templates = Environment(loader=FileSystemLoader(ASSETS), autoescape=True)
    templates.globals["asset"] = lambda name: (ASSETS / name).read_text(encoding="utf-8")
    templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return templates.get_template(template).render(values)


def lab_page(prompts: Many[tuple[dict, Many[LayerCodes]]], title: str) -> str:
    """The lab as a page of its own."""
    return rendered("page.html", title=title, lab=lab_fragment(prompts))


def lab_fragment(prompts: Many[tuple[dict, Many[LayerCodes]]], links: Iterable[tuple[Setting, Setting]] = ()) -> str:
    """The whole lab: prompts as `prompt_data` makes them, the first is shown first.

    links  recorded settings of the first prompt to begin with, left and right
    """
    data, layers = prompts[0]

    def by_layer(setting: Setting) -> pd.DataFrame:
        kept = (kept_tokens(codes, setting, i).numpy() for i, codes in enumerate(layers))
        return pd.DataFrame([measured(codes, one, data["marked"]) for codes, one in zip(layers, kept)])

    def written(setting: Setting) -> str:  # "" where it was not recorded
        return next((one[-1] for one in data["written"] if one[:-1] == list(vars(setting).values())), "")

    addresses = []
    for sides in links:
        at = furthest_apart(*map(by_layer, sides))
        names = [one.method + f" with chunks of {one.chunk_size}" * (one.chunk_size != 10) for one in sides]
        wrote = [f"from the cache of {name} “{written(one)}”" for name, one in zip(names, sides)]
        words = f"At {sides[0].budget:g} % the model writes {' and '.join(wrote)}"
        addresses.append((urlencode(controls_at(*sides, at)), words))
    left, right = by_layer(LEFT), by_layer(RIGHT)
    layer = furthest_apart(left, right)
    draws = [by_layer(Setting("Random", LEFT.budget, seed=seed)) for seed in DRAWS]
    rules = {method: Setting(method, LEFT.budget) for method in METHODS}
    return rendered(
        "lab.html", data=data, prompts=[one for one, _ in prompts], links=addresses, layer=layer, left=LEFT,
        right=RIGHT, budget=f"{LEFT.budget:g}", rules=[(one, one) for one in (*METHODS, "Own rule")],
        kept=[kept_tokens(layers[layer], side, layer).numpy() for side in (LEFT, RIGHT)], tokens=shown_tokens,
        numbers=[left, right, sum(draws) / len(draws)], metrics=METRICS, colours=COLOURS, scripts=SCRIPTS,
        recorded=[f"{budget:g}" for budget in sorted({one[1] for one in data["written"]})],
        every_rule={method: (by_layer(one).mean(), written(one)) for method, one in rules.items()},
    )  # fmt: skip


def furthest_apart(left: pd.DataFrame, right: pd.DataFrame) -> int:
    """The layer in which the side that keeps more of the evidence is furthest ahead: something happens there."""
    ahead = left["evidence"] - right["evidence"]
    return int(np.argmax(ahead * np.sign(ahead.sum() or 1)))


def shown_tokens(data: Mapping, kept: np.ndarray) -> list[tuple[str, int]]:
    """Each token's text, and how many quarters of the kept sets [S, b] have it, rounded up."""
    counts = np.bincount(kept.ravel(), minlength=data["n"])
    return [(text.replace("\n", " ⏎ "), -(-4 * n // len(kept))) for text, n in zip(data["texts"], counts)]


def controls_at(left: Setting, right: Setting, layer: int) -> dict[str, object]:
    """Two settings as the page's controls: what only one rule uses is taken from that one."""
    chunk, kernel = (left.chunk_size, right.kernel) if left.method == "ChunkKV" else (right.chunk_size, left.kernel)
    return {
        "prompt": 0, "left": left.method, "right": right.method, "budget": f"{left.budget:g}", "chunk": chunk,
        "window": left.window, "kernel": kernel, "share": left.share, "head": "all", "layer": layer,
    }  # fmt: skip
