"""Checks of a finished site: what a reader without a network, or with a screen reader, would stumble over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {  # attributes whose address the browser fetches by itself
    ("script", "src"), ("img", "src"), ("img", "srcset"), ("source", "src"), ("source", "srcset"),
    ("iframe", "src"), ("video", "src"), ("video", "poster"), ("audio", "src"), ("embed", "src"),
    ("object", "data"), ("track", "src"), ("input", "src"), ("image", "href"), ("use", "href"),
}  # fmt: skip
LOADING_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload"}
SKIPPED_TEXT = {"script", "style"}
CSS_ADDRESS = re.compile(r"""url\(\s*['"]?([^'")\s]+)|@import\s+['"]([^'"]+)""")
ERROR_TEXT = ("Traceback (most recent call last)", "An Exception was encountered at")
UNDRAWN = re.compile(r"<(Figure size|matplotlib\.|IPython\.core\.display|pandas\.io)[^>]*>")


@dataclass
class Page(HTMLParser):
    """What one HTML file declares and asks for."""

    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)  # where a click leads
    loads: list[str] = field(default_factory=list)  # what the browser fetches by itself
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._inside: list[str] = []
        self._text: list[str] = []
        self.feed(self.path.read_text(encoding="utf-8"))
        self._find_errors("".join(self._text))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.ids.update(values[name] for name in ("id", "name") if values.get(name))
        self._note_addresses(tag, values)
        if tag == "img" and not values.get("alt", "").strip() and values.get("role") != "presentation":
            self.problems.append(f"image without alt text: {values.get('src', '')[:80]}")
        if {"traceback", "output_error"} & set(values.get("class", "").split()):
            self.problems.append("the output of a failed cell")
        if tag in SKIPPED_TEXT:
            self._inside.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] == "style":
            self.loads += css_addresses(data)
        elif not self._inside:
            self._text.append(data)

    def _note_addresses(self, tag: str, values: dict[str, str]) -> None:
        if tag in ("a", "area") and values.get("href"):
            self.links.append(values["href"])
        if tag == "link" and LOADING_LINKS & set(values.get("rel", "").lower().split()):
            self.loads.append(values.get("href", ""))
        for name, value in values.items():
            if (tag, name) in LOADED and value:
                self.loads += [part.split()[0] for part in value.split(",")] if name == "srcset" else [value]
        self.loads += css_addresses(values.get("style", ""))

    def _find_errors(self, text: str) -> None:
        self.problems += [f"the text of a Python error: {mark!r}" for mark in ERROR_TEXT if mark in text]
        self.problems += [
            f"an object shown as its name instead of drawn: {m[0][:60]}" for m in UNDRAWN.finditer(text)
        ]


def css_addresses(css: str) -> list[str]:
    """The addresses that a style sheet makes a browser fetch."""
    return [first or second for first, second in CSS_ADDRESS.findall(css)]


def check_site(folder: Path) -> list[str]:
    """Every problem of the site at `folder`, one line each, beginning with the page; empty for a good site.

    Found: local links whose file or anchor is not there; anything that opening a page fetches from a network (a
    link that a reader may click leads where it likes); images without alt text; outputs of failed cells.
    """
    folder = Path(folder).resolve()
    found = [
        path for path in sorted(folder.rglob("*.html")) if path.relative_to(folder).parts[0] != "_static"
    ]
    pages = {path: Page(path) for path in found}
    if not pages:
        return [f"{folder}: no page"]
    read = cache(lambda path: pages.get(path) or Page(path))
    problems = [(page.path, text) for page in pages.values() for text in _page_problems(page, folder, read)]
    for style in sorted(folder.rglob("*.css")):
        addresses = css_addresses(style.read_text(encoding="utf-8"))
        problems += [(style, text) for address in addresses for text in _load_problem(address, style, folder)]
    return list(dict.fromkeys(f"{path.relative_to(folder)}: {text}" for path, text in problems))


def _page_problems(page: Page, folder: Path, read: object) -> Iterator[str]:
    yield from page.problems
    for address in page.loads:
        yield from _load_problem(address, page.path, folder)
    for address in page.links:
        yield from _link_problem(address, page, folder, read)


def _is_remote(address: str) -> bool:
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https", "ftp", "ws", "wss")


def _load_problem(address: str, source: Path, folder: Path) -> Iterator[str]:
    if _is_remote(address):
        yield f"fetched from the network: {address}"
    elif _is_local(address) and not _target(address, source, folder).exists():
        yield f"missing file: {address}"


def _is_local(address: str) -> bool:
    return not urlsplit(address).scheme and not address.startswith("//")


def _target(address: str, source: Path, folder: Path) -> Path:
    """The file that a local address in `source` means."""
    path = unquote(urlsplit(address).path)
    target = source if not path else (folder / path[1:] if path.startswith("/") else source.parent / path)
    target = target.resolve()
    return target / "index.html" if target.is_dir() else target


def _link_problem(address: str, page: Page, folder: Path, read: object) -> Iterator[str]:
    if not _is_local(address):
        return
    target, anchor = _target(address, page.path, folder), unquote(urlsplit(address).fragment)
    if not target.is_relative_to(folder):
        yield f"link out of the site: {address}"
    elif not target.exists():
        yield f"link to a missing file: {address}"
    elif anchor and target.suffix == ".html" and anchor not in read(target).ids:
        yield f"link to a missing anchor: {address}"
