"""LongBench: archives and folders, whole and damaged, the hub's stand-in, and real rows.

Tests on real rows need `shared/longbench/data.zip` beside the repository, and skip with a reason where it is not.
"""

import hashlib
import json
import zipfile
from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest
from common import message
from huggingface_hub.errors import LocalEntryNotFoundError
from sequence_parts import LONGBENCH_SETS, a_row, a_tokenizer, archive, as_lines

from chunkkv_lib import sequences
from chunkkv_lib.sequences import CATEGORIES, longbench, prompts

REAL = Path(__file__).parents[2] / "shared" / "longbench" / "data.zip"
SINGLE = CATEGORIES[0]


def read_single(path):
    return sequences.load_rows("longbench", path, SINGLE)


@pytest.mark.parametrize("prefix", ["data/", ""])
def test_layouts_on_disk(tmp_path, prefix):
    """The archive, the folder that holds it, and the folder that it unpacks to."""
    path = archive(tmp_path / "data.zip", prefix=prefix)
    rows = sequences.load_rows("longbench", path)
    assert len({row["document"] for row in rows}) == 2 and len(rows[0]["document"]) == 16  # two texts, by their hash
    assert len(rows) == 32 and rows[0]["evidence"] == [] and rows[0]["all_classes"] is None
    assert Counter(row["dataset"] for row in rows) == dict.fromkeys(LONGBENCH_SETS, 2)
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "folder")
    assert sequences.load_rows("longbench", tmp_path) == sequences.load_rows("longbench", tmp_path / "folder") == rows


def test_line_breaks_of_other_kinds_are_text_and_missing_ids_become_hashes_of_the_prompt(tmp_path):
    breaks = "one\u2028two\x85three\x0bfour"
    rows = [a_row("qasper", _id=None, input=f"Who {number}?", context=breaks) for number in (0, 1)]
    paths = (archive(tmp_path / f"{i}.zip", qasper=as_lines(rows[::i]).replace(b"\n", b"\r\n")) for i in (1, -1))
    found, again = ([row for row in read_single(path) if row["dataset"] == "qasper"] for path in paths)
    assert [row["context"] for row in found] == [row["context"] for row in rows]
    ids = [row["_id"] for row in found]
    assert len(set(ids)) == 2 and ids == [row["_id"] for row in again][::-1]
    assert ids[0] == "text-" + hashlib.sha256(prompts.prompt(rows[0]).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"input": "a"\n', "qasper.jsonl, line 1: not a JSON object"),
        (as_lines([a_row()]) + b"[1]\n", "line 2: expected a JSON object"),
        (as_lines([a_row()]) + b"\n" + as_lines([{"input": ""}]), "line 3: field 'context' is missing"),
        (as_lines([a_row()])[:-5] + b"\xff\xfe\n", "line 1: not a JSON object"),
        (as_lines([a_row("trec")]), "field 'dataset' is 'trec', but the file is qasper's"),
        (as_lines([a_row(), a_row()]), "more than one row with _id 'id0'"),
        (b"\n", "holds no rows"),
        (b"[" * 100_000, "line 1: not a JSON object (maximum recursion depth"),
        (as_lines([a_row(), a_row(context="\ud83d off")], ensure_ascii=True), "line 2: field 'context' holds"),
    ],
)
def test_damaged_rows(tmp_path, content, said):
    assert said in message(read_single, archive(tmp_path / "data.zip", qasper=content))


def test_archives_that_zipfile_cannot_read(tmp_path):
    path = archive(tmp_path / "data.zip")
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    flipped = bytearray(whole)
    flipped[60] ^= 255  # inside the first member's data
    for content in (whole[: len(whole) // 2], b"<html>not found</html>", flipped):
        path.write_bytes(content)
        assert "not a whole zip file" in message(read_single, path)
    for offset, value, said in ((6, 1, "encrypted"), (8, 97, "not supported")):
        changed = bytearray(whole)
        changed[offset] = changed[directory + offset + 2] = value
        path.write_bytes(changed)
        text = message(read_single, path)
        assert said in text and "unpack it and pass the folder" in text


def test_what_is_not_there_or_in_another_folder_is_named(tmp_path):
    assert "does not exist; --data-path wants" in message(read_single, tmp_path / "no.zip")
    assert "lacks data/narrativeqa.jsonl, data/qasper.jsonl" in message(read_single, tmp_path)
    path = archive(tmp_path / "data.zip", names=["narrativeqa", "multifieldqa_en"])
    assert "lacks data/qasper.jsonl;" in message(read_single, path)
    deep = archive(tmp_path / "deep.zip", prefix="LongBench/data/")
    assert "it has LongBench/data/narrativeqa.jsonl: the files must lie in data/ itself" in message(read_single, deep)
    with zipfile.ZipFile(deep) as file:
        file.extractall(tmp_path / "folder")
    assert "LongBench/data/narrativeqa.jsonl" in message(read_single, tmp_path / "folder")


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub's download: call it with a path to serve, or an exception to raise."""

    def serve(what):
        def download(*_, **named):
            assert named == {"repo_type": "dataset", "revision": longbench.REVISION}
            if isinstance(what, Exception):
                raise what
            return str(what)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        longbench._hub_archive.cache_clear()

    yield serve
    longbench._hub_archive.cache_clear()


def test_hub_out_of_reach_or_with_files_that_are_not_the_official_ones(hub, tmp_path, monkeypatch):
    hub(LocalEntryNotFoundError("long\nstory"))
    text = message(read_single, None)
    assert "cannot be reached" in text and f"{longbench.REVISION}/data.zip by hand and pass it with --data-path" in text
    hub(RuntimeError("429\nToo many"))
    assert "429" in message(read_single, None)
    path = archive(tmp_path / "data.zip")
    hub(path)
    assert longbench.OFFICIAL["narrativeqa"] in message(read_single, None)
    ids = {name: longbench._blob_id(as_lines([a_row(name, 0), a_row(name, 1)])) for name in LONGBENCH_SETS}
    monkeypatch.setattr(longbench, "OFFICIAL", ids | {"qasper": "another"})
    identity = sequences.source_identity("longbench", path)  # of a local file
    assert identity["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and identity["file"] == "data.zip"
    assert {*identity["official"]} == {*LONGBENCH_SETS} - {"qasper"} and identity["prompts"].startswith("lm-eval 0.")
    assert str(tmp_path) not in json.dumps(identity)  # manifests are published
    monkeypatch.setattr(longbench, "OFFICIAL", ids)
    assert len(read_single(None)) == 6
    assert sequences.source_identity("longbench")["revision"] == longbench.REVISION
    assert longbench._blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # as git hash-object says


@pytest.fixture(scope="module")
def real_rows():
    if not REAL.exists():
        pytest.skip(f"no real LongBench rows: {REAL} is not there")
    return sequences.load_rows("longbench", REAL, CATEGORIES)


def test_real_rows_become_sequences(real_rows):
    assert len(real_rows) == 439 and {row["dataset"] for row in real_rows} == set(LONGBENCH_SETS)
    found = sequences.load_sequences(a_tokenizer("bytes"), "longbench", REAL, CATEGORIES, 4, 512, 16)
    assert len(found) == 20 and {s.dataset for s in found} == set(LONGBENCH_SETS)
    assert all(1 <= len(s.answer_ids) <= 16 and len(s.prompt_ids) <= 512 and s.prompt_ids[0] == 0 for s in found)
