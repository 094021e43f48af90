"""What a model writes from each compressed cache: scored as LongBench scores it, compared with the full cache's answer.

Only numbers leave this module; the texts are scored and dropped. The caches are those of `analyse`, filled in the same
forward pass, so a sequence's losses, its likelihood and its written answers belong together.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Mapping
from collections.abc import Sequence as Many
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..capture import capture
from ..compressors import Compressor, preset
from ..decoding import CompressedCache, generate
from ..errors import InputError
from ..sequences import Sequence, max_gen_toks, score
from ..sequences.needles import DATASET as NEEDLE
from ..sequences.needles import hit
from ..sequences.schema import MODELLED_ON
from .analysis import _answers, _tokens, _Visitor

FULL = "Full"
END = -1  # stands for the end of an answer where answers are compared
ONE_LINE = ("trec", "triviaqa", "samsum")  # LongBench grades the first line only, so an answer ends with it


def write_answers(
    model: PreTrainedModel,
    tokenizer: Any,
    sequence: Sequence,
    methods: Mapping[str, Compressor] | None = None,
    reuse: int = 1,
    all_queries: bool = False,
    max_new_tokens: int = 64,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`analyse`, and greedy answers from the full cache and from every compressed one.

    max_new_tokens  limit of an answer, where LongBench's own for the data set is not lower
    return          the two DataFrames of `analyse`; the second with five more columns: `generated_tokens`, `score`
                    (LongBench's, 0 to 1; of a needle 1 for the exact number), `prefix_agreement`, `token_f1` (how much
                    of the full cache's answer this one has), and `forced_opening` (the most likely first token would
                    have ended the answer, so the next one opens it)
    raises InputError: what `analyse` refuses, a data set without a score, answers longer than the model's positions.
    """
    methods = dict(preset() if methods is None else methods)
    prompt, answer = _tokens(sequence.prompt_ids, "prompt"), _tokens(sequence.answer_ids, "answer")
    n, limit = len(prompt), answer_limit(sequence, max_new_tokens)
    visitor, full_cache = _Visitor(sequence, n, methods, reuse, all_queries), CompressedCache(n)

    def visit(layer) -> None:
        visitor(layer)
        everything = torch.arange(n, device=layer.keys.device)[None]
        full_cache.add(layer.keys[:, :n], layer.values[:, :n], [everything])

    logits = capture(model, torch.cat([prompt, answer]), visit, logits_to_keep=len(answer) + 1)
    answers = _answers(model, visitor.caches, list(methods), logits[1:-1], answer.to(logits.device))()
    stops = stop_ids(model, tokenizer) | line_breaks(tokenizer, sequence)
    first, forced = opening(logits[0], stops)
    written = {FULL: generate(model, full_cache, first, limit, stops)[0]}
    for names, cache in visitor.caches.items():
        written |= zip(names, generate(model, cache, first, limit, stops), strict=True)
    rows = [_record(tokenizer, sequence, written[name], written[FULL], limit) for name in answers["method"]]
    answers = pd.concat([answers, pd.DataFrame(rows)], axis=1).assign(forced_opening=forced)
    layers = visitor.table()
    for frame in (layers, answers):
        frame.insert(0, "sequence", sequence.id)
    return layers, answers


def chance_scores(tokenizer: Any, sequences: Many[Sequence], max_new_tokens: int) -> list[float]:
    """What each sequence scores with somebody else's answer: the floor under a score that means anything.

    The right answers to the other sequences of its data set, cut to the length of a written answer, are scored as if
    they had been written here. Mean over the others; NaN if there are none.
    """
    cut = [_cut(tokenizer, one, answer_limit(one, max_new_tokens)) for one in sequences]
    floors = []
    for i, one in enumerate(sequences):
        others = [j for j, other in enumerate(sequences) if other.dataset == one.dataset and j != i]
        scores = [answer_score(one, cut[j]) for j in others]
        floors.append(sum(scores) / len(scores) if scores else float("nan"))
    return floors


def answer_limit(sequence: Sequence, max_new_tokens: int) -> int:
    """Most tokens of a written answer: LongBench's for the data set, a needle's number and one more, or the limit."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens} does not work; it must be at least 1.")
    own = len(sequence.answer_ids) + 1 if sequence.dataset == NEEDLE else max_gen_toks(sequence.dataset)
    return min(max_new_tokens, own)


def answer_score(sequence: Sequence, text: str) -> float:
    """How good a written answer is, 0 to 1: LongBench's score, or whether it is the needle's number."""
    if sequence.dataset == NEEDLE:
        return float(hit(text, sequence.answers[0]))
    return score(sequence.dataset, text, sequence.answers, sequence.all_classes)


def stop_ids(model: PreTrainedModel, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: those of the model's generation settings, and the tokenizer's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list | tuple) else [configured]
    return {token for token in (*ids, tokenizer.eos_token_id) if token is not None}


def line_breaks(tokenizer: Any, sequence: Sequence) -> frozenset[int]:
    """Tokens that hold a line break, for a data set whose answers are one line; otherwise none."""
    one_line = MODELLED_ON.get(sequence.dataset, sequence.dataset) in ONE_LINE
    return _breaking(tokenizer) if one_line else frozenset()


@functools.lru_cache(maxsize=1)
def _breaking(tokenizer: Any) -> frozenset[int]:
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return frozenset(token for token, text in enumerate(texts) if "\n" in text)


def opening(logits: Tensor, stops: Collection[int]) -> tuple[int, bool]:
    """The most likely first token of an answer that is not empty, and whether the most likely one would have ended it.

    logits  [vocabulary], after the prompt: they come from the prefill, so no compression can change them
    """
    allowed = logits.float().clone()
    allowed[list(stops)] = -torch.inf
    return int(allowed.argmax()), int(logits.argmax()) in stops


def prefix_agreement(row: Many[int], reference: Many[int], limit: int) -> float:
    """Share of the reference's tokens after the first that a row repeats before the first difference.

    The end counts as a token, unless the limit cut the answer off. The first token is left out: every answer shares
    it. NaN if nothing is left to compare.
    """
    ours, theirs = (_ended(one, limit)[1:] for one in (row, reference))
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same] == theirs[same]:
        same += 1
    return same / len(theirs) if theirs else float("nan")


def token_f1(row: Many[int], reference: Many[int]) -> float:
    """Tokens after the first that two answers share, wherever they stand: harmonic mean of both shares, 0 to 1.

    1 if both end after their first token.
    """
    ours, theirs = Counter(row[1:]), Counter(reference[1:])
    if not ours and not theirs:
        return 1.0
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def _ended(row: Many[int], limit: int) -> list[int]:
    return [*row, END] if len(row) < limit else list(row)


def _record(tokenizer: Any, sequence: Sequence, row: list[int], reference: list[int], limit: int) -> dict[str, float]:
    return {
        "generated_tokens": len(row),
        "score": answer_score(sequence, tokenizer.decode(row, skip_special_tokens=True)),
        "prefix_agreement": prefix_agreement(row, reference, limit),
        "token_f1": token_f1(row, reference),
    }


def _cut(tokenizer: Any, sequence: Sequence, limit: int) -> str:
    """The first gold answer that is not blank, as long as a written one may be."""
    answer = next(answer for answer in sequence.answers if answer.strip())
    return tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"][:limit])
