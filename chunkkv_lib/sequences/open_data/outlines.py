"""What a Python file contains, without its syntax tree: where statements begin, what it imports and defines."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
COMPLETED = (  # statements that make a fair answer: no definitions, no imports, no bare keywords
    *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr, ast.Raise),
    *(ast.If, ast.For, ast.While, ast.With),
)


class Outline(NamedTuple):
    """Line numbers count from 1; they are the same in every supported Python.

    statements   lines on which a statement of the kinds in `COMPLETED` begins
    imports      (level, module, name, local name) of each `from module import name as local`
    definitions  name -> first and last line, decorators included, of the classes and functions at top level
    """

    statements: frozenset[int]
    imports: tuple[tuple[int, str, str, str], ...]
    definitions: dict[str, tuple[int, int]]


def outline(text: str) -> Outline:
    """The outline of a module's source text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the parser, about somebody else's code
        tree = ast.parse(text)
    nodes = list(statements(tree))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return Outline(
        frozenset(node.lineno for node in nodes if isinstance(node, COMPLETED) and not _is_docstring(node)),
        tuple((node.level, node.module or "", a.name, a.asname or a.name) for node in froms for a in node.names),
        {node.name: (_first_line(node), node.end_lineno) for node in tree.body if isinstance(node, DEFINITIONS)},
    )


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Every statement below `node`. Expressions are not looked into: several times faster than `ast.walk`."""
    for child in (*getattr(node, "body", ()), *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())):
        yield child
        yield from statements(child)
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield from statements(part)


def sibling(path: str, level: int, module: str) -> str:
    """The path, without ".py", of the module that `from <level dots>module import ...` means in the file `path`."""
    folders = PurePosixPath(path).parents[level - 1].parts if level else ()
    return "/".join([*folders, *(part for part in module.split(".") if part)])


def _first_line(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
