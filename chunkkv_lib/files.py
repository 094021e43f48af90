"""Files at the edge: where caches live, and how a file is written so that it is whole or not there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """The folder for downloads and converted models: `$CHUNKKV_CACHE`, or the platform's user cache."""
    return Path(os.environ.get("CHUNKKV_CACHE") or platformdirs.user_cache_dir("chunkkv"))


@contextmanager
def replace_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; put it in place on success, remove it on any error.

    A reader sees the old file or the complete new one, whatever interrupts the writer.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically."""
    with replace_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
