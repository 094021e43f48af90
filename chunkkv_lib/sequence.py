"""One sequence to measure: a prompt and the answer that follows it, in tokens."""

import hashlib
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from .errors import InputError


def text_hash(text: str) -> str:
    """First 16 hexadecimal digits of the text's SHA-256: names a text without giving it away."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Sequence:
    """Prompt and gold answer, ready for a model."""

    id: str
    category: str
    dataset: str
    prompt_ids: tuple[int, ...]  # after truncation, BOS included where the tokenizer adds one
    answer_ids: tuple[int, ...]  # of the first gold answer as it follows the prompt; at least one
    answers: tuple[str, ...] = ()  # all gold answers, as text
    text_hash: str = ""  # of the prompt before truncation (of the ids, if there is no text)
    document: str = ""  # name of the text that the prompt asks about; sequences that share it are not independent
    prompt_text: str | None = field(default=None, repr=False)  # before truncation; stays in memory, is never written
    evidence: tuple[str, ...] = field(default=(), repr=False)  # its passages that hold the answer, where marked
    all_classes: tuple[str, ...] = field(default=(), repr=False)  # the class names of a classification task
    # Token positions (start, end exclusive) in `prompt_ids` of the evidence that truncation left whole.
    evidence_spans: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    question_ids: tuple[int, ...] = ()  # read after the compression; empty: the question is part of the prompt

    def __post_init__(self) -> None:
        for name in ("prompt_ids", "answer_ids"):
            if not getattr(self, name):
                raise InputError(f"sequence {self.id!r}: {name} is empty; give at least one token id.")

    @classmethod
    def from_ids(cls, prompt_ids: Iterable, answer_ids: Iterable, id: str = "sequence") -> Self:
        """A sequence from token ids alone: lists, arrays or tensors, of shape [n] or [1, n].

        raises InputError: no ids, or something that is not a token id.
        """
        prompt, answer = token_ids(prompt_ids, "prompt_ids"), token_ids(answer_ids, "answer_ids")
        return cls(id, "", "", prompt, answer, text_hash=text_hash(" ".join(map(str, prompt))))


def token_ids(ids: Iterable, name: str) -> tuple[int, ...]:
    """`ids` as a tuple of non-negative ints; a batch of one is unwrapped."""
    values = ids.tolist() if hasattr(ids, "tolist") else list(ids)  # tensors and arrays, of any library
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    try:
        values = tuple(operator.index(value) for value in values)
    except TypeError:
        raise InputError(f"{name} must be token ids in one dimension, [n] or [1, n]; found {values!r:.60}.") from None
    if any(value < 0 for value in values):
        raise InputError(f"{name} holds {min(values)}; token ids are not negative.")
    return values
