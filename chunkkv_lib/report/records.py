"""What the columns of a run's records mean, and how records become averages and comparisons.

Records are pandas DataFrames with the columns `sequence`, `method`, `category`, perhaps `document`, and one column per
metric. Where there is a `layer` column, values are averaged over layers first and then over sequences, so that one
sequence counts once. Methods and categories keep the order of their first appearance. To ask for a category, method or
metric that the records do not hold is an InputError, which names those they do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import InputError, check_known
from ..files import DATA
from . import statistics as st
from .statistics import documents_of, interval, members_of, resampled_means

METHODS = ("ChunkKV", "SnapKV", "H2O")
CONTROLS = ("StreamingLLM", "Recent", "Random", "Oracle")
PRIMARY = ("kv_l1_loss", "attention_cosine_similarity")
PAIRS = (("ChunkKV", "SnapKV"), ("ChunkKV", "H2O"))


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

    @property
    def axis(self) -> str:
        """For an axis: what, in which unit, which direction is better; on lines of their own."""
        return "\n".join(filter(None, [self.label, f"({self.unit})" if self.unit else "", self.direction]))

    @property
    def header(self) -> str:
        """For a table's column: label, unit, and an arrow that points to the better side."""
        return self.label + (f" ({self.unit})" if self.unit else "") + {1: " ↑", -1: " ↓", 0: ""}[self.sign]


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
    "injected_error": Metric("Injected error", "injected error", "lower"),
    "injected_error_worst_head": Metric("Injected error, worst head", "error, worst head", "lower"),
    "pages_freed": Metric("Pages of 16 tokens that are freed", "pages freed", "higher"),
    "question_attention_mass": Metric("Attention mass of a later question", "question's mass", "higher"),
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
DEFINITIONS = tuple(name for name in METRICS if name.startswith(("kv_l1", "key_", "value_", "attention_", "injected")))


def paper_table_11() -> pd.DataFrame:
    """Paper Table 11: columns category, method and the two primary metrics, named as in our records."""
    table = pd.read_csv(DATA / "paper" / "table11.csv").rename(columns={"kv_cache_l1_loss": PRIMARY[0]})
    return table[["category", "method", *PRIMARY]]


def choose(records: pd.DataFrame, category: str | None = None, methods: Iterable[str] | None = None) -> pd.DataFrame:
    """The rows of one category and of some methods; None takes all."""
    if category is not None:
        check_known("category", category, [*records["category"].unique()])
        records = records[records["category"] == category]
    if methods is not None:
        methods, measured = list(methods), list(records["method"].unique())
        for method in methods:
            check_known("method", method, measured)
        records = records[records["method"].isin(methods)]
    return records


def layer_values(records: pd.DataFrame, metric: str, method: str) -> pd.DataFrame:
    """One method's values: a row per sequence, a column per layer; the index holds sequence and document."""
    return _wide(choose(records, methods=[method]), metric, "layer").sort_index(axis="columns")


def sequence_means(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The metric's mean over layers: a row per sequence, a column per method. NaN layers do not count.

    The index holds the sequence and, where the records tell it, its document, which `interval` then resamples.
    """
    return _wide(records, metric, "method")


def _wide(records: pd.DataFrame, metric: str, columns: str) -> pd.DataFrame:
    """Mean of the metric by sequence and another column, both in order of appearance."""
    check_known("metric", metric, [name for name in METRICS if name in records.columns])
    means = records.groupby(["sequence", columns], sort=False)[metric].mean().unstack(columns, sort=False)
    wide = means.reindex(index=records["sequence"].unique(), columns=records[columns].unique())
    wide.index.name = "sequence"
    if "document" not in records:
        return wide
    documents = records.drop_duplicates("sequence").set_index("sequence")["document"]
    return wide.set_index(documents.reindex(wide.index), append=True)


def metric_and_damage(
    records: pd.DataFrame, hurt: pd.DataFrame, metric: str, outcome: str, methods: Iterable[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A metric and an outcome of the same sequences and methods, two tables of one shape; methods None: all."""
    x = sequence_means(records, metric)
    x = x if methods is None else x[list(methods)]
    return x, sequence_means(hurt, outcome).reindex(index=x.index, columns=x.columns)


def comparisons(
    records: pd.DataFrame,
    metrics: Sequence[str] = PRIMARY,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    by: str = "category",
) -> pd.DataFrame:
    """Paired differences "method - baseline" by row, metric and pair; p-values Holm-corrected together.

    by      what makes a row: "category", or "dataset" to take the rows of Paper Table 11 apart
    return  columns <by>, metric, method, baseline, difference, low, high, n, p, p_holm, cohen_d, rank_biserial, and
            margin (the smallest within which the difference is equivalent to none). Fewer than 2 pairs: NaN and n.
    """
    records, rows = choose(records, methods=[name for pair in pairs for name in pair]), []
    for name, group in records.groupby(by, sort=False):
        for metric in metrics:
            wide = sequence_means(group, metric)
            for pair in pairs:
                both = wide.reindex(columns=list(pair)).dropna()
                gap = both.iloc[:, 0] - both.iloc[:, 1]
                row = {by: name, "metric": metric, "method": pair[0], "baseline": pair[1]}
                if len(both) > 1:
                    found = interval(gap)
                    row |= {"difference": found.estimate, "low": found.low, "high": found.high}
                    row |= {"p": st.paired_test(gap), "margin": st.smallest_margin(gap)}
                    row |= {"cohen_d": st.cohen_d(gap), "rank_biserial": st.rank_biserial(gap)}
                rows.append(row | {"n": len(both)})
    numbers = ["difference", "low", "high", "n", "p", "p_holm", "cohen_d", "rank_biserial", "margin"]
    table = pd.DataFrame(rows).reindex(columns=[by, "metric", "method", "baseline", *numbers])
    return table.assign(p_holm=st.holm(table["p"]))


def damage(answers: pd.DataFrame) -> pd.DataFrame:
    """What a compressed cache does to the answer: all rows but "Full", with their `nll_increase` over it.

    answers columns sequence, method, nll, ...; nll in nats per answer token. Where answers were written, too, also
            `score_loss` against the full cache's score, and `answer_change`, 1 - `token_f1`.
    """
    full = answers[answers["method"] == "Full"].set_index("sequence")
    if full.empty:
        raise InputError("the answers hold no method 'Full', the full cache, to compare with: measure it too.")
    rest = answers[answers["method"] != "Full"].copy()
    rest["nll_increase"] = rest["nll"] - rest["sequence"].map(full["nll"])
    if "score" in rest:
        rest["score_loss"] = rest["sequence"].map(full["score"]) - rest["score"]
        rest["answer_change"] = 1 - rest["token_f1"]
    return rest.reset_index(drop=True)


def draws(
    records: pd.DataFrame, metric: str, methods: Iterable[str] | None = None
) -> tuple[dict[str, np.ndarray], int, int]:
    """Means of a metric by method and category with their resamples, the base of statements about all rows together.

    Documents are drawn anew within their category, the same ones for every method: differences stay paired. A sequence
    that lacks the metric for one of the methods is left out, and so is a category without any sequence.
    return  method -> [1 + resamples, categories], row 0 is the estimate; the documents that an interval of them rests
            on, one for each degree of freedom of the categories together and one more; and the sequences
    """
    records = choose(records, methods=methods)
    names, drawn, counts, documents = list(records["method"].unique()), [], 0, []
    for place, (_, group) in enumerate(records.groupby("category", sort=False)):
        values = sequence_means(group, metric).reindex(columns=names).dropna()
        if len(values):
            members = members_of(documents_of(values), np.ones(len(values), dtype=bool))
            drawn.append(resampled_means(values.to_numpy(), members, seed=(0, place)))
            counts, documents = counts + len(values), [*documents, len(members)]
    if not drawn:
        raise InputError(f"no sequence has a value of {metric} for every method; measure more sequences.")
    rest_on = sum(documents) - len(documents) + 1 if min(documents) > 1 else 1
    return dict(zip(names, np.stack(drawn).transpose(2, 1, 0))), rest_on, counts
