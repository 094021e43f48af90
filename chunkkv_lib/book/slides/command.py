"""From the pages of a site to a folder of decks and an index of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from chunkkv_lib.book.chapters import Chapter, read_chapters
from chunkkv_lib.book.paths import project_root
from chunkkv_lib.book.slides.deck import deck_file, index_file
from chunkkv_lib.book.slides.page import read_page
from chunkkv_lib.book.slides.rules import chapter_slides
from chunkkv_lib.errors import InputError
from chunkkv_lib.files import write_text


def make_slides(
    site: str | Path | None = None,
    output: str | Path | None = None,
    root: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Write a deck for every chapter of a finished site; the folder of the decks, with an index.html.

    site    by default _build/html; output: by default _build/slides
    raises  InputError: no site there.
    """
    root = Path(root).resolve() if root else project_root()
    site = Path(site).resolve() if site else root / "_build" / "html"
    output = Path(output).resolve() if output else root / "_build" / "slides"
    for name, count in write_decks(site, output, read_chapters(root)).items():
        report(f"{output / name}: {count} slides")
    return output


def write_decks(site: Path, output: Path, chapters: list[Chapter]) -> dict[str, int]:
    """Write a deck for each notebook that names objectives; file name -> number of slides, in reading order."""
    names = [chapter.name for chapter in chapters if chapter.is_notebook]
    if missing := [name for name in names if not (site / f"{name}.html").is_file()]:
        raise InputError(f"the site has no page {site / missing[0]}.html; build it first: make book.")
    written, decks = {}, []
    for name in names:
        page = read_page(site / f"{name}.html")
        if not any(block.kind == "objectives" for block in page.blocks):
            continue  # a page to look things up in
        slides = chapter_slides(page)
        file = f"{PurePosixPath(name).name}.html"
        write_text(output / file, deck_file(page, slides))
        written[file] = len(slides)
        decks.append((file, page.title, len(slides)))
    write_text(output / "index.html", index_file(decks))
    return written
