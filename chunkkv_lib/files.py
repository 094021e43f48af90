"""Files at the edge: where caches live, how a file is written so that it is whole or not there, and its hash."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from .errors import InputError

#: The project's profiles and the paper's tables: inside the package where it was installed, beside it in a clone.
DATA = Path(__file__).with_name("data")
if not DATA.is_dir():
    DATA = Path(__file__).resolve().parents[1] / "data"

#: What a file system answers that has no such function: some network and container mounts refuse fsync or locks.
NOT_OFFERED = {errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


def cache_dir() -> Path:
    """The folder for downloads and converted models: `$CHUNKKV_CACHE`, or the platform's user cache.

    raises InputError: neither, as for the unknown user of a container.
    """
    if chosen := os.environ.get("CHUNKKV_CACHE"):
        return Path(chosen).expanduser()
    try:
        return Path(platformdirs.user_cache_dir("chunkkv"))
    except (RuntimeError, KeyError) as error:
        raise InputError(f"no folder for downloads ({error}); set CHUNKKV_CACHE to one.") from None


@contextmanager
def replace_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; put it in place on success, remove it on any error.

    A reader sees the old file or the complete new one, whatever interrupts the writer.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private whatever the umask, and some mounts refuse the chmod that would mend it.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, "r+b") as file:
            try:
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno not in NOT_OFFERED:
                    raise
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically."""
    with replace_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal; read once per process as long as the file does not change."""
    state = os.stat(path)
    return _sha256(str(path), state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=1024)  # a model of 8 GB takes half a minute
def _sha256(path: str, *state: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
