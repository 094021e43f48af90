"""The second question: a document cached once, and a question that the cache was not compressed for.

Every run otherwise lets the observation window see the question. Caches are kept for questions that come later, so here
the same document and the same question are measured three times, and only what stands under the window changes.
"""

import random
from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import Any

from ..errors import InputError
from ..sequence import text_hash
from . import Sequence, open_data
from .encoding import encode_answer, encode_prompt, encode_text, evidence_spans
from .prompts import template

SOURCE = "second-question"
VERSION = 1  # counts changes that change a sequence
DATASET = "squad_articles"  # whose prompt and score these sequences have
#: own      the prompt ends with the question itself, as in every other run
#: neutral  it ends with a sentence that asks nothing; the question is read after the compression
#: other    it ends with another question on the same document; that one's answer and the question are read afterwards
ASKS = ("own", "neutral", "other")
NEUTRAL = "\n\nThis is the end of the text, and questions about it will follow."
RESERVE = 160  # tokens of a prompt that are left for instructions and two questions
LEAST = 64  # tokens beside a text's characters: no text has more tokens than these


def second_question_sequences(
    tokenizer: Any,
    pairs: int = 60,
    max_tokens: int = 3072,
    max_answer_tokens: int = 32,
    seed: int = 0,
    asks: Many[str] = ASKS,
    articles: Many[Mapping] | None = None,
) -> list[Sequence]:
    """Pairs of questions on one document, each pair once for every kind of window; documents take turns.

    pairs       how many; a document gives one, then documents give a second one, and so on
    max_tokens  of a prompt: whole paragraphs of the document from its beginning, as many as fit
    articles    {"title", "paragraphs": [{"context", "qas"}]}, as SQuAD has them; None: its articles, downloaded once
    return      sequences whose `category` is the kind of window and whose `document` is the article's title; of one
                pair in turn, so that every prefix is balanced
    raises InputError: too few tokens or questions.
    """
    articles = open_data.articles() if articles is None else list(articles)
    documents = [_document(tokenizer, article, max_tokens, seed) for article in articles]
    random.Random(f"{SOURCE}:{seed}").shuffle(documents)
    rounds = max((len(found) for _, _, found in documents), default=0)
    drawn = [(k, *one) for k in range(rounds) for one in documents if k < len(one[2])]
    if len(drawn) < pairs:
        raise InputError(f"pairs={pairs} are more than the {len(drawn)} that these documents have; give fewer.")
    return [
        _sequence(tokenizer, ask, title, text, k, *found[k], max_answer_tokens)
        for k, title, text, found in drawn[:pairs]
        for ask in asks
    ]


def _document(tokenizer: Any, article: Mapping, max_tokens: int, seed: int) -> tuple[str, str, list[tuple]]:
    """An article's title, its first paragraphs as one text, and pairs of questions from different ones of them."""
    title, room = article["title"], max_tokens - RESERVE
    kept: list[Mapping] = []
    for paragraph in article["paragraphs"]:
        room -= len(encode_prompt(tokenizer, paragraph["context"], max_tokens)) + 1
        if room < 0:
            break
        kept.append(paragraph)
    if not kept:
        raise InputError(f"max_tokens={max_tokens} is too little for a paragraph of {title!r} and two questions.")
    draw = random.Random(f"{SOURCE}:{seed}:{title}")
    asked = [(one["context"], draw.choice(one["qas"])) for one in kept if one["qas"]]
    draw.shuffle(asked)
    pairs = [pair for pair in zip(asked[::2], asked[1::2]) if _answer(pair[0][1]) != _answer(pair[1][1])]
    return title, "\n".join(paragraph["context"] for paragraph in kept), pairs


def _sequence(
    tokenizer: Any, ask: str, title: str, text: str, k: int, asked: tuple[str, Mapping], other: tuple[str, Mapping],
    max_answer_tokens: int,
) -> Sequence:  # fmt: skip
    (paragraph, qa), (_, first) = asked, other
    before, after = template(DATASET).split("{{context}}")
    document, question = before + text, after.replace("{{question}}", qa["question"])
    short = "\n\nQuestion:" + question.rpartition("Question:")[2]  # the instruction has been given once
    end, later = {
        "own": (question, ""),
        "neutral": (NEUTRAL, question),
        "other": (after.replace("{{question}}", first["question"]), f" {_answer(first)}{short}"),
    }[ask]
    head = encode_prompt(tokenizer, document, len(document) + LEAST)
    found = open_data.gold(paragraph, qa)
    prompt = (*head, *encode_text(tokenizer, end))
    return Sequence(
        id=f"{SOURCE}:{title}:{k}:{ask}",
        category=ask,
        dataset=DATASET,
        prompt_ids=prompt,
        question_ids=tuple(encode_text(tokenizer, later)),
        answer_ids=encode_answer(tokenizer, question, _answer(qa), max_answer_tokens),
        answers=tuple(dict.fromkeys(found["answers"])),
        text_hash=text_hash(document + end + later),
        evidence=tuple(found["evidence"]),
        evidence_spans=evidence_spans(tokenizer, document, found["evidence"], len(document) + LEAST),
        document=title,
    )


def _answer(qa: Mapping) -> str:
    return qa["answers"][0]["text"]
