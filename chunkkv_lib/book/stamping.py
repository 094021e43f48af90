"""An executed notebook becomes a page: parameters and provenance are shown, timing is removed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from chunkkv_lib.book.chapters import Chapter
from chunkkv_lib.book.failure import BookError
from chunkkv_lib.book.notebooks import read_notebook, set_stable_ids, strip_timing, tags, write_notebook
from chunkkv_lib.book.parameters import Parameter
from chunkkv_lib.book.paths import EXTRA
from chunkkv_lib.book.provenance_output import MIME


def stamp_chapters(chapters: list[Chapter], values: Mapping[str, object], folder: Path) -> None:
    """Stamp the executed notebook of every chapter below `folder`, in place."""
    for chapter in chapters:
        if chapter.is_notebook:
            path = folder / f"{chapter.name}.ipynb"
            notebook = read_notebook(path)
            stamp(notebook, chapter, values, folder / EXTRA)
            write_notebook(notebook, path)


def stamp(notebook: NotebookNode, chapter: Chapter, values: Mapping[str, object], extra: Path) -> None:
    """Turn an executed notebook into a page's source; files that it links to are written below `extra`."""
    changed = {
        n: v for n, v in values.items() if n in chapter.parameters and v != chapter.parameters[n].default
    }
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if "injected-parameters" in tags(cell):
            cell.metadata["tags"] = sorted(tags(cell) | {"remove-cell"})
            cells += [new_markdown_cell(changed_parameters(changed, chapter.parameters))] if changed else []
        if cell.cell_type == "code":
            cells += _lines_below(cell, chapter, extra)
            _mend_corners(cell)
        elif cell.cell_type == "markdown":
            _mark_for_slides(cell)
    notebook.cells = cells
    strip_timing(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            _join_streams(cell)
    set_stable_ids(notebook, PurePosixPath(chapter.name).name)


def changed_parameters(values: Mapping[str, object], parameters: Mapping[str, Parameter]) -> str:
    """A box with the parameters of this execution that are not the chapter's defaults."""
    rows = []
    for name, value in values.items():
        parameter = parameters[name]
        rows.append(f"| `{name}` | `{value!r}` | `{parameter.default!r}` | {cell_text(parameter.help)} |")
    head = ["| parameter | here | default | meaning |", "|:---|:---|:---|:---|"]
    box = [
        ":::{admonition} This page was executed with other parameters than its defaults",
        ":class: parameters",
    ]
    return "\n".join([*box, "", *head, *rows, ":::"])


def cell_text(text: str) -> str:
    """`text` for a cell of a Markdown table, where a bar would start a new column."""
    return text.replace("|", "\\|")


def _mend_corners(cell: NotebookNode) -> None:
    """Make the empty corner of a data frame's header a plain cell: a screen reader would read out an empty header."""
    for output in cell.outputs:
        table = output.get("data", {}).get("text/html", "")
        if 'class="dataframe"' in table:
            output.data["text/html"] = table.replace("<th></th>", "<td></td>")


def _join_streams(cell: NotebookNode) -> None:
    """Make what a cell printed one text: where a kernel cuts it in two depends on how busy the machine is."""
    joined = []
    for output in cell.outputs:
        if joined and output.output_type == "stream" and output.name == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    cell.outputs = joined


def _mark_for_slides(cell: NotebookNode) -> None:
    """Put what a text cell's tag tells the slides into comments around it: a page does not keep a text cell's tags."""
    for tag in sorted(tag for tag in tags(cell) if tag.startswith("slide-")):
        cell.source = f"<!-- {tag} -->\n\n{cell.source}\n\n<!-- /{tag} -->"


def _lines_below(cell: NotebookNode, chapter: Chapter, extra: Path) -> list[NotebookNode]:
    """Take the provenance outputs out of a code cell; the cells that say the same below it."""
    found = [o.data[MIME] for o in cell.outputs if MIME in o.get("data", {})]
    cell.outputs = [o for o in cell.outputs if MIME not in o.get("data", {})]
    if len(found) > 1:
        raise BookError(
            f"{chapter.name}: a cell calls provenance() {len(found)} times; name all its runs in one call."
        )
    return [new_markdown_cell(_line(payload, cell, chapter, extra)) for payload in found]


def _line(payload: dict, cell: NotebookNode, chapter: Chapter, extra: Path) -> str:
    up = "../" * (len(PurePosixPath(chapter.name).parts) - 1)
    links = [_publish_manifest(manifest, extra) for manifest in payload["manifests"]]
    if payload["csv"] is not None:
        links.append(_publish_numbers(payload["csv"], _numbers_name(cell, chapter), extra))
    anchors = [f'<a href="{up}{path}">{text}</a>' for path, text in links]
    return "\n".join([":::{div} provenance", " · ".join([payload["line"], *anchors]), ":::"])


def _publish_manifest(manifest: dict, extra: Path) -> tuple[str, str]:
    name = re.sub(r"[^\w.-]", "_", str(manifest.get("name", "run")))
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    path = f"runs/{name}.json"
    _write_once(extra / path, text, f"two different manifests are called {name!r}")
    return path, f"manifest of {name}"


def _publish_numbers(csv: str, name: str, extra: Path) -> tuple[str, str]:
    path = f"numbers/{name}.csv"
    _write_once(extra / path, csv, f"two figures or tables are called {name!r}")
    return path, "numbers (CSV)"


def _numbers_name(cell: NotebookNode, chapter: Chapter) -> str:
    """The name of the figure or table that the cell makes, or the chapter's and the cell's where it has none."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
    shown = "".join(str(o.get("data", {}).get("text/markdown", "")) for o in cell.outputs)
    table = re.search(r"^:name:\s*(\S+)", shown, flags=re.M)
    return figure or (table and table[1]) or f"{PurePosixPath(chapter.name).name}-{cell.id}"


def _write_once(path: Path, text: str, clash: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise BookError(f"{clash}, and they differ ({path}).")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
