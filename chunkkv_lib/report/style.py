"""How every figure looks: one colour, marker and line style per method.

Colours are from Okabe and Ito's palette, which stays distinct for all common kinds of colour blindness;
marker and line style tell the methods apart in grey print. The background is white; the book's dark mode exchanges
light and dark and keeps the hues. Figures are narrow and their text has 9 points or more, so that they stay legible
on a phone.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from textwrap import fill

import matplotlib.style
import numpy as np
import pandas as pd
from IPython.display import SVG
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

WIDTH = 4.4  # inches: on a phone of 390 pixels 10 points are 12 pixels, on a wide screen 16
LETTERS = 55  # of 10 points that fit into it
SMALL = 9  # points, the smallest text
INK, GREY, FAINT = "#222222", "#6b6b6b", "#e4e4e4"


@dataclass(frozen=True)
class Look:
    """How a method is drawn."""

    colour: str
    marker: str
    line: str | tuple


LOOKS = {
    "ChunkKV": Look("#0072B2", "o", "-"),
    "SnapKV": Look("#D55E00", "s", "-"),
    "H2O": Look("#009E73", "^", "-"),
    "StreamingLLM": Look("#6b6b6b", "v", (0, (5, 1.5))),
    "Recent": Look("#6b6b6b", "<", (0, (3, 1, 1, 1))),
    "Random": Look("#6b6b6b", "x", (0, (1, 1))),
    "Oracle": Look("#6b6b6b", "*", (0, (7, 2, 1, 2))),
    "Full": Look("#222222", "D", "-"),
    "ObservedAttention": Look("#009E73", ">", "-"),  # kvpress's relative of H2O
    "SnapKV-15": Look("#8C3D00", "p", "-"),
    "ChunkKV-15": Look("#003F63", "h", "-"),
}
OTHERS = (Look("#CC79A7", "P", "-"), Look("#E69F00", "X", "-"), Look("#56B4E9", "d", "-"))  # a reader's own methods
PAPER = "Paper"
#: How the book's dark mode turns an inverted colour back to its hue: hue-rotate(180deg) of book.css.
DARK = np.array([[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]])
FILLS = ("full", "left", "bottom", "top")  # how a run's markers are filled, by its place; the paper's are hollow

RC = {  # what differs from matplotlib's own defaults
    "text.parse_math": False,  # names of methods and tokens come from outside: nothing in them is markup
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "axes.formatter.useoffset": False,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.hashsalt": "chunkkv",
}


def own_style() -> object:
    """A context with matplotlib's defaults and our settings, whatever the user's matplotlibrc says."""
    return matplotlib.style.context(["default", RC])


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function that draws: our settings hold inside it and nowhere else, and its layout is final.

    A layout left to the moment of saving would move a little each time the figure is drawn. What draws into another's
    figure calls that one without this: `dots_figure.__wrapped__`.
    """

    @wraps(draw)
    def drawn(*args, **options) -> Figure:
        with own_style():
            figure = draw(*args, **options)
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine("none")
        return figure

    return drawn


def look(method: str) -> Look:
    """The method's fixed look; an unknown method gets one of the spare looks, always the same one.

    A difference, "ChunkKV − SnapKV", has the look of what is subtracted; a peer's method, "kvpress SnapKV", is dashed.
    """
    method = method.split(" − ")[-1]
    name = method.removeprefix("kvpress ")
    style = LOOKS.get(name) or OTHERS[sum(name.encode()) % len(OTHERS)]
    return style if name == method else replace(style, line=(0, (4, 2)))


def panels(rows: int = 1, columns: int = 1, height: float = 3.2, **options) -> tuple[Figure, np.ndarray]:
    """A figure outside pyplot's global list, and its axes as a flat array; height is per row, in inches."""
    figure = Figure(figsize=(WIDTH, height * rows), dpi=100, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel()


def svg(figure: Figure) -> bytes:
    """The figure as SVG, with text of 10 points as large as a page's; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with own_style():
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None})
    head, body = buffer.getvalue().split(b"viewBox", 1)
    size = re.compile(rb' (width|height)="([\d.]+)pt"')
    return size.sub(lambda m: b' %s="%.6gpt"' % (m[1], 1.2 * float(m[2])), head) + b"viewBox" + body


def show(figure: Figure) -> SVG:
    """What a notebook cell ends with: the figure as an SVG output."""
    return SVG(svg(figure).decode())


def spread(positions: Sequence[float], gap: float) -> np.ndarray:
    """Positions in 0..1 moved as little as possible (least squares) to stand `gap` apart, in their order."""
    positions = np.asarray(positions, dtype=float)
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(positions))
    highest = max(1 - gap * (len(positions) - 1), 0)
    moved = np.empty_like(positions)
    moved[order] = isotonic_regression(positions[order] - steps).x.clip(0, highest) + steps
    return moved


def label_ends(
    axes: Axes, x: float | Sequence[float], labels: Iterable[tuple[float, str, str]], gap: float = 0.075
) -> None:
    """Name lines at their right end instead of in a legend; a thin leader joins a label that had to move.

    x       data position of the ends, one or one for each; labels: (y in data units, text, colour); gap in fractions of
            the axes.
    Set the axes' limits and scales before.
    """
    labels = list(labels)
    to_axes = axes.transData - axes.transAxes
    ends = np.broadcast_to(x, len(labels))
    heights = spread([to_axes.transform((end, y))[1] for end, (y, _, _) in zip(ends, labels, strict=True)], gap)
    for end, (y, text, colour), height in zip(ends, labels, heights, strict=True):
        leader = {"arrowstyle": "-", "relpos": (0, 0.5), "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2}
        axes.annotate(brief(text, 23), xy=(end, y), xytext=(1.05, height), textcoords="axes fraction", va="center",
                      color=legible(colour), fontsize=SMALL, annotation_clip=False, arrowprops=leader,
                      fontweight="normal" if colour in (GREY, INK) else "bold")  # fmt: skip


def wrapped(text: str, letters: int) -> str:
    """The text with every line of it broken where it has more letters than that."""
    return "\n".join(fill(line, letters) for line in text.splitlines())


def brief(name: str, most: int = 26) -> str:
    """A name that fits beside a line or into a legend: cut where it is longer."""
    return name if len(name) <= most else name[: most - 1] + "…"


def line_panel(ax: Axes, table: pd.DataFrame, x: str, by: str = "method", **options) -> list[tuple[float, str, str]]:
    """A line per value of `by`, over a band for its interval where the table has `low` and `high`.

    table    rows in the order of x; `options` go to every line and win over the method's look
    return   the lines' ends for `label_ends`: y, name, colour
    """
    ends = []
    for name, points in table.groupby(by, sort=False):
        style = look(name)
        if "low" in points:
            ax.fill_between(points[x], points["low"], points["high"], color=style.colour, alpha=0.18, linewidth=0)
        drawn = {"color": style.colour, "linestyle": style.line, "marker": style.marker, "label": brief(str(name))}
        ax.plot(points[x], points["estimate"], **(drawn | options))
        ends.append((points["estimate"].iloc[-1], str(name), style.colour))
    return ends


@styled
def dots_figure(
    tables: Mapping[str, pd.DataFrame], subject: str, zero: str = "", at: Sequence[float] = (), spacing: float = 0.17
) -> Figure:
    """Dots with intervals: a panel per quantity, a line per row, a dot per method and source.

    tables   label of the x axis -> table with columns row, method, source, estimate, low, high; low and high are NaN
             where there is no interval. A hollow marker is the paper's; the runs' are filled, each in its own way.
    subject  the figure's first line; zero: what the line at 0, or in each panel `at`, stands for; "" draws none
    spacing  inches from one dot to the next
    """
    every = pd.concat(list(tables.values()))
    rows, methods, sources = (list(every[name].unique()) for name in ("row", "method", "source"))
    places = max(len(table[table["row"] == row]) for table in tables.values() for row in rows)
    labels = [fill(re.sub(r" (?=\d+$)", "\N{NO-BREAK SPACE}", brief(row, 60)), 14) for row in rows]
    tallest = max(0.2 * (label.count("\n") + 1) + 0.06 for label in labels)  # inches, so that no two labels touch
    height = len(rows) * max(places * spacing + 0.08, tallest) + 0.75 + 0.3 * subject.count("\n")
    figure, axes = panels(len(tables), height=max(height, 1.7))
    for ax, (label, table), x in zip(axes, tables.items(), at or [0] * len(tables), strict=True):
        for row, entries in table.groupby("row", sort=False):
            for slot, entry in enumerate(entries.itertuples()):
                y = rows.index(row) + 0.8 * ((slot + 0.5) / len(entries) - 0.5)
                colour = look(entry.method).colour
                ax.hlines(y, entry.low, entry.high, color=colour, linewidth=1.4)
                ax.plot(entry.estimate, y, color=colour, clip_on=False, **marker(entry.method, entry.source, sources))
        ax.set_yticks(range(len(rows)), labels)
        ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=wrapped(label, 44))
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        if table[["estimate", "high"]].max(axis=None) <= 1 < ax.get_xlim()[1]:
            ax.set_xlim(right=1)  # where a cosine or a share ends
        ax.grid(visible=False, axis="y")
        for edge in range(1, len(rows)):
            ax.axhline(edge - 0.5, color="#d8d8d8", linewidth=0.7)
        if zero:
            ax.axvline(x, color=INK, linewidth=0.8, zorder=1)
            ax.text(x, 1.005, zero, transform=ax.get_xaxis_transform(), ha="center", fontsize=SMALL, color=GREY)
    first = next((name for name in sources if name != PAPER), PAPER)
    shown = [(name, first, look(name).colour, name) for name in methods if set(methods) != set(rows)]
    shown += [("ChunkKV", name, GREY, name) for name in sources] if len(sources) > 1 else []
    handles = [
        Line2D([], [], color=colour, label=brief(name), **marker(method, source, sources))
        for method, source, colour, name in shown
    ]
    if handles:  # as many columns as fit the width
        letters = max(len(handle.get_label()) for handle in handles)
        columns = min(len(handles), max(1, 60 // (letters + 5)), 4)
        figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=SMALL)
    headline(figure, subject)
    return figure


def marker(method: str, source: str, sources: Sequence[str]) -> dict:
    """The method's marker without a line: hollow for the paper, filled for runs, each of `sources` in its own way."""
    runs = [name for name in sources if name != PAPER]
    style = "none" if source == PAPER else FILLS[runs.index(source) % len(FILLS)]
    return {"marker": look(method).marker, "fillstyle": style, "markersize": 5.5, "markerfacecoloralt": "white",
            "linestyle": "none"}  # fmt: skip


def legible(colour: str) -> tuple[float, ...]:
    """The colour for text on white: darkened where needed to a contrast of 4.5 (WCAG AA)."""
    rgb = np.array(to_rgb(colour))
    while 1.05 / (luminance(rgb) + 0.05) < 4.5:
        rgb = rgb * 0.95
    return tuple(rgb)


def text_on(colour: str | tuple) -> str:
    """White or ink, whichever reads better on a ground of this colour in the worse of the book's two modes."""
    ground = np.array(to_rgb(colour))
    in_dark_mode = (DARK @ (1 - ground)).clip(0, 1)  # where white text is black and ink is nearly white

    def contrast(one: ArrayLike, two: ArrayLike) -> float:
        high, low = sorted((luminance(one), luminance(two)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    ink = np.array(to_rgb(INK))
    white = min(contrast((1, 1, 1), ground), contrast((0, 0, 0), in_dark_mode))
    return "white" if white > min(contrast(ink, ground), contrast(1 - ink, in_dark_mode)) else INK


def bare(axes: Axes) -> None:
    """No grid, no ticks and no frame: what stands in cells needs none."""
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def luminance(rgb: ArrayLike) -> float:
    """WCAG relative luminance of a colour, red, green and blue in 0..1."""
    rgb = np.asarray(rgb, dtype=float)
    return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def say_start(axes: Axes, note: str = "") -> None:
    """Say at the panel's top right if the y axis does not start at zero, and a further note if there is one."""
    low, high = axes.get_ylim()
    cut = "y axis does not start at 0" if low > 0 or high < 0 else ""
    axes.set_title("\n".join(filter(None, [cut, fill(note, 44)])), loc="right", fontsize=SMALL, color=GREY)


def headline(figure: Figure, subject: str, sequences: int | None = None, note: str = "") -> None:
    """The figure's first lines: what and how many sequences, then how to read it."""
    if sequences is not None:
        subject += f", n = {sequences} sequences" if sequences != 1 else ", n = 1 sequence, hence no interval"
    figure.suptitle(wrapped(f"{subject}\n{note}".rstrip(), LETTERS), fontsize=10, x=0.01, ha="left")
