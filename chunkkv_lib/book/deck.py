"""The lecture of 90 minutes as one HTML file: slides in Markdown, numbers and figures from the recorded runs.

    python -m chunkkv_lib deck

`chapters/lecture/slides.md` has the slides, in Pandoc's way: `---` between them, `. . .` before what a click reveals,
`::: notes` for what only the presenter sees. `deck.html` beside it is the page that shows them.
"""

import re
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path

import matplotlib
import pandas as pd
from jinja2 import Template
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from ..errors import InputError
from ..exercises.homework import LICENCE, RULES, RUN
from ..exercises.questions import needles_found, numbers
from ..files import write_text
from ..report.arithmetic import kv_cache_bytes, readable
from ..report.records import PRIMARY, paper_table_11
from ..report.style import look
from ..runs import load_run

REACH = {
    "SnapKV, kernel 1": "SnapKV, pooling over 1", "SnapKV": "over 7", "SnapKV, kernel 25": "over 25",
    "ChunkKV, chunk_size 5": "ChunkKV, chunks of 5", "ChunkKV": "of 10", "ChunkKV, chunk_size 40": "of 40",
}  # fmt: skip
TITLES = ("KV-cache L1 loss", "Attention cosine")


def write_deck(root: Path, output: str | Path, site: str = "") -> Path:
    """Write the deck of the book at `root`; site: the way from there to the folder of the book's site.

    raises  InputError: a statement on a slide that the runs do not bear out.
    """
    folder = root / "chapters" / "lecture"
    values, minute, slides = contents() | {"site": site}, "0", []
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    for text in (folder / "slides.md").read_text(encoding="utf-8").split("\n---\n"):
        if given := re.match(r"minute: (\d+)\n", text):
            minute, text = given[1], text[given.end() :]
        text, *notes = re.split(r"^::: notes\n(.*?)^:::$", text, flags=re.M | re.S)
        first, *steps = map(markdown.render, text.format(**values).split("\n. . .\n"))
        slides.append({"minute": minute, "first": first, "steps": steps, "notes": markdown.render("".join(notes))})
    page = Template((folder / "deck.html").read_text(encoding="utf-8"), keep_trailing_newline=True)
    write_text(output, page.render(slides=slides))
    return Path(output)


def contents() -> dict[str, object]:
    """What the slides name in braces: numbers, tables and figures."""
    run, known = load_run(RUN), numbers()
    records, paper = run.records, paper_table_11()
    names = [*RULES, "Random"]
    ours = records[records["method"].isin(names)].groupby(["category", "method"], observed=True)[list(PRIMARY)].mean()
    layers = records[records["method"].isin(names)].pivot_table(
        index="layer", columns="method", values=list(PRIMARY), observed=True)  # fmt: skip
    loss, cosine = (layers[metric][names] for metric in PRIMARY)
    found, asked = needles_found()
    reach, shown = found[list(REACH)].sum(), ["Full", *RULES, "StreamingLLM", "Random"]
    best = paper.pivot(index="category", columns="method")
    first = best[PRIMARY[0]].idxmin(axis=1), best[PRIMARY[1]].idxmax(axis=1)
    ours = ours.reindex(paper["category"].unique(), level="category")
    loss_of = ours[PRIMARY[0]].unstack().astype(float)
    short, long = (found.loc[tokens, ["ChunkKV", "SnapKV"]] for tokens in (2, 16))
    claims = {
        "in the paper's table ChunkKV is best in every row": all((one == "ChunkKV").all() for one in first),
        "ChunkKV has the lowest loss of the three": (loss_of[list(RULES)].idxmin(axis=1) == "ChunkKV").all(),
        "ChunkKV and SnapKV differ by less than a thousandth": known["kv_2"] - known["kv_1"] < 0.001,
        "dice lose less than any of them": (loss_of["Random"] < loss_of[list(RULES)].min(axis=1)).all(),
        "ChunkKV and SnapKV are alike by cosine": known["at_name_3"] == "H2O" and known["at_1"] - known["at_2"] < 0.002,
        "the cosine sees the dice": (cosine["Random"] < cosine[list(RULES)].min(axis=1)).all(),
        "long codes are rarely found": (long < short / 4).all(),
        "there are as many codes of each length": asked.nunique() == 1,
        "a rule finds more the more it spans": all((reach.iloc[i : i + 3].diff()[1:] > 0).all() for i in (0, 3)),
        "dice find next to nothing": known["found_random"] < known["needles"] / 50,
    }
    for claim, holds in claims.items():
        if not holds:
            raise InputError(f"the slides say that {claim}; the recorded runs no longer do. Change chapters/lecture.")
    llama = {"layers": 32, "kv_heads": 8, "head_dim": 128}
    return known | {
        "licence": LICENCE.replace("*What", "<em>What").replace("away*", "away</em>"),
        "sequences": len(run.sequences),
        "llama_token": readable(kv_cache_bytes(1, **llama)), "llama_prompt": readable(kv_cache_bytes(8192, **llama)),
        "table_paper": metrics_table(paper.set_index(["category", "method"]), list(RULES)),
        "table_ours": metrics_table(ours, names),
        "figure_loss": lines(loss, "Layer", "KV-cache L1 loss", (0, 1)),
        "figure_zoom": lines(loss, "Layer", "KV-cache L1 loss"),
        "figure_cosine": lines(cosine, "Layer", "Attention cosine", (0, 1)),
        "figure_found": bars(found[shown].sum(), shown),
        "figure_reach": bars(reach, list(REACH.values())),
        "figure_length": lines(found[["Full", *RULES]], "Tokens of the code", "Codes found", (0, None)),
    }  # fmt: skip


def metrics_table(means: pd.DataFrame, methods: list[str]) -> str:
    """Both metrics of all methods by category, in one HTML table; the best of the three rules in bold."""
    parts = []
    for metric, best in zip(PRIMARY, ("min", "max")):
        values = means[metric].unstack().loc[means.index.unique("category"), methods].astype(float)
        top = values.eq(values[list(RULES)].agg(best, axis=1), axis=0)
        texts = values.map("{:.4f}".format)
        parts.append(texts.where(~top, "<strong>" + texts + "</strong>"))
    shown = pd.concat(parts, axis=1, keys=TITLES).rename_axis(None).rename_axis([None, None], axis=1)
    return shown.to_html(escape=False, border=0, classes="numbers").replace("<th></th>", "<td></td>")


def picture(draw: Callable, salt: str) -> str:
    """An SVG for a slide: a point in it is a pixel at 1280 x 720, its text stays text, its ids are its own."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "svg.fonttype": "none", "svg.hashsalt": salt,
                                "font.size": 20, "axes.spines.top": False, "axes.spines.right": False}):  # fmt: skip
        figure = Figure(figsize=(1168 / 72, 470 / 72), layout="constrained")
        draw(figure.subplots())
        file = StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def lines(values: pd.DataFrame, x: str, y: str, limits: tuple | None = None) -> str:
    """A line for each method, named at its end."""

    def draw(ax) -> None:
        for method in values:
            style = look(method)
            ax.plot(values.index, values[method], color=style.colour, marker=style.marker, ls=style.line, lw=3, ms=9,
                    clip_on=False)  # fmt: skip
        ax.set(xlabel=x, ylabel=y, ylim=limits)
        ax.legend(list(values), frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return picture(draw, f"{y} {limits}")


def bars(values: pd.Series, names: Sequence[str]) -> str:
    """A bar for each method with its number; names: what the bars are called."""

    def draw(ax) -> None:
        colours = [look(method.split(",")[0]).colour for method in values.index]
        shown = ax.barh(names[::-1], values[::-1], color=colours[::-1])
        ax.bar_label(shown, padding=6)
        ax.set(xlabel="Codes found")

    return picture(draw, f"bars {len(values)}")
