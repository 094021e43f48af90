"""The book as a PDF: every page, in order, with bookmarks; or a reason why not."""

from __future__ import annotations

import pytest
from browser import find_browser
from common import refused
from demo_book import ROOT, built_demo

from chunkkv_lib.book import pdf


@pytest.mark.skipif(find_browser() is None, reason="no Chromium here (Debian: apt install chromium)")
def test_the_demo_book_is_printed_in_reading_order(tmp_path):
    from pypdf import PdfReader

    lines: list[str] = []
    written = pdf.make_pdf(output=tmp_path / "book.pdf", root=built_demo(), report=lines.append)
    with PdfReader(written) as reader:
        titles = [item.title for item in reader.outline]
        text = [page.extract_text() for page in reader.pages]
    assert titles == ["A demo", "1. The first chapter", "2. The second chapter", "The report", "References"]
    assert "A demo" in text[0] and len(text) >= 4 and f"{len(text)} pages" in lines[0]
    with PdfReader(tmp_path / "summary.pdf") as reader:
        assert len(reader.pages) == 1 and "What was found, on one page." in reader.pages[0].extract_text()


@pytest.mark.skipif(find_browser() is None, reason="no Chromium here (Debian: apt install chromium)")
def test_without_solutions_it_has_a_name_of_its_own():
    from pypdf import PdfReader

    root = built_demo(solutions=False)
    written = pdf.make_pdf(root=root, report=lambda line: None, solutions=False)
    assert written == root / "_build" / "book-without-solutions.pdf"
    with PdfReader(written) as reader:
        text = " ".join(" ".join(page.extract_text() for page in reader.pages).split())
    assert "Predict the loss" in text and "nothing is evicted" not in text


def test_a_book_that_is_not_built_is_refused(tmp_path):
    with refused("no page", "make book"):
        pdf.make_pdf(site=tmp_path, output=tmp_path / "book.pdf", root=ROOT)
    assert not (tmp_path / "book.pdf").exists()


def test_without_a_browser_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(pdf, "BROWSERS", ("no-such-browser",))
    with refused("no Chromium", "apt install"):
        pdf.make_pdf(output=tmp_path / "book.pdf", root=built_demo())
