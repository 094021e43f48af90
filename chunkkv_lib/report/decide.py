"""For those who ship a cache: what each rule finds, frees and costs, where it was measured."""

from typing import Any

import pandas as pd

from .answers import rules
from .costs import OWN, Report
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


def decisions(needles: Any, bench: Report, questions: Any) -> pd.DataFrame:
    """A row per rule that the run of needles has; questions: a run of second questions.

    return  columns rule, reach, hits, n, pages_freed (share of pages of 16 tokens), known and unknown (increase of the
            answer's NLL in nats per token, with the window at the question and at another one; NaN: not measured),
            extra (share of the prefill's time, at the benchmark's longest prompt), fused
    """
    longest = bench.rows[(bench.rows["length"] == bench.rows["length"].max()) & (bench.rows["library"] == OWN)]
    times = longest.set_index("step")["time_ratio"]
    window = max(times[WINDOW] - 1, 0)  # nothing is cheaper than a plain prefill; less is the clock's noise
    extra = {NONE: 0.0, WINDOW: window, SUMS: times[SUMS] - 1 - window}
    found = rules(needles, ["pages_freed"]).set_index("method")[["hits", "n", "pages_freed"]]
    table = pd.DataFrame.from_dict(RULES, orient="index", columns=["rule", "reach", "looks", "name"])
    table = table.join(found, how="inner").reset_index(drop=True)
    loss = asked(questions).pivot(index="method", columns="asks", values="estimate")
    table["known"], table["unknown"] = (table["name"].map(loss[ask]) for ask in ("own", "other"))
    table["extra"], table["fused"] = (table["looks"].map(about) for about in (extra, FUSED))
    return table.drop(columns=["looks", "name"])


def decisions_table(found: pd.DataFrame, caption: str, name: str = "") -> str:
    """`decisions` as texts."""

    def nats(column: str) -> list[str]:
        return [MISSING if pd.isna(value) else minus(f"{value:.2f}") for value in found[column]]

    columns = {
        "Rule": found["rule"],
        "Reach (tokens)": found["reach"],
        f"Codes found of {found['n'].max()}": found["hits"],
        "Question known: NLL": nats("known"),
        "Question unknown: NLL": nats("unknown"),
        "Pages freed": [f"{100 * share:.0f} %" for share in found["pages_freed"]],
        "Extra prefill": [f"{100 * share:.0f} %" for share in found["extra"]],
        "With fused attention": found["fused"],
    }
    table = pd.DataFrame(columns)
    return myst_table(table, caption, name, right=table.columns[1:-1])
