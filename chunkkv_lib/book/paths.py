"""Where the book's sources are. Light: chapters import it."""

from __future__ import annotations

from pathlib import Path

from chunkkv_lib.errors import InputError

TOC, CONFIG = "_toc.yml", "_config.yml"
EXTRA = "_extra"  # a folder of the built sources whose content becomes part of the site as it is


def package_parent() -> Path:
    """The folder that holds the package `chunkkv_lib`, for `PYTHONPATH`."""
    return Path(__file__).resolve().parents[2]


def project_root() -> Path:
    """The folder of `_toc.yml`, `chapters/` and `data/`, from wherever a chapter or command is started.

    The checkout this package lives in comes first; for a package installed elsewhere, the working folder and
    those above it are searched. Raises InputError where neither is a checkout of the book.
    """
    candidates = [package_parent(), Path.cwd(), *Path.cwd().parents]
    for folder in candidates:
        if (folder / TOC).is_file() and (folder / "chapters").is_dir():
            return folder
    raise InputError(
        f"no {TOC} in {Path.cwd()} or above it: start this inside a clone of the book's repository."
    )
