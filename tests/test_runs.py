"""Runs on disk: the same records whatever interrupts them, and no mixing."""

import errno
import itertools
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from common import refused
from tiny import change_json, command, copy_of, measured, tables
from transformers import LlamaForCausalLM

from chunkkv_lib import METHODS, InputError, compressors
from chunkkv_lib.__main__ import main
from chunkkv_lib.runs import driver, folder, identity, live_run, load_run, parameters, run_names
from chunkkv_lib.runs.folder import Recorder, locked, read_parquet, write_parquet
from chunkkv_lib.runs.parameters import load_profile, profiles

NOT_EVERYWHERE = [
    "attention_cosine_prompt", "overlap_layer_below", "evidence_kept", "evidence_whole", "question_attention_mass",
]  # fmt: skip


def change_weights(model: Path) -> None:
    other = LlamaForCausalLM.from_pretrained(model)
    other.model.norm.weight.data *= 1.5
    other.save_pretrained(model)


def stop_after(monkeypatch, count: int) -> None:
    """Ctrl-C while the sequence after `count` others is measured."""
    calls, measure_one = [], driver.measure_one

    def stopping(*arguments):
        if len(calls) == count:
            raise KeyboardInterrupt
        calls.append(1)
        return measure_one(*arguments)

    monkeypatch.setattr(driver, "measure_one", stopping)


def test_a_run_holds_every_sequence_method_and_layer_once(finished, setting):
    run = load_run(finished)
    assert run.manifest["status"] == "complete" and run.manifest["sequences"] == {"wanted": 8, "measured": 8}
    assert run.manifest["sequences_per_category"] == {"Single-Document QA": 4, "Multi-Document QA": 4}
    assert len(run.layers) == 8 * len(METHODS) * 3 and not run.layers.duplicated(["sequence", "method", "layer"]).any()
    assert len(run.answers) == 8 * (len(METHODS) + 1) and run.layers["kv_l1_loss"].dtype == "float32"
    assert set(run.layers["method"]) == set(METHODS) and set(run.answers["method"]) == {"Full", *METHODS}
    exact = run.layers.merge(run.sequences, on="sequence")
    assert (exact["kept_tokens"] == (exact["prompt_tokens"] * 0.2).round()).all()
    assert not run.layers.drop(columns=NOT_EVERYWHERE).isna().any().any()
    assert not (finished / "parts").exists()
    said, model = run.manifest["parameters"], run.manifest["model"]
    assert said["budget"] == 0.2 and said["model"] == "model" and model["layers"] == 3 and model["kv_heads"] == 2
    assert run.manifest["measurement_version"] == identity.MEASUREMENT_VERSION and run.manifest["versions"]["torch"]
    assert str(Path(setting["model"]).parent) not in (finished / "manifest.json").read_text(), "names the machine"


def test_a_run_of_some_data_sets_leaves_out_what_another_drew(setting, tmp_path):
    changes = {"datasets": ("qasper",), "methods": ("H2O",)}
    found = load_run(measured(setting, tmp_path / "run", per_category=2, skip=1, **changes)).sequences
    every = load_run(measured(setting, tmp_path / "all", per_category=3, **changes)).sequences
    assert list(found["dataset"]) == ["qasper"] * 2 and list(found["sequence"]) == list(every["sequence"])[1:]
    with refused("skip=9 leaves no sequence"):
        measured(setting, tmp_path / "none", skip=9, **changes)
    with refused("unknown data set of these"):
        measured(setting, tmp_path / "none", datasets=("lcc",))


def test_means_over_layers_are_those_of_the_layers(setting, finished, tmp_path):
    means = load_run(measured(setting, tmp_path / "run", layer_means=True)).layers
    keys, every = ["sequence", "method"], load_run(finished).layers
    expected = every.groupby(keys)[["kept_tokens", "kv_l1_loss", "evidence_kept"]].mean()
    pd.testing.assert_frame_equal(means.set_index(keys)[expected.columns].sort_index(), expected, check_dtype=False)
    assert (means["layer"] == driver.ALL_LAYERS).all() and means.dtypes.equals(every.dtypes)


def test_a_signal_at_any_moment_then_the_same_command_gives_the_same_records(setting, tmp_path):
    """A kill leaves parts; Ctrl-C and an end by the system status 130, one line and a run that can be read."""
    run, size = tmp_path / "run", {"per_category": 6, "max_new_tokens": 6}
    words = command(setting, run, **size)
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        before = set(run.glob("parts/*.layers.parquet"))
        process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        while process.poll() is None and set(run.glob("parts/*.layers.parquet")) <= before:
            time.sleep(0.002)
        process.send_signal(number)
        _, errors = process.communicate()
        if number == signal.SIGKILL:
            assert list(run.glob("parts/*.parquet")), "the run was over before it could be killed"
        else:
            assert process.returncode == 130 and "the same command continues" in errors and "Traceback" not in errors
            partial = load_run(run)
            assert partial.manifest["status"] == "interrupted" and len(partial.sequences) > len(before)
    subprocess.run(words, check=True, capture_output=True)
    assert tables(run) == tables(measured(setting, tmp_path / "whole", **size))
    assert not list(run.rglob("*.tmp"))


def test_a_run_that_fails_at_once_leaves_its_place_free(setting, tmp_path, monkeypatch):
    broken = copy_of(setting["model"], tmp_path / "model")
    (broken / "model.safetensors").write_bytes(b"not weights")
    with refused("could not be loaded"):
        measured(setting, tmp_path / "run", model=str(broken))
    with refused("max_tokens"):
        measured(setting, tmp_path / "run", max_tokens=1)
    stop_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        measured(setting, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    with locked(tmp_path / "run"), refused("another process"):
        measured(setting, tmp_path / "run", budget=0.3)
    assert load_run(measured(setting, tmp_path / "run", budget=0.3)).manifest["status"] == "complete"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"budget": 0.01}, "window=8 is larger than the budget of"),
        ({"max_position_embeddings": 200}, "the model's positions end at 200"),
        ({"vocab_size": 100}, "the model embeds 0 to 99"),
    ],
)
def test_a_sequence_that_does_not_fit_is_named_before_a_model_is_loaded(setting, tmp_path, monkeypatch, changes, named):
    """Else a run of hours ends where its turn comes."""
    monkeypatch.setattr(driver, "load_model", lambda *_: pytest.fail("the model was loaded"))
    model = copy_of(setting["model"], tmp_path / "model")
    change_json(model / "config.json", **changes)
    with refused("sequence 'narrativeqa:", named):
        measured(setting, tmp_path / "run", model=str(model), **({"budget": 0.01} if "budget" in changes else {}))
    assert not (tmp_path / "run").exists()


def test_seconds_count_the_measuring_alone(setting, tmp_path, monkeypatch):
    """By a clock that goes on by one whenever it is read: not storing, merging, or the time between two starts."""
    clock, add = itertools.count(), Recorder.add

    def slowly(*arguments):
        next(clock)
        add(*arguments)

    monkeypatch.setattr(driver.time, "monotonic", clock.__next__)
    monkeypatch.setattr(Recorder, "add", slowly)
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stop_after(stopped, 3)
        measured(setting, tmp_path / "run")
    assert load_run(measured(setting, tmp_path / "run")).manifest["seconds"] == 8


def test_a_kill_while_merging_leaves_nothing_twice(finished, tmp_path):
    run = load_run(finished)
    names = list(run.sequences["sequence"])
    recorder = Recorder(tmp_path, names)
    for name in reversed(names):  # finished in any order
        recorder.add(name, *(frame[frame["sequence"] == name] for frame in (run.layers, run.answers)))
    part = (tmp_path / "parts" / "000003.layers.parquet").read_bytes()
    recorder.merge()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "000003.layers.parquet").write_bytes(part)
    again = Recorder(tmp_path, names)
    assert again.done == set(names)
    again.merge()
    for table in ("layers", "answers"):
        pd.testing.assert_frame_equal(read_parquet(tmp_path / f"{table}.parquet"), getattr(run, table))


@pytest.mark.parametrize("lost", ["sequences", "layers", "answers", "one sequence's answers"])
def test_what_was_taken_out_of_the_tables_is_measured_again(setting, finished, tmp_path, lost):
    """As the error about a damaged table advises: delete it and measure again."""
    run = copy_of(finished, tmp_path / "run")
    if lost.startswith("one"):
        answers = read_parquet(run / "answers.parquet")
        write_parquet(run / "answers.parquet", answers[answers["sequence"] != answers["sequence"].iloc[0]])
    else:
        (run / f"{lost}.parquet").unlink()
    measured(setting, run)
    assert tables(run) == tables(finished) and load_run(run).manifest["status"] == "complete"


def test_a_full_disk_is_one_line_and_keeps_the_rest(setting, tmp_path, monkeypatch, capsys):
    def write(self, sequence, layers, answers):
        if len(self.done) == 2:
            raise OSError(errno.ENOSPC, "No space left", "parts/000002.layers.parquet")
        add(self, sequence, layers, answers)

    add = Recorder.add
    monkeypatch.setattr(Recorder, "add", write)
    assert main(command(setting, tmp_path / "run")[3:]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: cannot write") and "000002" in error and "No space left" in error
    assert len(load_run(tmp_path / "run").sequences) == 2


def test_a_damaged_file_or_none_is_told(finished, tmp_path):
    for name in ("manifest.json", "layers.parquet"):
        run = copy_of(finished, tmp_path / name)
        (run / name).write_bytes((run / name).read_bytes()[:100])
        with refused(f"{name} is damaged", "measure"):
            load_run(run)
    with pytest.raises(InputError, match=r"no run at .*measure --profile quick"):
        load_run(tmp_path / "nothing")


def test_other_parameters_versions_or_data_never_mix(setting, finished, tmp_path, monkeypatch):
    before = tables(finished)
    for name, old, new in (("budget", 0.2, 0.3), ("max_new_tokens", 0, 7)):
        with refused(f"{name}={old}, not {new}", "--restart"):
            measured(setting, finished, **{name: new})
    data = copy_of(setting["data_path"], tmp_path / "longbench")
    place = data / "data" / "qasper.jsonl"
    place.write_text(place.read_text().replace("keys", "locks"))
    with refused("data."):
        measured(setting, finished, data_path=str(data))
    monkeypatch.setattr(identity, "MEASUREMENT_VERSION", 77)
    with refused("measurement_version=", "not 77"):
        measured(setting, finished)
    assert tables(finished) == before


def test_a_run_recorded_before_there_was_a_parameter_counts_as_its_default(setting, finished, tmp_path):
    """It is complete, and left alone."""
    run, lines = copy_of(finished, tmp_path / "run"), []
    younger = ("variants", "max_new_tokens")
    known = load_run(run).manifest["parameters"]
    change_json(run / "manifest.json", parameters={name: known[name] for name in {*known} - {*younger}})
    before = (run / "layers.parquet").stat().st_mtime_ns
    measured(setting, run, report=lines.append)
    assert (run / "layers.parquet").stat().st_mtime_ns == before and "complete" in lines[0]
    assert load_run(run).parameters.max_new_tokens == 0
    with refused("max_new_tokens=0, not 5"):
        measured(setting, run, max_new_tokens=5)


@pytest.mark.parametrize("state", ["complete", "interrupted"])
@pytest.mark.parametrize("changed", ["model.safetensors", "tokenizer.json", "generation_config.json"])
def test_another_model_of_the_same_name_is_refused(setting, finished, tmp_path, changed, state):
    """Two folders called "model", or one whose weights or tokenizer were replaced in place."""
    model, run = copy_of(setting["model"], tmp_path / "model"), copy_of(finished, tmp_path / "finished")
    if changed == "model.safetensors":
        change_weights(model)
    else:
        (model / changed).write_text((model / changed).read_text().replace("{", "{ ", 1))
    change_json(run / "manifest.json", status=state)
    before = tables(run)
    with refused(f"model.sha256.{changed}=", "--restart"):
        measured(setting, run, model=str(model))
    assert tables(run) == before


def test_a_live_run_of_another_model_is_another_run(setting, places, published, monkeypatch):
    """And the published one of the profile's name stays what it is."""
    monkeypatch.setattr(driver, "LIVE", places / "live")
    before, model = tables(published), copy_of(setting["model"], places / "model")
    small = {"per_category": 1, "max_tokens": 256, "budget": 0.2, "categories": ("Single-Document QA",)}
    small |= setting | {"model": str(model), "dtype": "float32", "progress": False}
    first = live_run("published", **small)
    change_weights(model)
    second = live_run("published", **small)
    assert {one.manifest["status"] for one in (first, second)} == {"complete"} and first.path != second.path
    assert not first.answers["nll"].equals(second.answers["nll"]) and live_run("published", **small).path == second.path
    assert places / "live" in first.path.parents and tables(published) == before


@pytest.fixture
def places(tmp_path, monkeypatch) -> Path:
    """runs/ and data/runs/ of a project in a temporary folder."""
    monkeypatch.setattr(folder, "OWN", tmp_path / "runs")
    monkeypatch.setattr(folder, "PUBLISHED", tmp_path / "data" / "runs")
    return tmp_path


@pytest.fixture
def published(finished, places) -> Path:
    return copy_of(finished, places / "data" / "runs" / "published")


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", [".", "", "theirs/"])
def test_a_folder_of_others_is_refused_and_untouched(setting, tmp_path, monkeypatch, name, restart):
    theirs = tmp_path / "theirs"
    (theirs / "parts").mkdir(parents=True)
    files = {"customers.parquet": b"c", "layers.parquet": b"l", "parts/000000.layers.parquet": b"p", "thesis.txt": b"t"}
    for path, content in files.items():
        (theirs / path).write_bytes(content)
    monkeypatch.chdir(tmp_path if name == "theirs/" else theirs)
    with refused("not a run's folder", "nothing in it was touched"):
        measured(setting, name, options={"restart": restart})
    (theirs / "manifest.json").write_bytes(files.setdefault("manifest.json", b'{"name": "my site", "icons": []}'))
    with refused("not of a run"):
        measured(setting, name, options={"restart": restart})
    assert {path: (theirs / path).read_bytes() for path in files} == files and not (theirs / ".lock").exists()


def test_restart_replaces_our_files_only(setting, finished, tmp_path):
    run = copy_of(finished, tmp_path / "run")
    (run / "parts").mkdir()
    theirs = [run / path for path in ("customers.parquet", "parts/thesis.txt", "notes.md")]
    for path in theirs:
        path.write_text("theirs")
    measured(setting, run, options={"restart": True}, budget=0.3, per_category=1)
    assert load_run(run).parameters.budget == 0.3 and {path.read_text() for path in theirs} == {"theirs"}


def test_published_runs_change_by_publish_only(setting, places, published):
    before = tables(published)
    for name in ("published", published, published.with_name("new")):
        for restart in (False, True):
            with refused("published run", "--run", "--publish"):
                measured(setting, name, options={"restart": restart}, budget=0.3)
    with refused("without a slash"):
        measured(setting, places / "elsewhere", options={"publish": True})
    with refused("budget=0.2, not 0.3", "--restart"):
        measured(setting, "published", options={"publish": True}, budget=0.3)
    assert tables(published) == before
    assert measured(setting, "new", options={"publish": True}) == published.with_name("new")


def test_a_readers_run_is_found_and_is_none_of_the_projects(setting, places, published):
    assert measured(setting, "budget-20", per_category=1) == places / "runs" / "budget-20"
    assert run_names() == ["budget-20", "published"] and run_names(published=True) == ["published"]
    assert load_run("budget-20").path.parent.name == "runs" and load_run("published").manifest["status"] == "complete"
    copy_of(published, places / "runs" / "published")  # as after an update that brought one of the same name
    with refused("rename yours"):
        load_run("published")


def test_a_published_run_in_progress_can_be_read_and_goes_on_elsewhere(setting, finished, places, monkeypatch):
    """Its tables hold all but the last few sequences, even after a kill: parts are not committed."""
    calls, merge = [], Recorder.merge

    def merge_twice(self):
        calls.append(1)
        if len(calls) > 2:
            raise SystemExit  # as by a kill: no further merge writes anything
        merge(self)

    monkeypatch.setattr(driver, "MERGE_EVERY", 2)
    monkeypatch.setattr(Recorder, "merge", merge_twice)
    with pytest.raises(SystemExit):
        measured(setting, "new", options={"publish": True})
    committed = places / "data" / "runs" / "new"
    shutil.rmtree(committed / "parts", ignore_errors=True)
    run = load_run("new")
    assert len(run.sequences) == 4 and run.manifest["status"] == "running"
    monkeypatch.undo()
    elsewhere = copy_of(committed, places / "elsewhere")
    assert tables(measured(setting, elsewhere)) == tables(finished)


def test_every_profile_loads_and_is_documented():
    assert {"quick", "published", "longbench", "paper"} <= set(profiles())
    for names in ("METHODS", "EXTRA", "PRESETS"):  # the parameters' own copies cost no torch
        assert getattr(parameters, names) == tuple(getattr(compressors, names)), names
    loaded = {name: load_profile(name) for name in profiles()}
    paper = loaded["paper"]
    assert (paper.max_tokens, paper.per_category, paper.source) == (7950, 100, "longbench")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("budgett", 0.1, "unknown parameter 'budgett'. Did you mean 'budget'"),
        ("source", "longbnch", "Did you mean 'longbench'"),
        ("categories", 3, "wrong type; expected a list of names"),
        ("datasets", ("qaspr",), "unknown data set 'qaspr'. Did you mean 'qasper'"),
        ("methods", (), "empty"),
        ("budget", "much", "budget='much' has the wrong type; expected float | int"),
        ("window", True, "wrong type; expected int"),
        ("max_tokens", 0, "at least 1"),
        ("max_new_tokens", -1, "at least 0"),
        ("kernel", 4, "even"),
        ("forms", ("gates",), "unknown form 'gates'. Did you mean 'gate'"),
        ("asks", ("others",), "Did you mean 'other'"),
        ("per_category", 0, "at least 1"),
    ],
)
def test_parameters_are_checked_before_anything_is_loaded(name, value, message):
    with refused(message):
        load_profile("quick", {name: value})
