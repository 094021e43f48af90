"""A chapter's Markdown without the site's own syntax, so that a copy can be read in any notebook program.

Roles become text, boxes become quotations or headings, numbers come from the chapter as a build executed it, images
travel inside the notebook, and formulas know no macros.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from nbformat import NotebookNode
from pybtex.database import parse_file

from chunkkv_lib.book.chapters import glued, read_chapters, read_notebook

OPEN = re.compile(r"^(`{3,}|:{3,})\{([\w:-]+)\}[ \t]*(.*)$")
ROLE = re.compile(r"\{([a-z:]+)\}`([^`]*)`")
LABELLED = re.compile(r"^(.*?)\s*<([^<>]+)>$", flags=re.S)
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
KINDS = {"fig": "the figure", "tab": "the table", "alg": "the algorithm", "ex": "the exercise", "sec": "that section"}
UNKNOWN = "…"  # a number of a chapter that was not executed here


@dataclass
class Plain:
    """What the pages of a book refer to.

    root    of the checkout
    titles  page -> its title
    works   key of the bibliography -> (authors, year)
    macros  of formulas: name -> text, or text and number of arguments
    values  name -> the text that the chapter at hand glued
    """

    root: Path
    titles: Mapping[str, str]
    works: Mapping[str, tuple[str, str]]
    macros: Mapping[str, str | list]
    values: Mapping[str, str] = field(default_factory=dict)

    def cell(self, cell: NotebookNode) -> NotebookNode:
        """The same cell in plain Markdown, its images attached."""
        if cell.cell_type != "markdown":
            return cell
        attachments: dict[str, dict[str, str]] = {}
        cell["source"] = self.text(cell["source"], attachments).strip("\n")
        return NotebookNode({**cell, "attachments": attachments}) if attachments else cell

    def text(self, source: str, attachments: dict) -> str:
        """Boxes first, from the outside in; then roles and formulas of what is no code."""
        lines, found, i = source.split("\n"), [], 0
        while i < len(lines):
            opened, code = OPEN.match(lines[i]), re.match(r"^(`{3,})", lines[i])
            if not opened and not code:
                found.append("" if re.fullmatch(r"\([\w-]+\)=", lines[i]) else self.line(lines[i]))
                i += 1
                continue
            fence = (opened or code)[1]
            end = next((j for j in range(i + 1, len(lines)) if lines[j].rstrip() == fence), len(lines))
            body = lines[i + 1 : end]
            found += self.box(opened[2], opened[3], body, attachments) if opened else lines[i : end + 1]
            i = end + 1
        return self.formulas("\n".join(found))

    def box(self, kind: str, title: str, body: list[str], attachments: dict) -> list[str]:
        while body and re.match(r"^:[\w-]+:", body[0]):
            body = body[1:]
        inside = self.text("\n".join(body), attachments).strip("\n")
        title = self.line(title)
        if kind == "figure":
            path = self.root / "chapters" / title
            attachments[path.name] = {TYPES[path.suffix]: base64.b64encode(path.read_bytes()).decode()}
            return [f"![](attachment:{path.name})", "", f"*{inside}*" if "\n" not in inside else inside]
        if kind in ("exercise", "prf:algorithm"):
            return [f"### {'Exercise' if kind == 'exercise' else 'Algorithm'}: {title}".rstrip(": "), "", inside]
        if kind in ("div", "table"):
            return [f"**{title}**" if kind == "table" else "", "", inside, ""]
        return [f"> **{title}**", ">", *(f"> {line}".rstrip() for line in inside.split("\n")), ""]

    def line(self, line: str) -> str:
        return ROLE.sub(lambda found: self.role(*found.groups()), line)

    def role(self, name: str, given: str) -> str:
        labelled = LABELLED.match(given)
        target = labelled[2] if labelled else given
        if name == "glue:text":
            return self.values.get(given.partition(":")[0], UNKNOWN)
        if labelled:  # the author's own words for it
            return labelled[1]
        if name == "doc":
            return f"“{self.titles.get(target.lstrip('/'), target)}”"
        if name in ("cite:p", "cite:t"):
            works = [self.works.get(key.strip(), (key, "")) for key in given.split(",")]
            if name == "cite:t":
                return " and ".join(f"{authors} ({year})" for authors, year in works)
            return "(" + "; ".join(f"{authors} {year}" for authors, year in works) + ")"
        if name == "eq":
            return "the equation"
        return KINDS.get(target.partition("-")[0], target) if name in ("numref", "ref", "prf:ref") else target

    def formulas(self, text: str) -> str:
        """Macros written out, labels of equations left out."""
        text = re.sub(r"^\$\$ *\(eq-[\w-]+\)", "$$", text, flags=re.M)
        for name, macro in self.macros.items():
            body, arguments = (macro, 0) if isinstance(macro, str) else macro
            pattern = rf"\\{name}(?![A-Za-z])" + (r"\{((?:[^{}]|\{[^{}]*\})*)\}" if arguments else "")
            text = re.sub(pattern, lambda found, body=body: body.replace("#1", (found.groups() or ("",))[0]), text)
        return text


def plain_chapters(root: Path) -> Callable[[str], Plain]:
    """For a chapter's file name without suffix: what turns its cells into plain Markdown.

    Glued numbers come from the newest executed chapter below `_build/sources`; without a build they are an ellipsis.
    """
    titles, executed = {}, {}
    for chapter in read_chapters(root):
        text = chapter.path.read_text(encoding="utf-8")
        if chapter.is_notebook:
            text = "\n".join(cell.source for cell in read_notebook(chapter.path).cells if cell.cell_type == "markdown")
        titles[chapter.path.stem] = next((x[2:] for x in text.splitlines() if x.startswith("# ")), chapter.path.stem)
        built = sorted(root.glob(f"_build/sources/*/{chapter.name}.ipynb"), key=lambda path: path.stat().st_mtime)
        executed |= {chapter.path.stem: built[-1]} if built else {}
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    macros = config["sphinx"]["config"]["mathjax3_config"]["tex"]["macros"]
    works = {}
    for key, entry in parse_file(root / "chapters" / "references.bib").entries.items():
        names = [" ".join([*one.prelast_names, *one.last_names]).strip("{}") for one in entry.persons["author"]]
        authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        works[key] = authors, entry.fields.get("year", "")
    values = {name: glued(read_notebook(path)) for name, path in executed.items()}
    return lambda name: Plain(root, titles, works, macros, values.get(name, {}))
