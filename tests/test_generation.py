"""Written answers: what a naive loop writes, numbers only, the same in a batch and alone, resumable."""

import copy
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from common import refused
from tiny import measured
from transformers import DynamicCache

from chunkkv_lib import load_model, load_sequences
from chunkkv_lib.capture import capture
from chunkkv_lib.compressors import H2O, ChunkKV, Recent, SnapKV
from chunkkv_lib.measure import analyse
from chunkkv_lib.runs import load_run, verify
from chunkkv_lib.runs.answers import line_breaks, opening, prefix_agreement, token_f1, write_answers
from chunkkv_lib.sequences import needles, open_data, score
from chunkkv_lib.sequences.scoring import answer_limit, answer_score, chance_scores, one_line

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = {"ChunkKV": ChunkKV(40), "SnapKV": SnapKV(40), "Recent": Recent(40), "H2O": H2O(60)}
LIMIT, SINGLE = 10, "Single-Document QA"


@pytest.fixture(scope="module")
def loaded(setting):
    return load_model(setting["model"], "cpu", "float32")


@pytest.fixture(scope="module")
def sequences(loaded, setting):
    wanted = (SINGLE, "Multi-Document QA")
    return load_sequences(loaded[1], "longbench", setting["data_path"], wanted, 3, 256, 8)


def written(model, tokenizer, sequence, methods=METHODS, limit=LIMIT) -> tuple[pd.DataFrame, list[str]]:
    """The answers' records, and the texts that were scored, in the order of the records."""
    texts = []

    def keep(text):
        texts.append(text)
        return answer_score(sequence, text)

    _, answers = write_answers(model, tokenizer, sequence, keep, limit, one_line(sequence), methods)
    return answers, texts


def naive(model, sequence, method=None, limit=LIMIT, stops=(0,)) -> list[int]:
    """Greedy answer token by token with a cache of transformers; method None: the whole prompt, read anew each time.

    The methods all keep the prompt's last token, which leaves the cache to be read once more.
    """
    prompt, n, kept, row = torch.tensor(sequence.prompt_ids), len(sequence.prompt_ids), [], []

    def visit(layer):
        chosen = method.select(layer.queries, layer.keys)[:, :-1, None].expand(-1, -1, layer.keys.shape[-1])
        kept.append((layer.keys.gather(1, chosen)[None], layer.values.gather(1, chosen)[None]))

    if method:
        capture(model, prompt, visit)
    later = list(sequence.question_ids)
    while True:
        with torch.no_grad():
            if method is None:
                logits = model(input_ids=torch.tensor([[*prompt.tolist(), *later, *row]])).logits[0, -1].clone()
            else:
                cache, ids = DynamicCache(), torch.tensor([[int(prompt[-1]), *later, *row]])
                for index, (keys, values) in enumerate(kept):
                    cache.update(keys, values, index)
                places = torch.arange(n - 1, n - 1 + ids.shape[1])[None]
                logits = model(input_ids=ids, past_key_values=cache, position_ids=places).logits[0, -1].clone()
        if not row:
            logits[list(stops)] = -torch.inf  # an answer has at least one token
        token = int(logits.argmax())
        if token in stops or len(row) == limit:
            return row
        row.append(token)


def test_answers_are_those_of_a_naive_loop(loaded, sequences):
    model, tokenizer = loaded
    for sequence in (*sequences[:2], replace(sequences[0], question_ids=(7, 30, 12, 5))):
        answers, texts = written(model, tokenizer, sequence)
        assert list(answers["method"]) == ["Full", *METHODS]
        reference = naive(model, sequence)
        rows = {"Full": reference} | {name: naive(model, sequence, method) for name, method in METHODS.items()}
        assert texts == [tokenizer.decode(row, skip_special_tokens=True) for row in rows.values()]
        for record, row in zip(answers.to_dict("records"), rows.values(), strict=True):
            assert record["generated_tokens"] == len(row)
            assert record["score"] == score(sequence.dataset, tokenizer.decode(row), sequence.answers)
            assert record["prefix_agreement"] == prefix_agreement(row, reference, LIMIT)
            assert record["token_f1"] == token_f1(row, reference)
        assert len({tuple(row) for row in rows.values()}) > 1, "nothing was compared"


def test_the_rest_of_the_records_is_that_of_analyse(loaded, sequences):
    model, tokenizer = loaded
    layers, answers = write_answers(model, tokenizer, sequences[0], len, 3, methods=METHODS)
    expected = analyse(model, sequences[0], METHODS)
    pd.testing.assert_frame_equal(layers, expected[0])
    pd.testing.assert_frame_equal(answers[expected[1].columns], expected[1], rtol=1e-5, atol=1e-5)  # one more logit


def test_an_answer_that_would_be_empty_is_opened_with_the_next_token(loaded, sequences):
    model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
    first = naive(model, sequences[0])[0]
    model.generation_config.eos_token_id = [0, first]
    answers, texts = written(model, tokenizer, sequences[0])
    assert answers["forced_opening"][0] and (answers["generated_tokens"] >= 1).all()
    assert texts[0] == tokenizer.decode(naive(model, sequences[0], stops=(0, first)), skip_special_tokens=True)
    logits = torch.tensor([0.0, 3.0, 2.0])
    assert opening(logits, {1}) == (2, True) and opening(logits, {2}) == (1, False)
    assert logits.tolist() == [0, 3, 2]


def test_agreement_by_hand():
    assert prefix_agreement([5, 1, 2, 3], [5, 1, 2, 4], limit=4) == pytest.approx(3 / 4)
    assert prefix_agreement([5, 1], [5, 1], limit=4) == 1  # both end where the other ends
    assert prefix_agreement([5, 1, 2], [5, 1], limit=4) == pytest.approx(2 / 3)  # goes on where the reference ends
    assert prefix_agreement([5, 1], [5, 1, 2, 3], limit=4) == pytest.approx(2 / 4)
    assert prefix_agreement([5], [5], limit=4) == prefix_agreement([5], [5], limit=1) == 1
    assert prefix_agreement([4, 1], [5, 1], limit=2) == 0
    assert token_f1([5, 1, 1, 2], [5, 2, 1]) == pytest.approx(2 * 3 / 7)
    assert token_f1([5], [5]) == 1 and token_f1([4], [5, 1]) == 0 and token_f1([5, 3], [5, 4]) == 0.5


def test_limits_are_longbenchs_where_they_are_lower(loaded, sequences):
    """And where LongBench grades the first line, what a model writes below it is no part of the answer."""
    tokenizer = loaded[1]
    assert line_breaks(tokenizer) == {i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])} != set()
    assert [one_line(replace(sequences[0], dataset=name)) for name in ("trec_open", "needle")] == [True, False]
    assert answer_limit(sequences[0], 10_000) == 128  # NarrativeQA's
    assert answer_limit(sequences[0], 5) == 5
    needle = replace(sequences[0], dataset="needle", answer_ids=(1, 2, 3))
    assert answer_limit(needle, 16) == 4


def test_chance_is_the_score_of_other_answers(loaded, sequences):
    """Of three answers of one data set: "red cat", "red dog", "keys"; and one sequence of another set, alone."""
    texts = (("red cat",), ("red dog",), ("keys", "red"))
    mine = [replace(sequences[0], id=str(i), answers=answers) for i, answers in enumerate(texts)]
    other = next(one for one in sequences if one.dataset != sequences[0].dataset)
    found = chance_scores(loaded[1], [*mine, other], max_new_tokens=64)
    assert found[:2] == pytest.approx([(0.5 + 0) / 2, (0.5 + 0) / 2])
    assert found[2] == pytest.approx((2 / 3 + 2 / 3) / 2) and math.isnan(found[3])


def test_a_run_holds_numbers_and_no_text(setting, tmp_path):
    run = load_run(measured(setting, tmp_path / "run", categories=(SINGLE,), per_category=6, max_new_tokens=6))
    assert len(run.answers) == 6 * 8 and run.answers["score"].between(0, 1).all()
    assert run.sequences["chance_score"].between(0, 1).all()
    texts = [column for column in run.answers if run.answers[column].dtype.kind not in "fib"]
    assert texts == ["sequence", "method"]


def test_a_run_of_needles(setting, tmp_path, monkeypatch):
    """Sequences that cannot be made leave the place free."""
    text = "\n".join(f"The cat {i} sat on a mat and read about keys." for i in range(80))
    monkeypatch.setattr(needles, "squad_articles", lambda: [{"context": text}])
    own = {"source": "needles", "data_path": None, "forms": ("gate",), "per_category": 1}
    with refused("max_tokens=10", "too little text"):
        measured(setting, tmp_path / "run", max_tokens=10, **own)
    run = load_run(measured(setting, tmp_path / "run", max_tokens=500, max_new_tokens=9, **own))
    assert run.sequences["category"].str.endswith(" %").all() and run.manifest["data"]["source"] == "needles"
    assert run.layers["evidence_kept"].between(0, 1).all() and run.answers["score"].isin([0, 1]).all()
    assert sorted(run.sequences["answer_tokens"]) == [2, 5, 9, 16] and (run.sequences["chance_score"] < 0.1).all()
    answers = run.answers.merge(run.sequences, on="sequence")
    assert (answers["written"].str.strip() != "").all() and (answers["scored_tokens"] == answers["answer_tokens"]).all()
    worst = verify(run.path, 1, progress=False, report=lambda line: None, model=setting["model"])
    assert (worst["difference"] <= worst["limit"]).all()


def test_a_run_of_second_questions(setting, tmp_path, monkeypatch):
    from test_second_question import ARTICLES

    monkeypatch.setattr(open_data, "articles", lambda: ARTICLES)
    own = {"source": "second-question", "data_path": None, "asks": ("own", "other"), "variants": "blocks"}
    own |= {"methods": ("SnapKV", "Random", "ChunkKV-15"), "per_category": 3, "max_tokens": 500, "max_new_tokens": 9}
    run = load_run(measured(setting, tmp_path / "second", **own))
    assert list(run.sequences["category"]) == ["own", "other"] * 3 and run.sequences["document"].nunique() == 3
    assert set(run.answers["method"]) == {"Full", "SnapKV", "Random", "ChunkKV-15", "Random, block 10"}
    assert "written" not in run.answers, "texts of others are scored and dropped"
    asked = run.records.groupby("category")["question_attention_mass"]
    assert asked.count()["own"] == 0 and asked.apply(lambda mass: mass.between(0, 1).all())["other"]
