"""Needles: a sentence with a code, hidden at a known depth of real prose, and a question for it.

The texts are the Wikipedia articles of the open data set `squad_articles`, in their own order; only the sentences with
codes and the questions are ours. Every needle has a text, a place and a code of its own. Codes are digits, as many as
make the wanted number of tokens exactly, since what a rule has to keep together is counted in tokens.
"""

import itertools
import random
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..sequence import text_hash
from . import Sequence
from .encoding import encode_prompt, encode_text
from .open_data import squad_articles
from .open_rows import fill

SOURCE = "needles"
DATASET = "needle"
VERSION = 2  # counts changes that change a sequence
DEPTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the text: 0 is its beginning, 1 is right before the question
ANSWER_TOKENS = (2, 5, 9, 16)
LEAST = 32  # tokens of text around a needle
CHARACTERS = 8  # of text for every token wanted, more than any prose needs

KINDS = ("old", "blue", "stone", "little", "northern", "hidden", "royal", "wooden", "silver", "quiet")
THINGS = ("lighthouse", "bakery", "harbour", "library", "orchard", "windmill", "museum", "bridge", "theatre", "garden")


@dataclass(frozen=True)
class Form:
    """How a needle and its question are worded. `{name}` and `{code}` stand for the needle's own."""

    needle: str  # the hidden sentence
    question: str  # what is asked after the text
    start: str  # how the answer begins, up to the code
    others: int = 0  # needles with other names and codes, hidden at other places of the same text
    # With a chat template the prompt ends with the template's tokens, and the answer's start is read after the
    # compression (`Sequence.question_ids`); otherwise question and start end the prompt, where the window sees them.
    chat: bool = False


_CODE = (
    " The secret code of the {name} is {code}.",
    "What is the secret code of the {name}?",
    "The secret code of the {name} is",
)
FORMS = {
    "code": Form(*_CODE),
    "gate": Form(
        " Whoever wants to see the {name} has to type {code} into the machine at the gate.",
        "What must be typed at the gate of the {name}?",
        "One must type",
    ),
    # Here no word of the question stands within a dozen words before the code. "password" takes a larger model: its
    # sentence does not say what the digits are.
    "apart": Form(
        " The secret code of the {name}, which its keeper had hidden in a drawer and forgotten for years, was found "
        "again and turned out to be {code}.",
        *_CODE[1:],
    ),
    "password": Form(
        " The keeper of the {name} has retired, and since that day its heavy door opens only to those who have "
        "learned {code} by heart.",
        "Which password does a visitor of the {name} need?",
        "The password is",
    ),
    "code among four": Form(*_CODE, others=3),
    "code in chat": Form(*_CODE, chat=True),
}


def needle_sequences(
    tokenizer: Any,
    each: int = 6,
    max_tokens: int = 2048,
    seed: int = 0,
    forms: Many[str] = tuple(FORMS),
    answer_tokens: Many[int] = ANSWER_TOKENS,
    texts: Many[str] | None = None,
) -> list[Sequence]:
    """Needles of every form and answer length, whose depths take turns; round by round, each round shuffled.

    each           needles of each form and length: 6 rounds have had every depth once
    max_tokens     of a prompt; it has a few less, because its text ends with a sentence
    answer_tokens  lengths of the code, in tokens
    texts          prose to hide them in; None: the open articles, which are downloaded once
    return         sequences whose `category` is the depth ("40 %"), whose gold answer is the code, whose evidence is
                   the needle and whose `document` names the article; `needle_setting` reads the rest from the id
    raises InputError: too few tokens, a length that no code has, a form for chats and a tokenizer without a template.
    """
    for form in forms:
        if FORMS[form].chat and not getattr(tokenizer, "chat_template", None):
            raise InputError(f"needles of form {form!r} need a chat template, which this model has not; leave it out.")
    texts = list(dict.fromkeys(row["context"] for row in squad_articles())) if texts is None else texts
    order = random.Random(f"{DATASET}:{seed}").sample(range(len(texts)), len(texts))
    drawn = []
    for i in range(each):
        settings = []
        for form, length in itertools.product(forms, answer_tokens):
            turns = random.Random(f"{DATASET}:{seed}:{form}:{length}:{i // len(DEPTHS)}").sample(DEPTHS, len(DEPTHS))
            settings.append((i, form, length, turns[i % len(DEPTHS)]))
        random.Random(f"{DATASET}:{seed}:{i}").shuffle(settings)
        drawn += settings
    return [_needle(tokenizer, *one, max_tokens, seed, texts, order[k % len(order)]) for k, one in enumerate(drawn)]


def needle_setting(id: str) -> dict[str, object]:
    """What a needle's id says of it: form, answer_tokens, depth and round."""
    _, form, tokens, percent, i = id.split(":")
    return {"form": form, "answer_tokens": int(tokens), "depth": int(percent) / 100, "round": int(i)}


def _needle(
    tokenizer: Any, i: int, form: str, length: int, depth: float, max_tokens: int, seed: int, texts: Many[str],
    article: int,
) -> Sequence:  # fmt: skip
    id = f"{DATASET}:{form}:{length}:{round(100 * depth):03d}:{i:02d}"
    words, draw = FORMS[form], random.Random(f"{seed}:{id}")
    text = _prose(texts, article, draw.random() / 2, CHARACTERS * max_tokens)
    names = draw.sample([f"{kind} {thing}" for kind in KINDS for thing in THINGS], 1 + words.others)
    codes: list[str] = []
    while len(codes) < len(names):
        code = _code(tokenizer, draw, length)
        codes += [code] * (code not in text and code not in codes)
    sentences = [encode_text(tokenizer, words.needle.format(name=name, code=code)) for name, code in zip(names, codes)]
    head, asked, after = _frame(tokenizer, words, names[0])
    room = max_tokens - len(head) - sum(map(len, sentences)) - len(asked)
    if room < LEAST:
        raise InputError(f"max_tokens={max_tokens} is too little text for a needle; give {max_tokens + LEAST - room}.")
    hay = list(encode_text(tokenizer, text)[:room])
    # Where a sentence ends, and the text's beginning; if there is no such end, the text's.
    ends = {token for token in set(hay) if tokenizer.decode([token]).rstrip("\"') \n").endswith((".", "!", "?"))}
    borders = [0, *([i + 1 for i, token in enumerate(hay) if token in ends] or [len(hay)])]
    nearest = min(borders, key=lambda border: abs(border - depth * borders[-1]))
    places = [nearest, *draw.choices(borders, k=words.others)]
    body, start = hay[: borders[-1]], 0
    # From the end of the text to its beginning, so that a place counts in tokens of the text alone.
    for k in sorted(range(len(places)), key=lambda k: -places[k]):
        body[places[k] : places[k]] = sentences[k]
        start = places[0] if k == 0 else start + len(sentences[k])
    start += len(head)
    prompt = (*head, *body, *asked)
    return Sequence(
        id=id,
        category=f"{round(100 * depth)} %",
        dataset=DATASET,
        prompt_ids=prompt,
        question_ids=after,
        answer_ids=tuple(encode_text(tokenizer, codes[0])),
        answers=(codes[0],),
        text_hash=text_hash(" ".join(map(str, prompt))),
        evidence_spans=((start, start + len(sentences[0])),),
        document=text_hash(texts[article]),
    )


def _frame(tokenizer: Any, words: Form, name: str) -> tuple[list[int], list[int], tuple[int, ...]]:
    """Tokens before the text, tokens after it, and tokens that are read after the compression.

    The answer's start ends with a space, as a token of its own, so that the code's tokens are its digits alone.
    """
    question, start = words.question.format(name=name), f"{words.start.format(name=name)} "
    if not words.chat:
        asked = encode_text(tokenizer, f"\n\nQuestion: {question}\nAnswer: {start}")
        return list(encode_prompt(tokenizer, "", LEAST)), asked, ()
    mark = "<the text>"
    message = {"role": "user", "content": f"{mark}\n\nQuestion: {question}"}
    chat = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    head, tail = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in chat.split(mark))
    return head, tail, tuple(encode_text(tokenizer, start))


def _code(tokenizer: Any, draw: random.Random, tokens: int) -> str:
    """Random digits that are exactly so many tokens: one each in many vocabularies, up to three in others."""
    digits = str(draw.randrange(1, 10))
    while len(encode_text(tokenizer, digits)) < tokens:
        digits += str(draw.randrange(10))
    if len(encode_text(tokenizer, digits)) != tokens:
        raise InputError(f"no code of digits makes {tokens} tokens with this tokenizer; give another length.")
    return digits


def _prose(texts: Many[str], first: int, skipped: float, characters: int) -> str:
    """Paragraphs of a text from a share of it on, then those of the next texts, until there is enough."""
    own = texts[first].split("\n")
    others = (text.split("\n") for text in (*texts[first + 1 :], *texts[:first]))
    paragraphs = itertools.chain(own[int(skipped * len(own)) :], *others)
    return "".join(fill((f"{one}\n" for one in paragraphs), characters=characters)).removesuffix("\n")
