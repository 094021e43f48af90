"""The whole book as one PDF: every page printed by Chromium, in reading order, with bookmarks. No TeX."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from chunkkv_lib.book.build import SITES
from chunkkv_lib.book.chapters import read_chapters
from chunkkv_lib.book.page import project_root
from chunkkv_lib.errors import InputError
from chunkkv_lib.files import replace_atomically

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SUMMARY = "summary"  # the page that is also printed alone
FLAGS = (
    "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--no-pdf-header-footer", "--virtual-time-budget=20000",
)  # fmt: skip


def make_pdf(
    site: str | Path | None = None,
    output: str | Path | None = None,
    root: str | Path | None = None,
    solutions: bool = True,
) -> Path:
    """Print the pages of a finished site into one PDF; the file written. The report on one page is beside it.

    site       by default _build/html; output: by default _build/book.pdf
    solutions  False: by default of the site without solutions, and into _build/book-without-solutions.pdf
    raises     InputError: no site there, no Chromium on this machine; a page that cannot be printed.
    """
    from pypdf import PdfWriter

    root = Path(root).resolve() if root else project_root()
    site = Path(site).resolve() if site else root / "_build" / SITES[solutions]
    name = SITES[solutions].replace("html", "book")
    output = Path(output).resolve() if output else root / "_build" / f"{name}.pdf"
    pages = [site / f"{chapter.name}.html" for chapter in read_chapters(root)]
    if missing := [page for page in pages if not page.is_file()]:
        raise InputError(f"the site has no page {missing[0]}; build it first: make book.")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise InputError("no Chromium on this machine, which prints the pages; on Debian: apt install chromium.")
    with tempfile.TemporaryDirectory(prefix="book-pdf-") as folder:
        printed = [_print(browser, page, Path(folder)) for page in pages]
        with PdfWriter() as writer, replace_atomically(output) as temporary:
            for page, file in zip(pages, printed, strict=True):
                title = page.read_text(encoding="utf-8").partition("<title>")[2].partition("</title>")[0]
                title = " ".join(title.partition(" &#8212;")[0].partition(" — ")[0].split())  # without the book's
                writer.append(file, outline_item=title or page.stem, import_outline=False)
                if page.stem == SUMMARY:
                    with replace_atomically(output.with_name(f"{SUMMARY}.pdf")) as alone:
                        shutil.copyfile(file, alone)
            writer.write(temporary)
            count = len(writer.pages)
    print(f"{output}: {count} pages")
    return output


def _print(browser: str, page: Path, folder: Path) -> Path:
    target = folder / f"{page.stem}.pdf"
    # Chromium refuses to run its sandbox as root, which a container often is
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    options = [*FLAGS, *sandbox, f"--user-data-dir={folder / 'profile'}", f"--print-to-pdf={target}"]
    command = [browser, *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if not target.is_file() or target.stat().st_size == 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"Chromium could not print {page.name}: {reason}")
    return target
