"""A seeded, balanced draw of rows: even over data sets within a category, even over categories along the list."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from ..errors import InputError, unknown
from .schema import CATEGORIES, CATEGORY_OF, DATASETS

Rows = TypeVar("Rows")
_ORDER = [name for sets in DATASETS.values() for names in sets.values() for name in names]


def sample(rows: Rows, per_category: int, seed: int) -> Rows:
    """Up to `per_category` rows of each category, drawn at random but reproducibly.

    rows          a `datasets.Dataset` or a list of dicts with `_id` and `dataset`; the same kind comes back
    per_category  a category that has fewer rows gives all of them
    seed          another seed, another draw

    Within a category the data sets take turns, so they contribute evenly until one is exhausted; categories take
    turns too, so that every prefix of the result is balanced. The draw depends on ids and seed alone, not on
    the order of `rows`, and a smaller `per_category` draws a subset of a larger one.
    raises InputError: `per_category` below 1, an unknown data set, an id that occurs twice.
    """
    if not isinstance(per_category, int) or per_category < 1:
        raise InputError(f"per_category={per_category!r} does not fit: give a whole number of at least 1.")
    if isinstance(rows, list):
        keys = [(row["dataset"], row["_id"]) for row in rows]
    else:
        keys = list(zip(rows["dataset"], rows["_id"]))
    chosen = _draw(keys, per_category, seed)
    return [rows[i] for i in chosen] if isinstance(rows, list) else rows.select(chosen)


def _draw(keys: list[tuple[str, str]], per_category: int, seed: int) -> list[int]:
    """Positions in `keys` (data set, id), in the order of the sample."""
    check_keys(keys)
    members: dict[str, list[int]] = defaultdict(list)
    for i, (dataset, _) in enumerate(keys):
        members[dataset].append(i)
    categories = []
    for category in CATEGORIES:
        sets = [members[name] for name in _ORDER if CATEGORY_OF[name] == category and name in members]
        shuffled = [sorted(positions, key=lambda i: _ticket(seed, *keys[i])) for positions in sets]
        categories.append(list(islice(_take_turns(shuffled), per_category)))
    return list(_take_turns(categories))


def check_keys(keys: list[tuple[str, str]]) -> None:
    """InputError unless every data set is known and no (data set, id) occurs twice."""
    for dataset in dict.fromkeys(dataset for dataset, _ in keys):
        if dataset not in CATEGORY_OF:
            raise unknown("data set", dataset, CATEGORY_OF)
    if len(set(keys)) < len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise InputError(f"data set {twice[0]!r} has more than one row with _id {twice[1]!r}; ids must be unique.")


def _ticket(seed: int, dataset: str, id: str) -> bytes:
    """A row's place in the shuffled order: a hash, so that adding or removing other rows does not move it."""
    return hashlib.sha256(f"{seed}\n{dataset}\n{id}".encode()).digest()


def _take_turns(queues: Iterable[list[int]]) -> Iterator[int]:
    """One item of each queue in turn; a queue that is empty drops out."""
    queues = [queue for queue in queues if queue]
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))
