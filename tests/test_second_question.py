"""The second question: one document and one question, three things under the window."""

import pytest
from common import refused

from chunkkv_lib.sequences.second_question import ASKS, NEUTRAL, second_question_sequences


def article(title: str, paragraphs: int = 12) -> dict:
    found = []
    for i in range(paragraphs):
        text = f"In {title} the cat {i} sat on mat {i}. It read about keys in year {1000 + i}. Then it slept."
        answer = {"text": f"year {1000 + i}", "answer_start": text.index("year")}
        qa = {"id": f"{title}{i}", "question": f"When did cat {i} of {title} read?", "answers": [answer]}
        found.append({"context": text, "qas": [qa, qa] if i != 3 else []})
    return {"title": title, "paragraphs": found}


ARTICLES = [article(title) for title in ("Rome", "Oslo", "Lima", "Cairo")]
SIZE = 600


@pytest.fixture(scope="module")
def sequences(tokenizer):
    return second_question_sequences(tokenizer, 6, SIZE, articles=ARTICLES)


def test_a_pair_is_one_document_and_one_question_under_three_windows(tokenizer, sequences):
    assert [one.category for one in sequences] == [*ASKS] * 6
    for own, neutral, other in zip(*[iter(sequences)] * 3):
        start = len(own.prompt_ids) - len(neutral.question_ids)
        document = own.prompt_ids[:start]
        assert neutral.prompt_ids[:start] == other.prompt_ids[:start] == document
        assert own.answer_ids == neutral.answer_ids == other.answer_ids and own.evidence_spans == other.evidence_spans
        assert own.question_ids == () and own.prompt_ids[start:] == neutral.question_ids
        assert tokenizer.decode(neutral.prompt_ids[start:]) == NEUTRAL
        asked = tokenizer.decode(neutral.question_ids).split("Question: ")[1]
        first, then = tokenizer.decode(other.prompt_ids[start:]), tokenizer.decode(other.question_ids)
        assert first.endswith("\nAnswer:") and asked not in first, "the window sees another question"
        answer, again = then.split("\n\nQuestion: ")
        assert again == asked and answer.strip() in tokenizer.decode(document) and answer.strip() not in own.answers
        assert own.document == neutral.document == other.document
        assert max(len(own.prompt_ids), len(other.prompt_ids)) <= SIZE
        ((start, stop),) = own.evidence_spans  # the sentence with the answer
        assert tokenizer.decode(own.prompt_ids[start:stop]).strip() == f"It read about keys in {own.answers[0]}."
        assert tokenizer.decode(own.answer_ids).strip() == own.answers[0]


def test_documents_take_turns_and_the_seed_decides(tokenizer, sequences):
    assert len({one.document for one in sequences[:12]}) == 4, "the first four pairs come from four documents"
    assert second_question_sequences(tokenizer, 2, SIZE, articles=ARTICLES) == sequences[:6]
    other = second_question_sequences(tokenizer, 6, SIZE, seed=1, articles=ARTICLES)
    assert {one.text_hash for one in other} != {one.text_hash for one in sequences}
    alone = second_question_sequences(tokenizer, 6, SIZE, asks=("other",), articles=ARTICLES)
    assert alone == sequences[2::3]


def test_what_does_not_work_is_told(tokenizer):
    for values, parts in (
        ({"pairs": 99}, ("pairs=99", "give fewer")),
        ({"max_tokens": 180}, ("max_tokens=180", "too little")),
    ):
        with refused(*parts):
            second_question_sequences(tokenizer, **{"pairs": 1, "max_tokens": SIZE, "articles": ARTICLES} | values)
