"""The finished site in a real browser: the demo book always, the book itself where it has been built.

Every page also goes through axe-core: wide in light and dark, and as narrow as a phone.
"""

import time
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import axe
import pytest
from browser import Browser
from bs4 import BeautifulSoup
from demo_book import ROOT, built_demo, dead_links
from prose import MAIN

BUILT = ROOT / "_build" / "html"
WITHOUT_NETWORK = ("file:", "data:", "blob:", "about:")


@pytest.fixture(scope="module", params=["demo", "book"])
def site(request) -> Path:
    if request.param == "demo":
        return built_demo() / "_build" / "html"
    if not (BUILT / "searchindex.js").is_file():
        pytest.skip("the book is not built: make book")
    return BUILT


def pages(site: Path) -> list[Path]:
    return sorted((site / "chapters").glob("*.html"))


def count(tab: Browser, selector: str) -> int:
    return tab.evaluate(f"document.querySelectorAll({selector!r}).length")


def test_every_local_address_has_its_file(site):
    assert dead_links(site) == []


def test_no_markup_is_left_in_the_text(site):
    """A glued text is shown as it is: backticks or stars in it would be seen."""
    for page in pages(site):
        article = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select_one("article.bd-article")
        for node in article.select("pre, code, script, .math"):
            node.decompose()
        texts = (node.get_text() for node in article.find_all(["p", "li", "td", "caption", "figcaption", "h2", "h3"]))
        assert [text for text in texts if any(mark in text for mark in ("`", "**", "{glue", "]{"))] == [], page.name


def test_pages_load_without_a_network_or_an_error_draw_their_equations_and_open_their_solutions(site, tab):
    tab.screen(1300)
    drawn = opened = 0
    for page in [site / "search.html", *pages(site)]:
        tab.open(page.as_uri())
        written, shown, wrong = (count(tab, selector) for selector in (".math", "mjx-container", "mjx-merror"))
        assert (written, wrong) == (shown, 0), page.name
        drawn, opened = drawn + shown, opened + count(tab, ".solution.toggle-hidden")
        tab.evaluate("document.querySelectorAll('.solution.toggle-hidden .toggle-button').forEach(b => b.click())")
        assert count(tab, ".solution.toggle-hidden") == 0, page.name
        assert [r for r in tab.requests() if not r.startswith(WITHOUT_NETWORK)] == [], page.name
        assert tab.errors() == [], page.name
    assert drawn > 0 and opened > 0


UNMARKED = """new Promise(done => setTimeout(done, 100)).then(() => [
    ...document.querySelectorAll('.pst-scrollable-table-container:not(.goes-on)')
].filter(box => box.checkVisibility() && box.scrollWidth > box.clientWidth + 2).length)"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_scrolls_only_down(site, tab, dark):
    tab.screen(390, 844, dark=dark)
    for page in pages(site):
        tab.open(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, page.name
        assert tab.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
        assert tab.evaluate(UNMARKED) == 0, f"{page.name}: a table goes on to the right and does not say so"


def test_a_page_of_the_main_path_opens_with_what_was_found(site, tab):
    """Its first number of ours within the first screen, its first figure or table within 1,500 pixels."""
    if site != BUILT:
        pytest.skip("the demo book has found nothing")
    for page in (page for page in pages(site) if page.stem in MAIN):
        tab.screen(1400, 900)
        tab.open(page.as_uri())
        top = "document.querySelector('.bd-article :is(%s)')?.getBoundingClientRect().top ?? 1e9"
        assert tab.evaluate(top % ".pasted-text") < 900, page.name
        assert tab.evaluate(top % "figure, table, .cell_output svg, .cell_output canvas") < 1500, page.name


def test_no_page_is_heavy(site, tab):
    """600 KB with its pictures, without the fonts and scripts that all pages share; the lab carries its prompt."""
    for page in (page for page in pages(site) if page.stem != "lab"):
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        pictures = {(page.parent / image["src"]).resolve() for image in soup.select("img[src]")}
        weights = {picture.name: picture.stat().st_size for picture in pictures if picture.is_file()}
        assert max(weights.values(), default=0) < 300e3, (page.name, weights)
        assert page.stat().st_size + sum(weights.values()) < 600e3, (page.name, weights)


def test_search_finds_a_word(site, tab):
    tab.open(f"{(site / 'search.html').as_uri()}?q={quote('chunks')}")
    for _ in range(50):  # the index is read after the page is complete
        if count(tab, "#search-results li a"):
            return
        tab.listen(0.1)
    pytest.fail("nothing found")


def test_the_first_page_is_small_and_quick(site, tab):
    """Everything that the start page loads is under 1 MB and there within a second from disk."""
    tab.open((site / "chapters" / "index.html").as_uri())
    files = [Path(unquote(urlsplit(r).path)) for r in set(tab.requests()) if r.startswith("file:")]
    assert sum(f.stat().st_size for f in files) < 1e6
    assert tab.evaluate("performance.timing.loadEventStart - performance.timing.navigationStart") < 1000


def test_the_address_of_the_site_leads_to_the_start_page(site, tab):
    tab.open((site / "index.html").as_uri())
    deadline = time.monotonic() + 10
    while not (path := tab.evaluate("location.pathname")).endswith("/chapters/index.html"):
        assert time.monotonic() < deadline, f"still at {path}"
        tab.listen(0.1)


CONTRASTS = ("color-contrast", "link-in-text-block")
NARROW = ("scrollable-region-focusable", "target-size", "color-contrast")
#: Name -> width, dark or not, and the rules whose outcome depends on it; None: all rules of the standard.
VIEWS = {"light": (1300, False, None), "dark": (1300, True, CONTRASTS), "phone": (390, False, NARROW)}
KNOWN = (
    ("label-content-name-mismatch", ".search-button-field"),  # its label says what it does, not what stands on it
    ("label-content-name-mismatch", "summary"),
    ("region", ".sidebar-primary-item"),  # the theme's sidebar holds the site's name outside of its landmark
    ("aria-allowed-role", "div.citation"),  # docutils gives a bibliography and its entries these roles
    ("aria-deprecated-role", "div.citation"),
    ("aria-required-children", ".citation-list"),
)


@pytest.mark.parametrize("view", VIEWS)
def test_no_page_has_a_violation_of_ours(site, tab, view):
    width, dark, rules = VIEWS[view]
    tab.screen(width, dark=dark)
    found = {}
    for page in [site / "search.html", *site.glob("lecture.html"), *pages(site)]:
        tab.open(page.as_uri())
        found |= {page.name: lines} if (lines := axe.violations(tab, rules, KNOWN)) else {}
    assert found == {}


FAULTS = {
    "image-alt": '<img src="data:,">',
    "color-contrast": '<p style="color: #aaa; background: #fff">too pale to read</p>',
    "empty-table-header": "<table><tr><th></th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>",
    "heading-order": "<h1>One</h1><h3>Three</h3>",
    "label": '<input type="range">',
    "scrollable-region-focusable": '<div style="height: 2em; overflow: auto"><p style="height: 20em">x</p></div>',
}


def test_planted_faults_are_found(tab, tmp_path):
    """Without this, a script that does not run would pass for a book without faults."""
    page = tmp_path / "page.html"
    body = "".join(FAULTS.values())
    page.write_text(f'<!DOCTYPE html><html lang="en"><title>x</title><body><main>{body}</main></body></html>')
    tab.screen(1300)
    tab.open(page.as_uri())
    assert set(FAULTS) <= {line.partition(":")[0] for line in axe.violations(tab)}
