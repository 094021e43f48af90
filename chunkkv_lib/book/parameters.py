"""A chapter's parameters: what papermill reads in its `parameters` cell, and checked before anything runs.

budget = 0.1  # part of the cache that stays (float), or tokens that stay (int)
seed = None  # type: int|None  of the draw; the types stand there where the default does not show them all
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from chunkkv_lib.errors import InputError, unknown

if TYPE_CHECKING:
    from .chapters import Chapter

TYPES = {"bool", "int", "float", "str", "list", "dict", "None"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a chapter: name, default, names of its types, and what it means, as Markdown."""

    name: str
    default: object
    types: tuple[str, ...]
    help: str = ""

    @property
    def expected(self) -> str:
        return " or ".join(self.types)

    def parse(self, text: str) -> object:
        """The value that `-p name=text` means; InputError where it has none of the parameter's types.

        The text is a YAML scalar or list, or a number that YAML does not know (1e-3); a parameter that takes a string
        takes it as it stands.
        """
        readings: list[object] = []
        with suppress(yaml.YAMLError):
            readings.append(yaml.safe_load(text))
        with suppress(ValueError):
            readings.append(float(text))
        for value in (*readings, text):
            if self.takes(value):
                return value
        raise self.error(text)

    def takes(self, value: object) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        kind = type_name(value)
        return kind in self.types or (kind == "int" and "float" in self.types)

    def error(self, value: object) -> InputError:
        example = self.default if isinstance(self.default, str) else json.dumps(self.default)
        return InputError(
            f"parameter {self.name}={value!r} must be {self.expected}, for example {self.name}={example}."
        )


def type_name(value: object) -> str:
    return "None" if value is None else type(value).__name__


def read_parameters(source: str, where: str) -> dict[str, Parameter]:
    """The parameters assigned in a cell's `source`, by name in order; `where` names the chapter in errors."""
    from nbformat.v4 import new_code_cell
    from papermill.translators import PythonTranslator

    found = {}
    for name, kind, text, help in PythonTranslator.inspect(new_code_cell(source)):
        try:
            default = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise InputError(f"{where}: the default of parameter {name} must be a literal, not {text!r}.") from None
        types = tuple(kind.split("|")) if kind != "None" else (type_name(default),)
        if not set(types) <= TYPES:
            raise InputError(
                f"{where}: the type {kind!r} of parameter {name} is not made of {', '.join(sorted(TYPES))}."
            )
        found[name] = Parameter(name, default, types, help)
    return found


def check_values(values: Mapping[str, object], parameters: Mapping[str, Parameter]) -> None:
    """InputError for a name that is no parameter, a value of another type, or a name that is not among the known."""
    from chunkkv_lib.runs.parameters import SOURCES, profiles
    from chunkkv_lib.sequences import CATEGORIES

    choices = {"category": CATEGORIES, "profile": profiles(), "source": SOURCES}
    for name, value in values.items():
        if name not in parameters:
            raise unknown("parameter", name, sorted(parameters))
        if not parameters[name].takes(value):
            raise parameters[name].error(value)
        if value is not None and name in choices and value not in choices[name]:
            raise unknown(name, value, choices[name])


def parse_assignments(assignments: Iterable[str], chapters: Iterable[Chapter]) -> dict[str, object]:
    """The values of texts "name=value", each checked for every chapter that has a parameter of that name."""
    chapters, values = list(chapters), {}
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not name:
            raise InputError(f"-p {assignment!r} has no value; write -p name=value, such as -p budget=0.2.")
        owners = [chapter.parameters for chapter in chapters if name in chapter.parameters]
        if not owners:
            raise unknown("parameter", name, sorted({known for chapter in chapters for known in chapter.parameters}))
        values[name] = owners[0][name].parse(text)
        for parameters in owners:
            check_values({name: values[name]}, parameters)
    return values


def parameter_table(chapters: Iterable[Chapter], caption: str, label: str = "") -> str:
    """A MyST table with a row for each parameter: default, types, meaning, and the chapters that have it."""
    import pandas as pd

    from chunkkv_lib.report.tables import myst_table

    chapters, rows = list(chapters), []
    for name in dict.fromkeys(name for chapter in chapters for name in chapter.parameters):
        owners = [chapter for chapter in chapters if name in chapter.parameters]
        numbers = [re.sub(r"^(\d+)_.*", r"\1", chapter.path.stem) for chapter in owners]  # "04_one_prompt" -> "04"
        links = [f"[{number}](/{one.name}{one.path.suffix})" for number, one in zip(numbers, owners)]
        one = owners[0].parameters[name]
        rows.append((f"`{name}`", f"`{one.default!r}`", one.expected, one.help, ", ".join(links)))
    columns = ["parameter", "default", "type", "meaning", "chapters"]
    return myst_table(pd.DataFrame(rows, columns=columns), caption, label)
