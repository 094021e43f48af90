"""From a source's name to rows, from rows to a seeded, balanced sample, and from its rows to sequences."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..errors import InputError, check_known, check_whole
from ..sequence import Sequence, text_hash
from . import longbench, open_data
from .encoding import MIN_TOKENS, encode_answer, encode_prompt, evidence_spans
from .prompts import prompt
from .schema import CATEGORIES, CATEGORY_OF, DATASETS

_ORDER = [name for sets in DATASETS.values() for names in sets.values() for name in names]


def load_sequences(
    tokenizer: Any,
    source: str = "open",
    path: str | Path | None = None,
    categories: Iterable[str] = CATEGORIES,
    per_category: int = 100,
    max_tokens: int = 4096,
    max_answer_tokens: int = 32,
    seed: int = 0,
    datasets: Iterable[str] = (),
    skip: int = 0,
) -> list[Sequence]:
    """A balanced, seeded sample of sequences, in the order in which they should be measured.

    path               source "longbench" only: local `data.zip` or folder; None means the Hugging Face hub
    per_category       how many sequences of each; a category that has fewer gives all of them
    max_tokens         longer prompts lose their middle
    max_answer_tokens  longer answers lose their end
    datasets           only these of the categories' data sets; none named: all
    skip               how many of each category to leave out first: another run's, so that no text is drawn twice
    raises InputError: an unknown name, a number out of range, data that is not there or damaged.
    """
    check_whole(MIN_TOKENS, max_tokens=max_tokens)
    check_whole(max_answer_tokens=max_answer_tokens)
    names, rows = tuple(datasets), load_rows(source, path, categories)
    there = list(dict.fromkeys(row["dataset"] for row in rows))
    for name in names:
        check_known("data set of these categories", name, there)
    rows = sample([row for row in rows if not names or row["dataset"] in names], per_category, seed, skip)
    if not rows:
        raise InputError(f"skip={skip} leaves no sequence to measure; give a smaller number.")
    return [sequence(tokenizer, row, max_tokens, max_answer_tokens) for row in rows]


def load_rows(
    source: str = "open", path: str | Path | None = None, categories: Iterable[str] = CATEGORIES
) -> list[dict]:
    """All rows of a source: dicts with LongBench's fields, `evidence` and `document` (see `schema.FIELDS`)."""
    _check_source(source, path)
    chosen = [categories] if isinstance(categories, str) else list(categories)
    for name in chosen:
        check_known("category", name, CATEGORIES)
    if not chosen:
        raise InputError(f"no categories given; choose from {', '.join(CATEGORIES)}.")
    wanted = [name for name in CATEGORIES if name in chosen]
    rows = open_data.read(wanted) if source == "open" else longbench.read(path, wanted)
    for (dataset, id), times in Counter((row["dataset"], row["_id"]) for row in rows).most_common(1):
        if times > 1:
            raise InputError(f"data set {dataset!r} has more than one row with _id {id!r}; ids must be unique.")
    return rows


def source_identity(source: str, path: str | Path | None = None) -> dict:
    """What a manifest says about the data: packages, hub revision or file, with SHA-256; and the prompts' origin."""
    _check_source(source, path)
    found = open_data.identity() if source == "open" else longbench.identity(path)
    return {**found, "prompts": f"lm-eval {version('lm-eval')}"}


def _check_source(source: str, path: str | Path | None) -> None:
    check_known("source", source, DATASETS)
    if source == "open" and path is not None:
        raise InputError(f"path={str(path)!r} is for source 'longbench' alone; drop it, or choose that source.")


def sample(rows: list[dict], per_category: int, seed: int, skip: int = 0) -> list[dict]:
    """Up to `per_category` rows (with `_id` and `dataset`) of each category, drawn at random but reproducibly.

    Within a category the data sets take turns, so they contribute evenly until one is exhausted; categories take
    turns too, so that every prefix of the result is balanced. The draw depends on ids and seed alone, not on
    the order of `rows`, and a smaller `per_category` draws a subset of a larger one; `skip` leaves out its beginning.
    """
    check_whole(per_category=per_category)
    members: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        members[row["dataset"]].append(row)
    # A row's place in the shuffled order is a hash, so adding or removing other rows does not move it.
    for mine in members.values():
        mine.sort(key=lambda row: text_hash(f"{seed}\n{row['dataset']}\n{row['_id']}"))
    categories = []
    for category in CATEGORIES:
        turns = _take_turns([members[name] for name in _ORDER if CATEGORY_OF[name] == category])
        categories.append(turns[skip : skip + per_category])
    return _take_turns(categories)


def _take_turns(queues: list[list[dict]]) -> list[dict]:
    """One item of each queue in turn; a queue that is empty drops out."""
    return [row for turn in zip_longest(*queues) for row in turn if row is not None]


def sequence(tokenizer: Any, row: dict, max_tokens: int, max_answer_tokens: int) -> Sequence:
    """One row as a sequence. The gold answer is the first that is not blank."""
    dataset, text = row["dataset"], prompt(row)
    answer = next(answer for answer in row["answers"] if answer.strip())
    return Sequence(
        id=row["_id"] if row["_id"].startswith(f"{dataset}:") else f"{dataset}:{row['_id']}",
        category=CATEGORY_OF[dataset],
        dataset=dataset,
        prompt_ids=encode_prompt(tokenizer, text, max_tokens),
        answer_ids=encode_answer(tokenizer, text, answer, max_answer_tokens),
        answers=tuple(row["answers"]),
        text_hash=text_hash(text),
        document=row["document"],
        prompt_text=text,
        evidence=tuple(row["evidence"]),
        all_classes=tuple(row["all_classes"] or ()),
        evidence_spans=evidence_spans(tokenizer, text, row["evidence"], max_tokens),
    )
