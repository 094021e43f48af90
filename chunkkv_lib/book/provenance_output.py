"""The line under a figure or table that says which run its numbers come from.

A chapter ends the cell with `provenance(run)`. In Jupyter this shows the line. When the book is built, `stamping`
takes the output out of the cell, publishes the run's manifest (and the numbers as CSV) as files of the site, and
puts the line with links to them below the figure or table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MIME = "application/vnd.chunkkv.provenance+json"


class Provenance:
    """What `provenance` returns: a displayable line that also carries what it speaks of."""

    def __init__(self, line: str, manifests: list[dict[str, Any]], csv: str | None) -> None:
        self.line, self.manifests, self.csv = line, manifests, csv

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        payload = {"line": self.line, "manifests": self.manifests, "csv": self.csv}
        return {"text/plain": self.line, "text/markdown": self.line, MIME: payload}


def provenance(*runs: Any, numbers: Any = None, line: str | None = None) -> Provenance:
    """The provenance of a figure or table, as the last expression of its cell.

    runs     one or more runs (`load_run(...)`), or their manifests.
    numbers  a pandas DataFrame with what is drawn, offered as CSV.
    line     one line of inline Markdown; by default `tables.provenance_line` of each manifest.
    """
    manifests = [dict(getattr(run, "manifest", run)) for run in runs]
    if line is None:
        line = "; ".join(_described(manifest) for manifest in manifests)
    csv = None if numbers is None else numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return Provenance(" ".join(line.split()), manifests, csv)


def _described(manifest: Mapping[str, Any]) -> str:
    from chunkkv_lib.report.tables import provenance_line

    return provenance_line(manifest)
