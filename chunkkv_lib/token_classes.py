"""What kind of token is it: the text each token adds, its class, and the words and sentences it belongs to.

Classes, words and sentences are read off the tokens' texts by rules that a reader can check by eye. They are coarse on
purpose: no tagger, no model. Numbers with a comma or point and names with an underscore come apart at it.
"""

from __future__ import annotations

import keyword
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

#: class -> what it is, in words. Every token is in exactly one.
CLASSES = {
    "content": "content word, or its first piece",
    "function": "function word, or its first piece",
    "piece": "further piece of a word",
    "number": "number, or a digit of one",
    "punctuation": "punctuation, other signs",
    "space": "line break, indentation",
    "other": "special token, part of a character",
}

#: English words that hold sentences together: articles, pronouns, prepositions, conjunctions, auxiliaries, negation.
#: A short list of our own, by part of speech; contractions are looked up by what stands before their apostrophe.
_ENGLISH = """
    a an the this that these those some any each every either neither no all both such same other another own
    i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we us our ours
    ourselves they them their theirs themselves who whom whose which what one
    of in on at by for with from to into onto about above across after against along among around as before behind
    below beneath beside between beyond during except inside near off out outside over past per since through
    throughout till under until up upon within without via
    and or but nor so yet if than then because although though while whereas unless whether when where why how
    be am is are was were been being have has had having do does did doing done can could may might must shall should
    will would ought
    not don doesn didn isn aren wasn weren couldn wouldn shouldn hasn haven hadn mustn
    there here also only just very too more most much many few less least as again
"""
ENGLISH = frozenset(_ENGLISH.split())
PYTHON = frozenset(word.lower() for word in keyword.kwlist)
CODE = ("python_code", "python_repo", "lcc", "repobench-p")  # data sets whose prompts are programs
APOSTROPHES = "'’"
CLOSING = "\"'”’)]}*"  # what may stand between a full stop and the white space after it


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text: as if the tokens were decoded one after the other."""
    texts = []
    for before, token in zip([None, *ids], ids, strict=False):
        alone = tokenizer.decode([token])
        lead = "" if before is None else tokenizer.decode([before])
        both = alone if before is None else tokenizer.decode([before, token])
        texts.append(both[len(lead) :] if both.startswith(lead) else alone)
    return texts


def function_words(dataset: str) -> frozenset[str]:
    """The list that fits a data set's prompts, in lower case: Python's keywords for programs, else English words."""
    return PYTHON if dataset in CODE else ENGLISH


def token_classes(texts: Sequence[str], function: Collection[str] = ENGLISH) -> np.ndarray:
    """The class of each token, as an index into CLASSES.

    texts     of n tokens, as they follow each other (`token_texts`); "" for special tokens
    function  function words in lower case
    return    [n] int8
    """
    names = list(CLASSES)
    found = np.array([names.index(_kind(texts, i)) for i in range(len(texts))], dtype=np.int8)
    for first, stop in units(texts):
        if found[first] == names.index("content") and _word(texts[first:stop]) in function:
            found[first] = names.index("function")
    return found


def units(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Words and numbers as spans of tokens (first, behind the last): letters and digits without a gap between them."""
    spans: list[tuple[int, int]] = []
    for i, text in enumerate(texts):
        if _glued(texts, i):  # then the token before it has a letter or digit, hence a span that ends here
            spans[-1] = (spans[-1][0], i + 1)
        elif _first_sign(text):
            spans.append((i, i + 1))
    return spans


def sentences(texts: Sequence[str], least: int = 5) -> list[tuple[int, int]]:
    """Sentences as spans of tokens; in programs and lists, lines.

    A sentence ends behind a line break, and behind a full stop, question or exclamation mark that white space or
    nothing follows; so it also ends behind an abbreviation. Those of fewer than `least` tokens are left out.
    """
    spans, first = [], 0
    for i, text in enumerate(texts):
        after = texts[i + 1][:1] if i + 1 < len(texts) else " "
        stop = text.rstrip().rstrip(CLOSING)[-1:] in (".", "!", "?") and (text[-1:].isspace() or after.isspace())
        if stop or "\n" in text or i + 1 == len(texts):
            spans.append((first, i + 1))
            first = i + 1
    return [(a, b) for a, b in spans if b - a >= least]


def _kind(texts: Sequence[str], i: int) -> str:
    text = texts[i]
    sign = _first_sign(text)
    if sign:
        return "piece" if sign.isalpha() and _glued(texts, i) else "content" if sign.isalpha() else "number"
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
        return "other"
    return "space" if text.isspace() else "punctuation"


def _first_sign(text: str) -> str:
    """The first letter or digit of a token; "" if it has none."""
    return next((sign for sign in text if sign.isalnum()), "")


def _glued(texts: Sequence[str], i: int) -> bool:
    """Whether token i goes on with the word or number before it."""
    text = texts[i]
    begins = text[:1].isalnum() or (text[:1] in APOSTROPHES and text[1:2].isalpha())
    return bool(text) and begins and i > 0 and texts[i - 1][-1:].isalnum()


def _word(texts: Sequence[str]) -> str:
    """A unit as it is looked up: lower case, without what surrounds it or follows an apostrophe."""
    word = "".join(texts).lower().strip()
    letters = [i for i, sign in enumerate(word) if sign.isalnum()]
    word = word[letters[0] :]
    for apostrophe in APOSTROPHES:
        word = word.split(apostrophe)[0]
    return word.rstrip("_.,;:!?()[]{}\"'")
