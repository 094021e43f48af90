"""The lecture's slides: legible in a room, every statement whole and borne out by the runs, shown by key and click."""

import html
import re
from pathlib import Path

import pytest
import torch
from bs4 import BeautifulSoup
from common import ROOT, refused

from chunkkv_lib import H2O, ChunkKV, SnapKV
from chunkkv_lib.book import deck
from chunkkv_lib.book.chapters import read_notebook
from chunkkv_lib.lab.page import LINKS

TEACHING = "\n".join(cell.source for cell in read_notebook(ROOT / "chapters" / "teaching.ipynb").cells)

# The text of a slide that is too small, sticks out, or runs into the line at the bottom.
UNREADABLE = """[...slides[at].querySelectorAll("*")].filter(e => !e.closest("aside")
    && [...e.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())).filter(e => {
  const box = e.getBoundingClientRect(), low = e.closest("footer") ? 720 : 690;
  const outside = box.left < 0 || box.top < 0 || box.right > 1280 || box.bottom > low;
  return outside || parseFloat(getComputedStyle(e).fontSize) < 14;
}).map(e => `${at + 1}: ${e.textContent}`)"""


@pytest.fixture(scope="module")
def lecture(tmp_path_factory) -> Path:
    return deck.write_deck(ROOT, tmp_path_factory.mktemp("deck") / "lecture.html")


@pytest.fixture(scope="module")
def slides(lecture) -> list:
    return BeautifulSoup(lecture.read_text(encoding="utf-8"), "html.parser").find_all("section", class_="slide")


def test_the_plan_on_the_teaching_page_names_slides_and_minutes(slides):
    minutes = [int(one["data-minute"]) for one in slides]
    assert minutes == sorted(minutes) and minutes[0] == 0 and 75 <= minutes[-1] < 90
    plan = r'^\| (\d+)–(\d+) \| <a href="../lecture.html#slide-(\d+)">(\d+)(?:–(\d+))?<'
    begins, ends, links, first, last = zip(*re.findall(plan, TEACHING, flags=re.M))
    assert (*begins[1:], "90") == ends and links == first and int(begins[0]) == 0
    last = [int(b or a) for a, b in zip(first, last)]
    assert [int(a) for a in first] == [2, *(one + 1 for one in last[:-1])] and last[-1] == len(slides)
    assert [slides[int(a) - 1]["data-minute"] for a in first] == list(begins)


def test_the_settings_of_the_lab_that_are_shown_to_a_class_are_those_that_the_lab_itself_links(lecture):
    """Whose answers a test of the lab holds: ChunkKV keeps the answer in one, SnapKV in the other."""
    for text in (html.unescape(lecture.read_text(encoding="utf-8")), TEACHING):
        assert re.findall(r'lab\.html[#?]lab&([^"]+)"', text) == list(LINKS)


def test_every_statement_is_whole_and_the_papers_stand_alone(slides):
    for one in slides:
        assert one.find(["h1", "h2"]).get_text().strip()
        for part in one.find_all(["p", "li"]):
            text = " ".join(part.get_text().split())
            before_options = part.find_next_sibling("ul", class_="vote") or part.find_next_sibling("table")
            assert before_options or not text.endswith((":", ",", ";")), text
        assert not re.search(r"[{}]|\bnan\b", one.get_text()) and "CC BY 4.0" in one.footer.get_text()
    assert "CITATION.cff" in slides[0].get_text() and "CITATION.cff" in slides[-1].get_text()
    (paper,) = (one for one in slides if one.h2 and one.h2.get_text() == "The paper's numbers")
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in paper.table.tbody.find_all("tr")]
    assert len(rows) == 5 and rows[0][:2] == ["Single-Document QA", "0.8741"] and "SmolLM2" not in paper.get_text()


def test_the_worked_example_is_that_of_the_chapter_and_every_choice_the_librarys(slides):
    code = "\n".join(cell.source for cell in read_notebook(ROOT / "chapters" / "02_three_rules.ipynb").cells)
    (twentieths,) = re.findall(r'twentieths = """(.*?)"""', code, flags=re.S)
    table = [list(map(int, line.split())) for line in twentieths.splitlines()]
    full = torch.tensor([row + [0] * (12 - len(row)) for row in table])
    sums, votes = full.sum(0)[:10], full[10:].sum(0)[:10]
    pooled = torch.nn.functional.max_pool1d(votes[None].double(), 3, 1, 1)[0]
    chunks = torch.cat([chunk.sum().expand(len(chunk)) for chunk in votes.split(3)])
    rules = {
        "H2O keeps": (H2O(6, window=2).keep(sums[None], 12), sums),
        "SnapKV keeps": (SnapKV(6, window=2, kernel=3).keep(pooled[None], 12), pooled),
        "ChunkKV keeps": (ChunkKV(6, window=2, chunk_size=3).keep(votes[None], 12), chunks),
        "all look at": (None, sums), "the last two": (None, votes), "sum of chunk": (None, chunks),
    }  # fmt: skip
    tables = [one for slide in slides for one in slide.select(".tokens table")]
    for table in tables:
        title, *words = table.thead.find_all("th")
        kept = [i for i, word in enumerate(words) if word.strong]
        assert " ".join(word.get_text() for word in words) == "<s> The key is under the mat . Where is it ?"
        assert kept == (rules[title.get_text()][0][0].tolist() if title.get_text() in rules else [])
        for row in table.tbody.find_all("tr"):
            name, *scores = (cell.get_text() for cell in row.find_all("td"))
            wanted = rules[title.get_text() if name == "score" else name][1]
            assert scores == [*(f"{float(x):g}" for x in wanted), "·", "·"]
    assert len(tables) == 10


def test_a_statement_that_the_runs_do_not_bear_out_is_refused(monkeypatch, tmp_path):
    known = deck.numbers()
    monkeypatch.setattr(deck, "numbers", lambda: known | {"found_random": known["needles"]})
    with refused("dice find next to nothing", "chapters/lecture"):
        deck.write_deck(ROOT, tmp_path / "lecture.html")
    assert not (tmp_path / "lecture.html").exists()


def test_it_is_legible_and_works_by_key_click_and_presenter(lecture, tab):
    tab.screen(1280, 720)
    tab.open(lecture.as_uri())
    count = tab.evaluate("slides.length")
    assert [tab.evaluate(f"show({i}, true), {UNREADABLE}") for i in range(count)] == [[]] * count

    def press(name: str) -> None:  # as a hand does: a page may open a window only then
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key=name)

    def place() -> list:
        return tab.evaluate("[at + 1, steps(true).length, steps(false).length]")

    press("Home"), press("2"), press("Enter")
    assert place() == [2, 0, 1]
    press("ArrowRight")
    assert place() == [2, 1, 0]
    tab.evaluate("slides[at].click()")
    assert place()[0] == 3
    press("ArrowLeft"), press("ArrowLeft")
    assert place() == [2, 0, 1], "back shows a slide as it was left, then takes the last step away"
    press("b")
    assert tab.evaluate("getComputedStyle(document.querySelector('main')).display") == "none"
    press("b"), press("s")
    notes = tab.evaluate("presenter.document.body.textContent")
    assert "slide 2 of" in notes and "Let them vote" in notes and "1 more to reveal" in notes
    tab.evaluate("presenter.document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'End', bubbles: true}))")
    assert place()[0] == count
    assert not tab.errors() and set(tab.requests()) <= {lecture.as_uri(), "about:blank"}
