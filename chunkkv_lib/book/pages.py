"""An executed notebook becomes a page: parameters and provenance are shown, timing is removed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from chunkkv_lib.book.chapters import Chapter, set_stable_ids, strip_timing, tags
from chunkkv_lib.book.inside import MIME
from chunkkv_lib.book.parameters import bar_safe
from chunkkv_lib.errors import InputError

EXTRA = "_extra"  # a folder of the built sources whose content becomes part of the site as it is


def stamp(notebook: NotebookNode, chapter: Chapter, values: Mapping[str, object], extra: Path) -> None:
    """Turn an executed notebook into a page's source; files that it links to are written below `extra`."""
    own = chapter.parameters
    changed = {name: value for name, value in values.items() if name in own and value != own[name].default}
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if "injected-parameters" in tags(cell):
            cell.metadata["tags"] = sorted(tags(cell) | {"remove-cell"})
            cells += [new_markdown_cell(changed_parameters(changed, chapter))] if changed else []
        if cell.cell_type == "code":
            cells += provenance_below(cell, chapter, extra)
    notebook.cells = cells
    strip_timing(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            clean_outputs(cell)
    set_stable_ids(notebook, PurePosixPath(chapter.name).name)


def changed_parameters(values: Mapping[str, object], chapter: Chapter) -> str:
    """A box with the parameters of this execution that are not the chapter's defaults."""
    rows = []
    for name, value in values.items():
        parameter = chapter.parameters[name]
        rows.append(f"| `{name}` | `{value!r}` | `{parameter.default!r}` | {bar_safe(parameter.help)} |")
    title = ":::{admonition} This page was executed with other parameters than its defaults"
    head = [title, ":class: parameters", "", "| parameter | here | default | meaning |", "|:---|:---|:---|:---|"]
    return "\n".join([*head, *rows, ":::"])


def clean_outputs(cell: NotebookNode) -> None:
    """Join what a cell printed into one text, and give data frames a header that a screen reader can read."""
    joined: list[NotebookNode] = []
    for output in cell.outputs:
        if joined and output.output_type == "stream" and output.name == joined[-1].get("name"):
            joined[-1].text += output.text  # where a kernel cuts it in two depends on how busy the machine is
        else:
            joined.append(output)
        table = output.get("data", {}).get("text/html", "")
        if 'class="dataframe"' in table:
            output.data["text/html"] = table.replace("<th></th>", "<td></td>")
    cell.outputs = joined


def provenance_below(cell: NotebookNode, chapter: Chapter, extra: Path) -> list[NotebookNode]:
    """Take the provenance output out of a code cell; the cell that says the same below it, with links to files."""
    found = [output.data[MIME] for output in cell.outputs if MIME in output.get("data", {})]
    if not found:
        return []
    if len(found) > 1:
        raise InputError(
            f"{chapter.name}: a cell calls provenance() {len(found)} times; name all its runs in one call."
        )
    (payload,) = found
    links = []
    for manifest in payload["manifests"]:
        run = str(manifest.get("name", "run"))
        file = re.sub(r"[^\w.-]", "_", run)
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        links.append((f"runs/{file}.json", text, f"manifest of {run}"))
    if payload["csv"] is not None:
        figure = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        shown = "".join(str(output.get("data", {}).get("text/markdown", "")) for output in cell.outputs)
        table = re.search(r"^:name:\s*(\S+)", shown, flags=re.M)
        name = figure or (table and table[1]) or f"{PurePosixPath(chapter.name).name}-{cell.id}"
        links.append((f"numbers/{name}.csv", payload["csv"], "numbers (CSV)"))
    for path, text, label in links:
        if (extra / path).exists() and (extra / path).read_text(encoding="utf-8") != text:
            raise InputError(f"{chapter.name}: two different files are called {path} ({label}). Rename one of the two.")
        (extra / path).parent.mkdir(parents=True, exist_ok=True)
        (extra / path).write_text(text, encoding="utf-8")
    cell.outputs = [output for output in cell.outputs if MIME not in output.get("data", {})]
    up = "../" * (len(PurePosixPath(chapter.name).parts) - 1)
    anchors = [f'<a href="{up}{path}">{label}</a>' for path, _, label in links]
    return [new_markdown_cell("\n".join([":::{div} provenance", " · ".join([payload["line"], *anchors]), ":::"]))]
