"""Sequences to measure: LongBench itself, or open text that has its shape, as prompts in tokens.

    load_sequences(tokenizer, source="open", per_category=2)     # what a run measures
    load_rows("longbench", "data.zip")                           # the rows behind it, as a datasets.Dataset

Imports of `datasets` and `huggingface_hub` happen inside the functions that need them.
"""

from ..sequence import Sequence
from .loading import load_rows, load_sequences, source_identity
from .needles import needle_sequences
from .open_data.attribution import ATTRIBUTION, Attribution
from .prompts import max_gen_toks, prompt
from .sampling import sample
from .schema import CATEGORIES, CATEGORY_OF, DATASETS
from .scoring import score
from .truncation import truncate_middle

__all__ = [
    "ATTRIBUTION",
    "CATEGORIES",
    "CATEGORY_OF",
    "DATASETS",
    "FEATURES",
    "Attribution",
    "Sequence",
    "load_rows",
    "load_sequences",
    "max_gen_toks",
    "needle_sequences",
    "prompt",
    "sample",
    "score",
    "source_identity",
    "truncate_middle",
]


def __getattr__(name: str) -> object:
    if name == "FEATURES":  # a datasets.Features: built on demand, so that importing this package stays light
        from .schema import features

        return features()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
