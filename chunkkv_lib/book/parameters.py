"""A chapter's parameters: read from its `parameters` cell, and checked before anything runs.

The cell holds one assignment of a literal per line, with a trailing comment that explains it:

    budget = 0.1               # part of the cache that stays (float), or tokens that stay (int)
    seed: int | None = None    # an annotation where the default does not show every type
"""

from __future__ import annotations

import ast
import io
import math
import tokenize
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields

import yaml

from chunkkv_lib.errors import InputError, unknown

TYPES = {"bool", "int", "float", "str", "list", "dict", "None"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a chapter: its name, the default, the names of the types it takes, and what it means."""

    name: str
    default: object
    types: tuple[str, ...]
    help: str = ""

    @property
    def expected(self) -> str:
        return " or ".join(self.types)

    def parse(self, text: str) -> object:
        """The value that `-p name=text` means; InputError where it has none of the parameter's types.

        The text is a YAML scalar or list; a parameter that takes a string takes it as it stands.
        """
        for value in _readings(text):
            if self.takes(value):
                return value
        raise InputError(
            f"parameter {self.name}={text!r} must be {self.expected}, for example {self._example()}."
        )

    def takes(self, value: object) -> bool:
        kind = _type_name(value)
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return kind in self.types or (kind == "int" and "float" in self.types)

    def _example(self) -> str:
        shown = (
            {None: "null", True: "true", False: "false"}.get(self.default, self.default)
            if _hashable(self)
            else ""
        )
        return f"-p {self.name}={shown}"


def _hashable(parameter: Parameter) -> bool:
    return not isinstance(parameter.default, list | dict)


def _type_name(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _readings(text: str) -> list[object]:
    """What `text` can mean, best first: YAML, a number YAML does not know (1e-3), the text itself."""
    readings: list[object] = []
    with suppress(yaml.YAMLError):
        readings.append(yaml.safe_load(text))
    with suppress(ValueError):
        readings.append(float(text))
    return [*readings, text]


def parameter(name: str, default: object, help: str = "") -> Parameter:
    """A parameter whose type is its default's."""
    return Parameter(name, default, (_type_name(default),), help)


def parameters_of(record: type) -> dict[str, Parameter]:
    """The fields of a dataclass as parameters; a tuple of strings is given as a list, or as its only string."""
    found = {}
    for one in fields(record):
        kinds = str(one.type).replace("tuple[str, ...]", "list | str").split(" | ")
        found[one.name] = Parameter(one.name, one.default, tuple(kinds), one.metadata.get("help", ""))
    return found


def read_parameters(source: str, where: str) -> dict[str, Parameter]:
    """The parameters assigned in a cell's `source`, in order; `where` names the chapter in errors."""
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise InputError(
            f"{where}: the parameters cell is not Python: {error.msg} (line {error.lineno})."
        ) from None
    comments = _comments(source)
    read = [_read_assignment(s, comments.get(s.end_lineno or 0, ""), where) for s in statements]
    return {p.name: p for p in read}


def _read_assignment(statement: ast.stmt, comment: str, where: str) -> Parameter:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            annotation = None
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value, annotation=annotation):
            pass
        case _:
            raise InputError(f"{where}: the parameters cell may hold only `name = literal  # meaning` lines, "
                             f"but line {statement.lineno} is {ast.unparse(statement)!r}.")  # fmt: skip
    try:
        default = ast.literal_eval(value)
    except ValueError:
        message = f"{where}: the default of parameter {name} must be a literal, not {ast.unparse(value)!r}."
        raise InputError(message) from None
    if annotation is None:
        return parameter(name, default, comment)
    return Parameter(name, default, _annotated_types(annotation, name, where), comment)


def _annotated_types(annotation: ast.expr, name: str, where: str) -> tuple[str, ...]:
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _annotated_types(left, name, where) + _annotated_types(right, name, where)
        case ast.Subscript(value=ast.Name(id=kind)) | ast.Name(id=kind) if kind in TYPES:
            return (kind,)
        case ast.Constant(value=None):
            return ("None",)
    raise InputError(
        f"{where}: the annotation of parameter {name} must be made of {', '.join(sorted(TYPES))} and `|`."
    )


def _comments(source: str) -> dict[int, str]:
    """Line number -> the comment that ends the line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def check_parameters(
    given: Mapping[str, str], owners: Mapping[str, Mapping[str, Parameter]]
) -> dict[str, object]:
    """The values of `given` (`name -> text`), each checked against every owner that has a parameter of that name.

    owners   chapter (or whatever else takes parameters) -> its parameters by name.
    raises   InputError: a name that no owner has, or a value that one of them cannot take.
    """
    known = sorted({name for parameters in owners.values() for name in parameters})
    values = {}
    for name, text in given.items():
        takers = [parameters[name] for parameters in owners.values() if name in parameters]
        if not takers:
            raise unknown("parameter", name, known)
        readings = [taker.parse(text) for taker in takers]
        values[name] = readings[0]
    return values
