"""From parameters to sequences and their tables, in this process: what the Ray engine does on many machines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..measure import analyse
from ..models import describe, load_model
from ..sequences import Sequence, load_sequences, needles, second_question
from ..sequences.scoring import answer_limit, answer_score, one_line
from .answers import write_answers
from .identity import machine
from .parameters import Parameters

ALL_LAYERS = -1  # stands in the column `layer` of records that are means over all layers


def sequences_of(settings: Parameters, tokenizer: PreTrainedTokenizerBase) -> list[Sequence]:
    """The sequences that a run of these parameters measures, in order."""
    if settings.source == needles.SOURCE:
        found = settings.per_category, settings.max_tokens, settings.seed
        return needles.needle_sequences(tokenizer, *found, forms=settings.forms)
    if settings.source == second_question.SOURCE:
        found = settings.per_category, settings.max_tokens, settings.max_answer_tokens, settings.seed, settings.asks
        return second_question.second_question_sequences(tokenizer, *found)
    return load_sequences(
        tokenizer, settings.source, settings.data_path, settings.categories, settings.per_category,
        settings.max_tokens, settings.max_answer_tokens, settings.seed, settings.datasets, settings.skip,
    )  # fmt: skip


def measure_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequence: Sequence, settings: Parameters
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a run records of one sequence: `analyse`, and with `max_new_tokens` the written answers too."""
    options = settings.compressors, settings.reuse, settings.all_queries
    keep_text = settings.source == needles.SOURCE  # codes of ours in open prose: what is written may be kept
    if settings.max_new_tokens:
        score, limit = functools.partial(answer_score, sequence), answer_limit(sequence, settings.max_new_tokens)
        layers, answers = write_answers(
            model, tokenizer, sequence, score, limit, one_line(sequence), *options, keep_text
        )
    else:
        layers, answers = analyse(model, sequence, *options)
    if settings.layer_means:
        means = layers.groupby(["sequence", "method"], sort=False, as_index=False).mean().assign(layer=ALL_LAYERS)
        layers = means[layers.columns].astype(layers.dtypes)
    return layers, answers


class LocalEngine:
    """Measures in this process, one sequence after the other; an exception ends the run. The driver writes records.

    A context manager: entering loads the model and sets `model` and `machine`, what a manifest says about both.
    """

    def __init__(self, settings: Parameters, report: Callable[[str], None]) -> None:
        self.settings, self.report = settings, report
        self.failed: dict[str, str] = {}  # sequence -> why it was given up

    def __enter__(self) -> LocalEngine:
        settings = self.settings
        self.report(f"Loading {settings.model} ...")
        self.network, self.tokenizer = load_model(settings.model, settings.device, settings.dtype, settings.device_map)
        self.model, self.machine = describe(self.network, settings.model), machine()
        return self

    def __exit__(self, *exception: object) -> None:
        del self.network

    def measured(self, sequences: list[Sequence]) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        """Yield (sequence id, layers, answers), in any order."""
        for sequence in sequences:
            yield sequence.id, *measure_one(self.network, self.tokenizer, sequence, self.settings)
