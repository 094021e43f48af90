"""How every figure looks and how it is saved: one colour, marker and line style per method.

Colours are from Okabe and Ito's palette, which stays distinct for all common kinds of colour blindness;
marker and line style tell the methods apart in grey print. The background is always white, so a figure reads
the same in the book's dark mode, which puts it in a light frame. Figures are narrow and their text has 9
points or more, so that they stay legible on a phone of 390 pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from chunkkv_lib.errors import InputError
from chunkkv_lib.files import replace_atomically

if TYPE_CHECKING:
    from IPython.display import SVG

WIDTH = 5.2  # inches
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
}
OTHERS = (
    Look("#CC79A7", "P", "-"),
    Look("#E69F00", "X", "-"),
    Look("#56B4E9", "d", "-"),
)  # a reader's own methods

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
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
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "chunkkv",
    "svg.fonttype": "path",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function that draws: our settings hold inside it and nowhere else, and its layout is final.

    A layout left to the moment of saving would move a little each time the figure is drawn.
    """

    @wraps(draw)
    def drawn(*args, **options) -> Figure:
        with mpl.rc_context(RC):
            figure = draw(*args, **options)
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine("none")
        return figure

    return drawn


def look(method: str) -> Look:
    """The method's fixed look; an unknown method gets one of the spare looks, always the same one."""
    return LOOKS.get(method) or OTHERS[sum(method.encode()) % len(OTHERS)]


def panels(
    rows: int = 1, columns: int = 1, height: float = 3.2, width: float = WIDTH, **options
) -> tuple[Figure, np.ndarray]:
    """A figure outside pyplot's global list, and its axes as a flat array; height is per row, in inches."""
    figure = Figure(figsize=(width, height * rows), dpi=100, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel()


def svg(figure: Figure) -> bytes:
    """The figure as SVG: the same figure gives the same bytes, whenever it is drawn."""
    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def save(figure: Figure, path: str | Path, dpi: int = 200) -> Path:
    """Write the figure as .svg or .png, by the ending of `path`; whole or not at all.

    raises  InputError: another ending.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise InputError(f"cannot save a figure as {path.suffix or 'a file without ending'!r}: use .svg or .png.")
    with replace_atomically(path) as temporary:
        if path.suffix == ".svg":
            temporary.write_bytes(svg(figure))
        else:
            figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
    return path


def show(figure: Figure) -> SVG:
    """What a notebook cell ends with: the figure as an SVG output."""
    from IPython.display import SVG

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


def label_ends(axes: Axes, x: float, labels: Iterable[tuple[float, str, str]], gap: float = 0.075) -> None:
    """Name lines at their right end instead of in a legend; a thin leader joins a label that had to move.

    x       data position of the ends; labels: (y in data units, text, colour); gap in fractions of the axes.
    Set the axes' limits and scales before.
    """
    labels = list(labels)
    to_axes = axes.transData - axes.transAxes
    heights = spread([to_axes.transform((x, y))[1] for y, _, _ in labels], gap)
    for (y, text, colour), height in zip(labels, heights, strict=True):
        axes.annotate(
            text,
            xy=(x, y),
            xytext=(1.05, height),
            textcoords="axes fraction",
            color=legible(colour),
            fontsize=SMALL,
            va="center",
            annotation_clip=False,
            parse_math=False,
            fontweight="normal" if colour in (GREY, INK) else "bold",
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": colour,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )


def legible(colour: str) -> tuple[float, ...]:
    """The colour for text on white: darkened where needed to a contrast of 4.5 (WCAG AA)."""
    rgb = np.array(to_rgb(colour))
    while 1.05 / (luminance(rgb) + 0.05) < 4.5:
        rgb = rgb * 0.95
    return tuple(rgb)


def text_on(colour: str | tuple) -> str:
    """White or ink, whichever reads better on a background of this colour."""
    return "white" if luminance(to_rgb(colour)) < 0.18 else INK


def luminance(rgb: ArrayLike) -> float:
    """WCAG relative luminance of a colour, red, green and blue in 0..1."""
    rgb = np.asarray(rgb, dtype=float)
    return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def say_start(axes: Axes, axis: str = "y", note: str = "") -> None:
    """Say at the panel's top right if an axis does not start at zero, and a further note if there is one."""
    low, high = axes.get_ylim() if axis == "y" else axes.get_xlim()
    cut = f"{axis} axis does not start at 0" if low > 0 or high < 0 else ""
    axes.set_title("\n".join(filter(None, [cut, fill(note, 44)])), loc="right", fontsize=SMALL, color=GREY)


def headline(figure: Figure, subject: str, sequences: int | None = None, note: str = "") -> None:
    """The figure's first lines: what and how many sequences, then how to read it."""
    if sequences is not None:
        subject += f", n = {sequences} sequences" if sequences != 1 else ", n = 1 sequence, hence no interval"
    figure.suptitle("\n".join(filter(None, [subject, note])), fontsize=10, x=0.01, ha="left")
