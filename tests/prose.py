"""The prose of a page: what a reader reads up to the exercises, without code, tables, formulas and labels.

It is read from the sources, so that it can be counted and checked without a build. `python tests/prose.py` prints the
words of every page against their limits.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chunkkv_lib.book.chapters import read_chapters, read_notebook

ROOT = Path(__file__).resolve().parents[1]
#: Page -> most words. The appendices that are not named share what is left of APPENDICES.
MAIN = {
    "index": 400, "summary": 800, "01_kv_cache": 1_100, "02_three_rules": 1_300, "03_capture": 800,
    "04_one_prompt": 1_200, "05_two_yardsticks": 1_200, "06_layers": 1_400, "07_answers": 1_700, "08_reach": 1_000,
    "09_significance": 1_000, "10_your_own": 1_100,
}  # fmt: skip
APPENDIX = {
    "data": 1_200, "costs": 1_600, "definitions": 900, "sensitivity": 1_400, "statistics": 900, "commands": 1_900,
    "field": 1_000, "errata": None, "notation": None, "glossary": None, "versions": None,
}  # fmt: skip
MAIN_PATH, APPENDICES = 13_000, 10_000

FENCE = re.compile(r"^(`{3,}|:{3,})\s*(?:\{([\w:-]+)\})?(.*)$")
ROLE = re.compile(r"\{([\w:]+)\}`([^`]+)`")
SILENT = ("table", "bibliography", "list-table", "csv-table")  # directives whose content is no prose


@dataclass
class Prose:
    """text: roles still in it, one line of the source each; paper: the same of boxes of what the paper says."""

    text: list[str] = field(default_factory=list)
    paper: list[str] = field(default_factory=list)

    def words(self) -> int:
        plain = ROLE.sub(lambda found: found[2].partition("<")[0] if found[1] != "glue:text" else "n", self.whole())
        plain = re.sub(r"\$[^$]+\$", " x ", re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain))
        return len(re.findall(r"[^\W_][\w.,'’−–-]*", re.sub(r"\{[^}]*\}|<[^>]+>", " ", plain)))

    def whole(self) -> str:
        return "\n".join([*self.text, *self.paper])


def source(name: str) -> Path | None:
    """The file of a page below chapters/, or None where it has not been written."""
    paths = (ROOT / "chapters" / f"{name}{suffix}" for suffix in (".ipynb", ".md"))
    return next((path for path in paths if path.is_file()), None)


def prose(path: Path) -> Prose:
    """The prose of the page at `path`, a notebook or a Markdown file."""
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
    else:
        text = "\n\n".join(cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown")
    found, fences, equation = Prose(), [], False
    for line in text.splitlines():
        if line.startswith("## Exercises"):
            break
        mark = FENCE.match(line)
        if mark and fences and mark[1] == fences[-1][0] and not mark[2] and not mark[3].strip():
            fences.pop()
        elif mark and not any(kind == "code" for _, kind, _ in fences):
            kind = mark[2] or ("code" if mark[1].startswith("`") else "div")
            fences.append((mark[1], "code" if kind in ("code-block", "math") else kind, ""))
            found.text.append(mark[3] if kind in ("admonition", "dropdown") else "")
        elif line.lstrip().startswith(":class:") and fences:
            fences[-1] = (*fences[-1][:2], line.split()[1])
        elif line.startswith("$$"):
            equation = not equation and not re.search(r"\$\$\s*(\([\w-]+\))?$", line[2:])
        elif not equation and not any(kind == "code" or kind in SILENT for _, kind, _ in fences):
            label = re.match(r"\s*(\||:[\w-]+:|\([\w-]+\)=|%)", line)
            (found.paper if any(box == "paper" for *_, box in fences) else found.text).append("" if label else line)
    return found


def held(path: Path) -> Iterator[ast.Call]:
    """Every call of `page.holds(...)` in a notebook."""
    for cell in read_notebook(path).cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "holds":
                yield node


def holds(path: Path) -> dict[str, set[str] | None]:
    """Statement -> the names of its numbers, of every `page.holds(...)` in a notebook; None: they are computed."""
    found = {}
    for call in held(path):
        assert isinstance(call.args[0], ast.Constant), f"the id must be a plain text: {ast.unparse(call)}"
        assert call.args[0].value not in found, f"{call.args[0].value}: a second statement of this name"
        names = {word.arg for word in call.keywords}
        found[call.args[0].value] = None if None in names else names
    return found


def counts() -> dict[str, tuple[int, int | None]]:
    """Page -> words, and the most there may be (None: no limit of its own), with the two sums at the end."""
    table = {}
    for pages, most, label in ((MAIN, MAIN_PATH, "main path"), (APPENDIX, APPENDICES, "appendices")):
        own = {name: prose(path).words() for name in pages if (path := source(name))}
        table |= {name: (words, pages[name]) for name, words in own.items()} | {label: (sum(own.values()), most)}
    return table


def main() -> None:
    for name, (words, most) in counts().items():
        limit = "" if most is None else f"at most {most:6,}{'' if words <= most else '  MISSED'}"
        print(f"words of {name:36} {words:7,}  {limit}")
    listed = {chapter.path.stem for chapter in read_chapters(ROOT)}
    print("pages without a limit:", ", ".join(sorted(listed - {*MAIN, *APPENDIX})))


if __name__ == "__main__":
    main()
