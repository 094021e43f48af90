"""Which blocks of a chapter become slides, and how much of its text comes along."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from html import escape

from bs4 import NavigableString, Tag

from chunkkv_lib.book.site_extension import VIEWS
from chunkkv_lib.book.slides.page import Block, Page

VISUALS = ("figure", "table", "code")
SOLIDS = ("equation", "box")
NOT_SHOWN = ("Exercises", "Further reading")  # sections without a slide of their own; each exercise has one
NOTICE = re.compile(r"What (to notice|we see)")
SENTENCE_END = re.compile(r"\n|(?<!\be\.g)(?<!\bi\.e)[.!?](?=\s)")
MOST_ROWS = 12  # of a table that can be read from the last row of a room; a longer one goes on on the next slide
MOST_POINTS = 4
SHORT = 60  # characters of a sentence that only announces what the next one says


@dataclass(frozen=True)
class Slide:
    """One slide; all texts are HTML.

    kind    title, text, figure, table or exercise: how it is laid out
    title   its heading
    main    what it shows: a picture or table with its caption, a box, a list
    points  a sentence or a few, beside or below
    notes   what the chapter says about it, for the speaker
    source  the line about the run that the numbers come from
    """

    kind: str
    title: str
    main: str = ""
    points: str = ""
    notes: str = ""
    source: str = ""


@dataclass
class Section:
    """A heading and what stands between it and the next one."""

    heading: Block
    blocks: list[Block] = field(default_factory=list)

    @property
    def level(self) -> int:
        return int(self.heading.node.name[1])

    @property
    def title(self) -> str:
        return self.heading.node.decode_contents().strip()

    @property
    def name(self) -> str:
        """The title without its number."""
        number = self.heading.node.select_one(".section-number")
        text = self.heading.node.get_text()
        return " ".join(text.removeprefix(number.get_text() if number else "").split())


def chapter_slides(page: Page) -> list[Slide]:
    """The slides of a chapter, from its title to the last exercise."""
    opening, *sections = _sections(page.blocks)
    slides = _opening_slides(opening)
    for i, section in enumerate(sections):
        slides += _section_slides(section, sections[i + 1 :])
    return slides


def _sections(blocks: list[Block]) -> list[Section]:
    sections: list[Section] = []
    for block in blocks:
        if block.kind == "heading":
            sections.append(Section(block))
        else:
            sections[-1].blocks.append(block)
    return sections


def _opening_slides(opening: Section) -> list[Slide]:
    """The title with the chapter's claim, the objectives, and what else stands before the first section."""
    prose = [block for block in opening.blocks if block.kind == "prose"]
    meta = "".join(block.node.decode_contents() for block in opening.blocks if block.kind == "meta")
    claim = str(prose[0].node) if prose else ""
    slides = [Slide("title", opening.title, claim, meta, _html(prose[1:]))]
    rest = [block for block in opening.blocks if block not in prose[:1]]
    return slides + _boxed(rest) + _shown(opening.title, rest)


def _section_slides(section: Section, later: list[Section]) -> list[Slide]:
    if section.name in NOT_SHOWN:
        return _boxed(section.blocks)
    shown = _shown(section.title, section.blocks)
    if not shown and section.heading.mark != "skip":
        prose = _prose(section.blocks)
        shown = [_text_slide(section, prose)] if prose else _divider(section, later)
    return shown + _boxed(section.blocks)


def _boxed(blocks: list[Block]) -> list[Slide]:
    """A slide for each box with a title of its own: objectives, summary, exercises."""
    return [
        Slide("exercise" if block.kind == "exercise" else "text", *_title_and_rest(block.node))
        for block in blocks
        if block.kind in ("objectives", "takeaways", "exercise")
    ]


def _title_and_rest(box: Tag) -> tuple[str, str]:
    title = box.select_one(".admonition-title")
    rest = "".join(str(child) for child in box.children if child is not title)
    return (title.decode_contents().strip() if title else ""), rest.strip()


def _divider(section: Section, later: list[Section]) -> list[Slide]:
    """A section that only holds others: their titles."""
    below = []
    for other in later:
        if other.level <= section.level:
            break
        below.append(other.title)
    items = "".join(f"<li>{title}</li>" for title in below)
    return [Slide("text", section.title, f"<ul class='contents'>{items}</ul>")] if below else []


def _text_slide(section: Section, prose: list[Block]) -> Slide:
    """A section without anything to look at: its summary as it is, of another one the first sentences."""
    whole = section.name == "Summary" or any(block.mark == "text" for block in prose)
    if whole:
        chosen = [block for block in prose if block.mark == "text"] or prose
        return Slide("text", section.title, _html(chosen), notes=_html(prose))
    return Slide("text", section.title, _outline(prose) or _html(prose[:1]), notes=_html(prose))


def _outline(prose: list[Block]) -> str:
    """The first sentences of the first paragraphs and list items, without a paragraph that leads to hidden code."""
    parts: list[str] = []
    for block, following in zip(prose, [*prose[1:], None]):
        if len(parts) == MOST_POINTS:
            break
        if block.node.name == "p":
            if _announces(block.node) and (following is None or following.node.name == "p"):
                continue
            parts.append(f"<p>{first_sentence(block.node, SHORT)}</p>")
        elif block.node.name in ("ul", "ol"):
            parts.append(_short_list(block.node))
    return "".join(parts)


def _short_list(node: Tag) -> str:
    """A list with the first sentence of each item."""
    items = [item.find("p", recursive=False) or item for item in node.find_all("li", recursive=False)]
    return f"<{node.name}>{''.join(f'<li>{first_sentence(item)}</li>' for item in items)}</{node.name}>"


# --- figures, tables, boxes, equations ----------------------------------------------------------------------------


def _shown(title: str, blocks: list[Block]) -> list[Slide]:
    """Slides for everything in a section that can be looked at, in order, each with the text that follows it."""
    before, *groups = _groups(blocks)
    marked = [block for block in before[1:] if block.mark == "text" and block.kind == "prose"]
    slides = [Slide("text", title, _html(marked), notes=_html(before[1:]))] if marked else []
    slides += _solid_slides(title, before[1:])
    lead = _prose(before[1:])
    for visual, *after in groups:
        slides += _visual_slides(title, visual, lead, after)
        slides += _solid_slides(title, after)
        lead = []
    return slides


def _groups(blocks: list[Block]) -> list[list]:
    """The blocks from one visual to the next; the first group has none at its head, but None."""
    groups: list[list] = [[None]]
    for block in blocks:
        if block.kind in VISUALS:
            groups.append([block])
        else:
            groups[-1].append(block)
    return groups


def _visual_slides(title: str, visual: Block, lead: list[Block], after: list[Block]) -> list[Slide]:
    """One slide, or several for a long table, with the words on the first."""
    prose, node = _prose(after), visual.node
    points = _notice(prose) or _notice(lead[:1])
    kind = "text" if visual.kind == "code" else "figure tall" if _is_tall(node) else visual.kind
    if visual.kind == "code":
        parts = [f"<pre><code>{node.decode_contents()}</code></pre>"]
    elif any(node.select_one(f".{view}") for view in VIEWS):
        parts = [_only_on_the_page(node)]
    else:
        parts = _parts(node)
    source = "".join(_source(block.node) for block in after if block.kind == "source")
    slides = [Slide(kind, title, parts[0], points, _html(lead + prose), source)]
    return slides + [Slide(kind, title, part, source=source) for part in parts[1:]]


def _parts(node: Tag) -> list[str]:
    """A figure or a table; a long table cut into parts of about equal length, each with the table's head."""
    rows = node.select("tbody tr")
    count = -(-len(rows) // MOST_ROWS)
    if count < 2:
        return [str(node)]
    size, parts = -(-len(rows) // count), []
    for start in range(0, len(rows), size):
        part = copy(node)
        for i, row in enumerate(part.select("tbody tr")):
            if not start <= i < start + size:
                row.decompose()
        parts.append(str(part))
    return parts


def _only_on_the_page(node: Tag) -> str:
    """A view's caption alone: a slide has no script to make its controls work."""
    caption = node.find(["caption", "figcaption"])
    return f"<p>{caption.decode_contents() if caption else ''}</p><p class='aside'>It has controls: see the page.</p>"


def _is_tall(node: Tag) -> bool:
    image = node.find("img")
    return image is not None and "tall" in image.get("class", [])


def _source(node: Tag) -> str:
    """The provenance line without what were links: a slide has no files beside it."""
    text = " ".join(node.get_text().split())
    return escape(re.sub(r"( · (manifest of \S+|numbers \(CSV\)))+$", "", text))


def _notice(prose: list[Block]) -> str:
    """What to notice in a figure: the text tagged for it, the sentence or list that says so, or the first one after."""
    if marked := [block for block in prose if block.mark == "text"]:
        return _html(marked)
    for i, block in enumerate(prose):
        if block.node.name == "p" and NOTICE.match(block.node.get_text()):
            following = prose[i + 1].node if i + 1 < len(prose) else block.node
            announces = _announces(block.node) and following.name in ("ul", "ol")
            return f"<p>{first_sentence(block.node)}</p>" + (_short_list(following) if announces else "")
    first = next((block.node for block in prose if block.node.name == "p"), None)
    return f"<p>{first_sentence(first, SHORT)}</p>" if first is not None else ""


def _solid_slides(title: str, blocks: list[Block]) -> Iterator[Slide]:
    """A slide for each box, algorithm and numbered equation; an equation with the sentences around it."""
    for i, block in enumerate(blocks):
        if block.kind in SOLIDS:
            before, after = blocks[i - 1] if i else None, blocks[i + 1] if i + 1 < len(blocks) else None
            around = ["", ""]
            if block.kind == "equation":
                after = None if after and _announces(after.node) else after
                around = [_paragraph(before, last_sentence), _paragraph(after, first_sentence)]
            yield Slide("text", title, around[0] + str(block.node) + around[1], notes=_html(_prose(blocks)))


def _paragraph(block: Block | None, part) -> str:
    is_text = block is not None and block.kind == "prose" and block.node.name == "p"
    return f"<p>{part(block.node)}</p>" if is_text else ""


# --- text ---------------------------------------------------------------------------------------------------------


def _announces(node: Tag) -> bool:
    return node.get_text().rstrip().endswith(":")


def _prose(blocks: list[Block]) -> list[Block]:
    return [block for block in blocks if block.kind == "prose"]


def _html(blocks: list[Block]) -> str:
    return "".join(str(block.node) for block in blocks if block is not None)


def first_sentence(node: Tag, at_least: int = 0) -> str:
    """The beginning of a paragraph up to its first sentence's end, with its markup; a colon asks for one line more.

    A sentence that ends before `at_least` characters brings the next one along.
    """
    html, lines_more = "", 0
    for child in node.children:
        if not isinstance(child, NavigableString):
            html += str(child)
            continue
        text, start = str(child), 0
        for end in SENTENCE_END.finditer(text):
            if not (html + text[start : end.start()]).strip():
                start = end.end()
                continue
            piece = html + escape(text[start : end.end()], quote=False)
            if len(piece.strip()) < at_least:
                continue
            if piece.rstrip().endswith(":") and not lines_more:
                html, start, lines_more = piece, end.end(), 1
                continue
            return piece.strip()
        html += escape(text[start:], quote=False)
    return html.strip()


def last_sentence(node: Tag) -> str:
    """The last line of a paragraph's source, which is its last sentence, with its markup."""
    html = ""
    for child in node.children:
        if isinstance(child, NavigableString):
            *_, last = child.split("\n")
            html = (html if "\n" not in child else "") + escape(last, quote=False)
        else:
            html += str(child)
    return html.strip()
