"""The idea of semantic chunks as claims: whole words, sentences and evidence, and tokens that the answer looks at.

The paper's premise is that chunks keep what belongs together. It does not say what to count; these statements are ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from .claims import on_average, verdict
from .measure.token_survey import BLOCKS
from .records import METHODS, PAIRS
from .resampling import honest_interval
from .tables import Claim
from .token_shares import disagreement, gap, whole_shares

WITH_BLOCKS = (*PAIRS, ("ChunkKV", BLOCKS))
CALLED = {BLOCKS: "chunks drawn at random"}


def piece_claims(survey: Any, category: str | None = None) -> list[Claim]:
    """More words and sentences stay whole with ChunkKV than with the others, and than with chunks drawn at random."""
    found = []
    for piece in ("words", "sentences"):
        table = whole_shares(survey, piece, (*METHODS, BLOCKS), category)
        for pair in WITH_BLOCKS:
            statement = f"More {piece} stay whole with ChunkKV than with {CALLED.get(pair[1], pair[1])}"
            number = gap(table, "of all", pair)
            found.append(Claim(statement, verdict(number, 1), f"{pair[0]} − {pair[1]}, share of all {piece}", number))
    return found


def attention_claims(survey: Any, pairs: Iterable[tuple[str, str]] = PAIRS, category: str | None = None) -> list[Claim]:
    """Where two methods disagree, the answer looks more at what ChunkKV keeps."""
    found = []
    for one, other in pairs:
        wide = disagreement(survey, [(one, other)], category).pivot(index="sequence", columns="method", values="lift")
        number = honest_interval((wide[one] - wide[other]).to_numpy())
        statement = f"The answer looks more at tokens that only {one} keeps than at those that only {other} keeps"
        evidence = "attention to one token, in units of an average token's"
        found.append(Claim(statement, verdict(number, 1), evidence, number, 2))
    return found


def evidence_claims(records: pd.DataFrame) -> list[Claim]:
    """More of the marked evidence stays with ChunkKV, and more of it whole.

    records  of a run; only sequences whose evidence is marked count
    """
    said = {"evidence_kept": "More evidence tokens stay", "evidence_whole": "More evidence passages stay whole"}
    return [
        on_average(f"{words} with ChunkKV than with {pair[1]}", records, metric, [pair])
        for metric, words in said.items()
        for pair in PAIRS
    ]
