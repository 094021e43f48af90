"""A book of two small notebooks with one of everything a chapter may hold, written into a temporary folder."""

import atexit
import shutil
import tempfile
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import nbformat
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from chunkkv_lib.book.build import build_book
from chunkkv_lib.book.chapters import tidy

ROOT = Path(__file__).resolve().parents[1]

TOC = """\
format: jb-book
root: chapters/index
parts:
  - caption: Demo
    numbered: true
    chapters:
      - file: chapters/01_first
      - file: chapters/02_second
  - caption: Reference
    chapters:
      - file: chapters/summary
      - file: chapters/references
"""

INDEX = """\
# A demo

Start with {doc}`01_first`. The first figure of that chapter is {numref}`fig-demo-line`.

1. **It is found.** And more is said of it.

````{exercise}
:label: ex-index
Write the overlap of two sets, and let `check("overlap", mine)` judge it.
````

````{solution} ex-index
:class: dropdown
Count what they share.
````
"""

BIBLIOGRAPHY = "@misc{liu2025chunkkv,\n  author = {Liu, Xiang and others}, title = {{ChunkKV}}, year = {2025}\n}\n"

#: A line `%%` begins a cell of text, `%% code` one of code: tags follow, and names of METADATA.
FIRST = """\
# The first chapter

```{admonition} You will be able to
:class: objectives
- read a demo, and
- tell a kept token from an evicted one.
```

The macro in $x \\in \\R^{n \\times d}$ is from the configuration.
%% code parameters
run = "quick"  # name of the run folder that the chapter reads
budget = 0.1  # part of the cache that stays (float) or tokens that stay (int)
category = "Summarization"  # row of Paper Table 11
repeats = None  # type: int|None  how often; None: once
least = 0.15  # budget from which on the first statement fails
%% code hide-input
from chunkkv_lib.book import Page

page = Page(globals())
%%
```{admonition} What the paper says
:class: paper
Chunks of neighbouring tokens are kept or dropped together {cite:p}`liu2025chunkkv`.
```

$$
L = 1 - \\frac{\\sum_{t \\in \\kept} \\abs{x_t}}{\\sum_t \\abs{x_t}}
$$ (eq-demo)

See {eq}`eq-demo` and {numref}`fig-demo-line`.
%% code hide-input
manifest = {
    "name": run, "status": "complete", "parameters": {"budget": budget},
    "model": {"name": "demo-model", "dtype": "float32", "device": "cpu"},
    "data": {"source": "open"}, "sequences": {"wanted": 3, "measured": 3}, "finished": "2026-01-01",
}
%% code figure
import matplotlib.pyplot as plt
import pandas as pd
from chunkkv_lib.book import provenance

numbers = pd.DataFrame({"layer": [0, 1, 2], "loss": [0.91, 0.89, 0.9]})
plt.figure(figsize=(6, 3))
plt.plot(numbers["layer"], numbers["loss"])
provenance(manifest, numbers=numbers, line=f"Run {run}, budget {budget}")
%% code hide-input table
from IPython.display import Markdown
from myst_nb import glue

glue("largest", f"{numbers['loss'].max():.2f}", display=False)
page.holds("demo-small-budget", budget < least, budget=f"{budget:.1f}", layers=len(numbers))
tenths = {0.1: 1}[budget]  # fails with another budget
page.holds("demo-tenths", tenths == 1, tenths=tenths)
page.holds("demo-loss", numbers["loss"].min() > 0.8, most=f"{numbers['loss'].max():.2f}")
Markdown('''
:::{table} A demo table.
:name: tab-demo
| category | paper | published | live |
|:---|---:|---:|---:|
| Single-Document QA | 0.8741 | 0.8802 | 0.8799 |
| Synthetic & Code | 0.8726 | 0.8911 | 0.8903 |
:::
''')
%%
The largest loss is {glue:text}`largest`, also {glue:text}`demo-loss_most`.
The budget of {glue:text}`demo-small-budget_budget` is small in {glue:text}`demo-small-budget_layers` layers.
It is {glue:text}`demo-tenths_tenths` tenth.
{numref}`tab-demo` has the rest. A kept set is a {term}`kept set`.

```{glossary}
kept set
  The positions that stay.
```
%%
````{exercise}
:label: ex-demo
Predict the loss of keeping everything.
````
%%
````{solution} ex-demo
:label: sol-demo
:class: dropdown
It is 0: nothing is evicted.
````
"""

SECOND = """\
# The second chapter

Back to {numref}`fig-demo-line` and {numref}`ex-demo`.
%% code parameters
run = "quick"  # name of the run folder that the chapter reads
fail = False  # raise an error half-way
%% code hide-input
from chunkkv_lib.book import Page

page = Page(globals())
%% code
if fail:
    raise RuntimeError("asked to fail")
print("a line of output that is longer than a phone is wide: " + "0123456789 " * 12)
%%
```{exercise} Compute
:label: ex-gated
How much is two times 21?
```
%%
```{solution-start} ex-gated
:label: sol-gated
:class: dropdown
```
%% code
print(2 * 21)
%%
```{solution-end}
```
%%
## After the exercise
"""

METADATA = {
    "figure": {
        "image": {"alt": "A line of three points falls from 0.91 to 0.89 and rises to 0.90.", "width": "80%"},
        "figure": {"name": "fig-demo-line", "caption": "Loss by layer. The largest is {glue:text}`largest`."},
    },
    "table": {"markdown_format": "myst"},
}


def notebook(text: str, name: str) -> nbformat.NotebookNode:
    """The cells of a text above, tidied."""
    cells = []
    for part in ("%%\n" + text).split("%%")[1:]:
        head, _, source = part.partition("\n")
        kind, *words = head.split() or ["text"]
        new_cell = new_code_cell if kind == "code" else new_markdown_cell
        cells.append(new_cell(source.strip("\n")))
        for word in words:
            if word in METADATA:
                cells[-1].metadata["mystnb"] = METADATA[word]
            else:
                cells[-1].metadata["tags"] = [word]
    return tidy(new_notebook(cells=cells), name)


def write_demo_book(root: Path) -> Path:
    """Write the demo book's sources into `root`, with the real `_config.yml`."""
    chapters = root / "chapters"
    chapters.mkdir(parents=True)
    shutil.copyfile(ROOT / "_config.yml", root / "_config.yml")
    (root / "_toc.yml").write_text(TOC)
    (chapters / "index.md").write_text(INDEX)
    (chapters / "summary.md").write_text("# The report\n\nWhat was found, on one page.\n")
    (chapters / "references.md").write_text("# References\n\n```{bibliography}\n```\n")
    (chapters / "references.bib").write_text(BIBLIOGRAPHY)
    for name, text in {"01_first": FIRST, "02_second": SECOND}.items():
        nbformat.write(notebook(text, name), chapters / f"{name}.ipynb")
    return root


SAID: list[str] = []  # the lines that the builds below printed


@cache
def built_demo(solutions: bool = True) -> Path:
    """The demo book, built once for all tests: its root; the site is in `_build/html`, or beside it."""
    folder = tempfile.mkdtemp(prefix="demo-book-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root = write_demo_book(Path(folder) / "book")
    with redirect_stdout(StringIO()) as said:
        build_demo(root, "quick", ["budget=0.2", "run=quick-0.2"], solutions=solutions)
    SAID[:] = said.getvalue().splitlines()
    return root


def build_demo(root: Path, *given: object, **options: object) -> Path:
    """`build_book` without the measurement of a live run."""
    with patch("chunkkv_lib.runs.live_run"):
        return build_book(*given, root=root, **options)


def dead_links(site: Path) -> list[str]:
    """The local addresses that the pages of a site name, and whose file is not there."""
    found = []
    for page in [site / "index.html", site / "search.html", *(site / "chapters").glob("*.html")]:
        for element in BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select("[href], [src]"):
            where = urlsplit(element.get("href") or element["src"])
            if where.path and not where.scheme and not where.netloc:
                found += [] if (page.parent / unquote(where.path)).exists() else [f"{page.name}: {where.path}"]
    return found
