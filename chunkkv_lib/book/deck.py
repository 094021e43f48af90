"""The lecture of 90 minutes as one HTML file: slides in Markdown, numbers and figures from the recorded runs.

    python -m chunkkv_lib deck

`chapters/lecture/slides.md` has the slides, in Pandoc's way: `---` between them, `. . .` before what a click reveals,
`::: notes` for what only the presenter sees. `deck.html` beside it is the page that shows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import StringIO
from pathlib import Path

import matplotlib
import pandas as pd
import torch
from jinja2 import Template
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from ..attention import PromptAttention
from ..compressors import H2O, ChunkKV, SnapKV
from ..errors import InputError
from ..exercises.homework import LICENCE, RULES, RUN
from ..exercises.questions import needles_found, numbers
from ..files import write_text
from ..report.arithmetic import kv_cache_bytes, readable
from ..report.records import paper_table_11
from ..report.style import look
from ..runs import load_run

WORDS = ["<s>", "The", "key", "is", "under", "the", "mat", ".", "Where", "is", "it", "?"]
TWENTIETHS = """20/14 6/10 5 5/8 2 6 4/8 1 3 5 3/7 1 2 3 4 3/6 1 2 2 5 2 2/7 0 1 3 3 1 3 2/8 0 1 4 1 1 1 2 2
6 0 1 4 1 1 1 1 3 2/5 0 4 0 1 1 3 1 1 1 3/4 0 2 1 3 1 5 0 1 0 1 2"""  # attention of each word, as in chapter 2
REACH = {
    **{"SnapKV, kernel 1": "SnapKV, pooling over 1", "SnapKV": "over 7", "SnapKV, kernel 25": "over 25"},
    **{"ChunkKV, chunk_size 5": "ChunkKV, chunks of 5", "ChunkKV": "of 10", "ChunkKV, chunk_size 40": "of 40"},
}
METRICS = ("kv_l1_loss", "attention_cosine_similarity")
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
    ours = records[records["method"].isin(names)].groupby(["category", "method"], observed=True)[list(METRICS)].mean()
    layers = records[records["method"].isin(names)].pivot_table(
        index="layer", columns="method", values=list(METRICS), observed=True)  # fmt: skip
    loss, cosine = (layers[metric][names] for metric in METRICS)
    found, asked = needles_found()
    reach, shown = found[list(REACH)].sum(), ["Full", *RULES, "StreamingLLM", "Random"]
    best = paper.pivot(index="category", columns="method")
    first = best[METRICS[0]].idxmin(axis=1), best[METRICS[1]].idxmax(axis=1)
    ours = ours.reindex(paper["category"].unique(), level="category")
    loss_of = ours[METRICS[0]].unstack().astype(float)
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
    passes = [[f"{x:,}" for x in (t, sum(range(1000, 1000 + t)), 999 + t)] for t in (1, 10, 100, 1000)]
    llama = {"layers": 32, "kv_heads": 8, "head_dim": 128}
    return known | twelve_tokens() | {
        "licence": LICENCE.replace("*What", "<em>What").replace("away*", "away</em>"),
        "sequences": len(run.sequences),
        "passes": table(["tokens written", "without a cache", "with a cache"], passes),
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


def table(header: Iterable[str], rows: Iterable[Iterable[str]], above: str = "") -> str:
    """An HTML table with numbers in all columns but the first; above: another row of its head."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="numbers">{above}<tr>{head}</tr>{body}</table>'


def metrics_table(means: pd.DataFrame, methods: list[str]) -> str:
    """Both metrics of all methods by category, in one table; the best of the three rules in bold."""
    rows = []
    for category in means.index.unique("category"):
        cells = [category]
        for metric, best in zip(METRICS, (min, max)):
            values = means.loc[category, metric]
            top = best(values[list(RULES)])
            cells += [f"<strong>{values[m]:.4f}</strong>" if values[m] == top else f"{values[m]:.4f}" for m in methods]
        rows.append(cells)
    titles = "".join(f'<th colspan="{len(methods)}" scope="colgroup">{name}</th>' for name in TITLES)
    return table(["", *methods, *methods], rows, f"<tr><td></td>{titles}</tr>")


def twelve_tokens() -> dict[str, str]:
    """The rows of the worked example: scores in twentieths, and what each rule keeps of six."""
    shares = torch.zeros(12, 12, dtype=torch.float64)
    for row, line in enumerate(TWENTIETHS.replace("\n", "/").split("/")):
        shares[row, : row + 1] = torch.tensor([float(x) for x in line.split()]) / 20
    keys = torch.eye(12, dtype=torch.float64)[None]  # with these queries a softmax gives the table
    attention = PromptAttention((shares.clamp(min=1e-13).log() * 12**0.5)[None], keys)
    sums, votes = ([round(float(x)) for x in 20 * shares[start:, :10].sum(0)] for start in (0, 10))
    chunks = [sum(votes[i - i % 3 : i - i % 3 + 3]) for i in range(10)]
    pooled = [max(votes[max(0, i - 1) : i + 2]) for i in range(10)]
    rules = {
        "H2O": (H2O(6, window=2), sums),
        "SnapKV": (SnapKV(6, window=2, kernel=3), pooled),
        "ChunkKV": (ChunkKV(6, window=2, chunk_size=3), chunks),
    }
    strips = {}
    for name, (rule, scores) in rules.items():
        kept = rule.choose(attention)[0].tolist()
        strips[f"strip_{name.lower()}"] = strip(f"{name} keeps", {"score": scores}, kept)
    return strips | {
        "strip_empty": strip("token", {"all look at": sums, "the last two": votes}),
        "strip_sums": strip("token", {"all look at": sums}), "strip_votes": strip("token", {"the last two": votes}),
        "strip_chunks": strip("token", {"the last two": votes, "sum of chunk": chunks}),
    }  # fmt: skip


def strip(title: str, scores: Mapping[str, list[int]], kept: list[int] | None = None) -> str:
    """Twelve tokens in a row with their scores; those that stay are dark."""
    kinds = ["" if kept is None else ' class="kept"' if i in kept else ' class="gone"' for i in range(12)]
    words = "".join(f"<td{kind}>{escape(word)}</td>" for kind, word in zip(kinds, WORDS))
    rows = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{x}</td>" for x in row)}<td>·</td><td>·</td></tr>'
        for name, row in scores.items()
    )
    return f'<table class="tokens"><tr><th scope="row">{title}</th>{words}</tr>{rows}</table>'


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
