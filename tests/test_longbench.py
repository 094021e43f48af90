"""LongBench: archives and folders, whole and damaged, the hub's stand-in, and real rows.

Tests on real rows need `shared/longbench/data.zip` beside the repository, and skip with a reason where it is not.
"""

import hashlib
import json
import re
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from common import message
from sequence_parts import LAYOUTS, LONGBENCH_SETS, a_row, a_tokenizer, archive, as_lines, check_layout

from chunkkv_lib import sequences
from chunkkv_lib.errors import InputError
from chunkkv_lib.sequences import CATEGORIES, longbench, prompts
from chunkkv_lib.sequences.open_data import LABELS, trec_questions

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


def test_line_breaks_of_other_kinds_are_text(tmp_path):
    row = a_row("qasper", context="one\u2028two\x85three\x0bfour")
    path = archive(tmp_path / "data.zip", qasper=as_lines([row]).replace(b"\n", b"\r\n"))
    assert [r["context"] for r in read_single(path) if r["dataset"] == "qasper"] == [row["context"]]


def test_missing_ids_become_hashes_of_the_prompt(tmp_path):
    rows = [a_row("qasper", number, _id=None) for number in (0, 1)]
    path, reverse = (archive(tmp_path / f"{i}.zip", qasper=as_lines(rows[::i])) for i in (1, -1))
    found, again = ([row["_id"] for row in read_single(place)][2:4] for place in (path, reverse))
    assert len(set(found)) == 2 and found == again[::-1]
    assert found[0] == "text-" + hashlib.sha256(prompts.prompt(rows[0]).encode()).hexdigest()[:16]


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
    flipped, encrypted, unknown = (bytearray(whole) for _ in range(3))
    flipped[60] ^= 255  # inside the first member's data
    for changed, offset, value in ((encrypted, 6, 1), (unknown, 8, 97)):
        changed[offset] = changed[directory + offset + 2] = value
    for content, said in (
        (whole[: len(whole) // 2], "not a whole zip file"),
        (b"<html>not found</html>", "not a whole zip file"),
        (flipped, "not a whole zip file"),
        (encrypted, "encrypted"),
        (unknown, "not supported"),
    ):
        path.write_bytes(content)
        text = message(read_single, path)
        assert said in text and ("unpack it and pass the folder" in text) == (content in (encrypted, unknown))


def test_files_in_another_folder_are_named(tmp_path):
    deep = archive(tmp_path / "deep.zip", prefix="LongBench/data/")
    assert "it has LongBench/data/narrativeqa.jsonl: the files must lie in data/ itself" in message(read_single, deep)
    with zipfile.ZipFile(deep) as file:
        file.extractall(tmp_path / "folder")
    assert "LongBench/data/narrativeqa.jsonl" in message(read_single, tmp_path / "folder")


def test_a_mistake_in_the_data_is_told_before_a_model_is_loaded(tmp_path, monkeypatch):
    from tiny import tiny_model

    from chunkkv_lib.runs import Parameters, local_engine, measure

    monkeypatch.setattr(local_engine, "load_model", lambda *_: pytest.fail("the model was loaded"))
    path = archive(tmp_path / "data.zip", qasper=as_lines([a_row(answers=[" "])]))
    settings = Parameters(model=str(tiny_model(tmp_path / "model")), source="longbench", data_path=str(path))
    text = message(measure, settings, tmp_path / "run", progress=False)
    assert "data/qasper.jsonl, line 1: field 'answers' holds no answer" in text and not (tmp_path / "run").exists()


def test_what_is_not_there(tmp_path):
    assert "does not exist; --data-path wants" in message(read_single, tmp_path / "no.zip")
    assert "lacks data/narrativeqa.jsonl, data/qasper.jsonl" in message(read_single, tmp_path)
    path = archive(tmp_path / "data.zip", names=["narrativeqa", "multifieldqa_en"])
    assert "lacks data/qasper.jsonl;" in message(read_single, path)


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub's download: call it with a path to serve, or an exception to raise."""
    import huggingface_hub

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


def test_hub_out_of_reach(hub):
    from huggingface_hub.errors import LocalEntryNotFoundError

    hub(LocalEntryNotFoundError("long\nstory"))
    text = message(read_single, None)
    assert "cannot be reached" in text and f"{longbench.REVISION}/data.zip by hand and pass it with --data-path" in text
    hub(RuntimeError("429\nToo many"))
    assert "429" in message(read_single, None)


def test_hub_files_must_be_the_official_ones(hub, tmp_path, monkeypatch):
    hub(archive(tmp_path / "data.zip"))
    assert longbench.OFFICIAL["narrativeqa"] in message(read_single, None)
    ids = {name: longbench._blob_id(as_lines([a_row(name, 0), a_row(name, 1)])) for name in LONGBENCH_SETS}
    monkeypatch.setattr(longbench, "OFFICIAL", ids)
    assert len(read_single(None)) == 6
    assert sequences.source_identity("longbench")["revision"] == longbench.REVISION


def test_identity_of_local_files(tmp_path, monkeypatch):
    assert longbench._blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # as git hash-object says
    path = archive(tmp_path / "data.zip")
    monkeypatch.setitem(longbench.OFFICIAL, "trec", longbench._blob_id(as_lines([a_row("trec", 0), a_row("trec", 1)])))
    identity = sequences.source_identity("longbench", path)
    assert identity["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert identity["official"] == ["trec"] and identity["file"] == "data.zip"
    assert identity["prompts"].startswith("lm-eval 0.")
    assert str(tmp_path) not in json.dumps(identity)  # manifests are published


# ---- real rows ----


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


def test_layouts_are_those_of_real_rows(real_rows):
    for row in real_rows:
        if row["dataset"] in LAYOUTS:
            check_layout(row, row["dataset"])


def test_labels_are_those_of_real_rows(real_rows):
    try:
        labelled = dict(trec_questions())
    except InputError as error:
        pytest.skip(f"TREC is neither cached nor to be had: {error}")
    pairs = []
    for row in real_rows:
        if row["dataset"] == "trec":
            assert set(row["all_classes"]) == set(LABELS.values())
            pairs += re.findall(r"Question: (.+)\nType: (.+)", row["context"])
    known = [(labelled[question], label) for question, label in pairs if question in labelled]
    assert len(known) > 0.99 * len(pairs) > 1000
    assert sum(ours == theirs for ours, theirs in known) > 0.99 * len(known)


def test_real_rows_are_measured_from_the_archive_to_the_records(real_rows, embedded, tmp_path):
    """The whole way on the embedded model: prompt, answer, capture, records; and no text is left in the run."""
    from chunkkv_lib.runs import Parameters, load_run, measure

    settings = Parameters(source="longbench", data_path=str(REAL), categories=("Few-shot Learning",), per_category=2,
                          max_tokens=256, device="cpu", dtype="float32")  # fmt: skip
    run = load_run(measure(settings, tmp_path / "real", progress=False))
    assert len(run.sequences) == 2 and set(run.sequences["category"]) == {"Few-shot Learning"}
    assert (run.layers["kept_tokens"] == 26).all() and run.layers["kv_l1_loss"].between(0.8, 1).all()
    assert run.manifest["data"]["source"] == "longbench" and "shared" not in (run.path / "manifest.json").read_text()
    words = [str(value) for value in run.sequences.to_numpy().ravel()]
    assert max(map(len, words)) < 80, "ids, names and hashes only"
