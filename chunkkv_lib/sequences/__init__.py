"""Sequences to measure: LongBench itself, or open text that has its shape, as prompts in tokens.

load_sequences(tokenizer, source="open", per_category=2)     # what a run measures
load_rows("longbench", "data.zip")                           # the rows behind it, as dicts
"""

# ruff: noqa: F401
from ..sequence import Sequence
from .encoding import truncate_middle
from .loading import load_rows, load_sequences, sample, source_identity
from .needles import needle_sequences
from .open_data import ATTRIBUTION, Attribution
from .prompts import max_gen_toks, prompt
from .schema import CATEGORIES, CATEGORY_OF, DATASETS
from .scoring import score
