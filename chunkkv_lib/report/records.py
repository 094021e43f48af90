"""What the columns of a run's records mean, and how records become averages and comparisons.

Records are pandas DataFrames with the columns `sequence`, `method`, `category` and one column per metric.
Where there is a `layer` column, values are averaged over layers first and then over sequences, so that one
sequence counts once. Methods and categories keep the order of their first appearance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from chunkkv_lib.errors import InputError, unknown
from chunkkv_lib.files import DATA
from chunkkv_lib.report.statistics import compare, holm, mean_interval

METHODS = ("ChunkKV", "SnapKV", "H2O")
CONTROLS = ("StreamingLLM", "Recent", "Random", "Oracle")
PRIMARY = ("kv_l1_loss", "attention_cosine_similarity")
PAIRS = (("ChunkKV", "SnapKV"), ("ChunkKV", "H2O"))
PAPER_TABLE_11 = DATA / "paper" / "table11.csv"


@dataclass(frozen=True)
class Metric:
    """A column's name in words, a short form for narrow headers, its unit, and which direction is better."""

    label: str
    short: str
    better: str  # "lower", "higher", or "" where neither is
    unit: str = ""

    @property
    def direction(self) -> str:
        """An arrow note that also points the right way when a y axis turns it upright."""
        return {"lower": "← lower is better", "higher": "higher is better →", "": ""}[self.better]

    @property
    def sign(self) -> int:
        """+1 if a larger value is better, -1 if a smaller one is, 0 if neither."""
        return {"lower": -1, "higher": 1, "": 0}[self.better]


METRICS = {
    "kv_l1_loss": Metric("KV-cache L1 loss", "L1 loss", "lower"),
    "kv_l1_loss_keys": Metric("L1 loss, keys only", "L1, keys", "lower"),
    "kv_l1_loss_values": Metric("L1 loss, values only", "L1, values", "lower"),
    "kv_l1_absolute_keys": Metric("Mean absolute L1, keys", "abs. L1, keys", "lower"),
    "kv_l1_absolute_values": Metric("Mean absolute L1, values", "abs. L1, values", "lower"),
    "key_cosine": Metric("Cosine of the keys themselves", "cosine, keys", "higher"),
    "value_cosine": Metric("Cosine of the values themselves", "cosine, values", "higher"),
    "attention_cosine_similarity": Metric("Attention cosine similarity", "attention cosine", "higher"),
    "attention_cosine_window": Metric("Attention cosine, window queries", "cosine, window", "higher"),
    "attention_cosine_no_sink": Metric("Attention cosine, without sink", "cosine, no sink", "higher"),
    "attention_cosine_logits": Metric("Cosine of pre-softmax scores", "cosine, scores", "higher"),
    "attention_cosine_prompt": Metric("Attention cosine, prompt queries", "cosine, prompt", "higher"),
    "attention_mass": Metric("Attention mass kept", "attention mass", "higher"),
    "attention_output_cosine": Metric("Cosine of attention outputs", "output cosine", "higher"),
    "overlap_layer_below": Metric("Jaccard index with the layer below", "Jaccard", ""),
    "evidence_kept": Metric("Evidence tokens that stay", "evidence kept", "higher"),
    "evidence_whole": Metric("Evidence passages that stay whole", "evidence whole", "higher"),
    "nll_increase": Metric("Increase of the answer's NLL", "NLL increase", "lower", "nats per token"),
    "kl": Metric("KL divergence from the full cache", "KL", "lower", "nats per token"),
    "top1_agreement": Metric("Top-1 agreement with the full cache", "top-1 agreement", "higher"),
    "score": Metric("LongBench score", "score", "higher"),
    "score_loss": Metric("Loss of LongBench score", "score loss", "lower"),
    "prefix_agreement": Metric("Written answer in step with the full cache's", "in step", "higher"),
    "token_f1": Metric("Tokens shared with the full cache's answer", "shared tokens", "higher", "F1"),
    "answer_change": Metric("Change of the written answer", "answer change", "lower", "1 − F1"),
}
DEFINITIONS = tuple(name for name in METRICS if name.startswith(("kv_l1", "key_", "value_", "attention_")))


def paper_table_11(path: str | Path = PAPER_TABLE_11) -> pd.DataFrame:
    """Paper Table 11: columns category, method and the two primary metrics, named as in our records.

    raises  InputError: no such file, or not its columns.
    """
    try:
        table = pd.read_csv(path).rename(columns={"kv_cache_l1_loss": PRIMARY[0]})
        return table[["category", "method", *PRIMARY]]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"cannot read the paper's table {path} ({error}): restore the file from the repository."
        ) from None


def choose(records: pd.DataFrame, category: str | None = None, methods: Iterable[str] | None = None) -> pd.DataFrame:
    """The rows of one category and of some methods; None takes all.

    raises  InputError: a category or method that the records do not hold, naming those they do.
    """
    if category is not None:
        _known("category", [category], records["category"].unique())
        records = records[records["category"] == category]
    if methods is not None:
        methods = list(methods)
        _known("method", methods, records["method"].unique())
        records = records[records["method"].isin(methods)]
    return records


def present(records: pd.DataFrame, methods: Iterable[str] | None, default: Iterable[str]) -> list[str]:
    """The methods asked for, which must be there; or, with None, those of `default` that are there."""
    measured = records["method"].unique()
    if methods is None:
        return [method for method in default if method in measured]
    _known("method", methods, measured)
    return list(methods)


def layer_values(records: pd.DataFrame, metric: str, method: str) -> pd.DataFrame:
    """One method's values: a row per sequence, a column per layer.

    raises  InputError: unknown metric or method.
    """
    _known("metric", [metric], _metrics_of(records))
    return _wide(choose(records, methods=[method]), metric, "layer").sort_index(axis="columns")


def sequence_means(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The metric's mean over layers: a row per sequence, a column per method. NaN layers do not count."""
    _known("metric", [metric], _metrics_of(records))
    return _wide(records, metric, "method")


def averages(
    records: pd.DataFrame, metrics: Sequence[str] = PRIMARY, methods: Iterable[str] | None = None
) -> pd.DataFrame:
    """Means over layers, then over sequences, with 95 % intervals (expanded percentiles).

    return  columns category, method, metric, estimate, low, high, n (sequences that have a value).
    """
    records = choose(records, methods=methods)
    rows = []
    for category, group in records.groupby("category", sort=False):
        for metric in metrics:
            for method, values in sequence_means(group, metric).items():
                found = mean_interval(values, method="expanded")
                rows.append((category, method, metric, found.estimate, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["category", "method", "metric", "estimate", "low", "high", "n"])


def comparisons(
    records: pd.DataFrame,
    metrics: Sequence[str] = PRIMARY,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    kind: str = "wilcoxon",
) -> pd.DataFrame:
    """Paired differences "method - baseline" by category, metric and pair; p-values Holm-corrected together.

    return  columns category, metric, method, baseline, difference, low, high, n, p, p_holm, cohen_d,
            rank_biserial. With fewer than 2 pairs a row holds NaN and its n.
    raises  InputError: a method that the records do not hold at all.
    """
    _known("method", [name for pair in pairs for name in pair], records["method"].unique())
    rows = []
    for category, group in records.groupby("category", sort=False):
        for metric in metrics:
            wide = sequence_means(group, metric)
            rows += [{"category": category, "metric": metric, **_comparison(wide, *pair, kind)} for pair in pairs]
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"]))
    return table


def damage(answers: pd.DataFrame) -> pd.DataFrame:
    """What a compressed cache does to the answer: all rows but "Full", with their `nll_increase` over it.

    answers columns sequence, method, nll, ...; nll in nats per answer token after the first. Where answers were
            written, too, also `score_loss` against the full cache's score, and `answer_change`, 1 - `token_f1`.
    raises  InputError: no "Full" rows to compare with.
    """
    full = answers[answers["method"] == "Full"].set_index("sequence")
    if full.empty:
        raise InputError(
            "the answers hold no method 'Full' to compare with: measure the likelihood of the full cache too."
        )
    rest = answers[answers["method"] != "Full"].copy()
    rest["nll_increase"] = rest["nll"] - rest["sequence"].map(full["nll"])
    if "score" in rest:
        rest["score_loss"] = rest["sequence"].map(full["score"]) - rest["score"]
        rest["answer_change"] = 1 - rest["token_f1"]
    return rest.reset_index(drop=True)


def _comparison(wide: pd.DataFrame, method: str, baseline: str, kind: str) -> dict:
    pair = wide.reindex(columns=[method, baseline]).dropna()
    row = {
        "method": method,
        "baseline": baseline,
        "difference": np.nan,
        "low": np.nan,
        "high": np.nan,
        "n": len(pair),
        "p": np.nan,
        "cohen_d": np.nan,
        "rank_biserial": np.nan,
    }
    if len(pair) >= 2:
        found = compare(pair[method], pair[baseline], kind, method="expanded")
        row |= {
            "difference": found.difference.estimate,
            "low": found.difference.low,
            "high": found.difference.high,
            "p": found.p_value,
            "cohen_d": found.cohen_d,
            "rank_biserial": found.rank_biserial,
        }
    return row


def _wide(records: pd.DataFrame, metric: str, columns: str) -> pd.DataFrame:
    """Mean of the metric by sequence and another column, both in order of appearance."""
    wide = records.groupby(["sequence", columns], sort=False)[metric].mean().unstack(columns, sort=False)
    return wide.reindex(index=records["sequence"].unique(), columns=records[columns].unique())


def _metrics_of(records: pd.DataFrame) -> list[str]:
    return [name for name in METRICS if name in records.columns]


def _known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
