"""Middle truncation: what does not fit is taken out of the middle, as LongBench does it."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

from ..errors import InputError

MIN_TOKENS = 16  # below this a prompt is neither question nor text


def check_max_tokens(max_tokens: int) -> None:
    """InputError unless `max_tokens` is an int of at least `MIN_TOKENS`."""
    if not isinstance(max_tokens, int) or max_tokens < MIN_TOKENS:
        raise InputError(f"max_tokens={max_tokens!r} does not fit: give a whole number of at least {MIN_TOKENS}.")


def truncate_middle(ids: Tokens[int], max_tokens: int) -> tuple[int, ...]:
    """The first and the last half of `max_tokens` of `ids`; all of `ids` if they fit.

    An odd `max_tokens` gives its extra token to the first half, so a prompt that is too long ends up with exactly
    `max_tokens` tokens. LongBench's `pred.py` decodes both halves and tokenises the joined text again, which
    can come out a few tokens longer or shorter; here the halves are joined as tokens. A BOS stays: it is in
    the first half.
    """
    check_max_tokens(max_tokens)
    if len(ids) <= max_tokens:
        return tuple(ids)
    last = max_tokens // 2
    return (*ids[: max_tokens - last], *ids[-last:])
