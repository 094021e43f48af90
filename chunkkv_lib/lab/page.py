"""The lab as HTML: controls and data of its prompts in one fragment, which needs nothing from elsewhere.

assets/lab.html is the fragment, assets/page.html a page around it; both are templates of Jinja. What a setting keeps,
and what it costs, the scripts beside them compute.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import astuple
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from ..compressors import METHODS
from ..report.style import OTHERS, look
from .rules import Setting

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("rules", "codes", "metrics", "expression", "results", "charts", "view", "tour", "lab")
#: Of the book's figures; the reader's own rule has one of the spare colours.
COLOURS = {name: look(name).colour for name in METHODS} | {"Own rule": OTHERS[0].colour}
#: In the book's page: what an address names of a setting, and the rules on both sides that it shows.
LINKS = {
    "budget=10": (Setting("ChunkKV"), Setting("SnapKV")),
    "budget=20&chunk=5": (Setting("ChunkKV", 20.0, chunk_size=5), Setting("SnapKV", 20.0)),
}


def rendered(template: str, **values: object) -> str:
    """A template of the lab, filled in."""
    templates = Environment(loader=FileSystemLoader(ASSETS), autoescape=True)
    templates.globals["asset"] = lambda name: (ASSETS / name).read_text(encoding="utf-8")
    templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return templates.get_template(template).render(values)


def lab_page(prompts: Many[dict], title: str) -> str:
    """The lab as a page of its own."""
    return rendered("page.html", title=title, lab=lab_fragment(prompts))


def lab_fragment(prompts: Many[dict], links: Mapping[str, tuple[Setting, Setting]] | None = None) -> str:
    """The whole lab: prompts as `prompt_data` makes them, the first is shown first.

    links  as LINKS, recorded settings of the first prompt: buttons that say what the model writes with each
    """
    written = {tuple(setting): text for *setting, text in prompts[0]["written"]}
    buttons = {}
    for address, sides in (links or {}).items():
        names = [one.method + f" with chunks of {one.chunk_size}" * (one.chunk_size != 10) for one in sides]
        texts = [f"from the cache of {name} “{written[astuple(one)]}”" for name, one in zip(names, sides)]
        buttons[address] = f"At {sides[0].budget:g} % the model writes {' and '.join(texts)}"
    return rendered(
        "lab.html", prompts=prompts, links=buttons, rules=[(one, one) for one in COLOURS], colours=COLOURS,
        scripts=SCRIPTS, recorded=[f"{budget:g}" for budget in sorted({setting[1] for setting in written})],
    )  # fmt: skip
