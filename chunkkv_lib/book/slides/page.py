"""A chapter's page as a list of blocks: headings, text, figures, tables, boxes; cleaned so that they stand alone."""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from bs4 import BeautifulSoup, Comment, Tag

from chunkkv_lib.book.failure import BookError

#: Class of an element of the page -> kind of block.
BOXES = {
    "objectives": "objectives", "takeaways": "takeaways", "paper": "box", "algorithm": "box", "exercise": "exercise",
    "provenance": "source", "chapter-meta": "meta",
}  # fmt: skip
HEADINGS = ("h1", "h2", "h3", "h4")
PROSE = ("p", "ul", "ol", "dl", "blockquote")
TAG = re.compile(r"(?:tag_)?slide-(skip|text|code)\b")
MATH_SETTINGS = re.compile(r"window\.MathJax = (\{.*\})</script>")


@dataclass(frozen=True)
class Block:
    """A piece of a page.

    kind  heading, prose, equation, box, figure, table, code, source, meta, objectives, takeaways or exercise
    node  its element
    mark  what a tag of its cell says: "skip", "text", "code" or ""
    """

    kind: str
    node: Tag
    mark: str = ""


@dataclass(frozen=True)
class Page:
    """The title of a chapter, its blocks in reading order, and the site's settings of its equations, as JavaScript."""

    title: str
    blocks: list[Block]
    math_settings: str


def read_page(path: Path) -> Page:
    """Read one finished page. BookError: it has no article, or an image is not there."""
    text = path.read_text(encoding="utf-8")
    article = BeautifulSoup(text, "html.parser").select_one("article.bd-article")
    if article is None or article.find("h1") is None:
        raise BookError(f"{path} is no page of the book: it has no article with a heading.")
    _clean(article, path)
    settings = MATH_SETTINGS.search(text)
    title = " ".join(article.find("h1").get_text().split())
    blocks = [block for block in _blocks(article, Marks()) if block.mark != "skip" or block.kind == "heading"]
    return Page(title, blocks, settings[1] if settings else "{}")


# --- cleaning -----------------------------------------------------------------------------------------------------


def _clean(article: Tag, path: Path) -> None:
    """Remove what has no place on a slide: solutions, links, scripts, ids; put images inside."""
    for node in article.select(".solution, a.headerlink, script, style, button, details, .toctree-wrapper"):
        node.decompose()
    for link in article.find_all("a"):
        link.unwrap()
    for node in article.find_all(id=True):
        del node["id"]
    for image in article.find_all("img"):
        image.attrs = {"alt": image.get("alt", ""), "src": _data(image["src"], path), "class": _shape(image, path)}


def _image_file(source: str, page: Path) -> Path:
    file = page.parent / unquote(source)
    if not file.is_file():
        raise BookError(f"{page.name} shows the image {source}, which is not there.")
    return file


def _data(source: str, page: Path) -> str:
    """An image's file as an address that holds the file itself."""
    if source.startswith("data:"):
        return source
    file = _image_file(source, page)
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _shape(image: Tag, page: Path) -> list[str]:
    """The class `tall` for a picture that leaves room for text beside it, else `wide`."""
    source = image.get("src", "")
    if not source.endswith(".svg"):
        return ["wide"]
    box = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', _image_file(source, page).read_text("utf-8"))
    return ["tall"] if box and float(box[1]) < 1.5 * float(box[2]) else ["wide"]


# --- blocks -------------------------------------------------------------------------------------------------------


class Marks:
    """Which tag is in force: a tagged text cell stands between two comments that `stamping` has written."""

    def __init__(self) -> None:
        self.now = ""

    def read(self, comment: str) -> None:
        if found := TAG.search(comment):
            self.now = "" if comment.strip().startswith("/") else found[1]


def _blocks(node: Tag, marks: Marks) -> Iterator[Block]:
    for child in node.children:
        if isinstance(child, Comment):
            marks.read(child)
        elif isinstance(child, Tag):
            if child.name == "section":
                yield from _blocks(child, marks)
            elif "cell" in child.get("class", []):
                yield from _cell_blocks(child)
            elif kind := _kind(child):
                yield Block(kind, child, marks.now)


def _kind(node: Tag) -> str:
    """The kind of block that an element of text is; "" for none that slides show."""
    classes = node.get("class", [])
    for name in classes:
        if name in BOXES:
            return BOXES[name]
    if node.name in HEADINGS:
        return "heading"
    if "math" in classes and node.name == "div":
        return "equation" if node.select_one(".eqno") else "prose"
    if node.name in PROSE:
        return "prose"
    if node.name == "figure" and node.find("img"):
        return "figure"
    return "table" if node.name == "table" or (node.name == "div" and node.find("table")) else ""


def _cell_blocks(cell: Tag) -> Iterator[Block]:
    """The code of a cell, if a tag asks for it, and the figures and captioned tables among its outputs."""
    found = TAG.search(" ".join(cell.get("class", [])))
    mark = found[1] if found else ""
    code = cell.select_one(".cell_input pre")
    if mark == "code" and code:
        yield Block("code", code)
    outputs = cell.select_one(".cell_output")
    for node in outputs.find_all(True, recursive=False) if outputs else []:
        if node.name == "figure":
            yield Block("figure", node, mark)
        elif node.find("caption"):
            yield Block("table", node, mark)
        elif "text_html" in node.get("class", []) and node.find("mark"):
            yield Block("figure", node, mark)  # a text with the words that stay
