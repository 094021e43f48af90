"""What both sources share: sequences, the row format, prompts, scores, truncation, tokens, draws."""

import hashlib
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from common import message
from hypothesis import given
from hypothesis import strategies as st
from sequence_parts import LONGBENCH_SETS, a_row, a_tokenizer, archive, as_lines
from tokenizers import processors

from chunkkv_lib import sequences
from chunkkv_lib.sequences import CATEGORIES, CATEGORY_OF, DATASETS, Sequence, open_data, prompts, schema, scoring
from chunkkv_lib.sequences.encoding import encode_answer, encode_prompt, evidence_spans

BYTES = a_tokenizer("bytes")


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda ids: torch.tensor([ids]), iter])
def test_from_ids_takes_any_kind_of_ids(kind):
    sequence = Sequence.from_ids(kind([5, 0, 7]), kind([9]), id="mine")
    assert sequence.prompt_ids == (5, 0, 7) and all(type(i) is int for i in sequence.prompt_ids)
    assert sequence == Sequence.from_ids([5, 0, 7], [9], id="mine")
    assert sequence.text_hash != Sequence.from_ids([5, 0, 8], [9]).text_hash


@pytest.mark.parametrize(
    ("prompt", "answer", "said"),
    [
        ([], [1], "prompt_ids is empty"),
        ([1.5], [1], "prompt_ids must be token ids"),
        ([1], [[1, 2], [3, 4]], "answer_ids must be token ids"),
        (torch.tensor(3), [1], "prompt_ids must be token ids"),
        ([1], [4, -100], "answer_ids holds -100"),
    ],
)
def test_from_ids_refuses(prompt, answer, said):
    assert said in message(Sequence.from_ids, prompt, answer)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": None}, "'input' must be str, found NoneType"),
        ({"answers": "text"}, "'answers' must be list, found str"),
        ({"answers": [1]}, "'answers' must be a list of strings"),
        ({"answers": [" ", ""]}, "'answers' holds no answer"),
        ({"all_classes": "A"}, "'all_classes' must be list or null"),
        ({"context": " ", "input": "\n"}, "prompt would be empty"),
        ({"answers": ["cut \ud83d off"]}, "'answers' holds half a surrogate pair"),
        ({"dataset": "trec", "all_classes": None}, "'all_classes' is empty"),
        ({"dataset": "passage_retrieval_en", "answers": ["7"]}, "not like 'Paragraph 7'"),
    ],
)
def test_row_with_a_wrong_field(changes, said):
    assert not list(schema.problems(a_row()))
    assert said in next(schema.problems(a_row(**changes)))


TREC = "Please determine the type of the question below. Here are some examples of questions.\n\nC\nI"


def test_prompts_are_longbenchs_own_and_another_lm_eval_is_noticed(monkeypatch):
    """One digest for all sixteen templates, each of which was compared with LongBench's own."""
    templates = "\n\n\n".join(prompts.template(name) for name in LONGBENCH_SETS)
    assert hashlib.sha256(templates.encode()).hexdigest()[:16] == "09dd8aadb74188ee"
    assert prompts.prompt(a_row("trec", context="C", input="I")) == TREC
    braces = a_row("trec", context="{{question}} {{context}} \\1", input="I")
    assert prompts.prompt(braces) == TREC.replace("C\nI", "{{question}} {{context}} \\1\nI")
    assert set(schema.MODELLED_ON) == {name for names in DATASETS["open"].values() for name in names}
    for name, model in schema.MODELLED_ON.items():
        assert CATEGORY_OF[name] == CATEGORY_OF[model] and prompts.template(name) == prompts.template(model)
        assert sequences.max_gen_toks(name) == sequences.max_gen_toks(model)
    monkeypatch.setattr(prompts, "task", lambda name: {"doc_to_text": "{{context}} {{question}}"})
    assert "pip install lm-eval==0.4.13" in message(prompts.template, "samsum")


@pytest.mark.parametrize(
    ("dataset", "prediction", "answers", "expected"),
    [
        ("qasper", "The Eiffel Tower!", ["eiffel tower"], 1.0),
        ("hotpotqa_open", "in Paris", ["London", "Paris"], 2 / 3),
        ("trec", "\nReason\nQuestion: more", ["Reason"], 1.0),
        ("trec", "It is Date\nReason", ["Reason"], 0.0),
        ("triviaqa", "Map pin\nReason", ["Map pin"], 1.0),
        ("passage_count", "12, or 13", ["12"], 0.5),
        ("passage_retrieval_en", " Paragraph 3", ["Paragraph 3"], 1.0),
        ("passage_retrieval_en", "Paragraph 30", ["Paragraph 3"], 0.0),
        ("lcc", "# note\n    return x\nmore", ["    return x"], 1.0),
        ("python_code", "return x", ["    return x"], 0.8),  # 2 * 8 / (8 + 12)
    ],
)
def test_score_by_hand(dataset, prediction, answers, expected):
    classes = ("Reason", "Date", "Individual") if dataset == "trec" else ()
    assert sequences.score(dataset, prediction, answers, classes) == pytest.approx(expected, abs=1e-9)


def test_score_refuses_and_leaves_no_stand_in_behind():
    scoring._metrics.cache_clear()
    before = set(sys.modules)
    sequences.score("qasper", "a", ["a b"])
    assert not {"jieba", "fuzzywuzzy"} & (set(sys.modules) - before)
    assert "no gold answers" in message(sequences.score, "qasper", "a", [])
    assert "unknown data set 'nothing'" in message(sequences.score, "nothing", "a", ["a"])
    assert sequences.score("gov_report", "a b c", ["a b c"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("limit", [15, -1, 100.0, None])
def test_a_limit_that_leaves_no_two_ends_is_refused(limit):
    """What stays of a prompt that is too long is a task, whose right answers are the library's: test_exercises."""
    assert "at least 16" in message(sequences.truncate_middle, [1], limit)


def test_bos_is_kept_and_eos_is_not_added(capfd, caplog):
    """And a prompt beyond the model's length is no warning."""
    text = "Question: who? " * 20
    plain = BYTES(text, add_special_tokens=False, verbose=False)["input_ids"]
    for bos in (True, False):
        for eos in (True, False):
            whole = encode_prompt(a_tokenizer("bytes", bos, eos), text, 1000)
            assert whole == ((0, *plain) if bos else tuple(plain))
    assert encode_prompt(BYTES, text, 16) == (0, *plain[:7], *plain[-8:])
    other = a_tokenizer("bytes")  # as GLM's, which opens a text with two tokens, neither called BOS
    frame = processors.TemplateProcessing(single="<unk> </s> $A", special_tokens=[("<unk>", 2), ("</s>", 1)])
    other.backend_tokenizer.post_processor = frame
    assert encode_prompt(other, text, 1000) == (2, 1, *plain)
    assert not capfd.readouterr().err and not caplog.records


@pytest.mark.parametrize("bos", [True, False])
def test_evidence_is_found_by_token_and_lost_with_the_middle(bos):
    """The tokens of a span read as the passage; a passage that truncation cut, wholly or in part, is left out."""
    tokenizer = a_tokenizer("bytes", bos=bos)
    first, middle, last = "Paris is big.", "Nobody lives at number 19.", "The end: 42!"
    text = f"xyz {first} {'Some words. ' * 40}{middle} {'More words. ' * 40}{last} Question: who?"
    most = text.removeprefix("xyz ").removesuffix(" Question: who?")  # begins and ends in what is left, goes on between
    for max_tokens, left in ((10_000, [first, middle, last, text[:600].strip(), most]), (120, [first, last])):
        ids = encode_prompt(tokenizer, text, max_tokens)
        spans = evidence_spans(tokenizer, text, [first, middle, last, text[:600], most, "not there", ""], max_tokens)
        assert [tokenizer.decode(ids[start:stop]).strip() for start, stop in spans] == left


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize(
    ("prompt", "answer", "joined"),
    [
        ("Question: who?\nAnswer:", "Paris", " Paris"),
        ("The answer is: ", "Paragraph 19", "Paragraph 19"),  # " Paragraph" in one token must not bring a second space
        ("Next line of code:\n", "        return self.name", "        return self.name"),
        ("Next line of code:", "    return", "    return"),
        ("Answer:\n", "Paris", "Paris"),
    ],
)
def test_answer_continues_the_prompt(kind, prompt, answer, joined):
    tokenizer = a_tokenizer(kind)
    prompt_ids = encode_prompt(tokenizer, prompt, 1000)
    answer_ids = encode_answer(tokenizer, prompt, answer, 1000)
    assert tokenizer.decode([*prompt_ids[1:], *answer_ids]) == prompt + joined
    assert encode_answer(tokenizer, prompt, answer, 2) == answer_ids[:2]
    if (kind, answer, joined) == ("bytes", "Paris", " Paris"):  # the tokens of the whole text
        assert (*prompt_ids, *answer_ids) == tuple(tokenizer(prompt + joined)["input_ids"])


@given(prompt=st.text(max_size=80), answer=st.text(min_size=1, max_size=20))
def test_any_text_survives(prompt, answer):
    joined = answer if prompt[-1:].isspace() or answer[:1].isspace() else " " + answer
    ids = [*encode_prompt(BYTES, prompt, 10_000)[1:], *encode_answer(BYTES, prompt, answer, 10_000)]
    assert BYTES.backend_tokenizer.decode(ids, skip_special_tokens=False) == prompt + joined


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_control_tokens_written_in_a_text_stay_text(kind):
    """Otherwise a context could end itself, and an answer of four characters would score as one token."""
    tokenizer, text = a_tokenizer(kind), "He wrote </s> and <s>"
    ids = encode_prompt(tokenizer, text, 100)
    assert ids[0] == tokenizer.bos_token_id and not set(ids[1:]) & set(tokenizer.all_special_ids)
    answer = encode_answer(tokenizer, text, "</s>", 100)
    assert len(answer) > 1 and not set(answer) & set(tokenizer.all_special_ids)
    (span,) = evidence_spans(tokenizer, text, ["and <s>"], 100)
    assert span[1] == len(ids) and span[1] - span[0] >= len("<s>")
    if kind == "bytes":
        assert tokenizer.decode(ids[1:]) == text and tokenizer.decode(answer) == " </s>"


def many_rows(counts):
    """`counts` rows of each data set, as small dicts."""
    return [{"dataset": name, "_id": f"{name}:{i}"} for name, count in counts.items() for i in range(count)]


@given(
    counts=st.dictionaries(st.sampled_from(LONGBENCH_SETS), st.integers(0, 9), min_size=1),
    per_category=st.integers(1, 12),
    seed=st.integers(0, 5),
    order=st.randoms(use_true_random=False),
    cut=st.integers(1, 60),
)
def test_sample_is_balanced_and_stable(counts, per_category, seed, order, cut):
    rows = many_rows(counts)
    drawn = sequences.sample(rows, per_category, seed)
    ids = [row["_id"] for row in drawn]
    assert len(set(ids)) == len(ids) and set(ids) <= {row["_id"] for row in rows}
    taken = Counter(row["dataset"] for row in drawn)
    for category in CATEGORIES:
        names = [name for name in counts if CATEGORY_OF[name] == category]
        assert sum(taken[name] for name in names) == min(per_category, sum(counts[name] for name in names))
        unexhausted = [taken[name] for name in names if taken[name] < counts[name]]
        for name in names:  # even: a set is behind another by more than one only if it has no more rows
            assert all(taken[name] <= other + 1 for other in unexhausted)
    categories = [CATEGORY_OF[row["dataset"]] for row in drawn]
    prefix, whole = Counter(categories[:cut]), Counter(categories)
    assert all(prefix[one] >= min(whole[one], max(prefix.values()) - 1) for one in whole), "a prefix is not balanced"
    order.shuffle(rows)
    assert [row["_id"] for row in sequences.sample(rows, per_category, seed)] == ids
    # A larger draw holds the smaller one, and what it adds is what another run draws that leaves the first out.
    twice = {row["_id"] for row in sequences.sample(rows, 2 * per_category, seed)}
    fresh = {row["_id"] for row in sequences.sample(rows, per_category, seed, skip=per_category)}
    assert not fresh & {*ids} and fresh | {*ids} == twice


def test_draws_by_hand():
    rows = many_rows({"trec": 1, "qasper": 2, "narrativeqa": 4})
    drawn = [row["dataset"] for row in sequences.sample(rows, 9, 0)]
    assert drawn == ["narrativeqa", "trec", "qasper", "narrativeqa", "qasper", "narrativeqa", "narrativeqa"]
    rows = many_rows({"qasper": 50})
    counts = Counter(row["_id"] for seed in range(400) for row in sequences.sample(rows, 5, seed))
    assert min(counts.values()) > 15 and max(counts.values()) < 70  # each row 40 times on average
    for count in (0, 1.5):
        assert f"per_category={count}" in message(sequences.sample, rows, count, 0)


def test_load_sequences_by_hand(tmp_path):
    trec = a_row("trec", 7, context="Question: a\nType: Date", input="Question: b\nType:", answers=["", "Reason"])
    path = archive(tmp_path / "data.zip", trec=as_lines([trec | {"all_classes": ["Date", "Reason"]}]))
    (one,) = sequences.load_sequences(BYTES, "longbench", path, "Few-shot Learning", 1, max_tokens=32)
    text = TREC.replace("\nC\nI", "\nQuestion: a\nType: Date\nQuestion: b\nType:")
    assert one.id == "trec:id7" and one.category == "Few-shot Learning" and one.prompt_text == text
    assert one.text_hash == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert len(one.prompt_ids) == 32 and one.prompt_ids == encode_prompt(BYTES, text, 32)
    assert BYTES.decode(one.answer_ids) == " Reason"  # the first answer that is not blank
    assert one.answers == ("", "Reason") and one.all_classes == ("Date", "Reason")
    found = sequences.load_sequences(BYTES, "longbench", path, per_category=2, seed=4)
    assert [s.category for s in found] == [*CATEGORIES] * 2
    assert found != sequences.load_sequences(BYTES, "longbench", path, per_category=2, seed=5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"source": "long_bench"}, "unknown source 'long_bench'. Did you mean 'longbench'?"),
        ({"source": "open", "path": "data.zip"}, "for source 'longbench' alone"),
        ({"categories": ["Summarisation"]}, "Did you mean 'Summarization'?"),
        ({"categories": []}, "no categories given"),
        ({"max_answer_tokens": 0}, "max_answer_tokens=0"),
    ],
)
def test_load_sequences_refuses_before_any_work(arguments, said, monkeypatch):
    for builder in open_data.BUILDERS:
        monkeypatch.setitem(open_data.BUILDERS, builder, lambda: pytest.fail("rows were built"))
    assert said in message(sequences.load_sequences, BYTES, **arguments)
