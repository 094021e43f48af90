"""The prompts of the lab: two of open text for the book's page, or a reader's own."""

from __future__ import annotations

import re
from typing import Any

from ..errors import InputError
from ..sequence import Sequence
from ..sequences.encoding import encode_prompt, own_sequence, sentence_with
from ..sequences.open_data import articles

LONGEST = 4000  # tokens of a prompt that a page can hold
TEXTS_OF = "squad_articles"  # the open data set whose texts the book's prompts quote


def question_about(
    tokenizer: Any,
    text: str,
    question: str,
    answer: str,
    evidence: str | None = None,
    name: str = "your text",
    lead: str = "",
) -> Sequence:
    """A text, a question about it, and its answer, as one sequence: the question stands at the end of the prompt.

    evidence  the passage that holds the answer; None: the first sentence in which the answer stands, if there is one
    lead      how the answer begins, as a part of the prompt
    raises InputError: an empty text, question or answer, or a prompt of more than LONGEST tokens.
    """
    for what, given in (("text", text), ("question", question), ("answer", answer)):
        if not given.strip():
            raise InputError(f"the {what} is empty; give at least one word.")
    text = text.strip()
    prompt = f"{text}\n\nQuestion: {question.strip()}\nAnswer: {lead}".rstrip()
    ids = encode_prompt(tokenizer, prompt, 10**9)
    if len(ids) > LONGEST:
        raise InputError(
            f"the text and the question have {len(ids):,} tokens, and the page takes at most {LONGEST:,}. "
            f"Shorten the text by about {100 * (1 - LONGEST / len(ids)):.0f} %."
        )
    return own_sequence(tokenizer, prompt, answer, evidence or sentence_with(text, answer.strip()), 10**9, name)


def open_prompts(tokenizer: Any) -> list[Sequence]:
    """The two prompts of the book's page: a number hidden in an encyclopedia's article, and a question about another.

    The texts are those of the open data set `squad_articles`; they are downloaded once.
    """
    paragraphs = {one["title"]: [part["context"] for part in one["paragraphs"]] for one in articles()}
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", "\n".join(paragraphs["Normans"][27:35]))
    needle = "The door code of the library is 65125."
    return [
        question_about(
            tokenizer,
            " ".join([*sentences[:2], needle, *sentences[2:]]),
            "What is the door code of the library?",
            "65125",
            evidence=needle,
            name="A number hidden in an article on the Normans",
            lead="The door code of the library is",
        ),
        question_about(
            tokenizer,
            "\n".join(paragraphs["Victoria_(Australia)"][7:13]),
            "What group can amend the Victorian constitution?",
            "Parliament of Victoria",
            name="A question about an article on Victoria",
            lead="The Victorian constitution can be amended by the",
        ),
    ]
