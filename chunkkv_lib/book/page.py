"""What a chapter itself calls while it is executed. Light: every chapter imports it."""

from __future__ import annotations

import ast
import io
import os
from base64 import b64encode
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkkv_lib.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from chunkkv_lib.runs import Run

MIME = "application/vnd.chunkkv.provenance+json"
RUN_MIME = "application/vnd.chunkkv.run+json"
SHARE_MIME = "application/vnd.chunkkv.share+json"
STATEMENT_MIME = "application/vnd.chunkkv.statement+json"


def project_root() -> Path:
    """The folder of `_toc.yml`, `chapters/` and `data/`, from wherever a chapter or command is started.

    The checkout this package lives in comes first; for a package installed elsewhere, the working folder and
    those above it are searched. Raises InputError where neither is a checkout of the book.
    """
    for folder in (Path(__file__).resolve().parents[2], Path.cwd(), *Path.cwd().parents):
        if (folder / "_toc.yml").is_file() and (folder / "chapters").is_dir():
            return folder
    raise InputError(f"no _toc.yml in {Path.cwd()} or above it: start this inside a clone of the book's repository.")


class Provenance(dict):
    """What `provenance` returns: a displayable line, and what it speaks of (line, manifests, csv)."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {"text/plain": self["line"], "text/markdown": self["line"], MIME: dict(self)}


def provenance(*runs: Any, numbers: Any = None, line: str | None = None) -> Provenance:
    """The provenance of a figure or table, as the last expression of its cell.

    In Jupyter it shows its line. In the built book the line stands below the cell, with links to the runs' manifests
    and to the numbers, which become files of the site (`stamp`).

    runs     one or more runs (`load_run(...)`), or their manifests.
    numbers  a pandas DataFrame with what is drawn, offered as CSV.
    line     one line of inline Markdown; by default `provenance_line` of each manifest.
    """
    manifests = [dict(getattr(run, "manifest", run)) for run in runs]
    if line is None:
        from chunkkv_lib.report.tables import provenance_line

        line = "; ".join(provenance_line(manifest) for manifest in manifests)
    csv = None if numbers is None else numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return Provenance(line=" ".join(line.split()), manifests=manifests, csv=csv)


class Page:
    """A chapter while it is executed: its parameters checked, its runs, and the statements that its sentences make.

    namespace  the chapter's `globals()`, in its first cell after the parameters
    raises     InputError: papermill passed a parameter that the chapter does not have, or a value it cannot take
    `published` is True until a parameter has another value than its default, or a run is not one of data/runs.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        attended = "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in namespace  # a reader edits cells at will
        self.published = not changed_parameters(namespace) and not attended
        if shell := namespace.get("get_ipython"):
            transformers = shell().ast_transformers
            transformers[:] = [*(one for one in transformers if not isinstance(one, Untold)), Untold(self)]

    def run(
        self, name: str | Path, profile: str | None = None, budget: float | None = None, model: str | None = None
    ) -> Run:
        """The recorded run of that name or, where one of the others is given, a live run, measured if it is not there.

        raises InputError: no such run, an unknown profile, a value that does not fit.
        """
        from chunkkv_lib.runs import live_run, load_run
        from chunkkv_lib.runs.folder import PUBLISHED

        if profile is budget is model is None:
            run = load_run(name)
        else:
            run = live_run(profile or "quick", budget=budget, model=model)
        self.published &= run.path.resolve().parent == PUBLISHED.resolve()
        if not self.published:
            from chunkkv_lib.report.tables import provenance_line

            line = provenance_line(run.manifest)
            _display(f"The figures of this page show another run than the published one: {line}", RUN_MIME, line)
        return run

    def holds(self, statement: str, condition: bool, **numbers: int | str) -> None:
        """Check a statement of the text on the page's runs, and glue its numbers as `<statement>_<name>`.

        condition  whether the statement holds, computed from the records
        numbers    int, or formatted text; where the statement does not hold they are marked with a dagger
        raises     AssertionError: the statement does not hold in the published runs.
        """
        from myst_nb import glue

        if type(condition).__name__ not in ("bool", "bool_"):
            raise TypeError(f"{statement}: the condition must be True or False, not {condition!r:.60}.")
        if wrong := [name for name, value in numbers.items() if not isinstance(value, str | Integral)]:
            raise TypeError(f"{statement}: {wrong[0]}={numbers[wrong[0]]!r:.60} must be an int or a formatted text.")
        values = ", ".join(f"{name} {value}" for name, value in numbers.items())
        message = f"the statement {statement} does not hold in these runs" + (f": {values}" if values else "")
        if not condition and self.published:
            raise AssertionError(message)
        for name, value in numbers.items():
            glue(f"{statement}_{name}", f"{value}{'' if condition else '†'}", display=False)
        if not condition:
            _display(f"† {message}", STATEMENT_MIME, f"{statement} ({values})")

    def untold(self, statements: list[str], error: Exception) -> None:
        """Say of statements that these records have not what they ask for; their numbers stay away (`stamp`)."""
        for statement in statements:
            why = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            message = f"{statement} (cannot be computed here: {why})"
            _display(f"† the statement {message}", STATEMENT_MIME, message)

    def share(self, figure: Figure) -> None:
        """Let links to the book that are shared show this figure."""
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=160, metadata={"Software": None})
        said = "This figure is shown where a link to the book is shared."
        _display(said, SHARE_MIME, b64encode(picture.getvalue()).decode())


class Untold:
    """Lets a cell of statements go on after a line that fails, on a page that does not show the published runs.

    Whatever the text says was written for those: another model may have fewer layers than a sentence speaks of. IPython
    hands every cell's syntax tree to `visit`.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    def visit(self, cell: ast.Module) -> ast.Module:
        if self.page.published or not _statements(cell):
            return cell
        *lines, last = cell.body
        shown = isinstance(last, ast.Expr) and not _statements(last)  # what the cell displays
        cell.body = [*map(self.guarded, lines), last if shown else self.guarded(last)]
        return ast.fix_missing_locations(cell)

    def guarded(self, line: ast.stmt) -> ast.stmt:
        source = f"try: pass\nexcept Exception as _error: page.untold({_statements(line)!r}, _error)"
        (attempt,) = ast.parse(source).body
        attempt.body = [line]
        return attempt


def _statements(node: ast.AST) -> list[str]:
    """Ids of the statements that are checked somewhere in a piece of code."""
    calls = (one for one in ast.walk(node) if isinstance(one, ast.Call) and getattr(one.func, "attr", "") == "holds")
    return [call.args[0].value for call in calls if call.args and isinstance(call.args[0], ast.Constant)]


def _display(text: str, kind: str, payload: str) -> None:
    """Show a text in Jupyter that the built book shows in the page's banner instead (`stamp`)."""
    from IPython.display import display

    display({"text/plain": text, kind: payload}, raw=True)


def changed_parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters to which papermill gave another value than the chapter's default, by name; InputError as `Page`.

    IPython keeps the source of every cell so far in `In`; papermill's own begins with a comment and stands below the
    chapter's.
    """
    cells = namespace.get("In", [])[:-1]
    injected = [i for i, source in enumerate(cells) if source.startswith("# Parameters\n")]
    if not injected:
        return {}
    from .parameters import check_values, read_parameters

    known = read_parameters(cells[injected[-1] - 1], "this chapter")
    names = [line.targets[0].id for line in ast.parse(cells[injected[-1]]).body if isinstance(line, ast.Assign)]
    given = {name: namespace[name] for name in names}
    check_values(given, known)
    return {name: value for name, value in given.items() if value != known[name].default}
