"""Written answers: greedy, from the full cache and from every compressed one; scored, and compared with each other."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from collections.abc import Sequence as Many
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..compressors import Compressor
from ..decoding import check_decoding, decode, generate
from ..measure import FULL, Measurement
from ..sequence import Sequence

END = -1  # stands for the end of an answer where answers are compared


def write_answers(
    model: PreTrainedModel,
    tokenizer: Any,
    sequence: Sequence,
    score: Callable[[str], float],
    limit: int,
    one_line: bool = False,
    methods: Mapping[str, Compressor] | None = None,
    reuse: int = 1,
    all_queries: bool = False,
    keep_text: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`analyse`, and greedy answers from the full cache and from every compressed one, in the same forward pass.

    Unless `keep_text` asks for a column `written`, only numbers are returned; the texts are scored and dropped.

    score     written text -> how good it is, 0 to 1
    limit     most tokens of an answer
    one_line  an answer ends with its line
    return    the two DataFrames of `analyse`; the second with five more columns: `generated_tokens`, `score`,
              `prefix_agreement`, `token_f1` (how much of the full cache's answer this one has), and `forced_opening`
              (the most likely first token would have ended the answer, so the next one opens it)
    raises InputError: what `analyse` refuses, answers longer than the model's positions.
    """
    check_decoding(model, (*sequence.prompt_ids, *sequence.answer_ids))
    measurement = Measurement(model, sequence, methods, reuse, all_queries, keep_full=True)
    layers, answers = measurement.tables()  # before the answers are written, which lengthens the caches
    stops = stop_ids(model, tokenizer) | (line_breaks(tokenizer) if one_line else frozenset())
    written, forced = {}, {}
    for names, cache in {(FULL,): measurement.full_cache, **measurement.caches}.items():
        logits = decode(model, cache, measurement.before, append=True, logits_to_keep=1)[:, 0]
        first, forced_now = zip(*(opening(row, stops) for row in logits))
        written |= zip(names, generate(model, cache, first, limit, stops), strict=True)
        forced |= zip(names, forced_now, strict=True)
    texts = {name: tokenizer.decode(row, skip_special_tokens=True) for name, row in written.items()}
    rows = [
        {
            "generated_tokens": len(written[name]),
            "score": score(texts[name]),
            "prefix_agreement": prefix_agreement(written[name], written[FULL], limit),
            "token_f1": token_f1(written[name], written[FULL]),
            "forced_opening": forced[name],
            **({"written": texts[name]} if keep_text else {}),
        }
        for name in answers["method"]
    ]
    return layers, pd.concat([answers, pd.DataFrame(rows)], axis=1)


def stop_ids(model: PreTrainedModel, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: those of the model's generation settings, and the tokenizer's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list | tuple) else [configured]
    return {token for token in (*ids, tokenizer.eos_token_id) if token is not None}


@functools.lru_cache(maxsize=1)
def line_breaks(tokenizer: Any) -> frozenset[int]:
    """Tokens that hold a line break."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return frozenset(token for token, text in enumerate(texts) if "\n" in text)


def opening(logits: Tensor, stops: Collection[int]) -> tuple[int, bool]:
    """The most likely first token of an answer that is not empty, and whether the most likely one would have ended it.

    logits  [vocabulary], of the token before the answer
    """
    allowed = logits.float().clone()
    allowed[list(stops)] = -torch.inf
    return int(allowed.argmax()), int(logits.argmax()) in stops


def prefix_agreement(row: Many[int], reference: Many[int], limit: int) -> float:
    """Share of the reference's tokens that a row repeats before the first difference.

    The end counts as a token, unless the limit cut the answer off.
    """
    ours, theirs = ([*ids, END] if len(ids) < limit else list(ids) for ids in (row, reference))
    return same_start(ours, theirs) / len(theirs)


def same_start(a: Many, b: Many) -> int:
    """How many tokens, or characters, two answers share before the first that differs."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b)))


def token_f1(row: Many[int], reference: Many[int]) -> float:
    """Tokens that two answers share, wherever they stand: harmonic mean of both shares, 0 to 1."""
    ours, theirs = Counter(row), Counter(reference)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())
