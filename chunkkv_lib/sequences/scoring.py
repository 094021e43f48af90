"""LongBench's scores of a generated answer, with the functions lm-eval ships beside the tasks."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

from ..errors import InputError
from .prompts import metric_name, task_folder
from .schema import longbench_name

_ONE_LINE = ("trec", "triviaqa", "samsum")  # LongBench scores the first line only: examples follow one another by lines


def score(dataset: str, prediction: str, answers: Iterable[str], all_classes: Iterable[str] = ()) -> float:
    """How good `prediction` is, in 0..1: the best score over the gold answers, with the data set's own metric.

    all_classes  the class names, for a classification task
    Token F1 for question answering, ROUGE-L for summaries (needs the package `rouge`), accuracy for
    classification, number match for the synthetic tasks, edit similarity for code.
    raises InputError: unknown data set, no answers, ROUGE wanted but `rouge` not installed.
    """
    name, metric = longbench_name(dataset), metric_name(dataset)
    answers = list(answers)
    if not answers:
        raise InputError(f"no gold answers to score a prediction of {dataset!r} against.")
    if name in _ONE_LINE:
        prediction = prediction.lstrip("\n").split("\n")[0]
    if metric != "code_sim_score":  # indentation counts in code
        prediction = prediction.strip()
    function = getattr(_metrics(), metric)
    return max(float(function(prediction, answer, all_classes=list(all_classes))) for answer in answers)


@functools.cache
def _metrics() -> ModuleType:
    """lm-eval's `metrics.py`, loaded by itself: it needs neither lm_eval nor the Chinese word splitter."""
    spec = importlib.util.spec_from_file_location("longbench_metrics", task_folder() / "metrics.py")
    module = importlib.util.module_from_spec(spec)
    with _stand_ins():
        spec.loader.exec_module(module)
    return module


class _NoRouge:
    def __init__(self) -> None:
        raise InputError("scoring a summary needs the package rouge; `pip install rouge==1.0.1`.")


def _ratio(a: str, b: str) -> int:
    """fuzzywuzzy's `fuzz.ratio` (in its pure-Python form), 0..100."""
    return round(100 * difflib.SequenceMatcher(None, a, b).ratio())


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Put substitutes in place of the imports of `metrics.py` that are not installed, for as long as it loads."""
    substitutes = {"jieba": {}, "fuzzywuzzy": {"fuzz": SimpleNamespace(ratio=_ratio)}, "rouge": {"Rouge": _NoRouge}}
    missing = [name for name in substitutes if name not in sys.modules and importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(substitutes[name])
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
