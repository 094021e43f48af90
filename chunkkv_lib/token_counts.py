"""Counts of kept tokens by what they are and where they stand: pure functions of masks and labels.

A prompt's tokens are labelled once; then every kept set of every layer is counted against the labels. All counts add up
over the S heads of a mask, so that they stay whole numbers and can be added over layers too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from .errors import InputError
from .token_classes import CLASSES, sentences, token_classes, units

SINK = 4  # first tokens of a prompt, counted apart: attention sinks
WINDOW = 8  # last tokens of a prompt, counted apart: the observation window of the preset "paper"
PARTS = 10  # equal stretches between the two
PLACES = ("first 4", *(f"{10 * part}–{10 * part + 10} %" for part in range(PARTS)), "last 8")
NEAR = (0, 5, 10, 20, 50, 100, 200)  # tokens to the nearest evidence token, at most; 0: inside
DISTANCES = ("inside", *(f"{a + 1}–{b}" for a, b in pairwise(NEAR)), "> 200")
RUN = (1, 2, 4, 9, 10, 19)  # tokens of a run, at most
RUNS = ("1", "2", "3–4", "5–9", "10", "11–19", "≥ 20")
#: group of columns -> the names of its values, in the order of the columns
GROUPS = {"class": tuple(CLASSES), "place": PLACES, "near": DISTANCES, "run": RUNS}


@dataclass(frozen=True)
class Labels:
    """What is known of a prompt's n tokens before anything is evicted.

    labels     group -> [n] int, index into GROUPS[group]; "near" only where evidence is marked
    words      words and numbers of two tokens or more, as spans (first, behind the last); before the window
    sentences  sentences or lines, likewise
    """

    labels: dict[str, np.ndarray]
    words: Sequence[tuple[int, int]]
    sentences: Sequence[tuple[int, int]]


def label(texts: Sequence[str], function: Iterable[str], evidence: Sequence[tuple[int, int]] = ()) -> Labels:
    """Label a prompt's tokens.

    texts     of its n tokens (`token_classes.token_texts`)
    function  function words (`token_classes.function_words`)
    evidence  passages that hold the answer, as spans of tokens; none: no distances
    """
    n = len(texts)
    labels = {"class": token_classes(texts, frozenset(function)), "place": places(n)}
    if evidence:
        labels["near"] = np.searchsorted(NEAR, distances(n, evidence))
    before = n - WINDOW
    words = [span for span in units(texts) if span[1] - span[0] > 1 and span[1] <= before]
    return Labels(labels, words, [span for span in sentences(texts) if span[1] <= before])


def places(n: int) -> np.ndarray:
    """Where each of n tokens stands, as an index into PLACES: [n].

    raises  InputError: a prompt too short to have every place.
    """
    middle = n - SINK - WINDOW
    if middle < PARTS:
        raise InputError(f"a prompt of {n} tokens is too short; at least {SINK + PARTS + WINDOW} are needed.")
    parts = 1 + np.arange(middle) * PARTS // middle
    return np.concatenate([np.zeros(SINK, int), parts, np.full(WINDOW, PARTS + 1)])


def distances(n: int, spans: Iterable[tuple[int, int]]) -> np.ndarray:
    """Tokens from each of n positions to the nearest span (first, behind the last), 0 inside one: [n]."""
    at = np.arange(n)
    away = [np.maximum(np.maximum(first - at, at - (stop - 1)), 0) for first, stop in spans]
    return np.min(away, axis=0)


def counts(mask: ArrayLike, about: Labels) -> dict[str, int]:
    """Kept tokens of one layer by group, summed over heads: `tokens`, `class_content`, `place_0`, `near_0`, ...

    mask  [S, n] bool
    """
    mask = np.asarray(mask, dtype=bool)
    heads = mask.sum(axis=0)
    found = {"tokens": int(heads.sum())}
    for group in ("class", "place", "near"):
        size, labels = len(GROUPS[group]), about.labels.get(group)
        per = np.zeros(size) if labels is None else np.bincount(labels, weights=heads, minlength=size)
        found |= dict(zip(columns(group), map(int, per)))
    return found


def piece_counts(mask: ArrayLike, about: Labels) -> dict[str, int]:
    """What the kept tokens add up to: `run_0`, ... (tokens by the length of the run they stand in), `runs` (how many),
    and of words and of sentences how many have a kept token (`words_touched`) and how many stay whole (`words_whole`).
    """
    mask = np.asarray(mask, dtype=bool)
    lengths = run_lengths(mask)
    tokens = np.bincount(np.searchsorted(RUN, lengths), weights=lengths, minlength=len(RUNS))
    found = dict(zip(columns("run"), map(int, tokens))) | {"runs": len(lengths)}
    for name, spans in (("words", about.words), ("sentences", about.sentences)):
        found[f"{name}_touched"], found[f"{name}_whole"] = touched_and_whole(mask, spans)
    return found


def run_lengths(mask: ArrayLike) -> np.ndarray:
    """Lengths of the runs of neighbouring True entries, row after row: mask [S, n] -> [runs]."""
    edges = np.diff(np.pad(np.asarray(mask, dtype=np.int8), ((0, 0), (1, 1))), axis=1)
    starts, ends = np.nonzero(edges == 1), np.nonzero(edges == -1)
    return ends[1] - starts[1]


def touched_and_whole(mask: ArrayLike, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """How many spans have at least one True entry, and how many have nothing else; summed over the rows of mask."""
    if not len(spans):
        return 0, 0
    first, stop = np.asarray(spans).T
    before = np.pad(np.cumsum(mask, axis=1), ((0, 0), (1, 0)))
    inside = before[:, stop] - before[:, first]
    return int((inside > 0).sum()), int((inside == stop - first).sum())


def columns(group: str) -> list[str]:
    """Names of a group's columns: by name for classes, by number for the others."""
    values = GROUPS[group]
    return [f"{group}_{value if group == 'class' else i}" for i, value in enumerate(values)]
