"""Student copies: the chapters without their solutions, in plain Markdown, with an empty cell to answer in.

    python -m chunkkv_lib students --output students

Plain Markdown can be read in any notebook program: roles become text, boxes become quotations or headings, numbers come
from the chapter as a build executed it, images travel inside the notebook, and formulas know no macros.
"""

import base64
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from mimetypes import guess_type
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell
from pybtex.database import parse_file

from chunkkv_lib.book.build import repository_address
from chunkkv_lib.book.chapters import for_readers, glued, read_chapters, read_notebook, set_stable_ids, tidy
from chunkkv_lib.book.page import project_root
from chunkkv_lib.errors import InputError
from chunkkv_lib.exercises.homework import LICENCE, filled, write_new

ANSWER = "# your answer"
COLAB = """\
# On Google Colab this installs the library; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    get_ipython().run_line_magic("pip", "install --quiet 'chunkkv-lib[book] @ git+{address}'")"""
#: What is not plain: a fenced block, with its kind and title where it is no code, a role, a label.
SPECIAL = re.compile(
    r"^(?P<fence>`{3,}|:{3,})(?:\{(?P<kind>[\w:-]+)\}[ \t]*(?P<title>[^\n]*)|[^\n]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$"
    r"|\{(?P<role>[a-z:]+)\}`(?P<given>[^`]*)`|^\([\w-]+\)=$",
    flags=re.M | re.S,
)
LABELLED = re.compile(r"^(.*?)\s*<([^<>]+)>$", flags=re.S)
KINDS = {"fig": "the figure", "tab": "the table", "alg": "the algorithm", "ex": "the exercise", "sec": "that section"}
UNKNOWN = "…"  # a number of a chapter that was not executed here


def student_copies(output: str | Path, force: bool = False) -> list[Path]:
    """Write a copy of every notebook chapter, without solutions, into the folder `output`; the copies.

    Where the repository is published on GitHub, the first cell of a copy installs the library on Google Colab.

    force   replace copies that differ from what would be written, because somebody has worked in them.
    raises  InputError: `output` is the folder of the chapters themselves, or holds such copies and not `force`.
    """
    root, output = project_root(), Path(output).resolve()
    if output == root / "chapters":
        raise InputError(f"{output} holds the chapters themselves; choose another folder, such as --output students.")
    address, copies, plain = repository_address(root), {}, plain_chapters(root)
    for chapter in read_chapters(root):
        if chapter.is_notebook:
            copy = without_solutions(read_notebook(chapter.path), chapter.path.stem, address)
            copy.cells = [plain(chapter.path.stem).cell(cell) for cell in copy.cells]
            copies[output / chapter.path.name] = nbformat.writes(copy) + "\n"
    chapters = list(copies)
    copies[output / "README.md"] = filled("chapters.md", licence=LICENCE)
    copies[output / "AGENTS.md"] = filled("AGENTS.md")
    for path in sorted((root / "chapters" / "templates").glob("*.ipynb")):
        copies[output / "templates" / path.name] = path.read_text(encoding="utf-8")
    write_new({path: text.encode() for path, text in copies.items()}, force)
    return chapters


def without_solutions(notebook: NotebookNode, name: str, address: str | None = None) -> NotebookNode:
    """The notebook with each solution replaced by an empty answer cell; `name` is its file's, for ids and errors."""
    copy = tidy(deepcopy(notebook), name)
    cells = for_readers(copy.cells, name, solutions=False, answer=ANSWER)
    if address:
        cells.insert(1, new_code_cell(COLAB.format(address=address)))  # below the title, above every import
    copy.cells = [*cells, new_markdown_cell(f"*{LICENCE}*")]
    set_stable_ids(copy, name)
    return copy


# --- plain Markdown ---


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
        """Boxes, roles and formulas outside code; images are put into `attachments`."""

        def plain(found: re.Match) -> str:
            if found["role"]:
                return self.role(found["role"], found["given"])
            if found["kind"]:
                return self.box(found["kind"], found["title"], found["body"], attachments)
            return found[0] if found["fence"] else ""

        text = re.sub(r"^\$\$ *\(eq-[\w-]+\)", "$$", SPECIAL.sub(plain, source), flags=re.M)
        for name, macro in self.macros.items():
            body, arguments = (macro, 0) if isinstance(macro, str) else macro
            pattern = rf"\\{name}(?![A-Za-z])" + (r"\{((?:[^{}]|\{[^{}]*\})*)\}" if arguments else "")
            text = re.sub(pattern, lambda found, body=body: body.replace("#1", (found.groups() or ("",))[0]), text)
        return text

    def box(self, kind: str, title: str, body: str, attachments: dict) -> str:
        title = self.text(title, attachments)
        inside = self.text(re.sub(r"\A(:[\w-]+:.*\n)+", "", body), attachments).strip("\n")
        if kind == "figure":
            path = self.root / "chapters" / title
            attachments[path.name] = {guess_type(path)[0]: base64.b64encode(path.read_bytes()).decode()}
            return f"![](attachment:{path.name})\n\n" + (inside if "\n" in inside else f"*{inside}*")
        if kind in ("exercise", "prf:algorithm"):
            return f"### {kind.removeprefix('prf:').capitalize()}: {title}".rstrip(": ") + f"\n\n{inside}"
        if kind in ("div", "table"):
            return (f"**{title}**" if kind == "table" else "") + f"\n\n{inside}\n"
        return "\n".join([f"> **{title}**", ">", *(f"> {line}".rstrip() for line in inside.split("\n")), ""])

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
