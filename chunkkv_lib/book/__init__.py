"""The book: notebook chapters in, a static site out.

    make_book("quick", ["budget=0.2"])         # measure the live run, then build_book
    build_book("quick", {"budget": "0.2"})     # check, execute, stamp, build, check, exchange -> _build/html
    check_site("_build/html")                  # -> list of problems of a finished site
    read_chapters(project_root())              # -> every page of _toc.yml, with the notebooks' parameters
    parameter_table(chapters)                  # -> the same as a MyST table
    provenance(run, numbers=frame)             # in a chapter: last line of a cell that makes a figure or table

The steps are modules of their own, in this order: `chapters` and `parameters` (what there is, what was asked),
`execution` (papermill), `stamping` (an executed notebook becomes a page), `site` (Jupyter Book), `checks`.
`site_extension` is loaded by Sphinx; `python -m chunkkv_lib tidy` cleans notebooks before a commit.

Provenance: the object that `provenance()` returns is an output of MIME type `provenance_output.MIME`. Stamping
moves it below the cell as a `provenance` block with links to `runs/<name>.json` and `numbers/<figure>.csv`,
which become files of the site.

Importing this package is cheap: chapters import it, and only building the book needs papermill and Sphinx.
"""

from importlib import import_module as _import_module

_HOME = {
    "BookError": "failure", "build_book": "build", "check_site": "checks", "make_book": "command",
    "notebook_parameters": "chapters", "parameter_table": "overview", "parameters_of": "parameters",
    "project_root": "paths", "provenance": "provenance_output", "read_chapters": "chapters",
}  # fmt: skip

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f".{_HOME[name]}", __name__), name)
