"""The site: a fresh copy of the sources, Jupyter Book with warnings as errors, and the exchange at the end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

import yaml

from chunkkv_lib.book.chapters import Chapter
from chunkkv_lib.book.failure import BookError
from chunkkv_lib.book.paths import CONFIG, TOC, package_parent
from chunkkv_lib.book.repository import repository_address, with_buttons
from chunkkv_lib.errors import InputError

JUPYTER_BOOK = "from jupyter_book.cli.main import main; main(prog_name='jupyter-book')"
REDIRECT = """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><meta http-equiv="refresh" content="0; url={page}"></head>
<body><p><a href="{page}">{title}</a></p></body>
</html>
"""


def fresh_sources(root: Path, chapters: list[Chapter], folder: Path) -> None:
    """Copy the book's sources from `root` into `folder`, emptied first: nothing of an older build survives."""
    shutil.rmtree(folder, ignore_errors=True)
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "_build")
    shutil.copytree(root / "chapters", folder / "chapters", ignore=unwanted)
    for chapter in chapters:
        target = folder / chapter.path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(chapter.path, target)
    shutil.copyfile(root / TOC, folder / TOC)
    config = yaml.safe_load((root / CONFIG).read_text(encoding="utf-8"))
    text = yaml.safe_dump(with_buttons(config, repository_address(root)), sort_keys=False, allow_unicode=True)
    (folder / CONFIG).write_text(text, encoding="utf-8")


def build_html(folder: Path) -> Path:
    """Run Jupyter Book on `folder`; the folder of the pages. BookError with every warning, if there is one."""
    environment = {**os.environ, "PYTHONPATH": str(package_parent()), "PYTHONHASHSEED": "0", "NO_COLOR": "1"}
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(folder), "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    log = folder / "jupyter-book.log"
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise BookError(f"Jupyter Book failed (log: {log}):\n{_warnings(done.stdout + done.stderr, folder)}")
    html = folder / "_build" / "html"
    _write_redirect(html, folder)
    return html


def _warnings(log: str, folder: Path) -> str:
    """The lines of a log that name a problem, without colours and with short paths; its end where none does."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", log).replace(f"{folder}{os.sep}", "").splitlines()
    problems = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL|SEVERE)\b|Error: ", line)]
    return "\n".join(dict.fromkeys(map(_with_cell, problems or lines[-15:])))


def _with_cell(line: str) -> str:
    """MyST-NB's line 30004 of a notebook is line 4 of its third cell."""
    return re.sub(r"\.ipynb:(\d+)(\d{4})(?=:)", lambda m: f".ipynb, cell {m[1]}, line {int(m[2])}", line)


def _write_redirect(html: Path, folder: Path) -> None:
    """Replace Jupyter Book's bare redirect by a page with a language, a title and a link."""
    first = yaml.safe_load((folder / TOC).read_text(encoding="utf-8"))["root"]
    title = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")).get("title", "")
    if first != "index":
        page = REDIRECT.format(title=escape(title), page=f"{first}.html")
        (html / "index.html").write_text(page, encoding="utf-8")


def check_output(output: Path) -> None:
    """Refuse a folder for the site that holds anything but an older site."""
    if output.is_dir() and any(output.iterdir()) and not (output / "searchindex.js").is_file():
        raise InputError(
            f"the output folder {output} holds something other than a site: choose another or empty it."
        )
    if output.exists() and not output.is_dir():
        raise InputError(f"the output {output} is a file: choose a folder.")


def exchange(new: Path, output: Path) -> None:
    """Put the site `new` in the place of the site at `output`; a reader finds one or the other whole."""
    output.parent.mkdir(parents=True, exist_ok=True)
    arriving, leaving = (output.with_name(f".{output.name}.{word}") for word in ("arriving", "leaving"))
    if leaving.exists() and not output.exists():
        leaving.rename(output)  # an exchange was cut off between its two steps
    for old in (arriving, leaving):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(new, arriving)  # may be on another disk, so that only the renaming below is instantaneous
    if output.exists():
        output.rename(leaving)
    arriving.rename(output)
    shutil.rmtree(leaving, ignore_errors=True)
