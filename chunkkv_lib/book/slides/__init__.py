"""Slides: one HTML file for each chapter, made from the pages of a finished site. `python -m chunkkv_lib slides`.

    make_slides()                          # _build/html -> _build/slides
    write_decks(site, folder, chapters)    # the same as a step of building the book

`page` reads a chapter's page into blocks, `rules` choose from them, `deck` writes the file. A deck loads nothing:
style, script, figures and equations are inside, so it can be mailed, copied to a stick, or opened without a network.

The rules: a title; the objectives; for each section its figures and tables with what there is to notice, its boxes,
algorithms and numbered equations, or else its first sentence; the summary; the exercises without their solutions.
A table with more rows than a room can read goes on on the next slide.
Where the rules go wrong, a cell's tag helps: `slide-skip` leaves out what the cell shows or says, `slide-text` takes
all of a text cell instead of first sentences, `slide-code` shows a code cell's code.
"""

from .command import make_slides, write_decks

__all__ = ["make_slides", "write_decks"]
