"""Which tokens stay: a raster over layers and positions, and a strip for a prompt short enough to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from chunkkv_lib.errors import InputError
from chunkkv_lib.report.figures.style import GREY, INK, SMALL, headline, legible, look, panels, styled, text_on

READABLE = 40  # tokens that fit as tick labels
COLUMNS = 400  # of the raster; longer prompts are averaged into this many


@styled
def kept_raster(kept_by_method: Mapping[str, Sequence[ArrayLike]], tokens: int | Sequence[str]) -> Figure:
    """Layers against prompt positions for each method: the darker, the more of the heads keep a position.

    kept_by_method  method -> per layer the kept positions [S, b] (or [b])
    tokens          the prompt's number of tokens, or the tokens themselves (written out if they are few)
    raises          InputError: no method, or a position outside the prompt.
    """
    if not kept_by_method:
        raise InputError("no kept positions to draw: pass at least one method.")
    words = None if isinstance(tokens, int) else list(tokens)
    n = tokens if words is None else len(words)
    figure, axes = panels(len(kept_by_method), height=1.5, sharex=True, sharey=True)
    for ax, (method, layers) in zip(axes, kept_by_method.items(), strict=True):
        share = np.stack([kept_share(kept, n) for kept in layers])
        _raster(ax, share, method)
    if words is not None and n <= READABLE:
        axes[-1].set_xticks(
            range(n),
            [_printable(word) for word in words],
            rotation=60,
            ha="right",
            fontsize=SMALL,
            parse_math=False,
        )
    axes[-1].set_xlabel("Prompt position (tokens)")
    headline(figure, "The darker, the more of a layer's heads keep the position")
    return figure


@styled
def token_strip(
    tokens: Sequence[str],
    scores_by_method: Mapping[str, ArrayLike],
    kept_by_method: Mapping[str, ArrayLike],
    chunk_size: int | None = None,
    window: int = 0,
    digits: int = 2,
) -> Figure:
    """A short prompt, one row of cells per method: a score in each, coloured and bold where the token stays.

    tokens      n strings; scores_by_method: method -> [n] (NaN where a method gives none, e.g. in the window)
    kept_by_method  method -> kept positions [b]
    chunk_size  draws the chunks' borders in ChunkKV's row; window: the last tokens, which always stay
    raises      InputError: a method without scores, or scores of another length.
    """
    n = len(tokens)
    for method in kept_by_method:
        if method not in scores_by_method or np.shape(scores_by_method[method]) != (n,):
            raise InputError(f"{method} needs one score for each of the {n} tokens: use NaN where it gives none.")
    figure, (ax,) = panels(height=0.62 * len(kept_by_method) + 1.25, width=6.0)
    for row, (method, kept) in enumerate(kept_by_method.items()):
        stays = kept_share(kept, n) > 0
        for column, (score, stay) in enumerate(
            zip(np.asarray(scores_by_method[method], dtype=float), stays, strict=True)
        ):
            _cell(ax, column, row, look(method).colour, "–" if np.isnan(score) else f"{score:.{digits}f}", stay)
        if method == "ChunkKV" and chunk_size:
            _chunk_borders(ax, row, n - window, chunk_size)
    _strip_axes(ax, tokens, list(kept_by_method), window)
    headline(
        figure,
        "Number: the token's score. Coloured and bold: kept." + (" Boxes: chunks." if chunk_size else ""),
    )
    return figure


def kept_share(kept: ArrayLike, n: int) -> np.ndarray:
    """Share of the heads that keep each of n positions: kept [S, b] or [b] -> [n].

    raises  InputError: a position outside 0..n-1.
    """
    kept = np.atleast_2d(np.asarray(kept, dtype=int))
    if kept.size and not 0 <= kept.min() <= kept.max() < n:
        raise InputError(f"kept positions run from {kept.min()} to {kept.max()}, the prompt from 0 to {n - 1}.")
    share = np.zeros(n)
    for row in kept:
        share[np.unique(row)] += 1 / len(kept)
    return share


def _raster(ax: Axes, share: np.ndarray, method: str) -> None:
    colours = LinearSegmentedColormap.from_list(method, ["#f4f4f4", look(method).colour])
    n = share.shape[1]
    ax.imshow(
        _binned(share),
        cmap=colours,
        vmin=0,
        vmax=max(share.max() * (1 if n <= COLUMNS else 0.6), 1e-9),
        aspect="auto",
        extent=(-0.5, n - 0.5, len(share) - 0.5, -0.5),
        interpolation="nearest",
    )
    ax.set_title(method, color=legible(look(method).colour), fontweight="bold", fontsize=10)
    ax.set_ylabel("Layer")
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.grid(visible=False)


def _binned(share: np.ndarray) -> np.ndarray:
    """Mean over neighbouring positions, so that a raster has at most COLUMNS columns."""
    n = share.shape[1]
    if n <= COLUMNS:
        return share
    starts = np.arange(COLUMNS) * n // COLUMNS
    return np.add.reduceat(share, starts, axis=1) / np.diff(np.append(starts, n))


def _cell(ax: Axes, column: int, row: int, colour: str, text: str, stays: bool) -> None:
    face = colour if stays else "#f2f2f2"
    ax.add_patch(Rectangle((column + 0.04, row + 0.08), 0.92, 0.84, facecolor=face, edgecolor="none"))
    ax.text(
        column + 0.5,
        row + 0.5,
        text,
        ha="center",
        va="center",
        fontsize=SMALL,
        color=text_on(colour) if stays else "#595959",
        fontweight="bold" if stays else "normal",
    )


def _chunk_borders(ax: Axes, row: int, past: int, chunk_size: int) -> None:
    for start in range(0, past, chunk_size):
        width = min(chunk_size, past - start)
        ax.add_patch(Rectangle((start, row + 0.02), width, 0.96, fill=False, edgecolor=INK, linewidth=1.3))


def _strip_axes(ax: Axes, tokens: Sequence[str], methods: list[str], window: int) -> None:
    n = len(tokens)
    ax.set_xlim(-0.1, n + 0.1)
    ax.set_ylim(len(methods) + (0.5 if window else 0.05), -0.05)
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(n) + 0.5, [_printable(token) for token in tokens], rotation=40, ha="left", parse_math=False)
    ax.set_yticks(np.arange(len(methods)) + 0.5, methods)
    for tick, method in zip(ax.get_yticklabels(), methods, strict=True):
        tick.set(color=legible(look(method).colour), fontweight="bold")
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    if window:
        ax.plot([n - window + 0.05, n - 0.05], [len(methods) + 0.12] * 2, color=GREY, linewidth=1.5)
        ax.text(
            n - 0.05,
            len(methods) + 0.2,
            "window: always kept",
            ha="right",
            va="top",
            fontsize=SMALL,
            color=GREY,
        )


def _printable(token: str) -> str:
    """A token as it can stand in a label: line breaks and tabs as signs, nothing empty."""
    return token.replace("\n", "⏎").replace("\t", "⇥").strip(" ") or "␣"
