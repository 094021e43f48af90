"""What a chapter itself calls while it is executed. Light: every chapter imports it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chunkkv_lib.errors import InputError

MIME = "application/vnd.chunkkv.provenance+json"


def project_root() -> Path:
    """The folder of `_toc.yml`, `chapters/` and `data/`, from wherever a chapter or command is started.

    The checkout this package lives in comes first; for a package installed elsewhere, the working folder and
    those above it are searched. Raises InputError where neither is a checkout of the book.
    """
    for folder in (Path(__file__).resolve().parents[2], Path.cwd(), *Path.cwd().parents):
        if (folder / "_toc.yml").is_file() and (folder / "chapters").is_dir():
            return folder
    raise InputError(f"no _toc.yml in {Path.cwd()} or above it: start this inside a clone of the book's repository.")


def check_parameters(namespace: Mapping[str, Any]) -> None:
    """Refuse a parameter that papermill passed to a chapter that has none of that name, or a value it cannot take.

    namespace  the chapter's `globals()`, in its first cell after the parameters. IPython keeps there, in `In`, the
               source of every cell so far; papermill's own begins with a comment and stands below the chapter's.
    """
    cells = namespace["In"][:-1]
    injected = [i for i, source in enumerate(cells) if source.startswith("# Parameters\n")]
    if not injected:
        return
    from .parameters import check_values, read_parameters

    names = [line.targets[0].id for line in ast.parse(cells[injected[-1]]).body if isinstance(line, ast.Assign)]
    check_values({name: namespace[name] for name in names}, read_parameters(cells[injected[-1] - 1], "this chapter"))


class Provenance:
    """What `provenance` returns: a displayable line that also carries what it speaks of."""

    def __init__(self, line: str, manifests: list[dict[str, Any]], csv: str | None) -> None:
        self.line, self.manifests, self.csv = line, manifests, csv

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        payload = {"line": self.line, "manifests": self.manifests, "csv": self.csv}
        return {"text/plain": self.line, "text/markdown": self.line, MIME: payload}


def provenance(*runs: Any, numbers: Any = None, line: str | None = None) -> Provenance:
    """The provenance of a figure or table, as the last expression of its cell.

    In Jupyter it shows its line. In the built book the line stands below the cell, with links to the runs' manifests
    and to the numbers, which become files of the site (`pages.stamp`).

    runs     one or more runs (`load_run(...)`), or their manifests.
    numbers  a pandas DataFrame with what is drawn, offered as CSV.
    line     one line of inline Markdown; by default `provenance_line` of each manifest.
    """
    manifests = [dict(getattr(run, "manifest", run)) for run in runs]
    if line is None:
        from chunkkv_lib.report.tables import provenance_line

        line = "; ".join(provenance_line(manifest) for manifest in manifests)
    csv = None if numbers is None else numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return Provenance(" ".join(line.split()), manifests, csv)
