"""One prompt: its text as a page may quote it, where its attention goes, which of its tokens stay, and what the model
says from each cache.

Only texts whose licence allows it are quoted; of all others the letters are hidden, the layout stays.
"""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from ..sequence import Sequence as Sample
from ..sequences import ATTRIBUTION, Attribution, load_sequences
from ..sequences.encoding import own_sequence
from .style import GREY, INK, SMALL, dots_figure, headline, legible, look, panels, styled

PARTS = {"sink": "#882255", "middle": "#bdbdbd", "window": "#8a5a00"}  # of attention, and their colours
COLUMNS = 400  # of the raster; longer prompts are averaged into this many
FREE = ("CC BY", "MIT")  # how the licences begin that allow quoting with attribution


def shown_sequence(
    tokenizer: Any,
    prompt: str = "",
    answer: str = "",
    evidence: str = "",
    category: str = "Single-Document QA",
    max_tokens: int = 1000,
    seed: int = 0,
) -> Sample:
    """The sequence of chapters 3 and 4: a reader's own (`own_sequence`) or, without a prompt, one of the open texts.

    Of a dozen drawn the first whose answer has several tokens and whose evidence is left whole, if there is one.
    """
    if prompt.strip():
        return own_sequence(tokenizer, prompt, answer, evidence, max_tokens)
    drawn = load_sequences(tokenizer, categories=[category], per_category=12, max_tokens=max_tokens, seed=seed)
    return max(drawn, key=lambda one: (len(one.answer_ids) > 1, len(one.evidence_spans) > 0))


def attribution(dataset: str) -> Attribution | None:
    """Whose text a data set is, if its licence allows quoting; else None."""
    return next((one for one in ATTRIBUTION if one.dataset == dataset and one.licence.startswith(FREE)), None)


def quoted(text: str, dataset: str) -> str:
    """The text, or the same with every letter and digit hidden where its data set must not be quoted."""
    return text if not dataset or attribution(dataset) else re.sub(r"\w", "•", text)


def credit(dataset: str) -> str:
    """One line of inline Markdown: source, authors and licence of a quotation, or why nothing is quoted."""
    if not dataset:
        return "A text of the reader's own"
    one = attribution(dataset)
    if one is None:
        return f"Text of `{dataset}`, letters hidden: no licence to quote it is stated"
    return f"Text: {one.source}. {one.authors}. Licence {one.licence.split(',')[0]}. Changes: {one.changes}"


def cut_excerpt(texts: Sequence[str], max_tokens: int, dataset: str, around: int = 40) -> HTML:
    """A prompt's beginning, both edges of the cut, and its end, with the number of tokens left out between them.

    texts   of all the prompt's tokens, before truncation (`sequences.encoding.token_texts`), which leaves `max_tokens`
    around  tokens shown at each place
    """
    n, last = len(texts), len(texts) - max_tokens // 2  # the second half stays from `last` on
    first = max_tokens - max_tokens // 2
    edges = [(first - around, first), (last, last + around)] if n > max_tokens else []
    parts, end = [], 0
    for start, stop in [(0, around), *edges, (n - around, n)]:
        if start > end:
            what = "✂ cut out: {:,} tokens" if edges and end == first else "… {:,} tokens not shown here …"
            parts.append(f"<p style='text-align: center; font-weight: 600'>{what.format(start - end)}</p>")
        text = html.escape(quoted("".join(texts[max(start, end) : stop]), dataset)).replace("\n", " ⏎ ")
        parts.append(f"<p>{text}</p>")
        end = max(stop, end)
    return HTML(f"<blockquote style='overflow-wrap: anywhere'>{''.join(parts)}</blockquote>")


def passage(sequence: Sample, prompts: Sequence[Any], window: int) -> tuple[int, int]:
    """Positions (start, end exclusive) of the passage that holds the answer.

    Where none is known: the 20 neighbours that the answer's queries look at most, position 0 and the window left out.

    prompts  of each layer the prompt's attention, with the answer's queries
    """
    if sequence.evidence_spans:
        return sequence.evidence_spans[0]
    rows = np.mean([prompt.probe_rows().mean((0, 1)).numpy() for prompt in prompts], axis=0)
    middle = rows[1 : len(rows) - window]
    length = min(20, len(middle))
    start = 1 + int(np.convolve(middle, np.ones(length), "valid").argmax())
    return start, start + length


def one_line(text: str, most: int = 90) -> str:
    """A written text on one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def bubbles(
    columns: Mapping[str, Mapping[str, str]], right: Callable[[str], bool], said: Callable[[str], str] = one_line
) -> HTML:
    """What a model wrote from each cache, as speech bubbles: a row per cache, a column per circumstance.

    columns  circumstance -> cache -> text
    right    whether a text is right: it gets a tick, the others a cross; said: the text as it is shown
    """
    rows = ""
    for cache in next(iter(columns.values())):
        colour = look(cache.split(" with")[0]).colour
        rows += f'<tr style="--bubble: {colour}"><th scope="row">{html.escape(cache)}</th>'
        for text in (texts[cache] for texts in columns.values()):
            kind, sign = ("right", "✓") if right(text) else ("wrong", "✗")
            shown = html.escape(said(text)) or "␣"
            rows += f'<td class="{kind}"><q>{shown}</q> <span role="img" aria-label="{kind}">{sign}</span></td>'
        rows += "</tr>"
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    label = html.escape(f"What the model writes {', '.join(columns)}")
    return HTML(
        f'<style>{BUBBLES}</style><div class="bubbles" role="region" tabindex="0" aria-label="{label}">'
        f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


BUBBLES = """
.bubbles { overflow-x: auto; margin: 1rem 0; }
.bubbles table { border-collapse: separate; border-spacing: 0.5rem 0.4rem; width: 100%; }
.bubbles :is(th, td) { text-align: left; vertical-align: middle; font-weight: 400; font-size: 0.95rem; }
.bubbles th[scope="row"] { font-weight: 600; border-left: 4px solid var(--bubble); padding-left: 0.5rem; }
.bubbles tbody td { border: 1px solid var(--pst-color-border, #c8c8c8); border-radius: 0.9rem 0.9rem 0.9rem 0;
  padding: 0.35rem 0.7rem; overflow-wrap: anywhere; min-width: 8rem; }
.bubbles td.right { background: color-mix(in srgb, #009e73 22%, transparent); }
@media (max-width: 600px) {
  .bubbles table { border-spacing: 0.25rem; }
  .bubbles :is(th, td) { font-size: 0.8rem; }
  .bubbles th[scope="row"] { padding-left: 0.3rem; }
  .bubbles tbody td { min-width: 6.5rem; padding: 0.3rem 0.5rem; }
}
"""


@styled
def kept_raster(
    kept_by_method: Mapping[str, Sequence[ArrayLike]], n: int, marks: Mapping[str, tuple[int, int]]
) -> Figure:
    """Layers against prompt positions for each method: the stronger the colour, the more of the heads keep a position.

    kept_by_method  method -> per layer the kept positions [S, b]; n: tokens of the prompt
    marks           name -> (start, end exclusive) of a stretch of the prompt, set off by thin lines
    """
    figure, axes = panels(len(kept_by_method), height=1.5, sharex=True, sharey=True)
    for ax, (method, layers) in zip(axes, kept_by_method.items(), strict=True):
        share = np.stack([kept_share(kept, n) for kept in layers])
        colours = LinearSegmentedColormap.from_list(method, ["#f4f4f4", look(method).colour])
        darkest = max(share.max() * (1 if n <= COLUMNS else 0.6), 1e-9)
        if n > COLUMNS:  # means over neighbouring positions
            starts = np.arange(COLUMNS) * n // COLUMNS
            share = np.add.reduceat(share, starts, axis=1) / np.diff(np.append(starts, n))
        ax.imshow(share, cmap=colours, vmin=0, vmax=darkest, aspect="auto", interpolation="nearest",
                  extent=(-0.5, n - 0.5, len(share) - 0.5, -0.5))  # fmt: skip
        ax.set_title(method, color=legible(look(method).colour), fontweight="bold", fontsize=10)
        ax.set_ylabel("Layer")
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.grid(visible=False)
        for name, (start, stop) in marks.items():
            ax.vlines([start - 0.5, stop - 0.5], *ax.get_ylim(), color=INK, linewidth=0.8)
            if ax is axes[0]:
                ax.annotate(name, ((start + stop) / 2, 1.02), xycoords=ax.get_xaxis_transform(), ha="center",
                            fontsize=SMALL)  # fmt: skip
    axes[-1].set_xlabel("Prompt position (tokens)")
    headline(figure, "The stronger the colour, the more of a layer's heads keep the position")
    return figure


@styled
def passage_bars(shares: Mapping[str, ArrayLike], words: Sequence[str], marked: Sequence[int], chance: float) -> Figure:
    """Share of the heads [tokens] that keep each token of a passage, a panel per method.

    marked  indices to point out; chance: a random choice's share
    """
    figure, axes = panels(len(shares), height=1.15, sharex=True, sharey=True)
    places = np.arange(len(words))
    for ax, (method, share) in zip(axes, shares.items(), strict=True):
        colour = look(method).colour
        for place in marked:
            ax.axvspan(place - 0.5, place + 0.5, color="#fdf0c8", linewidth=0)
        ax.bar(places, share, 0.8, color=colour)
        ax.axhline(chance, color=GREY, linewidth=1, linestyle=(0, (1, 1)))
        ax.set_title(method, color=legible(colour), fontweight="bold", fontsize=10)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        ax.grid(visible=False, axis="x")
    axes[-1].set_xticks(places, [word or "␣" for word in words], rotation=90, fontsize=SMALL)
    for label in (axes[-1].get_xticklabels()[place] for place in marked):
        label.set_fontweight("bold")
    headline(figure, "Share of all heads that keep the token")
    return figure


def kept_share(kept: ArrayLike, n: int) -> np.ndarray:
    """Share of the heads that keep each of n positions: kept [S, b] -> [n]."""
    kept = np.asarray(kept)
    keeps = np.zeros((len(kept), n))
    np.put_along_axis(keeps, kept, 1, axis=1)
    return keeps.mean(axis=0)


@styled
def answer_dots(answers: pd.DataFrame) -> Figure:
    """Negative log-likelihood of the answer from each method's cache; the full cache's as a line.

    answers  columns method, nll, with a row "Full"; one sequence
    """
    nll = answers.set_index("method")["nll"]
    full = nll.pop("Full")
    table = pd.DataFrame({"row": nll.index, "method": nll.index, "source": "", "estimate": nll.array, "low": full})
    tables = {"Nats per answer token\n← lower is better": table.assign(high=nll.array)}
    subject = "How unlikely the right answer is"
    figure = dots_figure.__wrapped__(tables, subject, f"full cache, {full:.2f}", [full], spacing=0.28)
    figure.axes[0].set_xlim(0, 1.15 * max(full, nll.max()))
    for y, value in enumerate(nll):
        away, side = (9, "left") if value >= full else (-9, "right")  # from the line
        figure.axes[0].annotate(f"{value:.2f}", (value, y), (away, 0), textcoords="offset points", va="center", ha=side)
    return figure


@styled
def attention_parts(rows: Sequence[ArrayLike], window: int) -> Figure:
    """Where the attention of the last queries goes, layer by layer; rows as of `attention_shares`."""
    figure, (ax,) = panels(height=3)
    names = {"sink": "position 0", "middle": "all between", "window": f"the last {window} tokens"}
    below = np.zeros(len(rows))
    for part, share in attention_shares(rows, window).items():
        ax.bar(np.arange(len(rows)), share, bottom=below, width=1, color=PARTS[part], edgecolor="white", linewidth=0.4,
               label=names[part])  # fmt: skip
        below = below + share
    ax.set(xlabel="Layer", ylabel="Share of attention", xlim=(-0.5, len(rows) - 0.5), ylim=(0, 1))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.grid(visible=False)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, handlelength=1, columnspacing=1)
    return figure


def attention_shares(rows: Sequence[ArrayLike], window: int) -> dict[str, np.ndarray]:
    """Shares of the parts "sink" (position 0), "middle" and "window", each [layers]; they add up to 1.

    rows  one per layer: mean attention of the last `window` queries, [n]
    """
    rows = np.stack([np.asarray(row, dtype=float) for row in rows])
    sink, last = rows[:, 0] / rows.sum(1), rows[:, max(rows.shape[1] - window, 1) :].sum(1) / rows.sum(1)
    return {"sink": sink, "middle": 1 - sink - last, "window": last}
