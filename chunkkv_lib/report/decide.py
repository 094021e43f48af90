"""For those who ship a cache: what each rule finds, frees and costs, where it was measured."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..errors import InputError
from .costs import Report
from .reach import asked
from .tables import MISSING, minus, myst_table

WINDOW, SUMS, NONE = "SnapKV + ChunkKV", "all methods", ""  # steps of the benchmark; "": nothing is looked at
#: Label in a run of needles -> the rule, tokens it keeps together, what it looks at, its name in a run of questions.
RULES = {
    "StreamingLLM": ("StreamingLLM", "the end", NONE, "StreamingLLM"),
    "H2O": ("H2O", "1", SUMS, "H2O"),
    "SnapKV": ("SnapKV, pooled over 7", "7", WINDOW, "SnapKV"),
    "SnapKV, kernel 15": ("SnapKV, pooled over 15", "15", WINDOW, "SnapKV-15"),
    "SnapKV, kernel 25": ("SnapKV, pooled over 25", "25", WINDOW, ""),
    "ChunkKV": ("ChunkKV, chunks of 10", "10", WINDOW, "ChunkKV"),
    "ChunkKV, chunk_size 40": ("ChunkKV, chunks of 40", "40", WINDOW, ""),
}
FUSED = {NONE: "yes", WINDOW: "yes", SUMS: "needs a second pass"}


def decisions(needles: Any, bench: Report, questions: Any = None) -> pd.DataFrame:
    """A row per rule that the run of needles has.

    questions  a run of second questions, or None: then what an unknown question costs is missing
    return     columns rule, reach, found, n, known and unknown (increase of the answer's NLL in nats per token, with
               the window at the question and at another one), pages_freed (share of pages of 16 tokens), extra (share
               of the prefill's time, at the benchmark's longest prompt), fused
    raises     InputError: the run of needles has none of the rules.
    """
    rows, longest = [], bench.rows[bench.rows["length"] == bench.rows["length"].max()]
    times = longest[longest["library"] == "chunkkv_lib"].set_index("step")["time_ratio"]
    pages = needles.layers.groupby("method")["pages_freed"].mean()
    loss = pd.DataFrame() if questions is None else asked(questions).pivot(index="method", columns="asks")["estimate"]
    for label, (rule, reach, looks, name) in RULES.items():
        scores = needles.answers.loc[needles.answers["method"] == label, "score"]
        if scores.empty:
            continue
        cost = 0.0 if looks == NONE else times[looks] - 1 if looks == WINDOW else times[SUMS] - times[WINDOW]
        known, unknown = (loss[ask].get(name) if ask in loss else None for ask in ("own", "other"))
        rows.append((rule, reach, int(scores.sum()), len(scores), known, unknown, pages[label], cost, FUSED[looks]))
    if not rows:
        raise InputError(f"run {needles.name!r} has none of {', '.join(RULES)}; measure needles.")
    names = ["rule", "reach", "found", "n", "known", "unknown", "pages_freed", "extra", "fused"]
    return pd.DataFrame(rows, columns=names)


def decisions_table(found: pd.DataFrame, caption: str, name: str = "") -> str:
    """`decisions` as texts; without a column that nothing was measured for."""

    def nats(column: str) -> list[str]:
        return [MISSING if pd.isna(value) else minus(f"{value:.2f}") for value in found[column]]

    columns = {
        "Rule": found["rule"],
        "Reach (tokens)": found["reach"],
        f"Codes found of {found['n'].max()}": found["found"],
        "Question known: NLL": nats("known"),
        "Question unknown: NLL": nats("unknown"),
        "Pages freed": [f"{100 * share:.0f} %" for share in found["pages_freed"]],
        "Extra prefill": [f"{100 * share:.0f} %" for share in found["extra"]],
        "With fused attention": found["fused"],
    }
    table = pd.DataFrame(columns)
    table = table.loc[:, (table != MISSING).any()]
    return myst_table(table, caption, name, right=table.columns[1:-1])
