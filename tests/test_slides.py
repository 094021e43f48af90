"""Slides: which blocks of a page become which slides, and the decks in a real browser."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from browser import Browser, browser, find_browser
from common import refused
from demo_book import ROOT, built_demo, silent

from chunkkv_lib.book.slides import make_slides
from chunkkv_lib.book.slides.page import read_page
from chunkkv_lib.book.slides.rules import MOST_ROWS, Slide, chapter_slides

BUILT = ROOT / "_build" / "html"
needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium here (Debian: apt install chromium)")

PAGE = """<html><body><article class="bd-article"><section id="a">
<h1><span class="section-number">3. </span>A chapter<a class="headerlink" href="#a">#</a></h1>
<p>The claim.</p>
<div class="objectives admonition"><p class="admonition-title">You will be able to</p><ul><li>read</li></ul></div>
{body}
</section></article></body></html>"""
FIGURE = """<div class="cell {tags}"><div class="cell_input"><pre>draw()</pre></div><div class="cell_output">
<figure><img src="data:image/png;base64,AA==" alt="a line"><figcaption>Figure 1</figcaption></figure></div></div>"""


def slides_of(body: str, folder: Path) -> list[Slide]:
    """The slides of a page with this body, without those for the title and the objectives."""
    page = folder / "page.html"
    page.write_text(PAGE.format(body=body))
    title, objectives, *rest = chapter_slides(read_page(page))
    assert (title.kind, objectives.title) == ("title", "You will be able to") and "The claim." in title.main
    return rest


def section(text: str, title: str = "One") -> str:
    return f"<section><h2>{title}</h2>{text}</section>"


# --- rules --------------------------------------------------------------------------------------------------------


def test_a_figure_comes_with_what_there_is_to_notice(tmp_path):
    text = "<p>Something else.</p><p>What to notice: it falls. Then more.</p>"
    (slide,) = slides_of(section(FIGURE + text), tmp_path)
    assert (slide.kind, slide.title, slide.points) == ("figure", "One", "<p>What to notice: it falls.</p>")
    assert "Figure 1" in slide.main and "draw()" not in slide.main and "Then more." in slide.notes


def test_a_list_of_what_to_notice_keeps_first_sentences(tmp_path):
    text = "<p>What we see:</p><ul><li><p>It falls. Far.</p></li><li>It rises.</li></ul>"
    (slide,) = slides_of(section(FIGURE + text), tmp_path)
    assert slide.points == "<p>What we see:</p><ul><li>It falls.</li><li>It rises.</li></ul>"


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("See <em>for one</em> this, e.g. the upper line, i.e. the one of a random choice. No more.",
         "See <em>for one</em> this, e.g. the upper line, i.e. the one of a random choice."),
        ("This matters. A cache that is four times smaller serves four times as many users. No more.",
         "This matters. A cache that is four times smaller serves four times as many users."),
        ("A loss of 0.9 at x &lt; 3 says nothing by itself, as any choice has about that. No more.",
         "A loss of 0.9 at x &lt; 3 says nothing by itself, as any choice has about that."),
    ],
)  # fmt: skip
def test_without_a_notice_it_is_the_first_sentence_that_says_something(tmp_path, text, points):
    (slide,) = slides_of(section(f"{FIGURE}<p>{text}</p>"), tmp_path)
    assert slide.points == f"<p>{points}</p>"


def test_a_section_of_text_is_its_first_sentences_and_one_of_sections_their_titles(tmp_path):
    inner = "<section><h3>Inner</h3><p>First. Second.</p></section>"
    outer, text = slides_of(section(inner), tmp_path)
    assert outer.main == "<ul class='contents'><li>Inner</li></ul>"
    assert text.main == "<p>First. Second.</p>" and text.kind == "text"


def test_tags_decide_where_rules_go_wrong(tmp_path):
    code, skipped = FIGURE.format(tags="tag_slide-code"), FIGURE.format(tags="tag_slide-skip")
    assert [s.kind for s in slides_of(section(code), tmp_path)] == ["text", "figure"]
    assert slides_of(section(skipped), tmp_path) == []
    whole = "<!-- slide-text --><p>First. Second, and all the rest of it as well. Third.</p><!-- /slide-text -->"
    (slide,) = slides_of(section(whole + "<p>After.</p>"), tmp_path)
    assert "Third." in slide.main and "After." not in slide.main
    left_out = "<!-- slide-skip --><p>Not this.</p><!-- /slide-skip --><p>But this.</p>"
    (slide,) = slides_of(section(left_out), tmp_path)
    assert "Not" not in slide.main and "But this." in slide.main


def test_exercises_come_without_solutions(tmp_path):
    exercise = '<div class="exercise admonition"><p class="admonition-title">Exercise 1</p><p>Count.</p></div>'
    solution = '<div class="solution admonition"><p class="admonition-title">Solution</p><p>Forty.</p></div>'
    (slide,) = slides_of(section(exercise + solution, "Exercises"), tmp_path)
    assert (slide.kind, slide.title) == ("exercise", "Exercise 1") and "Count." in slide.main
    assert "Forty" not in f"{slide.main}{slide.notes}"


@pytest.mark.parametrize(("rows", "parts"), [(MOST_ROWS, 1), (MOST_ROWS + 1, 2), (3 * MOST_ROWS, 3)])
def test_a_long_table_goes_on_and_loses_no_row(tmp_path, rows, parts):
    lines = "".join(f"<tr><td>row {i}.</td></tr>" for i in range(rows))
    table = f"<table><caption>C</caption><thead><tr><th>Head</th></tr></thead><tbody>{lines}</tbody></table>"
    found = slides_of(section(table), tmp_path)
    assert len(found) == parts and all(slide.kind == "table" and "Head" in slide.main for slide in found)
    shown = "".join(slide.main for slide in found)
    assert [shown.count(f"row {i}.") for i in range(rows)] == [1] * rows


def test_a_view_with_controls_stays_on_the_page(tmp_path):
    figure = FIGURE.format(tags="").replace("<img", '<div class="sliders">Move me</div><img')
    (slide,) = slides_of(section(figure), tmp_path)
    assert "Figure 1" in slide.main and "see the page" in slide.main and "Move me" not in slide.main


def test_a_sentence_that_leads_to_hidden_code_is_left_out(tmp_path):
    code = '<div class="cell"><div class="cell_input"><pre>run()</pre></div></div>'
    (slide,) = slides_of(section(f"<p>It counts. Well.</p><p>Let us see:</p>{code}<p>Done. So.</p>"), tmp_path)
    assert slide.main == "<p>It counts. Well.</p><p>Done. So.</p>"
    (slide,) = slides_of(section("<p>Two things:</p><ul><li>One.</li></ul>"), tmp_path)
    assert slide.main == "<p>Two things:</p><ul><li>One.</li></ul>"


# --- decks --------------------------------------------------------------------------------------------------------


def test_the_site_holds_the_decks_and_the_command_writes_the_same(tmp_path):
    published = built_demo() / "_build" / "html" / "slides"
    lines: list[str] = []
    folder = make_slides(output=tmp_path / "slides", root=built_demo(), report=lines.append)
    names = {path.name for path in folder.iterdir()}
    assert names == {"index.html", "01_first.html"}, "a page without objectives gets no deck"
    assert all((published / name).read_bytes() == (folder / name).read_bytes() for name in names)
    assert len(lines) == 1 and re.search(r"01_first\.html: \d+ slides$", lines[0])


def test_a_deck_shows_the_chapter_and_refers_to_no_other_file():
    text = (built_demo() / "_build" / "html" / "slides" / "01_first.html").read_text()
    for words in ("tell a kept token", "Chunks of neighbouring", "A demo table", "Predict the loss"):
        assert words in text
    assert "nothing is evicted" not in text, "a solution"
    assert "A kept set is a" in text.partition("A demo table")[2].partition("</section>")[0], "a tagged text cell"
    assert not re.search(r'<(?:link|a) |(?:src|href)="(?!data:)', text.partition('id="mathjax"')[0])


def test_a_book_that_is_not_built_is_refused(tmp_path):
    with refused("no page", "make book"):
        make_slides(site=tmp_path, output=tmp_path / "slides", root=ROOT)
    assert not (tmp_path / "slides").exists()


# --- in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab():
    with browser() as tab:
        yield tab


@pytest.fixture(scope="module", params=["demo", "book"])
def decks(request, tmp_path_factory) -> list[Path]:
    if request.param == "book" and not (BUILT / "searchindex.js").is_file():
        pytest.skip("the book is not built: make book")
    site, root = (BUILT, ROOT) if request.param == "book" else (None, built_demo())
    folder = make_slides(site, tmp_path_factory.mktemp("slides"), root, report=silent)
    return sorted(path for path in folder.glob("*.html") if path.name != "index.html")


def open_deck(tab: Browser, deck: Path) -> None:
    tab.open(deck.as_uri())
    tab.evaluate("window.ready.then(() => true)", 60)


#: Numbers of the slides with content beyond their place, or with an equation that is not drawn.
FAULTY = """
[...document.querySelectorAll(".slide")].map((slide, i) => {
  const parts = [slide, ...slide.querySelectorAll("h1, h2, .content, .main, .main *:not(.math, .math *)")]
    .filter(p => getComputedStyle(p).overflow !== "visible");
  const over = parts.some(p => p.scrollHeight > p.clientHeight + 2 || p.scrollWidth > p.clientWidth + 2);
  const undrawn = slide.querySelectorAll(".math").length !== slide.querySelectorAll("mjx-container").length;
  return over || undrawn || slide.querySelector("mjx-merror") ? i + 1 : 0;
}).filter(Boolean)
"""


@needs_browser
def test_every_slide_fits_and_nothing_is_asked_for(decks, tab):
    tab.screen(1280, 720)
    for deck in decks:
        open_deck(tab, deck)
        assert tab.evaluate(FAULTY) == [], deck.name
        assert {r for r in tab.requests() if not r.startswith("data:")} == {deck.as_uri()}
        assert tab.errors() == [], deck.name


@needs_browser
def test_a_phone_scrolls_only_down(decks, tab):
    tab.screen(390, 844)
    for deck in decks:
        open_deck(tab, deck)
        wide = "[...document.querySelectorAll('.slide')].filter(s => s.scrollWidth > 390).map(s => s.ariaLabel)"
        assert tab.evaluate(wide) == [], deck.name


@needs_browser
def test_keys_move_and_show_the_notes(tab):
    tab.screen(1280, 720)
    open_deck(tab, built_demo() / "_build" / "html" / "slides" / "01_first.html")
    count = tab.evaluate("document.querySelectorAll('.slide').length")

    def shown_after(key: str) -> list[int]:
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key=key)
        visible = "[...document.querySelectorAll('.slide')].flatMap((s, i) => getComputedStyle(s).visibility"
        return tab.evaluate(f"{visible} === 'visible' ? [i + 1] : [])")

    keys = ["ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight", "Home", "ArrowLeft"]
    assert [shown_after(key) for key in keys] == [[2], [3], [2], [count], [count], [1], [1]]
    assert tab.evaluate("document.querySelector('.page').textContent") == f"1 / {count}"
    notes = "[...document.querySelectorAll('.notes')].filter(n => getComputedStyle(n).display !== 'none').length"
    before = tab.evaluate(notes)
    shown_after("n")
    assert (before, tab.evaluate(notes)) == (0, 1)


@needs_browser
def test_printed_each_slide_is_a_page(tab):
    from pypdf import PdfReader

    open_deck(tab, built_demo() / "_build" / "html" / "slides" / "01_first.html")
    data = tab.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
    pages = PdfReader(io.BytesIO(base64.b64decode(data))).pages
    assert len(pages) == tab.evaluate("document.querySelectorAll('.slide').length")
    assert "You will be able to" in pages[1].extract_text()
