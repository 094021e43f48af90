"""The calculator, the toy of twelve tokens and the guess before a measurement, worked in a real browser."""

import json
from itertools import product

import axe
import pytest
import torch

from chunkkv_lib import H2O, ChunkKV, SnapKV, budget_tokens
from chunkkv_lib.lab.widgets import WAYS, calculator, guess, toy
from chunkkv_lib.report.arithmetic import PRESETS, readable, serving_memory

WORDS = ["<s>", "a", "key", "is", "under", "the", "mat", "?"]
TABLE = [[20, 0, 0, 0, 0, 0, 0, 0][: i + 1] for i in range(6)] + [[5, 1, 3, 0, 4, 2, 5], [2, 0, 6, 1, 1, 3, 5, 2]]
ANSWER = [2, 0, 3, 1, 6, 2, 6, 0]
MEASURED = {"ChunkKV": 0.9021, "SnapKV": 0.9043, "H2O": 0.9115, "Random": 0.9001}


@pytest.fixture(scope="module")
def tab(tab, tmp_path_factory):
    page = tmp_path_factory.mktemp("widgets") / "page.html"
    body = toy(WORDS, TABLE, ANSWER, 5, 2, 3, 3).data + guess("test", "L1 loss", MEASURED).data
    body += calculator().data
    head = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>x</title>'
    page.write_text(f'{head}<meta name="viewport" content="width=device-width"><main><h1>x</h1>{body}</main></html>')
    tab.page = page.as_uri()
    tab.screen(1300)
    return tab


@pytest.fixture(autouse=True)
def opened(tab):
    tab.open(tab.page)
    tab.evaluate("localStorage.clear()")
    reopened(tab)


def reopened(tab) -> None:
    tab.open("about:blank")
    tab.open(tab.page)


def told(tab) -> str:
    return tab.evaluate("document.querySelector('.lab-guess [role=status]').textContent")


def kept(tab, method: str) -> list[int]:
    cells = f"""[...document.querySelectorAll('tr[data-method="{method}"] td')]"""
    return tab.evaluate(f"{cells}.flatMap((cell, i) => cell.className === 'kept' ? [i] : [])")


def put(tab, selector: str, value: object) -> None:
    change = f"e.value = '{value}'; e.dispatchEvent(new Event('input', {{bubbles: true}}))"
    tab.evaluate(f"(e => {{ {change} }})(document.querySelector('{selector}'))")


def library(table: list[list[int]], budget=5, window=2, chunk=3, kernel=3) -> dict[str, list[int]]:
    """What the library keeps of a table of attention."""
    n = len(table)
    full = torch.tensor([row + [0] * (n - len(row)) for row in table], dtype=torch.float64)
    votes, columns = full[n - window :].sum(0)[None, : n - window], full.sum(0)[None, : n - window]
    pooled = torch.nn.functional.max_pool1d(votes[None], kernel, 1, kernel // 2)[0]
    return {
        "H2O": H2O(budget, window=window).keep(columns, n)[0].tolist(),
        "SnapKV": SnapKV(budget, window=window, kernel=kernel).keep(pooled, n)[0].tolist(),
        "ChunkKV": ChunkKV(budget, window=window, chunk_size=chunk).keep(votes, n)[0].tolist(),
    }


def test_the_toy_keeps_what_the_library_keeps_at_every_setting(tab):
    for changed in ({}, {"budget": 6}, {"window": 3}, {"chunk": 2}, {"kernel": 5}, {"kernel": 1, "chunk": 1}):
        tab.evaluate("document.querySelector('.lab-toy').reset()")
        for name, value in changed.items():
            put(tab, f'[data-setting="{name}"]', value)
        assert {method: kept(tab, method) for method in ("H2O", "SnapKV", "ChunkKV")} == library(TABLE, **changed)


def test_a_changed_cell_changes_who_stays_and_what_the_answer_sees(tab):
    before = kept(tab, "ChunkKV")
    changed = [list(row) for row in TABLE]
    changed[7][3], changed[7][2] = 7, 0
    put(tab, 'tr[data-query="7"] td:nth-of-type(4) input', 7)
    put(tab, 'tr[data-query="7"] td:nth-of-type(3) input', 0)
    now = library(changed)
    assert {method: kept(tab, method) for method in now} == now and now["ChunkKV"] != before
    seen = tab.evaluate("""document.querySelector('tr[data-method="ChunkKV"] td:last-child').textContent""")
    assert seen == f"{sum(ANSWER[i] for i in now['ChunkKV'])} of 20"
    put(tab, 'tr[data-query="7"] td:nth-of-type(4) input', 6)
    assert "row 7 adds up to 19" in tab.evaluate("document.querySelector('.lab-toy [role=status]').textContent")


def test_a_guess_is_compared_with_the_measurement_and_remembered(tab):
    for place, method in ((1, "H2O"), (2, "SnapKV"), (3, "ChunkKV")):
        put(tab, f".lab-guess label:nth-of-type({place}) select", method)
    put(tab, ".lab-guess input", 0.3)
    put(tab, ".lab-guess label:nth-of-type(3) select", "H2O")
    tab.evaluate("document.querySelector('.lab-guess button').click()")
    assert told(tab) == "Name each method once."
    tab.evaluate("document.querySelector('.lab-guess [role=status]').textContent = ''")
    put(tab, ".lab-guess label:nth-of-type(3) select", "ChunkKV")
    assert told(tab) == "", "nothing is given away"
    tab.evaluate("document.querySelector('.lab-guess button').click()")
    said = told(tab)
    assert "best first: H2O, SnapKV, ChunkKV; you had 3 of 3" in said and "0.900; you said 0.30" in said
    reopened(tab)
    assert told(tab) == said
    for broken in ("{", '"x"', "[1]"):  # what is remembered may have been spoilt
        tab.evaluate(f"localStorage.setItem('guess test', '{broken}')")
        reopened(tab)
        assert tab.errors() == [] and told(tab) == ""


@pytest.mark.parametrize("width", [1300, 390])
def test_both_have_no_barriers_no_error_and_fit(tab, width):
    tab.screen(width)
    for place, method in enumerate(("ChunkKV", "SnapKV", "H2O"), start=1):
        put(tab, f".lab-guess label:nth-of-type({place}) select", method)
    tab.evaluate("document.querySelector('.lab-guess').open = true")
    tab.evaluate("document.querySelector('.lab-guess button').click()")
    assert tab.errors() == [] and tab.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.violations(tab)
    tab.screen(1300)
    assert found == []


SHOWN = "[...document.querySelectorAll('.lab-calculator td b')].map(e => e.textContent)"


def shown(found: dict[str, tuple]) -> list[str]:
    return [f"{found[way][row]:,}" if row == 2 else readable(found[way][row]) for row in range(3) for way in WAYS]


def test_the_calculator_shows_what_the_library_computes(tab):
    names = ("model", "tokens", "budget", "number", "weight", "device")
    grid = list(product(PRESETS, (1, 8192, 100_000), (10, 3.3), (4, 2, 0.5), (2, 0.5), (24, 0.5)))
    given = json.dumps([dict(zip(names, setting, strict=True)) for setting in grid])
    found = tab.evaluate(f"""{given}.map(setting => {{
        const form = document.querySelector('.lab-calculator form');
        for (const name in setting) {{
            form.elements[name].value = setting[name];
            form.elements[name].dispatchEvent(new Event('input', {{bubbles: true}}));
        }}
        return {SHOWN};
    }})""")
    for (model, tokens, budget, number, weight, device), texts in zip(grid, found, strict=True):
        kept = budget_tokens(budget / 100, tokens)
        memory = serving_memory(PRESETS[model], tokens, kept, device * 2**30, number, weight)
        assert texts == shown(memory), (model, tokens, budget, number, weight, device)


def test_the_calculator_opens_with_what_it_shows_without_a_script_and_takes_any_shape(tab):
    opened = tab.evaluate(SHOWN)
    written = "new DOMParser().parseFromString(" + json.dumps(calculator().data) + ", 'text/html')"
    assert opened == shown(serving_memory(PRESETS["Llama-3-8B"], 8192, 819, 24 * 2**30))
    assert opened == tab.evaluate(SHOWN.replace("document", written))
    assert opened[0] == "1 GiB" and opened[3] == opened[4] != opened[5]  # compressing afterwards spares no peak
    put(tab, '.lab-calculator [name="layers"]', 64)
    assert tab.evaluate("document.querySelector('.lab-calculator [name=model]').value") == ""
    assert tab.evaluate(SHOWN)[0] == "2 GiB"


def test_a_share_of_tokens_is_rounded_as_the_library_rounds(tab):
    cases = [(n, share) for n in range(1, 200, 7) for share in (0.5, 0.25, 0.1, 0.001)] + [(5, 0.1), (15, 0.1)]
    found = tab.evaluate(f"{json.dumps(cases)}.map(([n, share]) => Lab.keptTokens(n, share))")
    assert found == [budget_tokens(share, n) for n, share in cases]
