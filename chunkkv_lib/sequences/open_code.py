"""Source code of Twisted: continue a file by one line, alone or with the code it imports.

Why Twisted and not the standard library: that one differs from one Python release to the next, so its sequences would
differ from machine to machine. Twisted is of a comparable breadth (event loop, protocols, mail, web, terminal), its
modules import each other, its licence is MIT, and one wheel has the same bytes everywhere.
"""

import ast
import functools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from ..files import Wheel
from .open_rows import CHARACTERS, MIN_CHARACTERS, ROWS, choose, fill, generator, row

TWISTED = Wheel(
    "twisted==26.10.0",
    "twisted-26.10.0-py3-none-any.whl",
    3_251_703,
    "3732f42af218925a0fe78d6668db55853f7fb532245a89a2669babe7d3000fa8",
)
CUT = (MIN_CHARACTERS, 40_000)  # characters in front of the answer in python_code
REPO_CUT = (2_000, 12_000)  # the same in python_repo, where the imported code comes in front
SNIPPET = 6_000  # characters of one imported definition or module, at most
LINE = (16, 100)  # characters of an answer without its indentation


def python_code() -> list[dict]:
    """A file up to a random statement, to be continued; laid out as lcc, whose files are shorter."""
    rows = []
    for path, text in sources().items():
        if lines := statement_lines(path, *CUT):
            start, answer = generator("python_code", path).choice(lines)
            rows.append(row("python_code", path, document=path, context=text[:start], answers=[answer]))
    return choose(rows, ROWS, "python_code")


def python_repo() -> list[dict]:
    """Definitions that a file imports, shortened, and it up to a statement that uses one; laid out as repobench-p.

    Path and code of each import stand in `context`, the file itself in `input`.
    """
    rows = []
    for path in sources():
        lines = statement_lines(path, *REPO_CUT)
        imported = imports(path) if lines else {}
        if not (lines := [(start, line) for start, line in lines if imported.keys() & re.findall(r"\w+", line)]):
            continue
        start, answer = generator("python_repo", path).choice(lines)
        draw = generator("python_repo", path, "snippets")
        needed = [name for name in imported if name in re.findall(r"\w+", answer)]
        others = [name for name in imported if name not in needed]
        draw.shuffle(others)
        snippets = dict.fromkeys(snippet(*imported[name]) for name in needed + others)  # two names may share a module
        snippets = fill(snippets, characters=CHARACTERS - start)
        draw.shuffle(snippets)
        texts = {"context": "".join(snippets), "input": sources()[path][:start]}
        if len(texts["context"] + texts["input"]) >= MIN_CHARACTERS:
            rows.append(row("python_repo", path, document=path, **texts, answers=[answer]))
    return choose(rows, ROWS, "python_repo")


@functools.lru_cache(maxsize=1)
def sources() -> dict[str, str]:
    """Path -> text of every module, tests left out."""
    with zipfile.ZipFile(TWISTED.path()) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py") and "test" not in name]
        return {name: archive.read(name).decode("utf-8") for name in sorted(names)}


def statement_lines(path: str, first: int, last: int) -> list[tuple[int, str]]:
    """(position in the text, line) of the lines that begin a statement, docstrings excluded, between two positions."""
    text, found, position = sources()[path], [], 0
    if len(text) <= first:
        return []
    wanted = outline(text).statements
    for number, line in enumerate(text.split("\n"), start=1):
        if number in wanted and first <= position <= last and LINE[0] <= len(line.strip()) <= LINE[1]:
            found.append((position, line))
        position += len(line) + 1
    return found


def imports(path: str) -> dict[str, tuple[str, str]]:
    """Name -> (path of its module, its name there or "" for the module itself), for imports from the same package."""
    found = {}
    for level, module, name, local in outline(sources()[path]).imports:
        folders = PurePosixPath(path).parents[level - 1].parts if level else ()
        place = "/".join([*folders, *filter(None, module.split("."))])
        # a submodule, or something that the module defines
        places = ((f"{place}/{name}.py", ""), (f"{place}.py", name), (f"{place}/__init__.py", name))
        origin = next((one for one in places if one[0] in sources()), None)
        if origin and origin[0] != path:
            found[local] = origin
    return dict(sorted(found.items()))


def snippet(path: str, name: str) -> str:
    """Path and code of a definition, or of the beginning of its module, cut to `SNIPPET` characters at a line's end."""
    first, last = outline(sources()[path]).definitions.get(name, (1, None))
    code = "\n".join(sources()[path].split("\n")[first - 1 : last])
    if len(code) > SNIPPET:
        code = code[: code.rindex("\n", 0, SNIPPET)]
    return f"{path}\n{code.rstrip()}\n"


COMPLETED = (  # statements that make a fair answer: no definitions, no imports, no bare keywords
    *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr, ast.Raise),
    *(ast.If, ast.For, ast.While, ast.With),
)


class Outline(NamedTuple):
    """Line numbers count from 1; they are the same in every supported Python."""

    statements: frozenset[int]  # lines on which a statement of the kinds in `COMPLETED` begins
    imports: tuple[tuple[int, str, str, str], ...]  # (level, module, name, local name) of `from module import name`
    definitions: dict[str, tuple[int, int]]  # name -> first and last line, with decorators, of those at top level


@functools.cache
def outline(text: str) -> Outline:
    """The outline of a module's source text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the parser, about somebody else's code
        tree = ast.parse(text)
    begun, imported, definitions = set(), [], {}
    for node in statements(tree):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, COMPLETED) and not docstring:
            begun.add(node.lineno)
        if isinstance(node, ast.ImportFrom):
            imported += [(node.level, node.module or "", a.name, a.asname or a.name) for a in node.names]
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            definitions[node.name] = first, node.end_lineno
    return Outline(frozenset(begun), tuple(imported), definitions)


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Every statement below `node`. Expressions are not looked into: several times faster than `ast.walk`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from statements(child)
