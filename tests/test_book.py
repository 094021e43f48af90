"""The machinery of the book, on a demo book of two small chapters and on sites and notebooks written by hand."""

import filecmp
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import nbformat
import numpy as np
import pandas as pd
import pytest
from browser import find_browser
from bs4 import BeautifulSoup
from common import refused
from demo_book import FIRST, ROOT, SAID, build_demo, built_demo, dead_links, write_demo_book
from demo_book import notebook as demo_notebook
from matplotlib.figure import Figure
from pypdf import PdfReader
from sphinx.errors import ExtensionError

from chunkkv_lib.book import Page, build, pdf, provenance, site_extension, versions
from chunkkv_lib.book.build import build_book
from chunkkv_lib.book.chapters import Chapter, read_chapters, tidy
from chunkkv_lib.book.parameters import Parameter, parameter_table, parse_assignments, read_parameters
from chunkkv_lib.book.stamp import stamp
from chunkkv_lib.errors import InputError

BINDER = ROOT / ".binder"


@pytest.fixture
def site() -> Path:
    return built_demo() / "_build" / "html"


def test_a_book_with_one_of_everything_builds_without_a_warning_or_a_problem(site):
    assert dead_links(site) == []
    text = (site / "chapters" / "01_first.html").read_text()
    assert "Table 1.1" in text and "Figure 1.1" in text and "Exercise 1.1" in text
    assert 'alt="A line of three points' in text and 'title="The positions that stay."' in text
    assert 'The largest loss is <span class="pasted-text">0.91</span>' in text
    # the run's manifest and the figure's numbers are one click away
    assert 'href="../runs/quick-0.2.json"' in text and 'href="../numbers/fig-demo-line.csv"' in text
    assert json.loads((site / "runs" / "quick-0.2.json").read_text())["model"]["name"] == "demo-model"
    assert (site / "numbers" / "fig-demo-line.csv").read_text() == "layer,loss\n0,0.91\n1,0.89\n2,0.9\n"
    # equations are drawn by a script of the site's own
    assert "_static/mathjax/tex-chtml.js" in text and (site / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert "THEBE_JS_URL" not in text
    assert sum(file.stat().st_size for file in site.rglob("*") if file.is_file()) < 15e6
    for page in (site / "chapters").glob("*.html"):
        soup = BeautifulSoup(page.read_text(), "html.parser")
        assert {len(soup.select(tag)) for tag in ("meta[name=viewport]", "title", "meta[name=description]")} == {1}
        if page.stem == "index":
            assert soup.select_one("meta[name=description]")["content"] == "It is found."  # in bold, in its list


UNTRUE = [
    "demo-small-budget (budget 0.2, layers 3)",
    "demo-tenths (cannot be computed here: NameError: name 'tenths' is not defined)",
]


def test_a_statement_that_does_not_hold_in_another_run_is_marked_and_listed(site):
    """The demo is built with another budget than its default, for which the first of two statements fails."""
    page = BeautifulSoup((site / "chapters" / "01_first.html").read_text(), "html.parser")
    (box,) = page.select("div.admonition.parameters")
    assert "quick-0.2" in box.get_text() and "how often" not in box.get_text()  # what differs from its default only
    assert box.find_previous("h1") and not box.find_previous("div", class_="admonition")  # at the top
    assert [re.sub("[‘’]", "'", item.get_text()) for item in box.select("li")] == UNTRUE
    marked = {span.get_text() for span in page.select("section section .pasted-text, p .pasted-text")}
    assert marked == {"0.2†", "3†", "0.91"}
    assert "It is –† tenth." in page.get_text() and "A demo table." in page.get_text()  # its cell went on
    assert "does not hold" not in page.get_text().replace(box.get_text(), "")
    lines = [f"chapters/01_first: does not hold in the runs shown: {statement}" for statement in UNTRUE]
    assert [said for said in SAID if "does not hold" in said] == lines


def test_a_statement_that_the_published_runs_contradict_stops_the_build(tmp_path):
    root = write_demo_book(tmp_path / "book")
    path = root / "chapters" / "01_first.ipynb"
    path.write_text(path.read_text().replace("least = 0.15", "least = 0.1"))
    with pytest.raises(InputError, match=r"(?s)01_first: cell .*demo-small-budget does not hold.*: budget 0\.1"):
        build_demo(root)


def test_a_page_shows_the_recorded_run_unless_it_is_asked_for_another(monkeypatch, tmp_path, capsys):
    page = Page({})
    run = page.run("sensitivity")
    assert page.published and capsys.readouterr().out == ""
    shutil.copytree(run.path, tmp_path / "mine")
    assert len(page.run(tmp_path / "mine").sequences) == len(run.sequences) and not page.published
    page.holds("order", np.False_, a=1, b="2 %")
    said = capsys.readouterr().out
    assert "another run than the published one: Run `sensitivity`" in said
    assert "† the statement order does not hold in these runs: a 1, b 2 %" in said
    asked = []
    monkeypatch.setattr("chunkkv_lib.runs.live_run", lambda *a, **k: asked.append((a, k)) or run)
    assert Page({}).run("sensitivity", budget=0.2) is run and asked == [(("quick",), {"budget": 0.2, "model": None})]
    with pytest.raises(InputError, match="no run at absent"):
        Page({}).run("absent")


@pytest.mark.parametrize("wrong", [{"condition": pd.Series([True])}, {"condition": 1}, {"a": 0.5}, {"a": None}])
def test_a_statement_takes_a_truth_value_and_texts_that_were_formatted(wrong):
    with pytest.raises(TypeError, match="one: "):
        Page({}).holds("one", **({"condition": True} | wrong))


def test_a_site_can_be_built_without_solutions(site):
    other = built_demo(solutions=False) / "_build" / "html-without-solutions"
    assert dead_links(other) == [] and not (other.parent / "html").exists()
    secrets = {"index": "Count what they share", "01_first": "nothing is evicted", "02_second": "print(2 * 21)"}
    for name, secret in secrets.items():
        with_them, without = (
            BeautifulSoup((place / "chapters" / f"{name}.html").read_text(), "html.parser").get_text()
            for place in (site, other)
        )
        assert secret in with_them and "Exercise" in without
    files = [path for path in other.rglob("*") if path.suffix in (".html", ".js", ".ipynb", ".md")]
    texts = {path: BeautifulSoup(path.read_text(errors="ignore"), "html.parser").get_text() for path in files}
    assert not [path for path, text in texts.items() if any(secret in text for secret in secrets.values())]
    assert (other / "chapters" / "index.html").read_text().count("for overlap</summary>") == 3


def test_the_figure_that_a_page_shares_is_a_file_of_the_site(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    Page({}).share(Figure(figsize=(2, 1)))
    output = nbformat.v4.new_output("display_data", data=shown[0])
    stamped([nbformat.v4.new_code_cell("f()", outputs=[output])], {}, tmp_path)
    assert (tmp_path / "_extra" / "share.png").read_bytes().startswith(b"\x89PNG")


def test_two_builds_are_byte_identical_whatever_the_set_up_of_the_user(site, tmp_path, monkeypatch):
    """A foreign kernel, start-up files of Python and IPython and a style of Matplotlib do not reach a chapter."""
    kernel = '{"argv": ["false"], "display_name": "Python 3", "language": "python"}'
    for name, place, file, text in (
        ("JUPYTER_PATH", "jupyter", "jupyter/kernels/python3/kernel.json", kernel),
        ("JUPYTER_DATA_DIR", "jupyter", "jupyter/kernels/python3/kernel.json", kernel),
        ("IPYTHONDIR", "ipython", "ipython/profile_default/startup/mine.py", "raise SystemExit"),
        ("PYTHONSTARTUP", "startup.py", "startup.py", "print = None"),
        ("MATPLOTLIBRC", "matplotlibrc", "matplotlibrc", "font.size: 30"),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
        monkeypatch.setenv(name, str(tmp_path / place))
    monkeypatch.setenv("MPLBACKEND", "agg")
    other = build_demo(write_demo_book(tmp_path / "b b"), "quick", ["budget=0.2", "run=quick-0.2"])
    files = {p.relative_to(f) for f in (site, other) for p in f.rglob("*") if p.is_file()}
    assert filecmp.cmpfiles(site, other, files, shallow=False)[1:] == ([], [])


def test_a_failing_chapter_stops_the_build_and_leaves_the_old_site(site):
    before = {p: p.stat().st_mtime_ns for p in site.rglob("*.html")}
    with pytest.raises(InputError, match=r"chapters/02_second: cell 4 \('if fail:'\).*asked to fail") as stop:
        build_demo(built_demo(), "needles", ["fail=true"])
    executed = str(stop.value).rsplit(" ", 1)[1]
    assert "asked to fail" in Path(executed).read_text()
    assert {p: p.stat().st_mtime_ns for p in site.rglob("*.html")} == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("budgte=0.2", ["unknown parameter 'budgte'", "Did you mean 'budget'?", "category"]),
        ("budget=nan", ["parameter budget='nan'", "float", "budget=0.1"]),
        ("category=Sumarization", ["unknown category", "Did you mean 'Summarization'?"]),
        ("budget", ["has no value", "-p budget=0.2"]),
    ],
)
def test_a_wrong_parameter_fails_before_anything_runs(given, words, tmp_path):
    root = write_demo_book(tmp_path / "book")
    with refused(*words):
        build_book("quick", [given], root=root)
    assert not (root / "_build").exists()


def test_a_warning_fails_the_build_and_names_the_cell(tmp_path):
    root = write_demo_book(tmp_path / "book")
    (root / "chapters" / "index.md").write_text("# A demo\n\nSee {numref}`fig-nowhere`.\n")
    folder = root / "_build" / "sources" / "draft"
    build.fresh_sources(root, read_chapters(root), folder)
    with pytest.raises(InputError, match=r"(?s)chapters/index.md:3: WARNING: undefined label: 'fig-nowhere'.*\Z"):
        build.build_html(folder)
    log = "\x1b[91m/x/run/chapters/07.ipynb:90004: WARNING: undefined label: 'a'\x1b[39;49;00m\nother\n"
    assert build.warnings_of(log, Path("/x/run")) == "chapters/07.ipynb, cell 9, line 4: WARNING: undefined label: 'a'"


@pytest.mark.parametrize("profile", ["../up", "", "a b", ".hidden"])
def test_a_profile_is_a_plain_name(profile, tmp_path):
    with pytest.raises(InputError, match="profile"):
        build_book(profile, root=write_demo_book(tmp_path / "book"))


def test_chapters_come_from_the_table_of_contents_with_their_parameters(tmp_path):
    chapters = read_chapters(write_demo_book(tmp_path / "book"))
    names = [chapter.name.removeprefix("chapters/") for chapter in chapters]
    assert names == ["index", "01_first", "02_second", "summary", "references"]
    first = chapters[1].parameters
    assert first["budget"].default == 0.1 and first["budget"].help.startswith("part of the cache that stays (float)")
    assert first["repeats"] == Parameter("repeats", None, ("int", "None"), "how often; None: once")
    table = parameter_table(chapters, "Parameters.").splitlines()
    assert table[4] == ("| `run` | `'quick'` | str | name of the run folder that the chapter reads "
                        "| [01](/chapters/01_first.ipynb), [02](/chapters/02_second.ipynb) |")  # fmt: skip
    assert len(table) == 4 + 6 + 1


def test_a_broken_notebook_and_a_page_without_a_file_are_named(tmp_path):
    path = write_demo_book(tmp_path) / "chapters" / "02_second.ipynb"
    path.write_text('{"cells": [')
    with pytest.raises(InputError, match=r"02_second\.ipynb is not a readable notebook"):
        read_chapters(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="'chapters/02_second'"):
        read_chapters(tmp_path)


@pytest.mark.parametrize(
    ("types", "text", "value"),
    [
        (("float",), "0.2", 0.2), (("int",), "7", 7), (("bool",), "false", False), (("str",), "Synthetic & Code", ...),
        (("float",), "51", 51),  # a token count where the chapters also take a share: stays an int
        (("float",), "1e-3", 0.001),  # YAML 1.1 reads a string
        (("str",), "no", ...), (("str",), "12", ...), (("str",), "a: b: c", ...), (("str",), "", ...),  # as they stand
        (("int", "None"), "null", None), (("list",), "[ChunkKV, H2O]", ["ChunkKV", "H2O"]),
    ],
)  # fmt: skip
def test_a_value_is_read_as_the_parameter_needs_it(types, text, value):
    read, meant = Parameter("p", None, types).parse(text), text if value is ... else value
    assert read == meant and type(read) is type(meant)


@pytest.mark.parametrize(
    ("kind", "text"), [("int", "1.5"), ("int", "true"), ("float", "inf"), ("bool", "1"), ("list", "x"), ("int", "")]
)
def test_an_ill_typed_value_is_refused(kind, text):
    with pytest.raises(InputError, match="parameter p="):
        Parameter("p", None, (kind,)).parse(text)


def test_a_value_must_suit_every_chapter_that_takes_it():
    chapters = [Chapter("a", Path("a.md"), {"n": Parameter("n", 0.5, ("float",))}),
                Chapter("b", Path("b.md"), {"n": Parameter("n", 3, ("int",))})]  # fmt: skip
    assert parse_assignments(["n=4"], chapters) == {"n": 4}
    with pytest.raises(InputError, match="must be int"):
        parse_assignments(["n=0.4"], chapters)


@pytest.mark.parametrize("source", ["a = f(1)", "a = None  # type: Path  x", "a = ("])
def test_a_parameters_cell_holds_literals_of_known_types(source):
    with pytest.raises(InputError, match=r"01\.ipynb"):
        read_parameters(source, "01.ipynb")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("budgte", "0.2", "unknown parameter 'budgte'. Did you mean 'budget'?"),
        ("budget", "ten", "parameter budget='ten' must be float"),
        ("repeats", "3", ""),  # its default does not show its type; papermill must not call it unknown
    ],
)
def test_papermill_alone_stops_in_the_first_cell(name, value, words, tmp_path):
    root, result = write_demo_book(tmp_path / "book"), tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", root / "chapters" / "01_first.ipynb", result, "-p", name, value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    executed = [cell for cell in nbformat.read(result, 4).cells if cell.get("execution_count")]
    stopped = executed[-1].source.endswith("page = Page(globals())")
    assert (done.returncode != 0) == stopped == bool(words) and words in done.stderr
    assert words or "unknown" not in done.stderr


def test_tidy_removes_everything_executed_and_keeps_ids_where_a_cell_comes_in():
    notebook = demo_notebook(FIRST, "01")
    notebook.cells += [nbformat.v4.new_code_cell("same"), nbformat.v4.new_code_cell("same")]
    notebook = tidy(notebook, "01")
    dirty = nbformat.reads(nbformat.writes(notebook), as_version=4)
    dirty.metadata["papermill"] = {"start_time": "now"}
    code = next(c for c in dirty.cells if c.cell_type == "code")
    code.outputs, code.execution_count = [nbformat.v4.new_output("stream", text="x")], 3
    dirty.cells.insert(2, nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["injected-parameters"]}))
    assert nbformat.writes(tidy(dirty, "01")) == nbformat.writes(notebook)
    before = [c.id for c in notebook.cells]
    notebook.cells.insert(1, nbformat.v4.new_code_cell("new = 1"))
    after = [c.id for c in tidy(notebook, "01").cells]
    assert len(set(after)) == len(after) and [i for i in after if i in before] == before


def stamped(cells: list, values: dict, tmp_path: Path, parameters: dict | None = None) -> nbformat.NotebookNode:
    notebook = nbformat.v4.new_notebook(cells=cells)
    chapter = Chapter("chapters/05_x", tmp_path / "05_x.ipynb", parameters or {})
    stamp(notebook, chapter, values, tmp_path / "_extra")
    return notebook


def provenance_cell(manifest: dict, line: str = "a line") -> nbformat.NotebookNode:
    data = provenance(manifest, line=line)._repr_mimebundle_()
    return nbformat.v4.new_code_cell("f()", outputs=[nbformat.v4.new_output("execute_result", data=data)])


def test_the_injected_cell_is_folded_and_only_changed_parameters_are_shown(tmp_path):
    metadata = {"tags": ["injected-parameters"], "papermill": {"duration": 1}}
    injected = nbformat.v4.new_code_cell("b = 2", metadata=metadata)
    parameters = read_parameters("b = 1  # a | b\nc = 1", "chapter")
    title = nbformat.v4.new_markdown_cell("# Title\n\nText.")
    notebook = stamped([title, injected], {"b": 2, "c": 1, "other": 5}, tmp_path, parameters)
    assert notebook.cells[1].metadata["tags"] == ["hide-input", "injected-parameters"]
    top = notebook.cells[0].source
    assert top.startswith("# Title\n") and top.endswith("\n\nText.") and "| `b` | `2` | `1` | a \\| b |" in top
    assert "`c`" not in top and "`other`" not in top


def test_the_provenance_line_leaves_the_cell_and_stands_below_it(tmp_path):
    notebook = stamped([provenance_cell({"name": "quick"}), nbformat.v4.new_code_cell("g()")], {}, tmp_path)
    assert notebook.cells[0].outputs == []
    source = notebook.cells[1].source
    assert 'a line · <a href="../runs/quick.json">manifest of quick</a>' in source and source.startswith("<details")
    assert json.loads((tmp_path / "_extra" / "runs" / "quick.json").read_text()) == {"name": "quick"}
    with pytest.raises(InputError, match="two different files are called runs/quick"):
        stamped([provenance_cell({"name": "quick", "seconds": 1})], {}, tmp_path)
    in_jupyter = provenance({"name": "quick"}, line="one\nline")._repr_mimebundle_()
    assert in_jupyter["text/markdown"] == in_jupyter["text/plain"] == "one line"


def test_a_new_site_takes_the_place_of_the_old_one_whole(tmp_path):
    """Also where an exchange was cut off half-way; a folder that is no site is never replaced."""
    new, output = tmp_path / "new", tmp_path / "html"
    for folder, text in ((new, "new"), (output, "old")):
        folder.mkdir()
        (folder / "searchindex.js").write_text(text)
    (output / "gone.html").write_text("old")
    build.exchange(new, output)
    assert [p.read_text() for p in output.iterdir()] == ["new"]
    output.rename(tmp_path / ".html.leaving")
    (tmp_path / ".html.arriving").mkdir()
    with pytest.raises(OSError):  # nothing can be copied: the one whole site is still there
        build.exchange(tmp_path / "none", output)
    assert (tmp_path / ".html.leaving" / "searchindex.js").read_text() == "new"
    build.exchange(new, output)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["html", "new"]
    (tmp_path / "thesis.tex").write_text("years of work")
    with refused("holds something other than a site"):
        build.check_output(tmp_path)
    with refused("is a file"):
        build.check_output(tmp_path / "thesis.tex")


@pytest.mark.parametrize(
    ("origin", "address"),
    [("git@github.com:owner/name.git", "https://github.com/owner/name"), ("/home/me/name", None), ("", None),
     ("https://user:secret@github.com/owner/na.me", "https://github.com/owner/na.me")],
)  # fmt: skip
def test_buttons_lead_to_the_repository_the_book_is_built_in(origin, address, tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    if origin:
        subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", origin], check=True)
    assert build.repository_address(tmp_path) == address
    html = build.with_buttons({"html": {"a": 1}}, address)["html"]
    assert html["a"] == 1 and ("use_repository_button" in html) == (address is not None)


def test_a_second_build_meanwhile_is_refused(tmp_path):
    root = write_demo_book(tmp_path / "book")
    with build.only_build(root), pytest.raises(InputError, match="another build of the book"):
        build_book("quick", root=root)
    assert sorted(path.name for path in (root / "_build").iterdir()) == [".lock"]


def test_other_versions_than_the_pins_stand_out(tmp_path):
    (tmp_path / "requirements.txt").write_text("# Notes.\n# tests: these\npytest==0.1\nno-such-package==1\n")
    table, others = versions.packages_table(tmp_path / "requirements.txt", "Packages.")
    assert others == ["pytest", "no-such-package"]
    assert f"| Tests | **pytest {pytest.__version__}** (pinned: 0.1), **no-such-package not installed**" in table


def test_without_the_package_of_equations_the_build_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sphinx-mathjax-offline", None)
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir="")
    with pytest.raises(ExtensionError, match=r"offline is not installed: pip install -r requirements.txt"):
        site_extension.copy_mathjax(app, None)


def test_runs_are_told_as_they_were_recorded():
    manifest = {"name": "r", "status": "complete", "finished": "2026-11-28T10:00", "seconds": 90,
                "measurement_version": 2, "model": {"name": "tiny"}, "versions": {},
                "sequences": {"measured": 3, "wanted": 3}, "machine": {"system": "Linux", "cores": 1}}  # fmt: skip
    table = versions.measuring_table([manifest, manifest | {"status": "running", "finished": None}], "Runs.")
    assert "| `r` | 2 | tiny | 3 of 3 | 1.5 | Linux, 1 core | – | 2026-11-28 |" in table and "not yet" in table


# --- Binder: a launched chapter finds its file, and the packages at the versions of the book ---


def test_binder_installs_the_library_and_its_extra_at_the_pins_of_the_book():
    assert {"-c ../requirements.txt", "-e .[book]"} <= {*(BINDER / "requirements.txt").read_text().splitlines()}
    version = re.fullmatch(r"python-3\.(\d+)\n", (BINDER / "runtime.txt").read_text())
    assert version and 11 <= int(version[1]) <= 13 and (BINDER / "postBuild").stat().st_mode & 0o111
    subprocess.run(["bash", "-n", BINDER / "postBuild"], check=True)


def test_the_buttons_of_a_chapter_open_its_own_notebook(tmp_path, monkeypatch):
    """As the book is built where it is published on GitHub."""
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    root = write_demo_book(tmp_path / "book")
    html = build_demo(root, "quick")
    for name in ("01_first", "02_second"):
        soup = BeautifulSoup((html / "chapters" / f"{name}.html").read_text(), "html.parser")
        links = [link["href"] for link in soup.select("a[href]")]
        (binder,) = (urlsplit(link) for link in links if "mybinder.org" in link)
        assert binder.path == "/v2/gh/owner/name/students"
        (place,) = parse_qs(binder.query)["urlpath"]
        assert (root / place.removeprefix("lab/tree/")).is_file() and place.endswith(f"chapters/{name}.ipynb")
        (colab,) = (urlsplit(link).path for link in links if "colab.research.google.com" in link)
        assert colab == f"/github/owner/name/blob/students/chapters/{name}.ipynb"
        assert f"https://github.com/owner/name/edit/main/chapters/{name}.ipynb" in links


# --- the book as a PDF: every page, in order, with bookmarks; or a reason why not ---


def printed(path: Path) -> tuple[list[str], list[str]]:
    """Titles of the bookmarks, and the text of every page."""
    with PdfReader(path) as reader:
        return [item.title for item in reader.outline], [" ".join(page.extract_text().split()) for page in reader.pages]


@pytest.mark.skipif(find_browser() is None, reason="no Chromium here (Debian: apt install chromium)")
def test_the_demo_book_is_printed_in_reading_order_with_or_without_solutions(tmp_path, capsys):
    titles, text = printed(pdf.make_pdf(output=tmp_path / "book.pdf", root=built_demo()))
    assert titles == ["A demo", "1. The first chapter", "2. The second chapter", "The report", "References"]
    assert "A demo" in text[0] and len(text) >= 4 and f"{len(text)} pages" in capsys.readouterr().out
    _, (alone,) = printed(tmp_path / "summary.pdf")
    assert "What was found, on one page." in alone
    root = built_demo(solutions=False)
    written = pdf.make_pdf(root=root, solutions=False)
    assert written == root / "_build" / "book-without-solutions.pdf"
    text = " ".join(printed(written)[1])
    assert "Predict the loss" in text and "nothing is evicted" not in text


def test_a_book_that_cannot_be_printed_is_refused(tmp_path, monkeypatch):
    with refused("no page", "make book"):
        pdf.make_pdf(site=tmp_path, output=tmp_path / "book.pdf", root=ROOT)
    monkeypatch.setattr(pdf, "BROWSERS", ("no-such-browser",))
    with refused("no Chromium", "apt install"):
        pdf.make_pdf(output=tmp_path / "book.pdf", root=built_demo())
    assert not (tmp_path / "book.pdf").exists()


def test_what_a_cell_printed_is_one_text_however_the_kernel_cut_it(tmp_path):
    def printed(*texts):
        outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in texts]
        notebook = stamped([nbformat.v4.new_code_cell("f()", outputs=outputs)], {}, tmp_path)
        return [output.text for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]

    assert printed(("stdout", "a b\n")) == printed(("stdout", "a"), ("stdout", " b\n")) == ["a b\n"]
    assert printed(("stdout", "a"), ("stderr", "!"), ("stdout", "b")) == ["ab"]
