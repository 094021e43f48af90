"""Every page through axe-core in a real browser: wide in light and dark, and as narrow as a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import axe
import pytest
from browser import Browser, browser, find_browser
from common import refused
from demo_book import built_demo

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "_build" / "html"
STANDARD = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
CONTRAST = ("color-contrast", "link-in-text-block")
NARROW = ("scrollable-region-focusable", "target-size", "color-contrast")
#: Name -> width, dark or not, and the rules whose outcome depends on it; None: all rules of the standard.
VIEWS = {"light": (1300, False, None), "dark": (1300, True, CONTRAST), "phone": (390, False, NARROW)}


@dataclass(frozen=True)
class Known:
    """A fault of the theme that we leave: the rule that finds it, the elements it may find, and why it stays."""

    rule: str
    selector: str
    why: str


LABEL = "its label says what it does, and its visible text, too; they are not the same words"
KNOWN = (
    Known("label-content-name-mismatch", ".search-button-field", LABEL),
    Known("label-content-name-mismatch", "summary", LABEL),
    Known("region", ".sidebar-primary-item", "the theme's sidebar holds the site's name outside of its landmark"),
    Known("aria-allowed-role", "div.citation", "docutils gives a bibliography's entries this role"),
    Known("aria-deprecated-role", "div.citation", "docutils gives a bibliography's entries this role"),
    Known("aria-required-children", ".citation-list", "docutils gives a bibliography this role"),
)


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    if (script := axe.find()) is None:
        pytest.skip(f"axe-core {axe.VERSION} is not here: make axe")
    with browser() as tab:
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=script)
        yield tab


@pytest.fixture(scope="module", params=["demo", "book"])
def site(request, tab) -> Path:
    if request.param == "demo":
        return built_demo() / "_build" / "html"
    if not (BUILT / "searchindex.js").is_file():
        pytest.skip("the book is not built: make book")
    return BUILT


def violations(tab: Browser, page: Path, rules: tuple[str, ...] | None = None) -> list[str]:
    """What axe finds in a page as it is now, without the theme's known faults; one line for each element."""
    tab.open(page.as_uri())
    only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": STANDARD}
    known = [[one.rule, one.selector] for one in KNOWN]
    return tab.evaluate(RUN % {"only": json.dumps(only), "known": json.dumps(known)}, seconds=120)


RUN = """
axe.run(document, { runOnly: %(only)s, resultTypes: ["violations"] }).then(found => {
  const known = %(known)s;
  const excused = (rule, node) => known.some(([name, selector]) =>
    name === rule && node.target.length === 1 && document.querySelector(node.target[0])?.matches(selector));
  return found.violations.flatMap(one => one.nodes.filter(node => !excused(one.id, node))
    .map(node => `${one.id}: ${one.help}: ${node.target.join(" ")}: ${node.html.slice(0, 120)}`));
})
"""


@pytest.mark.parametrize("view", VIEWS)
def test_no_page_has_a_violation_of_ours(site, tab, view):
    width, dark, rules = VIEWS[view]
    tab.screen(width, dark=dark)
    pages = [site / "search.html", *site.glob("lecture.html"), *sorted((site / "chapters").glob("*.html"))]
    found = {page.name: violations(tab, page, rules) for page in pages}
    assert {name: lines for name, lines in found.items() if lines} == {}


FAULTS = {
    "image-alt": '<img src="data:,">',
    "color-contrast": '<p style="color: #aaa; background: #fff">too pale to read</p>',
    "empty-table-header": "<table><tr><th></th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>",
    "heading-order": "<h1>One</h1><h3>Three</h3>",
    "label": '<input type="range">',
    "scrollable-region-focusable": '<div style="height: 2em; overflow: auto"><p style="height: 20em">x</p></div>',
}


@pytest.mark.parametrize("rule", FAULTS)
def test_a_planted_fault_is_found(tab, tmp_path, rule):
    """Without this, a script that does not run would pass for a book without faults."""
    page = tmp_path / "page.html"
    page.write_text(f'<!DOCTYPE html><html lang="en"><title>x</title><body><main>{FAULTS[rule]}</main></body></html>')
    tab.screen(1300)
    assert rule in {line.partition(":")[0] for line in violations(tab, page)}


def test_every_known_fault_is_still_there(tab):
    """A fault that the theme has mended leaves the list."""
    site, found = built_demo() / "_build" / "html" / "chapters", set()
    tab.screen(1300)
    for page in sorted(site.glob("*.html")):
        tab.open(page.as_uri())
        found |= set(tab.evaluate("axe.run().then(found => found.violations.map(one => one.id))"))
    assert {one.rule for one in KNOWN} <= found


def test_another_package_than_the_pinned_one_is_refused():
    with refused("axe-core", "SHA-512", "Try again"):
        axe.unpack(b"something else")
