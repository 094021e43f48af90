"""The two synthetic tasks: find the passage an abstract belongs to, count the different passages."""

from __future__ import annotations

from . import qasper, squad
from .rows import ROWS, choose, fill, generator, row

CHOICES = 30  # passages to choose from, as in LongBench
OPENING = 1_200  # characters of a paper's body, at least, that make a passage
COUNTED = (30, 50)  # passages to count, least and most


def passage_retrieval_open() -> list[dict]:
    """Openings of thirty papers, and the abstract of one; laid out as LongBench's passage_retrieval_en.

    LongBench has Wikipedia paragraphs and a model-written abstract; these abstracts are the papers' own, so the
    prompt's "from Wikipedia" does not hold. Evidence: the opening that belongs to the abstract.
    """
    papers = qasper.papers()
    return [_retrieval_row(paper, papers) for paper in choose(papers, ROWS, "passage_retrieval_open")]


def _retrieval_row(paper: qasper.Paper, papers: list[qasper.Paper]) -> dict:
    draw = generator("passage_retrieval_open", paper.id)
    chosen = [paper, *draw.sample([other for other in papers if other != paper], CHOICES - 1)]
    draw.shuffle(chosen)
    return row(
        "passage_retrieval_open",
        paper.id,
        context=_numbered(map(_opening, chosen)),
        input=paper.abstract,
        answers=[f"Paragraph {chosen.index(paper) + 1}"],
        evidence=[_opening(paper)],
    )


def _opening(paper: qasper.Paper) -> str:
    return " ".join(fill((text for text in paper.paragraphs if len(text) > 100), characters=OPENING))


def passage_count_open() -> list[dict]:
    """Paragraphs of SQuAD, some of them repeated, in random order; laid out as LongBench's passage_count."""
    texts = [paragraph["context"].strip() for article in squad.articles() for paragraph in article["paragraphs"]]
    return [_count_row(number, sorted(set(texts))) for number in range(ROWS)]


def _count_row(number: int, texts: list[str]) -> dict:
    draw = generator("passage_count_open", number)
    total = draw.randint(*COUNTED)
    different = draw.sample(texts, draw.randint(total // 3, total))
    passages = different + draw.choices(different, k=total - len(different))
    draw.shuffle(passages)
    return row("passage_count_open", str(number), context=_numbered(passages), answers=[str(len(different))])


def _numbered(passages) -> str:
    return "\n\n".join(f"Paragraph {i}: {passage}" for i, passage in enumerate(passages, start=1))
