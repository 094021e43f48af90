"""The book: notebook chapters in, a static site out.

    build_book("quick", ["budget=0.2"])        # measure the live run, execute the chapters, build the site
    check_site("_build/html")                  # -> list of problems of a finished site
    parameter_table()                          # -> a MyST table of the parameters of all chapters

and what a chapter itself calls:

    page = Page(globals())                     # in its first cell: refuses what papermill passed by mistake
    run = page.run("published")                # a recorded run, or a live one
    page.holds("a-larger", a > b, a=a, b=b)    # checks a statement of the text and glues its numbers
    provenance(run, numbers=frame)             # last line of a cell that makes a figure or table

Importing this package is cheap: only building the book needs papermill and Sphinx.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .build import build_book
    from .chapters import read_chapters
    from .checks import check_site
    from .page import Page, project_root, provenance
    from .parameters import parameter_table

_HOME = {
    "build_book": "build", "read_chapters": "chapters", "check_site": "checks",
    "Page": "page", "project_root": "page", "provenance": "page",
    "parameter_table": "parameters",
}  # fmt: skip

__all__ = ["Page", "build_book", "check_site", "parameter_table", "project_root", "provenance", "read_chapters"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f".{_HOME[name]}", __name__), name)
