"""The row format (LongBench's own), the data sets of each category, and the check that a row keeps to the format."""

import re
from collections.abc import Iterator

from ..errors import check_known

# The rows of Paper Table 11. Per source: which data sets make up a category. Order matters: draws go round in it.
DATASETS: dict[str, dict[str, tuple[str, ...]]] = {
    "longbench": {
        "Single-Document QA": ("narrativeqa", "qasper", "multifieldqa_en"),
        "Multi-Document QA": ("hotpotqa", "2wikimqa", "musique"),
        "Summarization": ("gov_report", "qmsum", "multi_news"),
        "Few-shot Learning": ("trec", "triviaqa", "samsum"),
        "Synthetic & Code": ("passage_count", "passage_retrieval_en", "lcc", "repobench-p"),
    },
    "open": {
        "Single-Document QA": ("qasper_open", "squad_articles"),
        "Multi-Document QA": ("hotpotqa_open",),
        "Summarization": ("qasper_abstracts",),
        "Few-shot Learning": ("trec_open", "squad_examples"),
        "Synthetic & Code": ("passage_count_open", "passage_retrieval_open", "python_code", "python_repo"),
    },
}
CATEGORIES = tuple(DATASETS["longbench"])
CATEGORY_OF = {name: category for sets in DATASETS.values() for category, names in sets.items() for name in names}

# The LongBench data set whose layout, prompt and metric an open data set takes over.
MODELLED_ON = {
    "qasper_open": "qasper",
    "squad_articles": "multifieldqa_en",
    "hotpotqa_open": "hotpotqa",
    "qasper_abstracts": "gov_report",
    "trec_open": "trec",
    "squad_examples": "triviaqa",
    "passage_count_open": "passage_count",
    "passage_retrieval_open": "passage_retrieval_en",
    "python_code": "lcc",
    "python_repo": "repobench-p",
}

# LongBench's eight fields. `length` counts words; `all_classes` is null unless the task is a classification;
# `_id` may be null in partial copies. A row that was read also has `evidence`, the passages that hold the answer
# (a list of strings), and `document`, a name of the text it asks about.
FIELDS: dict[str, tuple[type, ...]] = {
    "input": (str,),
    "context": (str,),
    "answers": (list,),
    "length": (int,),
    "dataset": (str,),
    "language": (str,),
    "all_classes": (list, type(None)),
    "_id": (str, type(None)),
}


def longbench_name(dataset: str) -> str:
    """The LongBench data set whose prompt and metric `dataset` uses (itself, if it is one)."""
    check_known("data set", dataset, CATEGORY_OF)
    return MODELLED_ON.get(dataset, dataset)


def problems(row: object) -> Iterator[str]:
    """What keeps `row` from being a LongBench row with an answer. Ask for the first only: later checks rely on that."""
    if not isinstance(row, dict):
        yield f"expected a JSON object with LongBench's fields, found {type(row).__name__}"
    for name, kinds in FIELDS.items():
        if name not in row:
            yield f"field {name!r} is missing; a row needs {', '.join(FIELDS)}"
        if not isinstance(row[name], kinds):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            yield f"field {name!r} must be {wanted}, found {type(row[name]).__name__}"
        if isinstance(row[name], list) and not all(isinstance(text, str) for text in row[name]):
            yield f"field {name!r} must be a list of strings"
        if re.search("[\ud800-\udfff]", "".join(row[name] or ()) if list in kinds else str(row[name])):
            yield f"field {name!r} holds half a surrogate pair, which is no character; remove it"
    if not any(text.strip() for text in row["answers"]):
        yield "field 'answers' holds no answer; a sequence needs one to be measured"
    if row["dataset"] in ("trec", "trec_open") and not row["all_classes"]:
        yield "field 'all_classes' is empty; a classification cannot be scored without its labels"
    retrieval = row["dataset"].startswith("passage_retrieval")
    if retrieval and not all(re.search(r"Paragraph \d", answer) for answer in row["answers"]):
        yield "an answer of field 'answers' is not like 'Paragraph 7', so it cannot be scored"
    if not (row["context"] + row["input"]).strip():
        yield "'context' and 'input' are both blank, so the prompt would be empty"
