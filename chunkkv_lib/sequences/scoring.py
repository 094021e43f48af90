"""Scores of a written answer: LongBench's, with the functions lm-eval ships beside the tasks, and a needle's."""

import difflib
import functools
import importlib.util
import re
import sys
from collections.abc import Iterable
from collections.abc import Sequence as Many
from types import ModuleType, SimpleNamespace
from typing import Any

from ..errors import InputError
from ..sequence import Sequence
from .encoding import encode_text
from .needles import DATASET as NEEDLE
from .prompts import max_gen_toks, task, task_folder
from .schema import MODELLED_ON, longbench_name

_ONE_LINE = ("trec", "triviaqa", "samsum")  # LongBench scores the first line only: examples follow one another by lines


def score(dataset: str, prediction: str, answers: Iterable[str], all_classes: Iterable[str] = ()) -> float:
    """How good `prediction` is, in 0..1: the best score over the gold answers, with the data set's own metric.

    all_classes  the class names, for a classification task
    Token F1 for question answering, ROUGE-L for summaries, accuracy for classification, number match for the
    synthetic tasks, edit similarity for code.
    """
    name = longbench_name(dataset)
    # "metrics.get_qa_f1_with_score" names what scores a batch; "qa_f1_score", in the same file, scores one answer
    metric = re.sub(r"metrics\.get_(\w+)_with_score", r"\1_score", task(name)["process_results"])
    answers = list(answers)
    if not answers:
        raise InputError(f"no gold answers to score a prediction of {dataset!r} against.")
    if name in _ONE_LINE:
        prediction = prediction.lstrip("\n").split("\n")[0]
    if metric != "code_sim_score":  # indentation counts in code
        prediction = prediction.strip()
    function = getattr(_metrics(), metric)
    return max(float(function(prediction, answer, all_classes=list(all_classes))) for answer in answers)


def answer_score(sequence: Sequence, text: str) -> float:
    """How good a written answer is, 0 to 1: LongBench's score, or whether it begins with exactly the needle's code."""
    if sequence.dataset == NEEDLE:
        return float(re.match(rf"\s*{re.escape(sequence.answers[0])}(?!\d)", text) is not None)
    return score(sequence.dataset, text, sequence.answers, sequence.all_classes)


def answer_limit(sequence: Sequence, max_new_tokens: int) -> int:
    """Most tokens of a written answer: LongBench's for the data set, a needle's number and one more, or the limit."""
    own = len(sequence.answer_ids) + 1 if sequence.dataset == NEEDLE else max_gen_toks(sequence.dataset)
    return min(max_new_tokens, own)


def one_line(sequence: Sequence) -> bool:
    """Whether an answer ends with its line, because LongBench grades the first line only."""
    return MODELLED_ON.get(sequence.dataset, sequence.dataset) in _ONE_LINE


def chance_scores(tokenizer: Any, sequences: Many[Sequence], max_new_tokens: int) -> list[float]:
    """What each sequence scores with somebody else's answer: the floor under a score that means anything.

    The right answers to the other sequences of its data set, cut to the length of a written answer, are scored as if
    they had been written here. Mean over the others; NaN if there are none.
    """

    def cut(sequence: Sequence) -> str:
        """The first gold answer that is not blank, as long as a written one may be."""
        ids = encode_text(tokenizer, next(filter(str.strip, sequence.answers)))
        return tokenizer.decode(ids[: answer_limit(sequence, max_new_tokens)])

    answers = [cut(sequence) for sequence in sequences]
    floors = []
    for i, mine in enumerate(sequences):
        others = [j for j, other in enumerate(sequences) if other.dataset == mine.dataset and j != i]
        scores = [answer_score(mine, answers[j]) for j in others]
        floors.append(sum(scores) / len(scores) if scores else float("nan"))
    return floors


@functools.cache
def _metrics() -> ModuleType:
    """lm-eval's `metrics.py`, loaded by itself: it needs neither lm_eval nor the Chinese word splitter."""
    spec = importlib.util.spec_from_file_location("longbench_metrics", task_folder() / "metrics.py")
    module = importlib.util.module_from_spec(spec)

    def ratio(a: str, b: str) -> int:
        """fuzzywuzzy's `fuzz.ratio` (in its pure-Python form), 0..100."""
        return round(100 * difflib.SequenceMatcher(None, a, b).ratio())

    # Imports of the file that are not installed get a substitute for as long as it loads.
    substitutes = {"jieba": SimpleNamespace(), "fuzzywuzzy": SimpleNamespace(fuzz=SimpleNamespace(ratio=ratio))}
    missing = [name for name in substitutes if importlib.util.find_spec(name) is None]
    sys.modules.update({name: substitutes[name] for name in missing})
    try:
        spec.loader.exec_module(module)
    finally:
        for name in missing:
            del sys.modules[name]
    return module
