"""Needles: hidden exactly where they say, asked for at the end, the same ones on every machine."""

import copy
import random
import re

import pytest
from common import refused

from chunkkv_lib.sequences import Sequence, needle_sequences
from chunkkv_lib.sequences.needles import DATASET, DEPTHS, FORMS, _code, needle_setting
from chunkkv_lib.sequences.scoring import answer_score

TEXTS = [
    "\n".join(f"The cat number {i} sat on mat {chr(97 + i % 26)}. It read about {word}." for i in range(60))
    for word in ("queries", "heads", "layers")
]
SIZE = 600
CHAT = (
    "{% for message in messages %}<user>{{ message['content'] }}</user>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tokenizer):
    found = copy.copy(tokenizer)
    found.chat_template = CHAT
    return found


@pytest.fixture(scope="module")
def needles(tokenizer):
    return needle_sequences(tokenizer, 6, SIZE, answer_tokens=(2, 9), texts=TEXTS)


def parts(tokenizer, one) -> tuple[str, str, str]:
    """Text before the needle, the needle, and what follows."""
    ((start, stop),) = one.evidence_spans
    pieces = one.prompt_ids[:start], one.prompt_ids[start:stop], one.prompt_ids[stop:]
    return tuple(tokenizer.decode(piece) for piece in pieces)


OTHERS = r" The secret code of the [a-z]+ [a-z]+ is \d+\."


def body(before: str, after: str) -> str:
    """The text alone, without the needle, its like, the chat's tokens and the question."""
    return re.sub(OTHERS, "", before + after.split("\n\nQuestion: ")[0]).removeprefix("<user>")


def test_the_marked_tokens_are_the_needle_at_its_depth_and_the_text_around_it_is_whole(tokenizer, needles):
    assert {needle_setting(one.id)["form"] for one in needles} == {*FORMS}
    for one in needles:
        before, needle, after = parts(tokenizer, one)
        form = FORMS[needle_setting(one.id)["form"]]
        pattern = re.escape(form.needle).replace(r"\{name\}", "(?P<name>[a-z]+ [a-z]+)")
        pattern = pattern.replace(r"\{code\}", r"(?P<code>\d+)")
        found = re.fullmatch(pattern, needle)
        assert found["code"] == one.answers[0] and one.answers[0] not in before + after
        assert any(body(before, after) in whole for whole in ("\n".join(TEXTS[i:] + TEXTS[:i]) for i in range(3)))
        asked = after.split("\n\nQuestion: ")[1] + tokenizer.decode(one.question_ids)
        between = "</user><model>" if form.chat else "\nAnswer: "
        assert asked == f"{form.question}{between}{form.start} ".format(name=found["name"])
        assert bool(one.question_ids) == form.chat, "only a chat's answer begins after the compression"
        assert SIZE - 90 < len(one.prompt_ids) <= SIZE and tokenizer.decode(one.answer_ids) == one.answers[0]
        assert len(one.answer_ids) == needle_setting(one.id)["answer_tokens"]
        alone = re.sub(OTHERS, "", before)
        depth = (len(alone) - len("<user>") * form.chat) / len(body(before, after))
        assert depth == pytest.approx(int(one.category.removesuffix(" %")) / 100, abs=0.1), "up to half a sentence"
        assert alone in ("", "<user>") or alone.rstrip().endswith("."), "a needle stands between two sentences"
    for form in (FORMS["apart"], FORMS["password"]):  # whose questions copy no word that stands before the code
        near = " ".join(form.needle.split("{code}")[0].split()[-12:])
        asked = re.findall("[a-z]+", f"{form.question} {form.start}".lower())
        assert {*asked} & {*re.findall("[a-z]+", near)} == set()


def test_needles_among_others_have_names_and_codes_of_their_own(tokenizer, needles):
    among = [one for one in needles if needle_setting(one.id)["form"] == "code among four"]
    for one in among:
        found = re.findall(r"The secret code of the ([a-z]+ [a-z]+) is (\d+)\.", tokenizer.decode(one.prompt_ids))
        assert len(found) == len({name for name, _ in found}) == len({code for _, code in found}) == 4
        name = re.search(r"What is the secret code of the (.+?)\?", tokenizer.decode(one.prompt_ids))[1]
        assert dict(found)[name] == one.answers[0] and parts(tokenizer, one)[1].endswith(f" is {one.answers[0]}.")
    assert len(among) == 12


def test_a_code_is_as_long_as_wanted_where_several_digits_are_one_token(tokenizer):
    def three(text, **options):  # a tokenizer that takes three digits at a time, as Llama 3 does
        return {"input_ids": re.findall(r"\d{1,3}|\D", text)}

    for tokens in (1, 2, 5, 16):
        code = _code(three, random.Random(0), tokens)
        assert code.isdigit() and len(three(code)["input_ids"]) == tokens
    with refused("3 tokens"):
        _code(lambda text, **options: {"input_ids": text + text}, random.Random(0), 3)


def test_a_round_holds_every_form_and_length_and_six_rounds_every_depth(tokenizer, needles):
    settings = [tuple(needle_setting(one.id).values())[:3] for one in needles]
    assert sorted(settings) == sorted((form, k, depth) for form in FORMS for k in (2, 9) for depth in DEPTHS)
    assert {one[:2] for one in settings[:12]} == {(form, k) for form in FORMS for k in (2, 9)}
    assert len({one[2] for one in settings[:12]}) > 2, "depths are mixed within a round"
    assert needle_sequences(tokenizer, 1, SIZE, answer_tokens=(2, 9), texts=TEXTS) == needles[:12]
    assert len({one.text_hash for one in needles}) == 72 and len({one.document for one in needles}) == 3
    other = needle_sequences(tokenizer, 1, SIZE, 1, answer_tokens=(9,), texts=TEXTS)
    assert not {one.answers for one in other} & {one.answers for one in needles[:12]}, "the seed decides"


def test_only_the_number_itself_is_a_hit():
    one = Sequence("needle:code:5:000:00", "0 %", DATASET, (1,), (2,), ("58231",))
    assert all(answer_score(one, text) == 1 for text in (" 58231. And", "58231", "\n58231\n"))
    assert not any(answer_score(one, text) for text in (" 582310", " is 58231", ""))


def test_what_does_not_work_is_told(tokenizer):
    for values, parts in (
        ({"max_tokens": 60}, ("max_tokens=60", "give")),
        ({"answer_tokens": [0]}, ("makes 0 tokens", "give another length")),
    ):
        with refused(*parts):
            needle_sequences(tokenizer, **{"max_tokens": SIZE, "texts": TEXTS} | values)
    plain = copy.copy(tokenizer)
    plain.chat_template = None
    with refused("'code in chat'", "chat template"):
        needle_sequences(plain, max_tokens=SIZE, texts=TEXTS)
