"""The book: notebook chapters in, a static site out.

`build.build_book` measures a live run, executes the chapters and builds the site. What a chapter itself calls:

    page = Page(globals())                     # in its first cell: refuses what papermill passed by mistake
    run = page.run("published")                # a recorded run, or a live one
    page.holds("a-larger", a > b, a=a, b=b)    # checks a statement of the text and glues its numbers
    provenance(run, numbers=frame)             # last line of a cell that makes a figure or table

Importing this package is cheap: what builds the book, and needs papermill and Sphinx, is in its modules.
"""

from .page import Page, project_root, provenance

__all__ = ["Page", "project_root", "provenance"]
