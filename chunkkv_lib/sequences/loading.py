"""From a source's name to rows, and from rows to sequences."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, unknown
from ..sequence import Sequence, text_hash
from . import longbench, open_data
from .encoding import encode_answer, encode_prompt, evidence_spans
from .prompts import prompt
from .sampling import check_keys, sample
from .schema import CATEGORIES, CATEGORY_OF, check_categories, features
from .truncation import check_max_tokens

if TYPE_CHECKING:
    from datasets import Dataset

SOURCES = {"open": open_data, "longbench": longbench}


def load_sequences(
    tokenizer: Any,
    source: str = "open",
    path: str | Path | None = None,
    categories: Iterable[str] = CATEGORIES,
    per_category: int = 100,
    max_tokens: int = 4096,
    max_answer_tokens: int = 32,
    seed: int = 0,
) -> list[Sequence]:
    """A balanced, seeded sample of sequences, in the order in which they should be measured.

    tokenizer          of transformers, of the model that will read them
    source             "open" or "longbench"
    path               longbench only: local `data.zip` or folder; None means the Hugging Face hub
    categories         names from `CATEGORIES`
    per_category       how many sequences of each; a category that has fewer gives all of them
    max_tokens         longer prompts lose their middle
    max_answer_tokens  longer answers lose their end
    raises InputError: an unknown name, a number out of range, data that is not there or damaged.
    """
    check_max_tokens(max_tokens)
    if not isinstance(max_answer_tokens, int) or max_answer_tokens < 1:
        raise InputError(f"max_answer_tokens={max_answer_tokens!r} does not fit: give a whole number of at least 1.")
    rows = sample(read_rows(source, path, categories), per_category, seed)
    return [sequence(tokenizer, row, max_tokens, max_answer_tokens) for row in rows]


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
        prompt_text=text,
        evidence=tuple(row["evidence"]),
        all_classes=tuple(row["all_classes"] or ()),
        evidence_spans=evidence_spans(tokenizer, text, row["evidence"], max_tokens),
    )


def load_rows(source: str = "open", path: str | Path | None = None, categories: Iterable[str] = CATEGORIES) -> Dataset:
    """All rows of a source as a `datasets.Dataset` in memory, with `FEATURES` (LongBench's fields and `evidence`)."""
    from datasets import Dataset

    return Dataset.from_list(read_rows(source, path, categories), features=features())


def read_rows(source: str, path: str | Path | None, categories: Iterable[str]) -> list[dict]:
    """What `load_rows` returns, as plain dicts and without importing `datasets`."""
    wanted = check_categories(categories)
    rows = _source(source, path).read(path, wanted)
    check_keys([(row["dataset"], row["_id"]) for row in rows])
    return rows


def source_identity(source: str, path: str | Path | None = None) -> dict:
    """What a manifest says about the data: packages, hub revision or file, with SHA-256; and the prompts' origin."""
    return {**_source(source, path).identity(path), "prompts": f"lm-eval {version('lm-eval')}"}


def _source(source: str, path: str | Path | None) -> Any:
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    if source == "open" and path is not None:
        raise InputError(f"path={str(path)!r} has no meaning for source 'open'; drop it, or choose source 'longbench'.")
    return SOURCES[source]
