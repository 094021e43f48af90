"""Sphinx extension: MathJax without a network, the book's style sheet, what a page says of itself in its head.

`_config.yml` names it under `local_extensions`, so a plain `jupyter-book build .` uses it as well.
"""

import importlib
import re
import shutil
from html import escape, unescape
from pathlib import Path
from textwrap import shorten
from urllib.parse import urljoin

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from chunkkv_lib.book.stamp import SHARED

ASSETS = Path(__file__).parent / "assets"
VIEWPORT = re.compile(r'<meta name="viewport"[^>]*>')
#: Binder's and Colab's buttons open the branch `students`, whose chapters hold no solutions (publish.yml).
LAUNCH = re.compile(r'(href="https://(?:mybinder\.org/v2/gh|colab\.research\.google\.com/github)/[^"?]*/)main(?=[/?])')
TERM = re.compile(r'(<a class="reference internal" href="[^"#]*#(term-[^"]+)")')


def copy_mathjax(app: Sphinx, failure: Exception | None) -> None:
    """Copy the one script and the fonts that the pages load: 1.6 MB of the 24 MB of sphinx-mathjax-offline.

    This happens after the build because Sphinx would add any script below `_static` to every page.
    """
    if failure is not None or app.builder.format != "html":
        return
    try:
        package = Path(importlib.import_module("sphinx-mathjax-offline").__file__)  # a name that no statement can say
    except ModuleNotFoundError as error:
        raise ExtensionError(f"{error.name} is not installed: pip install -r requirements.txt") from None
    source, target = package.with_name("static") / "mathjax", Path(app.outdir) / "_static" / "mathjax"
    fonts = Path("output/chtml/fonts/woff-v2")
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copyfile(source / "tex-chtml.js", target / "tex-chtml.js")


def leave_out_scripts(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Drop scripts that a page would load for nothing.

    Those of live cells, which are off, cost a console error on every page. Sphinx gives MathJax to every page
    above one with equations, which for a book's first page means always.
    """
    unwanted = ["thebe", "mathjax"]
    if doctree is not None and any(isinstance(node, nodes.math | nodes.math_block) for node in doctree.findall()):
        unwanted = ["thebe"]
    scripts = {f"{one} {getattr(one, 'attributes', '')}".lower(): one for one in context.get("script_files", [])}
    context["script_files"] = [one for text, one in scripts.items() if not any(word in text for word in unwanted)]


def describe(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Say in the page's head what was found, for search engines and for those who share it.

    That is the page's first paragraph; of the book's first page it is the bold sentences of its first numbered list.
    """
    paragraph = next(iter(doctree.findall(nodes.paragraph)), None) if doctree is not None else None
    if paragraph is None:
        return
    numbered = next(iter(doctree.findall(nodes.enumerated_list)), None) if page == app.config.root_doc else None
    found = " ".join(bold.astext() for bold in numbered.findall(nodes.strong)) if numbered else ""
    text = shorten(found or paragraph.astext(), 300, placeholder=" …")
    tags = {'name="description"': text, 'property="og:description"': text, 'property="og:title"': context["title"]}
    if app.config.html_baseurl:  # a picture is found by its whole address only
        tags |= {'property="og:image"': urljoin(app.config.html_baseurl, SHARED)}
    lines = [f'<meta {kind} content="{escape(unescape(value))}" />' for kind, value in tags.items()]
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def finish_pages(app: Sphinx, failure: Exception | None) -> None:
    """Mend what the theme's templates leave in every page, and give each glossary term its definition to hover over.

    The theme's 1.5 MB of icons drawn by script are left out: they are in the web font that it loads as well.
    """
    if failure is not None or app.builder.format != "html":
        return
    (Path(app.outdir) / "_static" / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    pages = {path: path.read_text(encoding="utf-8") for path in Path(app.outdir).rglob("*.html")}
    terms = {}
    for text in pages.values():
        for term in BeautifulSoup(text, "html.parser").select("dl.glossary dt[id]") if "glossary" in text else ():
            meaning = " ".join(term.find_next_sibling("dd").get_text().split())
            terms[term["id"]] = escape(shorten(meaning, 250, placeholder=" …"))
    for path, text in pages.items():
        text = text.replace(' aria-label="Toggle hidden content"', "")  # the text of the fold says more
        text = re.sub(r"<script[^>]*/fontawesome\.js[^>]*></script>", "", text)
        text = LAUNCH.sub(r"\1students", text)
        text = re.sub(r"<title>(.*?) &#8212; \1</title>", r"<title>\1</title>", text)
        start, *rest = VIEWPORT.split(text)
        text = start + "".join(VIEWPORT.findall(text)[:1] + rest)
        text = TERM.sub(lambda m: f'{m[1]} title="{terms[m[2]]}"' if m[2] in terms else m[1], text)
        if text != pages[path]:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("config-inited", lambda app, config: config.html_static_path.append(str(ASSETS)))
    app.connect("html-page-context", leave_out_scripts, priority=900)
    app.connect("html-page-context", describe)
    app.connect("build-finished", finish_pages)
    app.connect("build-finished", copy_mathjax)
    app.add_css_file("book.css")
    app.add_js_file("book.js")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
