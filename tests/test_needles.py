"""Needles: hidden exactly where they say, asked for at the end, the same ones on every machine."""

from __future__ import annotations

import pytest
from common import refused
from tiny import tiny_model

from chunkkv_lib.models import load_tokenizer
from chunkkv_lib.sequences import needle_sequences
from chunkkv_lib.sequences.needles import DEPTHS, depth_of, hide, hit, nearest_border

TEXTS = [
    "\n".join(f"The cat number {i} sat on mat {chr(97 + i % 26)}. It read about {word}." for i in range(60))
    for word in ("queries", "heads", "layers")
]
SIZE = 600


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(str(tiny_model(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def needles(tokenizer):
    return needle_sequences(tokenizer, per_depth=3, max_tokens=SIZE, texts=TEXTS)


def parts(tokenizer, one) -> tuple[str, str, str]:
    """Text before the needle, the needle, and what follows."""
    ((first, stop),) = one.evidence_spans
    pieces = one.prompt_ids[:first], one.prompt_ids[first:stop], one.prompt_ids[stop:]
    return tuple(tokenizer.decode(piece) for piece in pieces)


def test_the_marked_tokens_are_the_needle_and_the_text_around_it_is_whole(tokenizer, needles):
    for one in needles:
        before, needle, after = parts(tokenizer, one)
        assert needle.startswith(" The secret code of the ") and needle.endswith(f" is {one.answers[0]}.")
        text, question = (before + after).split("\n\nQuestion: ")
        name = needle.removeprefix(" The secret code of the ").split(" is ")[0]
        assert question == f"What is the secret code of the {name}?\nAnswer: The secret code of the {name} is"
        assert any(text in whole for whole in ("\n".join(TEXTS[i:] + TEXTS[:i]) for i in range(3)))
        assert one.answers[0] not in before + after


def test_depths_are_exact_up_to_half_a_sentence(tokenizer, needles):
    for one in needles:
        before, _, after = parts(tokenizer, one)
        text, depth = len(before) + len(after.split("\n\nQuestion: ")[0]), depth_of(one.category)
        assert len(before) / text == pytest.approx(depth, abs=0.1)
        assert before == "" or before.rstrip().endswith("."), "a needle stands between two sentences"
        if depth in (0, 1):
            assert len(before) == depth * text


def test_prompts_have_the_wanted_length_and_the_number_is_the_answer(tokenizer, needles):
    for one in needles:
        assert SIZE - 90 < len(one.prompt_ids) <= SIZE
        assert tokenizer.decode(one.answer_ids).strip() == one.answers[0]


def test_every_prefix_is_balanced_and_every_needle_its_own(needles):
    assert [depth_of(one.category) for one in needles] == [*DEPTHS] * 3
    assert len({one.id for one in needles}) == len({one.answers for one in needles}) == 18
    assert {one.dataset for one in needles} == {"needle"}


def test_the_seed_decides_and_more_needles_hold_fewer(tokenizer, needles):
    again = needle_sequences(tokenizer, 3, SIZE, texts=TEXTS)
    other = needle_sequences(tokenizer, 3, SIZE, seed=1, texts=TEXTS)
    assert again == needles and not {one.answers for one in other} & {one.answers for one in needles}
    assert needle_sequences(tokenizer, 2, SIZE, texts=TEXTS) == needles[:12]


def test_hiding_by_hand():
    assert hide([1, 2, 3], [8, 9], 2) == ([1, 2, 8, 9, 3], (2, 4))
    assert hide([1], [8], 0) == ([8, 1], (0, 1)) and hide([1], [8], 1) == ([1, 8], (1, 2))


@pytest.mark.parametrize(("depth", "border"), [(0, 1), (0.1, 1), (0.2, 4), (0.5, 4), (0.6, 9), (0.99, 11), (1, 11)])
def test_the_nearest_border_by_hand(depth, border):
    """Of 1, 4, 9, 11; depth 0.5 is place 6, as near to 4 as 0.6 (place 7) is to 9."""
    assert nearest_border([1, 4, 9, 11], depth) == border


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" 58231. And", True),
        ("58231", True),
        ("\n58231\n", True),
        (" 582310", False),
        (" is 58231", False),
        ("", False),
    ],
)
def test_only_the_number_itself_is_a_hit(text, found):
    assert hit(text, "58231") is found


def test_what_does_not_work_is_told(tokenizer):
    with refused("per_depth=0", "at least 1"):
        needle_sequences(tokenizer, 0, texts=TEXTS)
    with refused("max_tokens=60", "give"):
        needle_sequences(tokenizer, 1, 60, texts=TEXTS)
    with refused("depth=1.5", "0 to 1"):
        needle_sequences(tokenizer, 1, SIZE, depths=[1.5], texts=TEXTS)
    with refused("no text"):
        needle_sequences(tokenizer, 1, SIZE, texts=[])
