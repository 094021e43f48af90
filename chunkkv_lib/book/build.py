"""The whole way from notebooks to the site: the live run, papermill, Jupyter Book with warnings as errors."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path

import nbformat
import yaml
from filelock import FileLock, Timeout

from chunkkv_lib.book.chapters import SOLUTION, TOC, Chapter, for_readers, read_chapters, read_notebook, with_hints
from chunkkv_lib.book.deck import write_deck
from chunkkv_lib.book.page import project_root
from chunkkv_lib.book.parameters import parse_assignments
from chunkkv_lib.book.stamp import EXTRA, stamp
from chunkkv_lib.errors import InputError, check_known

CONFIG = "_config.yml"
SITES = {True: "html", False: "html-without-solutions"}  # with the solutions, without them
LIVE = ("budget", "model")  # of the parameters that chapters have, the ones that make another live run
JUPYTER_BOOK = "from jupyter_book.cli.main import main; main(prog_name='jupyter-book')"
#: Variables that would let the user's set-up of Python, Jupyter or Matplotlib change a chapter.
FOREIGN = ("PYTHON", "IPYTHON", "JUPYTER", "JPY_", "MPLBACKEND", "MATPLOTLIBRC")
REDIRECT = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="refresh" content="0; url={page}"><p><a href="{page}">{title}</a></p></html>
"""


def build_book(
    profile: str | None = None,
    assignments: Iterable[str] = (),
    output: str | Path | None = None,
    *,
    solutions: bool = True,
    root: str | Path | None = None,
) -> Path:
    """Execute every chapter and build the site; the folder of its pages.

    profile      of a live run, measured first, that the chapters show in the place of the published runs; it names
                 the working folder `_build/sources/<profile>`, which without one is `_build/sources/published`
    assignments  "name=value" texts, parameters of the chapters; checked before anything runs
    output       where the site goes, by default `_build/html`; replaced only by a complete new site
    solutions    False: without the exercises' solutions, by default into `_build/html-without-solutions`
    raises       InputError: a wrong parameter, a failed chapter, a warning, a faulty site, a second build meanwhile.
    """
    from chunkkv_lib import runs

    root = Path(root).resolve() if root else project_root()
    output = Path(output).resolve() if output else root / "_build" / SITES[solutions]
    if profile is not None:
        check_known("profile", profile, runs.profiles())
    folder = root / "_build" / "sources" / (profile or "published")
    chapters = read_chapters(root)
    values = ({"profile": profile} if profile else {}) | parse_assignments(assignments, chapters)
    check_output(output)
    with only_build(root), clean_environment(folder):
        changes = {name: values[name] for name in LIVE if name in values}
        if values.get("profile") or changes:
            runs.live_run(values.get("profile") or "quick", **changes)
        fresh_sources(root, chapters, folder)
        make_pages(chapters, values, root, folder, solutions)
        if (root / "chapters" / "lecture").is_dir():
            write_deck(root, folder / EXTRA / "lecture.html")
        with timed_step("Building the pages"):
            html = build_html(folder)
        exchange(html, output)
    print(f"The book is at {output / 'index.html'}", flush=True)
    return output


@contextmanager
def only_build(root: Path) -> Iterator[None]:
    """A second build of one checkout would empty the folder that the first one works in: it is refused."""
    (root / "_build").mkdir(exist_ok=True)
    try:
        with FileLock(root / "_build" / ".lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"another build of the book at {root} is at work; wait until it has ended.") from None


@contextmanager
def clean_environment(folder: Path) -> Iterator[None]:
    """The environment variables under which kernels start: the same for every user, found by every kernel."""
    before = dict(os.environ)
    private = folder.with_name(f".{folder.name}.jupyter")  # instead of the user's start-up files, kernels and styles
    kernel = private / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}), encoding="utf-8")
    (private / "matplotlibrc").write_text("", encoding="utf-8")
    library = str(Path(__file__).resolve().parents[2])
    for name in before:
        if name.startswith(FOREIGN):
            del os.environ[name]
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([library, *filter(None, [before.get("PYTHONPATH")])]),
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(private / "ipython"),
        "JUPYTER_PATH": str(private),
        "MATPLOTLIBRC": str(private / "matplotlibrc"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # MPLBACKEND=agg would hide every figure
        "NO_COLOR": "1",
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def make_pages(
    chapters: list[Chapter], values: Mapping[str, object], root: Path, folder: Path, solutions: bool
) -> None:
    """Turn every chapter into a page of the sources in `folder`, in order; stop at the first notebook that fails.

    values   parameter name -> value; each chapter gets those it has.
    root     the kernels' working folder, so that chapters find `data/`.
    """
    notebooks = [chapter for chapter in chapters if chapter.is_notebook]
    for chapter in chapters:
        path = folder / f"{chapter.name}{chapter.path.suffix}"
        if not chapter.is_notebook:
            text = path.read_text(encoding="utf-8")
            path.write_text(with_hints(text if solutions else SOLUTION.sub("", text)), encoding="utf-8")
            continue
        own = {name: value for name, value in values.items() if name in chapter.parameters}
        with timed_step(f"[{notebooks.index(chapter) + 1}/{len(notebooks)}] {chapter.name}"):
            execute(chapter, own, root, path)
        notebook = read_notebook(path)
        notebook.cells = for_readers(notebook.cells, chapter.path.stem, solutions)
        for statement in stamp(notebook, chapter, values, folder / EXTRA):
            print(f"{chapter.name}: does not hold in the runs shown: {statement}")
        nbformat.write(notebook, str(path))


@contextmanager
def timed_step(label: str) -> Iterator[None]:
    """Print a step of the build when it begins, and on the same line its seconds when it ends."""
    print(label, end=" ... ", flush=True)
    started = time.monotonic()
    try:
        yield
    finally:
        print(f"{time.monotonic() - started:.1f} s", flush=True)


def execute(chapter: Chapter, values: Mapping[str, object], root: Path, target: Path) -> None:
    """Execute one chapter into the file `target`; InputError where a cell fails or the kernel dies."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    # papermill would take braces in a path for place-holders
    source, literal_target = (str(path).replace("{", "{{").replace("}", "}}") for path in (chapter.path, target))
    try:
        papermill.execute_notebook(
            source, literal_target, dict(values), cwd=str(root), progress_bar=False, start_timeout=120,
            extra_arguments=["--log-level=50"],  # without notes on encryption and on the interrupt that ends a kernel
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        what = f"{error.ename}: {error.evalue.strip()}".splitlines()[0].rstrip(": ")
        code = next((line for line in error.source.splitlines() if line.strip()), "")
        cell = error.cell_index + 1 - bool(values)  # counted as in the chapter, without papermill's own cell
        raise InputError(
            f"{chapter.name}: cell {cell} ({code!r}) failed with {what} -- executed so far: {target}"
        ) from None
    except DeadKernelError:
        raise InputError(
            f"{chapter.name}: the kernel died, perhaps for want of memory. Executed so far: {target}"
        ) from None


def fresh_sources(root: Path, chapters: list[Chapter], folder: Path) -> None:
    """Copy the book's sources from `root` into `folder`, emptied first: nothing of an older build survives."""
    shutil.rmtree(folder, ignore_errors=True)
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "_build")
    shutil.copytree(root / "chapters", folder / "chapters", ignore=unwanted)
    (folder / EXTRA).mkdir()
    for path in [*(chapter.path for chapter in chapters), root / TOC]:  # a page may lie elsewhere
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    config = with_buttons(yaml.safe_load((root / CONFIG).read_text(encoding="utf-8")), repository_address(root))
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def repository_address(root: Path) -> str | None:
    """`https://github.com/owner/name` of the repository at `root`, or None where it is not published on GitHub.

    From GitHub's own variable in its workflows, else from the remote `origin`; any password in that is left out.
    """
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"https://github.com/{name}"
    command = ["git", "-C", str(root), "config", "--get", "remote.origin.url"]
    try:
        origin = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"github\.com[:/]([\w.-]+)/([\w.-]+?)(\.git)?/?$", origin)
    return f"https://github.com/{found[1]}/{found[2]}" if found else None


def with_buttons(config: dict, address: str | None) -> dict:
    """The book's configuration with repository, Binder and Colab buttons for `address`; unchanged without one."""
    if address is None:
        return config
    owner, name = address.split("/")[-2:]
    pages = f"https://{owner.lower()}.github.io/{name}/"
    added = {
        "repository": {"url": address},
        "launch_buttons": {"binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com",
                           "notebook_interface": "jupyterlab"},
        "html": {"use_repository_button": True, "use_issues_button": True, "use_edit_page_button": True,
                 "baseurl": pages},
    }  # fmt: skip
    return config | {part: config.get(part, {}) | own for part, own in added.items()}


def build_html(folder: Path) -> Path:
    """Run Jupyter Book on `folder`; the folder of the pages. InputError with every warning, if there is one."""
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(folder), "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    log = folder / "jupyter-book.log"
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise InputError(f"Jupyter Book failed (log: {log}):\n{warnings_of(done.stdout + done.stderr, folder)}")
    html = folder / "_build" / "html"
    first = yaml.safe_load((folder / TOC).read_text(encoding="utf-8"))["root"]
    if first != "index":  # Jupyter Book's own redirect has no language, title or link
        title = escape(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")).get("title", ""))
        (html / "index.html").write_text(REDIRECT.format(title=title, page=f"{first}.html"), encoding="utf-8")
    return html


def warnings_of(log: str, folder: Path) -> str:
    """The lines of a log that name a problem, without colours and with short paths; its end where none does."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", log).replace(f"{folder}{os.sep}", "").splitlines()
    problems = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL|SEVERE)\b|Error: ", line)]
    # MyST-NB's line 30004 of a notebook is line 4 of its third cell
    cell = re.compile(r"\.ipynb:(\d+)(\d{4})(?=:)")
    named = [cell.sub(lambda m: f".ipynb, cell {m[1]}, line {int(m[2])}", line) for line in problems or lines[-15:]]
    return "\n".join(dict.fromkeys(named))


def check_output(output: Path) -> None:
    """Refuse a folder for the site that holds anything but an older site."""
    if output.exists() and not output.is_dir():
        raise InputError(f"the output {output} is a file: choose a folder.")
    if output.is_dir() and any(output.iterdir()) and not (output / "searchindex.js").is_file():
        raise InputError(f"the output folder {output} holds something other than a site: choose another or empty it.")


def exchange(new: Path, output: Path) -> None:
    """Put the site `new` in the place of the site at `output`; a reader finds one or the other whole."""
    output.parent.mkdir(parents=True, exist_ok=True)
    arriving, leaving = (output.with_name(f".{output.name}.{word}") for word in ("arriving", "leaving"))
    shutil.rmtree(arriving, ignore_errors=True)
    shutil.copytree(new, arriving)  # may be on another disk, so that only the renaming below is instantaneous
    if output.exists():
        shutil.rmtree(leaving, ignore_errors=True)  # of an exchange that was cut off; until now the only site, perhaps
        output.rename(leaving)
    arriving.rename(output)
    shutil.rmtree(leaving, ignore_errors=True)
