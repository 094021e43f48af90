"""An executed notebook becomes a page: whose run it shows and where numbers are from are said, timing is removed."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from chunkkv_lib.book.chapters import Chapter, glued, set_stable_ids, strip_timing, tags
from chunkkv_lib.book.page import MIME, RUN_MIME, SHARE_MIME, STATEMENT_MIME
from chunkkv_lib.errors import InputError

EXTRA = "_extra"  # a folder of the built sources whose content becomes part of the site as it is
#: What a folded cell is called, by what stands in it or among its tags.
HIDDEN = {"parameters'": "parameters", "Page(globals())": "set-up", ".holds(": "checks", "import ": "imports"}
GLUED = re.compile(r"\{glue:text\}`([^:`]+)[^`]*`")
SHARED = "share.png"  # in it: the picture that a shared link shows


def stamp(notebook: NotebookNode, chapter: Chapter, values: Mapping[str, object], extra: Path) -> list[str]:
    """Turn an executed notebook into a page's source; files that it links to are written below `extra`.

    return   the statements of the page that do not hold in the runs it shows, each with its numbers.
    """
    own = chapter.parameters
    changed = {name: value for name, value in values.items() if name in own and value != own[name].default}
    for picture in taken(notebook, SHARE_MIME):
        extra.mkdir(parents=True, exist_ok=True)
        (extra / SHARED).write_bytes(base64.b64decode(picture))
    runs, statements = taken(notebook, RUN_MIME), taken(notebook, STATEMENT_MIME)
    if changed or runs:
        title, end, rest = notebook.cells[0].source.partition("\n")
        notebook.cells[0].source = f"{title}\n\n{banner(changed, runs, statements, chapter)}\n{end}{rest}"
        mark_missing(notebook)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if tags(cell) & {"parameters", "injected-parameters"}:
            cell.metadata["tags"] = sorted(tags(cell) | {"hide-input"})
        if "hide-input" in tags(cell):
            hidden = next((what for sign, what in HIDDEN.items() if sign in f"{cell.source} {tags(cell)}"), "code")
            prompts = {f"code_prompt_{word}": f"{word.capitalize()} the {hidden}" for word in ("show", "hide")}
            cell.metadata["mystnb"] = cell.metadata.get("mystnb", {}) | prompts
        if cell.cell_type == "code":
            cells += provenance_below(cell, chapter, extra)
    notebook.cells = cells
    strip_timing(notebook)
    joining = CoalesceStreamsPreprocessor()
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        joining.preprocess_cell(cell, {}, 0)  # where a kernel cuts what is printed depends on how busy the machine is
        for output in cell.outputs:
            if 'class="dataframe"' in (table := output.get("data", {}).get("text/html", "")):
                output.data["text/html"] = table.replace("<th></th>", "<td></td>")  # for screen readers
    set_stable_ids(notebook, PurePosixPath(chapter.name).name)
    return statements


def mark_missing(notebook: NotebookNode) -> None:
    """Put a dash and a dagger where the text names a number that no cell could compute."""
    known = glued(notebook)

    def filled(text: str) -> str:
        return GLUED.sub(lambda role: role[0] if role[1] in known else "–†", text)

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = filled(cell.source)
        elif figure := cell.metadata.get("mystnb", {}).get("figure"):
            figure["caption"] = filled(figure.get("caption", ""))


def taken(notebook: NotebookNode, kind: str) -> list[str]:
    """What the cells put out of one kind, each once; it is taken out of them."""
    found = []
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        found += [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]
        cell.outputs = [output for output in cell.outputs if kind not in output.get("data", {})]
    return list(dict.fromkeys(found))


def banner(changed: Mapping[str, object], runs: list[str], statements: list[str], chapter: Chapter) -> str:
    """The box under a page's title that says how it differs from the published page."""
    what = "shows another run than the published one"
    if changed:
        what = "was executed with other parameters than its defaults"
    lines = [f":::{{admonition}} This page {what}", ":class: parameters", ""]
    lines += ["| parameter | here | default | meaning |", "|:---|:---|:---|:---|"] if changed else []
    for name, value in changed.items():
        parameter = chapter.parameters[name]
        help = parameter.help.replace("|", "\\|")  # a bar would start a new column
        lines.append(f"| `{name}` | `{value!r}` | `{parameter.default!r}` | {help} |")
    lines += ["", *(f"It shows: {run}\n" for run in runs)]
    if statements:
        lines.append("The text is about the published runs. These of its statements do not hold here (†):\n")
        lines += [f"- {statement}" for statement in statements]
    return "\n".join([*lines, ":::"])


def provenance_below(cell: NotebookNode, chapter: Chapter, extra: Path) -> list[NotebookNode]:
    """Take the provenance output out of a code cell; the cell that says the same below it, with links to files."""
    found = [output.data[MIME] for output in cell.outputs if MIME in output.get("data", {})]
    if not found:
        return []
    (payload,) = found  # a cell names all its runs in one call
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
    line = " · ".join([payload["line"], *anchors])
    return [new_markdown_cell(f'<details class="provenance"><summary>Source</summary>\n\n{line}\n\n</details>')]
