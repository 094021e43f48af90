"""The view of surviving tokens: its data are the kept sets, and it answers to clicks and keys in a real browser."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import browser, find_browser
from common import refused

from chunkkv_lib.report.survival import survival_data, survival_view

ASSETS = Path(__file__).resolve().parents[1] / "chunkkv_lib" / "book" / "assets"
N, LAYERS, HEADS = 45, 3, 2
FREE = "hotpotqa_open"


def kept_sets(count: int, seed: int, n: int = N) -> list[np.ndarray]:
    g = np.random.default_rng(seed)
    return [np.sort([g.choice(n, count, replace=False) for _ in range(HEADS)]) for _ in range(LAYERS)]


NAMES = ("ChunkKV", "SnapKV", "H2O")
KEPT = {name: {0.1: kept_sets(4, i), 0.4: kept_sets(18, 10 + i)} for i, name in enumerate(NAMES)}
SCORES = {"ChunkKV": [np.random.default_rng(5).random((HEADS, N - 8)) for _ in range(LAYERS)]}
TEXTS = [f" w{i}<" for i in range(N)]


def test_every_kept_set_is_in_the_data():
    data = survival_data(TEXTS, KEPT, FREE, SCORES, [(3, 6)])
    for method, by_budget in KEPT.items():
        for b, layers in enumerate(by_budget.values()):
            packed = np.frombuffer(base64.b64decode(data["masks"][method][b]), np.uint8)
            mask = np.unpackbits(packed.reshape(LAYERS, HEADS, -1), axis=-1)[..., :N]
            for layer, sets in enumerate(layers):
                for head, positions in enumerate(sets):
                    assert mask[layer, head].nonzero()[0].tolist() == positions.tolist()


def test_scores_become_ranks():
    data = survival_data(TEXTS, KEPT, FREE, SCORES)
    ranks = np.frombuffer(base64.b64decode(data["ranks"]["ChunkKV"]), np.uint8).reshape(LAYERS, HEADS, N)
    assert (ranks[..., N - 8 :] == 255).all() and ranks[..., : N - 8].max() == 100 and ranks.min() == 0
    best = SCORES["ChunkKV"][1][0].argmax()
    assert ranks[1, 0, best] == 100


def test_texts_that_must_not_be_quoted_are_hidden():
    assert "w7" not in survival_view(TEXTS, KEPT, "trec_open").data
    assert "w7" in survival_view(TEXTS, KEPT, FREE).data


def test_the_data_cannot_end_the_script_element():
    page = survival_view(["</script><b>", *TEXTS[1:]], KEPT, FREE).data
    payload = re.search(r'survival-data">(.*?)</script>', page, flags=re.S)[1]
    assert json.loads(payload)["texts"][0] == "</script><b>"


def test_without_scripts_the_first_choice_is_shown():
    page = survival_view(TEXTS, KEPT, FREE, evidence=[(0, 5)], layer=2, budget=0.4).data
    first = page.split('class="survival-text"')[1]
    marked = re.findall(r'<span class="k4[^"]*">\s*w(\d+)', first)
    assert [int(i) for i in marked] == KEPT["ChunkKV"][0.4][2][0].tolist()
    assert "ChunkKV keeps 18 of 45 tokens" in page


def test_inputs_that_do_not_fit_are_refused():
    with refused("two methods", "1"):
        survival_view(TEXTS, {"H2O": KEPT["H2O"]}, FREE)
    with refused("H2O", "[0.1]"):
        survival_view(TEXTS, KEPT | {"H2O": {0.1: KEPT["H2O"][0.1]}}, FREE)


@pytest.fixture(scope="module")
def tab():
    if find_browser() is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    with browser() as tab:
        yield tab


def open_page(tab, folder: Path, view) -> None:
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f'<link rel="stylesheet" href="{(ASSETS / "book.css").as_uri()}">'
    script = f'<script src="{(ASSETS / "survival.js").as_uri()}"></script>'
    page = folder / "page.html"
    page.write_text(f'<!DOCTYPE html><html lang="en"><head><title>t</title>{head}{script}</head>'
                    f'<body><article class="bd-article">{view.data}</article></body></html>')  # fmt: skip
    tab.open(page.as_uri())


def shown(tab, panel: int = 0) -> list[int]:
    return tab.evaluate(
        f"[...document.querySelectorAll('.survival-panel')[{panel}].querySelectorAll('.k1,.k2,.k3,.k4')]"
        ".map(e => Number(e.dataset.i))"
    )


def choose(tab, name: str, value: object, index: int = 0) -> None:
    tab.evaluate(
        f"(() => {{ const e = document.querySelectorAll('[data-control=\"{name}\"]')[{index}]; e.value = {value}; "
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true})); })()"
    )


def test_the_controls_choose_what_is_shown(tab, tmp_path):
    open_page(tab, tmp_path, survival_view(TEXTS, KEPT, FREE, SCORES, [(3, 9)]))
    assert tab.evaluate("document.querySelector('.survival').dataset.ready") == "true"
    assert shown(tab) == KEPT["ChunkKV"][0.1][0][0].tolist() and shown(tab, 1) == KEPT["SnapKV"][0.1][0][0].tolist()
    choose(tab, "layer", 2)
    choose(tab, "budget", 1)
    choose(tab, "head", 1)
    choose(tab, "method", 2, index=1)
    assert shown(tab) == KEPT["ChunkKV"][0.4][2][1].tolist() and shown(tab, 1) == KEPT["H2O"][0.4][2][1].tolist()
    assert tab.evaluate("document.querySelector('output').textContent") == "2"
    choose(tab, "head", HEADS)  # all heads
    assert shown(tab) == sorted(set(KEPT["ChunkKV"][0.4][2].ravel().tolist()))
    assert "mean of the heads" in tab.evaluate("document.querySelector('.survival-count').textContent")
    assert tab.errors() == []


def test_keys_and_the_pointer_tell_about_a_token(tab, tmp_path):
    open_page(tab, tmp_path, survival_view(TEXTS, KEPT, FREE, SCORES, [(3, 9)]))
    text, told = "document.querySelector('.survival-text')", "document.querySelector('.survival-token').textContent"
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        tab.evaluate(f"{text}.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))")
    said = tab.evaluate(told)
    assert "position 11, chunk 1" in said and "score is above" in said and "“w11<”" in html.unescape(said)
    over = "new PointerEvent('pointerover', {bubbles: true})"
    tab.evaluate(f"{text}.querySelector('[data-i=\"40\"]').dispatchEvent({over})")
    assert "position 40, in the window" in tab.evaluate(told)
    assert tab.evaluate("document.querySelectorAll('.here').length") == 1


def test_a_prompt_of_4096_tokens_stays_smooth_and_fits_a_phone(tab, tmp_path):
    n = 4096
    kept = {m: {0.1: kept_sets(410, i, n)} for i, m in enumerate(("ChunkKV", "SnapKV"))}
    open_page(tab, tmp_path, survival_view([f" word{i}" for i in range(n)], kept, FREE))
    tab.screen(390, 844)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    seconds = tab.evaluate(
        "(() => { const e = document.querySelector('[data-control=\"layer\"]'), t = performance.now(); "
        "for (let i = 0; i < 9; i++) { e.value = i % 3; e.dispatchEvent(new Event('input')); } "
        "return (performance.now() - t) / 9000; })()"
    )
    assert seconds < 0.5  # generous: a busy machine must not fail the test; a quiet one needs some milliseconds
    tab.screen(1300)
