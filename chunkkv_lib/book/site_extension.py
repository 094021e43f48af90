"""Sphinx extension: MathJax without a network, the book's style sheet, files published beside the pages.

`_config.yml` names it under `local_extensions`, so a plain `jupyter-book build .` uses it as well.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

from chunkkv_lib.book.stamp import EXTRA

ASSETS = Path(__file__).parent / "assets"


def copy_mathjax(app: Sphinx, failure: Exception | None) -> None:
    """Copy the one script and the fonts that the pages load: 1.6 MB of the 24 MB of sphinx-mathjax-offline.

    This happens after the build because Sphinx would add any script below `_static` to every page.
    """
    if failure is not None or app.builder.format != "html":
        return
    package = importlib.util.find_spec("sphinx-mathjax-offline")  # a name that no import statement can say
    if package is None or package.origin is None:
        raise ExtensionError("sphinx-mathjax-offline is not installed: pip install -r requirements.txt")
    source, target = Path(package.origin).parent / "static" / "mathjax", Path(app.outdir) / "_static" / "mathjax"
    fonts = Path("output/chtml/fonts/woff-v2")
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copyfile(source / "tex-chtml.js", target / "tex-chtml.js")


def publish_files(app: Sphinx, config: Config) -> None:
    """Add the assets of this package and the sources' `_extra` folder to the site."""
    config.html_static_path = [*config.html_static_path, str(ASSETS)]
    if (Path(app.srcdir) / EXTRA).is_dir():
        config.html_extra_path = [*config.html_extra_path, EXTRA]
    config.mathjax_path = "mathjax/tex-chtml.js"


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


def launch_student_copies(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Let the Binder and Colab buttons open the branch `students`, whose chapters hold no solutions (publish.yml)."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            for service, mark in (("mybinder.org", "/main?"), ("colab.research.google.com", "/blob/main/")):
                if service in button.get("url", ""):
                    button["url"] = button["url"].replace(mark, mark.replace("main", "students"))


def leave_out_icon_script(app: Sphinx, failure: Exception | None) -> None:
    """Drop the theme's 1.5 MB of icons drawn by script: they are in the web font that it loads as well."""
    script = Path(app.outdir) / "_static" / "scripts" / "fontawesome.js"
    if failure is not None or not script.is_file():
        return
    script.unlink()
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r"<script[^>]*/fontawesome\.js[^>]*></script>", "", text), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("config-inited", publish_files)
    app.connect("html-page-context", leave_out_scripts, priority=900)
    app.connect("html-page-context", launch_student_copies, priority=900)
    app.connect("build-finished", leave_out_icon_script)
    app.connect("build-finished", copy_mathjax)
    app.add_css_file("book.css")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
