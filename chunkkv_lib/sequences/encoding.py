"""Texts to tokens: the prompt, cut in the middle where it is too long, and the answer as it continues the prompt."""

from collections.abc import Iterable
from collections.abc import Sequence as Tokens
from itertools import accumulate
from typing import Any

from ..errors import InputError, check_whole
from ..sequence import Sequence, text_hash
from .open_rows import sentence_at

MIN_TOKENS = 16  # below this a prompt is neither question nor text
# verbose: a prompt longer than the model's context is no mistake here, it is truncated afterwards
_PLAIN = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
_TAIL = 64  # characters; more than the longest token, so the end of the prompt is split as in the whole


def encode_prompt(tokenizer: Any, text: str, max_tokens: int) -> tuple[int, ...]:
    """Tokens of the prompt, cut in the middle to `max_tokens`: with BOS if the tokenizer adds one, no chat template."""
    return truncate_middle([*_opening(tokenizer), *encode_text(tokenizer, text)], max_tokens)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text as it is read: "</s>" or "<|im_end|>" written in it are characters, not control tokens.

    LongBench's own program does otherwise: there such a text within a row ends it, or changes the speaker.
    """
    return tokenizer(text, **_PLAIN)["input_ids"] if text else []


def evidence_spans(tokenizer: Any, text: str, passages: Iterable[str], max_tokens: int) -> tuple[tuple[int, int], ...]:
    """Where passages of the prompt `text` ended up after `encode_prompt`: token positions (start, end exclusive).

    Of each passage its first occurrence. One that truncation cut, wholly or in part, is left out, and so are all with
    a tokenizer that cannot say which characters a token stands for.
    """
    places = [(start, start + len(one)) for one in passages if one and (start := text.find(one)) >= 0]
    if not places or not getattr(tokenizer, "is_fast", False):
        return ()
    encoded = tokenizer(text, **_PLAIN, return_offsets_mapping=True)
    offsets = [(0, 0)] * len(_opening(tokenizer)) + encoded["offset_mapping"]
    position = {token: i for i, token in enumerate(truncate_middle(range(len(offsets)), max_tokens))}
    spans = []
    for start, stop in places:
        inside = [token for token, (first, last) in enumerate(offsets) if first < stop and last > start]
        if inside and position.keys() >= set(inside):
            spans.append((position[inside[0]], position[inside[-1]] + 1))
    return tuple(spans)


def encode_answer(tokenizer: Any, prompt: str, answer: str, max_answer_tokens: int) -> tuple[int, ...]:
    """Tokens of `answer` as they follow `prompt`, at most `max_answer_tokens`, without special tokens.

    A space separates the two unless the prompt ends, or the answer begins, with white space ("Answer:" wants one,
    "Next line of code:\\n" does not). The tokens are those of prompt and answer tokenised together,
    less the prompt's. Where a token would span the border, so that there is no such difference, the answer
    is tokenised after a line break, and failing that on its own: the model then sees the prompt exactly as it is.
    """
    joint = answer if prompt[-1:].isspace() or answer[:1].isspace() else f" {answer}"
    for lead in (prompt[-_TAIL:], "\n", ""):
        before, both = encode_text(tokenizer, lead), encode_text(tokenizer, lead + joint)
        if len(both) > len(before) and both[: len(before)] == before:
            return tuple(both[len(before) :][:max_answer_tokens])
    return ()


def own_sequence(
    tokenizer: Any, prompt: str, answer: str, evidence: str = "", max_tokens: int = 4096, name: str = "your text"
) -> Sequence:
    """A text of one's own that ends with a question, and its answer, as a sequence.

    evidence  passage of the prompt that holds the answer; "": the first sentence in which the answer stands, if any
    raises InputError: an empty or too short prompt, no answer, evidence that does not stand in the prompt.
    """
    prompt, answer = prompt.strip(), answer.strip()
    if not prompt or not answer:
        raise InputError(f"the {'answer' if prompt else 'prompt'} is empty; give at least one word.")
    if evidence and evidence not in prompt:
        raise InputError(f"evidence={evidence!r:.60} does not stand in the prompt; copy it from there, word for word.")
    passage = evidence or sentence_with(prompt, answer)
    ids = encode_prompt(tokenizer, prompt, max_tokens)
    if len(ids) < MIN_TOKENS:
        raise InputError(f"the prompt has {len(ids)} tokens; give at least {MIN_TOKENS}.")
    return Sequence(
        name, "", "", ids, encode_answer(tokenizer, prompt, answer, 32), (answer,), text_hash(prompt),
        prompt_text=prompt, evidence=(passage,) if passage else (),
        evidence_spans=evidence_spans(tokenizer, prompt, [passage], max_tokens),
    )  # fmt: skip


def sentence_with(text: str, answer: str) -> str:
    """The first sentence of the text that holds the answer, in any case of letters; "" if none does."""
    at = text.lower().find(answer.lower())
    return sentence_at(text, at, at + len(answer), r"[.!?][\"')\]]*\s+|\n+") if at >= 0 else ""


def truncate_middle(ids: Tokens[int], max_tokens: int) -> tuple[int, ...]:
    """The first and the last half of `max_tokens` of `ids`; all of `ids` if they fit.

    An odd `max_tokens` gives its extra token to the first half. LongBench's `pred.py` decodes both halves and tokenises
    the joined text again, which can come out a few tokens longer or shorter; here the halves are joined as tokens.
    """
    check_whole(MIN_TOKENS, max_tokens=max_tokens)
    if len(ids) <= max_tokens:
        return tuple(ids)
    last = max_tokens // 2
    return (*ids[: max_tokens - last], *ids[-last:])


def token_texts(tokenizer: Any, ids: Tokens[int], text: str | None = None) -> list[str]:
    """What each token adds to the prompt's text. Of a letter made of several tokens, the last one shows it.

    text  the prompt's, where it is known: then the tokenizer tells where each token ends in it
    """
    if text is not None and tokenizer.is_fast:
        encoded = tokenizer(text, split_special_tokens=True, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in encoded["offset_mapping"]]
        if len(ends) == len(ids):
            pieces = [text[before:end] for before, end in zip([0, *accumulate(ends, max)], ends)]
            return pieces if pieces[0] else [tokenizer.decode(ids[:1]), *pieces[1:]]  # a mark of the beginning
    pairs = zip([[], *([one] for one in ids)], ids)  # as if the tokens were decoded one after the other
    return [tokenizer.decode([*lead, one])[len(tokenizer.decode(lead)) :] for lead, one in pairs]


def _opening(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts in front of every text: none, BOS, or what else its model was trained with."""
    whole, plain = tokenizer("a")["input_ids"], encode_text(tokenizer, "a")
    return next((whole[:i] for i in range(len(whole)) if whole[i:][: len(plain)] == plain), [])
