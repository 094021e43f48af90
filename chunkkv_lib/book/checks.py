"""A check of the finished site: no page needs a network, and every file that it names is there.

Sphinx finds broken references while it builds, axe-core finds missing alternative texts; neither sees this.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

CSS_ADDRESS = re.compile(r"""url\(\s*['"]?([^'")\s]+)|@import\s+['"]([^'"]+)""")
LOADING_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload"}


def check_site(folder: str | Path) -> list[str]:
    """Every problem of the site at `folder`, one line each, beginning with the page; empty for a good site.

    Found: anything that opening a page fetches from a network (a link that a reader may click leads where it likes),
    and local addresses whose file is not there or not part of the site.
    """
    folder = Path(folder).resolve()
    pages = [path for path in sorted(folder.rglob("*.html")) if path.relative_to(folder).parts[0] != "_static"]
    if not pages:
        return [f"{folder}: no page"]
    problems = []
    for path in [*pages, *sorted(folder.rglob("*.css"))]:
        for address, loaded in addresses(path):
            where = urlsplit(address)
            target = path if not where.path else (path.parent / unquote(where.path)).resolve()
            if where.scheme in ("http", "https", "ftp", "ws", "wss") or where.netloc:
                problems += [f"{path.relative_to(folder)}: fetched from the network: {address}"] if loaded else []
            elif not where.scheme and not (target.exists() and target.is_relative_to(folder)):
                problems.append(f"{path.relative_to(folder)}: no such file in the site: {address}")
    return list(dict.fromkeys(problems))


def addresses(path: Path) -> Iterator[tuple[str, bool]]:
    """The addresses that a page or style sheet names, each with whether a browser fetches it by itself."""
    text = path.read_text(encoding="utf-8")
    styles = [text]
    if path.suffix == ".html":
        soup = BeautifulSoup(text, "html.parser")
        styles = [style.get_text() for style in soup.find_all("style")]
        for element in soup.select("[href], [src], [srcset], [poster], [data], [style]"):
            clicked = element.name in ("a", "area", "base")
            clicked |= element.name == "link" and not LOADING_LINKS & set(element.get("rel", []))
            found = [element[name] for name in ("href", "src", "poster") if element.get(name)]
            found += [part.split()[0] for part in element.get("srcset", "").split(",") if part.strip()]
            found += [element["data"]] if element.name == "object" and element.get("data") else []
            yield from ((address, not clicked) for address in found)
            styles.append(element.get("style", ""))
    for first, second in CSS_ADDRESS.findall("\n".join(styles)):
        yield first or second, True
