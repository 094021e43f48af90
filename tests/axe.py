"""axe-core, the accessibility engine that the browser tests load into pages. It is fetched once, never committed.

python tests/axe.py        # or: make axe
"""

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from urllib.request import urlopen

import pytest

from chunkkv_lib.errors import InputError
from chunkkv_lib.files import cache_dir, replace_atomically, sha256

VERSION = "4.14.1"
ADDRESS = f"https://registry.npmjs.org/axe-core/-/axe-core-{VERSION}.tgz"
SCRIPT = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"  # SHA-256 of the one file that is used
#: A colour that is still changing (the theme's buttons take 0.15 s to turn dark) has no contrast to judge.
STILL = "document.head.insertAdjacentHTML('beforeend', '<style>* { transition: none !important }</style>'); 0"
STANDARD = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
RUN = """
axe.run(document, { runOnly: %(only)s, resultTypes: ["violations"] }).then(found => {
  const excused = (rule, node) => %(known)s.some(([name, selector]) =>
    name === rule && node.target.length === 1 && document.querySelector(node.target[0])?.matches(selector));
  return found.violations.flatMap(one => one.nodes.filter(node => !excused(one.id, node))
    .map(node => `${one.id}: ${one.help}: ${node.target.join(" ")}: ${node.html.slice(0, 120)}`));
})
"""


def violations(tab, rules: Iterable[str] | None = None, known: Iterable[tuple[str, str]] = ()) -> list[str]:
    """What axe finds in the page that a tab shows, one line for each element. The test is skipped without the script.

    rules  None: all rules of the standard
    known  pairs of a rule and a selector of elements that it may find
    """
    if not here():
        pytest.skip(f"axe-core {VERSION} is not here: make axe")
    only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": STANDARD}
    tab.evaluate(place().read_text(encoding="utf-8") + "; 0")
    tab.evaluate(STILL)
    return tab.evaluate(RUN % {"only": json.dumps(only), "known": json.dumps(list(known))}, seconds=120)


def place() -> Path:
    """Where the script lies, or would lie."""
    return cache_dir() / "axe" / f"axe-{VERSION}.min.js"


def here() -> bool:
    return place().is_file() and sha256(place()) == SCRIPT


def fetch() -> Path:
    """Download the pinned script if it is not here yet; where it is. InputError for another one."""
    if not here():
        try:
            with urlopen(ADDRESS, timeout=60) as response, tarfile.open(fileobj=io.BytesIO(response.read())) as package:
                script = package.extractfile("package/axe.min.js").read()
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"cannot download {ADDRESS}: {error}. Connect to the network and try again.") from None
        if (found := hashlib.sha256(script).hexdigest()) != SCRIPT:
            raise InputError(f"axe-core {VERSION} is another file than the pinned one: SHA-256 {found}. Try again.")
        with replace_atomically(place()) as temporary:
            temporary.write_bytes(script)
    return place()


if __name__ == "__main__":
    try:
        print(fetch())
    except InputError as error:
        sys.exit(f"error: {error}")
