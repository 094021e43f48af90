"""Slides: what of a page they show, and that a deck works in a browser by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, browser, find_browser
from bs4 import BeautifulSoup
from common import refused
from demo_book import built_demo

from chunkkv_lib.book.slides import make_slides
from chunkkv_lib.book.slides.deck import deck_file
from chunkkv_lib.book.slides.page import read_page
from chunkkv_lib.book.slides.rules import MOST_ROWS, Slide, chapter_slides, first_sentence, last_sentence

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "_build" / "html" / "slides"

PAGE = """<html><body><script>window.MathJax = {"tex": {}}</script><article class="bd-article"><section>
<h1>Rows<a class="headerlink" href="#x">#</a></h1>
<p>One claim. And more of it.</p>
<div class="chapter-meta">5 min to read</div>
<div class="objectives admonition"><p class="admonition-title">You will be able to</p><ul><li>count rows</li></ul></div>
<section><h2>First</h2>
%s
</section>
<section><h2>Exercises</h2>
<div class="exercise admonition"><p class="admonition-title">Exercise 1</p><section><p>How many?</p></section></div>
<div class="solution dropdown admonition"><p>Seventeen, of course.</p></div>
</section></section></article></body></html>"""


def slides_of(tmp_path: Path, body: str) -> list[Slide]:
    path = tmp_path / "page.html"
    path.write_text(PAGE % body, encoding="utf-8")
    return chapter_slides(read_page(path))


def paragraph(text: str):
    return BeautifulSoup(f"<p>{text}</p>", "html.parser").p


def test_a_chapter_becomes_title_objectives_sections_and_exercises(tmp_path):
    slides = slides_of(tmp_path, "<p>Rows come first. Then columns.</p>")
    assert [slide.kind for slide in slides] == ["title", "text", "text", "exercise"]
    assert [slide.title for slide in slides] == ["Rows", "You will be able to", "First", "Exercise 1"]
    assert "One claim." in slides[0].main and "5 min" in slides[0].points
    assert "Rows come first." in slides[2].main and "columns" not in slides[2].main and "columns" in slides[2].notes
    assert "How many?" in slides[3].main
    assert not any("Seventeen" in slide.main + slide.points + slide.notes for slide in slides)


def test_a_figure_comes_with_what_to_notice_and_its_source(tmp_path):
    (tmp_path / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 100"/>')
    slides = slides_of(tmp_path, """
        <p>Look at this. It is long.</p>
        <div class="cell"><div class="cell_output"><figure><img src="a.svg" alt="a line"/></figure></div></div>
        <div class="provenance">Run quick · n = 3 · numbers (CSV)</div>
        <p>Some words. <em>More</em>.</p><p>What to notice: it rises. Always.</p>""")
    figure = slides[2]
    assert figure.kind == "figure" and 'alt="a line"' in figure.main and "data:image/svg+xml;base64," in figure.main
    assert figure.points == "<p>What to notice: it rises.</p>" and figure.source == "Run quick · n = 3"
    assert "Look at this. It is long." in figure.notes and "Always." in figure.notes


@pytest.mark.parametrize(("rows", "parts"), [(MOST_ROWS, 1), (MOST_ROWS + 1, 2), (3 * MOST_ROWS, 3)])
def test_a_long_table_goes_on_and_loses_no_row(tmp_path, rows, parts):
    lines = "".join(f"<tr><td>row {i}.</td></tr>" for i in range(rows))
    table = f"<table><caption>C</caption><thead><tr><th>Head</th></tr></thead><tbody>{lines}</tbody></table>"
    found = [slide for slide in slides_of(tmp_path, table) if slide.kind == "table"]
    assert len(found) == parts and all("Head" in slide.main for slide in found)
    shown = "".join(slide.main for slide in found)
    assert [shown.count(f"row {i}.") for i in range(rows)] == [1] * rows


def test_marks_overrule_the_rules(tmp_path):
    slides = slides_of(tmp_path, """
        <!-- slide-skip --><p>Not for a room.</p><!-- /slide-skip -->
        <div class="cell tag_slide-code"><div class="cell_input"><pre>x = 1</pre></div></div>
        <!-- slide-text --><p>All of it. Every word.</p><!-- /slide-text -->""")
    everything = "".join(slide.main for slide in slides)
    assert "Not for a room" not in everything and "x = 1" in everything
    alone = slides_of(tmp_path, "<!-- slide-text --><p>All of it. Every word.</p><!-- /slide-text -->")
    assert "Every word." in alone[2].main


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("It is 0.9 of <b>all</b>. Two.", "It is 0.9 of <b>all</b>."),
        ("See e.g. this one! Two.", "See e.g. this one!"),
        ("Two things:\nthe first. The second.", "Two things:\nthe first."),
        ("no end", "no end"),
        ("a < b. c", "a &lt; b."),
    ],
)
def test_first_sentences(text, first):
    assert first_sentence(paragraph(text.replace("<", "&lt;") if "<b>" not in text else text)) == first


def test_last_sentences():
    assert last_sentence(paragraph("One.\nTwo <b>is</b>\nThree is <i>here</i>.")) == "Three is <i>here</i>."


def test_a_deck_names_its_slides_and_holds_no_program_it_does_not_need(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(PAGE % "<p>Text.</p>", encoding="utf-8")
    page = read_page(path)
    text = deck_file(page, chapter_slides(page))
    assert 'aria-label="Slide 4 of 4"' in text and 'id="mathjax"' not in text
    assert deck_file(page, chapter_slides(page)) == text


def test_without_a_site_the_error_says_how_to_get_one(tmp_path):
    with refused("has no page", "make book"):
        make_slides(tmp_path / "html", tmp_path / "slides")
    assert not (tmp_path / "slides").exists()


# --- in a browser -------------------------------------------------------------------------------------------------

in_a_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium here (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as tab:
        yield tab


@pytest.fixture(scope="module", params=["demo", "book"])
def decks(request) -> list[Path]:
    folder = built_demo() / "_build" / "html" / "slides" if request.param == "demo" else BUILT
    if not (folder / "index.html").is_file():
        pytest.skip("the book is not built: make book")
    return sorted(path for path in folder.glob("*.html") if path.name != "index.html")


def opened(tab: Browser, deck: Path) -> int:
    """Number of slides, once equations are drawn and texts made to fit."""
    tab.open(deck.as_uri())
    return tab.evaluate("window.ready.then(() => document.querySelectorAll('.slide').length)")


OVERFLOWING = """[...document.querySelectorAll(".slide")].filter((slide) => slide.classList.contains("scrolls") ||
  slide.querySelector("h1, h2").scrollHeight > slide.querySelector("h1, h2").clientHeight + 2)
  .map((slide) => slide.getAttribute("aria-label"))"""


@in_a_browser
def test_every_deck_is_alone_and_every_slide_fits(decks, tab):
    assert decks
    tab.screen(1280, 720)
    for deck in decks:
        assert opened(tab, deck) > 2
        assert [r for r in tab.requests() if not r.startswith("data:")] == [deck.as_uri()], deck.name
        assert tab.errors() == [] and tab.evaluate(OVERFLOWING) == [], deck.name
        drawn = tab.evaluate("[document.querySelectorAll('.math').length, "
                             "document.querySelectorAll('.math mjx-container').length]")  # fmt: skip
        assert drawn[0] == drawn[1], deck.name


@in_a_browser
def test_keys_and_buttons_move(decks, tab):
    tab.screen(1280, 720)
    count = opened(tab, decks[0])
    where = "document.querySelector('.page').textContent"

    def press(key: str) -> str:
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key=key)
        return tab.evaluate(where)

    keys = {"ArrowRight": 2, "PageDown": 3, "ArrowLeft": 2, "Home": 1, "PageUp": 1, "End": count}
    assert [press(key) for key in keys] == [f"{page} / {count}" for page in keys.values()]
    assert press("ArrowRight") == f"{count} / {count}"
    tab.evaluate("document.querySelector('[data-go=\"-1\"]').click()")
    assert tab.evaluate(where) == f"{count - 1} / {count}"
    shown = "[...document.querySelectorAll('.slide')].map((s) => getComputedStyle(s).visibility)"
    assert tab.evaluate(shown).count("visible") == 1
    notes = "getComputedStyle(document.querySelector('.slide.now + .notes')).display"
    assert tab.evaluate(notes) == "none"
    press("n")
    assert tab.evaluate(notes) == "block"


@in_a_browser
def test_a_phone_reads_a_slide_without_scrolling_sideways(decks, tab):
    tab.screen(390, 844)
    for deck in decks:
        opened(tab, deck)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, deck.name
