"""Binder: a launched chapter finds its file, and every package that it imports at the version of the book."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from demo_book import write_demo_book

from chunkkv_lib.book import build_book
from chunkkv_lib.book.chapters import read_chapters, read_notebook
from chunkkv_lib.book.checks import addresses

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / ".binder"
#: Parts of the library that no chapter reaches: building the book, GPU kernels, a cluster, the benchmark.
ELSEWHERE = ("book/", "attention_triton", "attention/triton_", "compressors/triton_", "runs/ray_", "bench.py")


def names(path: Path) -> set[str]:
    """The packages that a requirements file names, in the index's own spelling."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return {canonical(re.split(r"[=<>;\[ ]", line)[0]) for line in lines if line and not line.startswith("-")}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imports(source: str) -> set[str]:
    """Top-level names of the modules that a piece of code imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_every_package_is_one_that_the_book_pins():
    assert names(BINDER / "requirements.txt") <= names(ROOT / "requirements.txt")
    assert "-c ../requirements.txt" in (BINDER / "requirements.txt").read_text().splitlines()


def test_every_package_that_a_chapter_imports_is_there():
    sources = [path for path in (ROOT / "chunkkv_lib").rglob("*.py")
               if not path.relative_to(ROOT / "chunkkv_lib").as_posix().startswith(ELSEWHERE)]  # fmt: skip
    texts = [path.read_text(encoding="utf-8") for path in sources]
    for chapter in read_chapters(ROOT):
        if chapter.is_notebook:
            texts += [cell.source for cell in read_notebook(chapter.path).cells if cell.cell_type == "code"]
    needed = set().union(*map(imports, texts)) - set(sys.stdlib_module_names) - {"chunkkv_lib"}
    homes = packages_distributions()
    missing = {
        module
        for module in needed
        if not {canonical(home) for home in homes.get(module, [module])} & names(BINDER / "requirements.txt")
    }
    assert missing == set()


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
        build_book("quick", root=root, report=lambda *words, **options: None)
    return root


def test_the_buttons_of_a_chapter_open_its_own_notebook(published):
    for name in ("01_first", "02_second"):
        links = [link for link, _ in addresses(published / "_build" / "html" / "chapters" / f"{name}.html")]
        (binder,) = (urlsplit(link) for link in links if "mybinder.org" in link)
        assert binder.path == "/v2/gh/owner/name/main"
        (place,) = parse_qs(binder.query)["urlpath"]
        assert (published / place.removeprefix("lab/tree/")).is_file() and place.endswith(f"chapters/{name}.ipynb")
        (colab,) = (urlsplit(link).path for link in links if "colab.research.google.com" in link)
        assert colab == f"/github/owner/name/blob/main/chapters/{name}.ipynb"
        assert f"https://github.com/owner/name/edit/main/chapters/{name}.ipynb" in links
