"""Binder: a launched chapter finds its file, and the packages at the versions of the book."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from demo_book import not_measured, silent, write_demo_book

from chunkkv_lib.book import build_book
from chunkkv_lib.book.checks import addresses

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / ".binder"


def test_binder_installs_the_library_and_its_extra_at_the_pins_of_the_book():
    lines = (BINDER / "requirements.txt").read_text().splitlines()
    assert "-c ../requirements.txt" in lines and "-e .[book]" in lines


def test_binder_uses_a_python_that_the_library_takes():
    version = re.fullmatch(r"python-3\.(\d+)\n", (BINDER / "runtime.txt").read_text())
    assert version and 11 <= int(version[1]) <= 13


def test_the_step_after_the_packages_is_a_script_that_can_run():
    script = BINDER / "postBuild"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The demo book as it is built where it is published on GitHub: sources, and the site below `_build`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GITHUB_REPOSITORY", "owner/name")
        root = write_demo_book(tmp_path_factory.mktemp("published") / "book")
        build_book("quick", root=root, prepare=not_measured, report=silent)
    return root


def test_the_buttons_of_a_chapter_open_its_own_notebook(published):
    for name in ("01_first", "02_second"):
        links = [link for link, _ in addresses(published / "_build" / "html" / "chapters" / f"{name}.html")]
        (binder,) = (urlsplit(link) for link in links if "mybinder.org" in link)
        assert binder.path == "/v2/gh/owner/name/students"
        (place,) = parse_qs(binder.query)["urlpath"]
        assert (published / place.removeprefix("lab/tree/")).is_file() and place.endswith(f"chapters/{name}.ipynb")
        (colab,) = (urlsplit(link).path for link in links if "colab.research.google.com" in link)
        assert colab == f"/github/owner/name/blob/students/chapters/{name}.ipynb"
        assert f"https://github.com/owner/name/edit/main/chapters/{name}.ipynb" in links
