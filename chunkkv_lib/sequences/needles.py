"""Needles: one sentence with a number, hidden at a known depth of real prose, and the question for it at the end.

The texts are the Wikipedia articles of the open data set `squad_articles`, in their own order; only the needle and the
question are ours. Every needle has a text, a place and a number of its own, so needles are independent of each other.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections.abc import Sequence as Many
from typing import Any

from ..errors import InputError
from ..sequence import text_hash
from . import Sequence
from .encoding import encode_answer, encode_prompt
from .open_data import BUILDERS

SOURCE = "needles"
DATASET = "needle"
VERSION = 1  # counts changes that change a sequence
DEPTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the text: 0 is its beginning, 1 is right before the question
LEAST = 32  # tokens of text around a needle
CHARACTERS = 8  # of text for every token wanted, more than any prose needs

KINDS = ("old", "blue", "stone", "little", "northern", "hidden", "royal", "wooden", "silver", "quiet")
THINGS = ("lighthouse", "bakery", "harbour", "library", "orchard", "windmill", "museum", "bridge", "theatre", "garden")


def needle_sequences(
    tokenizer: Any,
    per_depth: int = 6,
    max_tokens: int = 2048,
    seed: int = 0,
    depths: Many[float] = DEPTHS,
    texts: Many[str] | None = None,
) -> list[Sequence]:
    """Needles at every depth, in turns, so that each prefix of the list is balanced.

    per_depth   needles for each depth
    max_tokens  of a prompt; it has a few less, because its text ends with a sentence
    texts       prose to hide them in; None: the open articles, which are downloaded once
    return      sequences whose `category` is the depth ("40 %"), whose gold answer is the number, and whose evidence
                is the needle
    raises InputError: numbers out of range, or no text.
    """
    if per_depth < 1:
        raise InputError(f"per_depth={per_depth} does not work; it must be at least 1.")
    for depth in depths:
        if not 0 <= depth <= 1:
            raise InputError(f"depth={depth} lies outside the text; give a fraction from 0 to 1.")
    texts = articles() if texts is None else list(texts)
    if not texts:
        raise InputError("there is no text to hide a needle in; pass at least one.")
    order = random.Random(f"{DATASET}:{seed}").sample(range(len(texts)), len(texts))
    drawn = [(i, depth) for i in range(per_depth) for depth in depths]
    return [
        _needle(tokenizer, i, depth, max_tokens, seed, texts, order[k % len(order)])
        for k, (i, depth) in enumerate(drawn)
    ]


def hide(hay: Many[int], needle: Many[int], at: int) -> tuple[list[int], tuple[int, int]]:
    """The needle behind the first `at` tokens of the hay, and its position (start, end exclusive)."""
    return [*hay[:at], *needle, *hay[at:]], (at, at + len(needle))


def nearest_border(borders: Many[int], depth: float) -> int:
    """Of the places between two sentences, ascending, the nearest to a depth (0: the first, 1: the last)."""
    wanted = borders[0] + depth * (borders[-1] - borders[0])
    after = min(bisect_left(borders, wanted), len(borders) - 1)
    return min(borders[max(after - 1, 0)], borders[after], key=lambda border: (abs(border - wanted), border))


def hit(text: str, number: str) -> bool:
    """Whether a text begins with exactly this number."""
    return re.match(rf"\s*{re.escape(number)}(?!\d)", text) is not None


def depth_of(category: str) -> float:
    """The depth that a needle's category names: "40 %" -> 0.4."""
    return int(category.removesuffix(" %")) / 100


def articles() -> list[str]:
    """The texts of the open articles, each once."""
    return list(dict.fromkeys(row["context"] for row in BUILDERS["squad_articles"]()))


def _needle(
    tokenizer: Any, i: int, depth: float, max_tokens: int, seed: int, texts: Many[str], article: int
) -> Sequence:
    draw = random.Random(f"{DATASET}:{seed}:{depth}:{i}")
    text = _prose(texts, article, draw.random() / 2, CHARACTERS * max_tokens)
    name, number = f"{draw.choice(KINDS)} {draw.choice(THINGS)}", str(draw.randrange(10_000, 100_000))
    while number in text:
        number = str(draw.randrange(10_000, 100_000))
    question = f"\n\nQuestion: What is the secret code of the {name}?\nAnswer: The secret code of the {name} is"
    needle, asked = (_ids(tokenizer, part) for part in (f" The secret code of the {name} is {number}.", question))
    room = max_tokens - len(needle) - len(asked)
    if room < LEAST:
        raise InputError(f"max_tokens={max_tokens} is too little text for a needle; give {max_tokens + LEAST - room}.")
    hay = encode_prompt(tokenizer, text, len(text) + LEAST)[:room]
    borders = _borders(tokenizer, hay)
    body, span = hide(hay[: borders[-1]], needle, nearest_border(borders, depth))
    prompt, percent = (*body, *asked), round(100 * depth)
    return Sequence(
        id=f"{DATASET}:{percent:03d}:{i:02d}",
        category=f"{percent} %",
        dataset=DATASET,
        prompt_ids=prompt,
        answer_ids=encode_answer(tokenizer, question, number, max_tokens),
        answers=(number,),
        text_hash=text_hash(" ".join(map(str, prompt))),
        document=text_hash(texts[article]),
        evidence_spans=(span,),
    )


def _prose(texts: Many[str], first: int, skipped: float, characters: int) -> str:
    """Paragraphs of a text from a share of it on, then those of the next texts, until there is enough."""
    paragraphs = texts[first].split("\n")
    found, length = [], 0
    remaining = paragraphs[int(skipped * len(paragraphs)) :]
    for step in range(1, len(texts) + 1):
        for paragraph in remaining:
            found.append(paragraph)
            length += len(paragraph) + 1
            if length >= characters:
                return "\n".join(found)
        remaining = texts[(first + step) % len(texts)].split("\n")
    return "\n".join(found)


def _borders(tokenizer: Any, hay: Many[int]) -> list[int]:
    """Places at which a sentence ends, the text's beginning first; if there is no other, also the text's end."""
    ends = {token: tokenizer.decode([token]).rstrip("\"') \n").endswith((".", "!", "?")) for token in set(hay)}
    begin = int(hay[0] == tokenizer.bos_token_id)
    found = [i + 1 for i, token in enumerate(hay) if ends[token] and i + 1 > begin]
    return [begin, *(found or [len(hay)])]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
