"""axe-core, the accessibility engine that the browser tests load into pages. It is fetched once, never committed.

python tests/axe.py        # or: make axe
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
from pathlib import Path
from urllib.request import urlopen

from chunkkv_lib.errors import InputError
from chunkkv_lib.files import cache_dir, replace_atomically, sha256

VERSION = "4.14.1"
ADDRESS = f"https://registry.npmjs.org/axe-core/-/axe-core-{VERSION}.tgz"
#: SHA-512 of the package as the registry states it, and SHA-256 of the one file in it that is used.
PACKAGE = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
SCRIPT = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"


def place() -> Path:
    """Where the script lies, or would lie."""
    return cache_dir() / "axe" / f"axe-{VERSION}.min.js"


def find() -> str | None:
    """The script's text, or None where it has not been fetched or is not the pinned one."""
    path = place()
    return path.read_text(encoding="utf-8") if path.is_file() and sha256(path) == SCRIPT else None


def fetch() -> Path:
    """Download the pinned package if its script is not here yet; where the script is. InputError for another file."""
    if find() is None:
        try:
            with urlopen(ADDRESS, timeout=60) as response:
                package = response.read()
        except OSError as error:
            raise InputError(f"cannot download {ADDRESS}: {error}. Connect to the network and try again.") from None
        with replace_atomically(place()) as temporary:
            temporary.write_bytes(unpack(package))
    return place()


def unpack(package: bytes) -> bytes:
    """The script in the downloaded package, after comparing the package's SHA-512 with the pinned one."""
    found = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if found != PACKAGE:
        raise InputError(f"axe-core {VERSION} is another file than the pinned one: SHA-512 {found}. Try again.")
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        return archive.extractfile("package/axe.min.js").read()


if __name__ == "__main__":
    try:
        print(fetch())
    except InputError as error:
        sys.exit(f"error: {error}")
