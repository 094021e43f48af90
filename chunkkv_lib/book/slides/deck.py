"""A deck as one HTML file: style, script, equations' program and pictures inside."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable
from html import escape
from pathlib import Path

from chunkkv_lib.book.site_extension import mathjax_source
from chunkkv_lib.book.slides.page import Page
from chunkkv_lib.book.slides.rules import Slide

ASSETS = Path(__file__).parent / "assets"

DECK = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: slides</title>
<style>
{style}</style>
</head>
<body class="deck">
<main>
{slides}</main>
<nav aria-label="Slides">
<button data-go="-1" aria-label="Previous slide" title="Previous (left arrow)">‹</button>
<output class="page" aria-live="polite">1 / {count}</output>
<button data-go="1" aria-label="Next slide" title="Next (right arrow)">›</button>
<button data-do="notes" aria-pressed="false" title="Speaker notes (N)">Notes</button>
<button data-do="theme" title="Light or dark (D)">Light/dark</button>
</nav>
{mathematics}<script>
{script}</script>
</body>
</html>
"""
SLIDE = """\
<section class="slide {kind}" aria-label="Slide {number} of {count}">
<{level}>{title}</{level}>
<div class="content">{main}{points}</div>
{foot}</section>
<aside class="notes" aria-label="Notes on slide {number}">{notes}</aside>
"""
#: Settings for MathJax; its program is unpacked by deck.js.
MATHEMATICS = """\
<script>
window.MathJax = Object.assign({settings}, {{
  options: {{ ignoreHtmlClass: "deck", processHtmlClass: "math", enableMenu: false }},
  svg: {{ fontCache: "local" }},
}});
</script>
<script type="application/gzip" id="mathjax">{program}</script>
"""
INDEX = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Slides</title>
<style>
{style}</style>
</head>
<body class="index">
<h1>Slides</h1>
<p>One deck for each chapter, made from its figures, tables and exercises.</p>
<p>A deck is a single file and needs no network.</p>
<p>Arrow keys move, N shows the speaker notes, D changes between light and dark; printed, each slide is a page.</p>
<ul>
{items}</ul>
</body>
</html>
"""


def deck_file(page: Page, slides: list[Slide]) -> str:
    """The text of a deck's file."""
    texts = "".join(_slide(slide, number, len(slides)) for number, slide in enumerate(slides, start=1))
    mathematics = ""
    if 'class="math' in texts:
        mathematics = MATHEMATICS.format(settings=page.math_settings, program=_packed_mathjax())
    return DECK.format(
        title=escape(page.title), style=_asset("deck.css"), slides=texts, count=len(slides), mathematics=mathematics,
        script=_asset("deck.js"),
    )  # fmt: skip


def index_file(decks: Iterable[tuple[str, str, int]]) -> str:
    """The text of the list of decks, each given as file, title, number of slides."""
    items = "".join(f'<li><a href="{file}">{escape(title)}</a> ({count})</li>\n' for file, title, count in decks)
    return INDEX.format(style=_asset("deck.css"), items=items)


def _slide(slide: Slide, number: int, count: int) -> str:
    points = f'<div class="points">{slide.points}</div>' if slide.points else ""
    main = f'<div class="main">{slide.main}</div>' if slide.main else ""
    return SLIDE.format(
        kind=slide.kind, number=number, count=count, level="h1" if slide.kind == "title" else "h2", title=slide.title,
        main=main, points=points, foot=f'<p class="source">{slide.source}</p>\n' if slide.source else "",
        notes=slide.notes or "<p>No notes.</p>",
    )  # fmt: skip


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _packed_mathjax() -> str:
    """MathJax that draws equations as paths and so needs no fonts, packed: 0.9 instead of 2.1 MB in every deck."""
    program = (mathjax_source() / "tex-svg.js").read_bytes()
    return base64.b64encode(gzip.compress(program, compresslevel=9, mtime=0)).decode()
