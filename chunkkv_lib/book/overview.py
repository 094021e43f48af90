"""The page that lists every chapter's parameters, generated from the notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from chunkkv_lib.book.chapters import Chapter, read_chapters
from chunkkv_lib.book.paths import project_root
from chunkkv_lib.book.stamping import cell_text


def parameter_table(chapters: Iterable[Chapter] | None = None) -> str:
    """A MyST table with a row for each parameter of the book: default, types, meaning, chapters that have it.

    chapters   by default those of the checkout.
    """
    chapters = list(chapters) if chapters is not None else read_chapters(project_root())
    homes: dict[str, list[Chapter]] = {}
    for chapter in chapters:
        for name in chapter.parameters:
            homes.setdefault(name, []).append(chapter)
    rows = ["| parameter | default | type | meaning | chapters |", "|:---|:---|:---|:---|:---|"]
    for name, owners in homes.items():
        parameter = owners[0].parameters[name]
        where = ", ".join(f"[{_short(c)}](/{c.name}{c.path.suffix})" for c in owners)
        meaning = cell_text(parameter.help)
        rows.append(f"| `{name}` | `{parameter.default!r}` | {parameter.expected} | {meaning} | {where} |")
    return "\n".join(rows)


def _short(chapter: Chapter) -> str:
    """ "05" for "chapters/05_compression"; the whole name of a chapter without a number."""
    name = PurePosixPath(chapter.name).name
    return name.split("_")[0] if name[:1].isdigit() else name
