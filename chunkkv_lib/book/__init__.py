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

from typing import TYPE_CHECKING

from .. import _lazily

# ruff: noqa: F401
if TYPE_CHECKING:
    from .build import build_book
    from .chapters import read_chapters
    from .checks import check_site
    from .page import Page, project_root, provenance
    from .parameters import parameter_table

__all__, __getattr__ = _lazily(__name__, {
    "build": ("build_book",),
    "chapters": ("read_chapters",),
    "checks": ("check_site",),
    "page": ("Page", "project_root", "provenance"),
    "parameters": ("parameter_table",),
})  # fmt: skip
