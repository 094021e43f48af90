"""Runs on disk: the same records whatever interrupts them, and no mixing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from tiny import tiny_longbench, tiny_model
from transformers import LlamaForCausalLM

from chunkkv_lib import METHODS, InputError
from chunkkv_lib.__main__ import main
from chunkkv_lib.compressors import EXTRA
from chunkkv_lib.compressors import PRESETS as SETTINGS
from chunkkv_lib.models import fingerprint
from chunkkv_lib.runs import (
    Parameters,
    driver,
    find_run,
    folder,
    identity,
    live,
    live_run,
    load_profile,
    load_run,
    local_engine,
    measure,
    profiles,
    run_names,
)
from chunkkv_lib.runs.folder import Recorder, read_parquet, write_parquet
from chunkkv_lib.runs.parameters import EXTRA as EXTRA_BY_NAME
from chunkkv_lib.runs.parameters import METHODS as METHODS_BY_NAME
from chunkkv_lib.runs.parameters import PRESETS

NOT_EVERYWHERE = [
    "attention_cosine_prompt", "overlap_layer_below", "evidence_kept", "evidence_whole", "question_attention_mass",
]  # fmt: skip
TABLES = ("sequences.parquet", "layers.parquet", "answers.parquet")


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("setting")
    return {
        "model": str(tiny_model(folder / "model")),
        "data_path": str(tiny_longbench(folder / "longbench")),
        "source": "longbench",
    }


def tiny(setting: dict[str, str], **changes) -> Parameters:
    fixed = {"categories": ("Single-Document QA", "Multi-Document QA"), "per_category": 4, "max_tokens": 256,
             "max_answer_tokens": 8, "budget": 0.2, "device": "cpu", "dtype": "float32"}  # fmt: skip
    return Parameters(**(fixed | setting | changes))


def command(parameters: Parameters, run: Path) -> list[str]:
    options = [f"--{name.replace('_', '-')}" for name in ("model", "data_path", "source", "budget", "per_category")]
    values = [str(getattr(parameters, name)) for name in ("model", "data_path", "source", "budget", "per_category")]
    pairs = [part for pair in zip(options, values) for part in pair]
    return [sys.executable, "-m", "chunkkv_lib", "measure", "--profile", "quick", "--run", str(run), *pairs,
            "--categories", ",".join(parameters.categories), "--max-tokens", "256", "--max-answer-tokens", "8",
            "--device", "cpu", "--dtype", "float32"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(setting, tmp_path_factory) -> Path:
    return measure(tiny(setting), tmp_path_factory.mktemp("runs") / "finished", progress=False)


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES}


def test_a_run_holds_every_sequence_method_and_layer_once(finished):
    run = load_run(finished)
    assert run.manifest["status"] == "complete"
    assert run.manifest["sequences"] == {"wanted": 8, "measured": 8}
    assert run.manifest["sequences_per_category"] == {"Single-Document QA": 4, "Multi-Document QA": 4}
    assert len(run.layers) == 8 * len(METHODS) * 3 and not run.layers.duplicated(["sequence", "method", "layer"]).any()
    assert len(run.answers) == 8 * (len(METHODS) + 1)
    assert set(run.layers["method"]) == set(METHODS) and set(run.answers["method"]) == {"Full", *METHODS}
    exact = run.layers.merge(run.sequences, on="sequence")
    assert (exact["kept_tokens"] == (exact["prompt_tokens"] * 0.2).round()).all()
    assert not run.layers.drop(columns=NOT_EVERYWHERE).isna().any().any()
    assert not (finished / "parts").exists()


def test_a_run_of_some_data_sets_leaves_out_what_another_drew(setting, finished, tmp_path):
    changes = {"datasets": ("qasper",), "per_category": 2, "skip": 1, "methods": ("H2O",)}
    found = load_run(measure(tiny(setting, **changes), tmp_path / "run", progress=False)).sequences
    alone = load_run(
        measure(tiny(setting, **changes | {"skip": 0, "per_category": 3}), tmp_path / "all", progress=False)
    )
    assert list(found["dataset"]) == ["qasper"] * 2 and list(found["sequence"]) == list(alone.sequences["sequence"])[1:]
    for wrong, said in (
        ({"skip": 9}, "skip=9 leaves no sequence"),
        ({"datasets": ("lcc",)}, "unknown data set of these"),
    ):
        with pytest.raises(InputError, match=said):
            measure(tiny(setting, **changes | wrong), tmp_path / "none", progress=False)


def test_means_over_layers_are_those_of_the_layers(setting, finished, tmp_path):
    means = load_run(measure(tiny(setting, layer_means=True), tmp_path / "run", progress=False))
    keys = ["sequence", "method"]
    whole = load_run(finished).layers.groupby(keys)[["kept_tokens", "kv_l1_loss", "evidence_kept"]].mean()
    pd.testing.assert_frame_equal(means.layers.set_index(keys)[whole.columns].sort_index(), whole, check_dtype=False)
    assert (means.layers["layer"] == local_engine.ALL_LAYERS).all() and len(means.layers) == 8 * len(METHODS)
    assert means.layers.dtypes.equals(load_run(finished).layers.dtypes)


def test_the_manifest_says_what_was_measured_and_hides_the_machine(finished, setting):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["parameters"]["budget"] == 0.2 and manifest["parameters"]["model"] == "model"
    assert manifest["model"]["layers"] == 3 and manifest["model"]["kv_heads"] == 2 and manifest["model"]["sha256"]
    assert set(manifest["model"]["sha256"]) == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert manifest["measurement_version"] == identity.MEASUREMENT_VERSION and manifest["versions"]["torch"]
    assert str(Path(setting["model"]).parent) not in (finished / "manifest.json").read_text()


def test_measuring_again_gives_the_same_bytes(setting, finished, tmp_path):
    again = measure(tiny(setting), tmp_path / "again", progress=False)
    assert tables(again) == tables(finished)


@pytest.mark.parametrize("stop_after", [1, 5])
def test_an_interrupted_run_keeps_what_is_finished_and_continues(setting, finished, tmp_path, monkeypatch, stop_after):
    calls = []

    def analyse_then_stop(*arguments):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(1)
        return engine_analyse(*arguments)

    engine_analyse = local_engine.analyse
    monkeypatch.setattr(local_engine, "analyse", analyse_then_stop)
    with pytest.raises(KeyboardInterrupt):
        measure(tiny(setting), tmp_path / "run", progress=False)
    partial = load_run(tmp_path / "run")
    assert partial.manifest["status"] == "interrupted" and len(partial.sequences) == stop_after
    monkeypatch.setattr(local_engine, "analyse", engine_analyse)
    measure(tiny(setting), tmp_path / "run", progress=False)
    assert tables(tmp_path / "run") == tables(finished)


def test_kill_at_any_moment_then_the_same_command_gives_the_same_records(setting, tmp_path):
    parameters = tiny(setting, per_category=6)
    whole = measure(parameters, tmp_path / "whole", progress=False)
    run = tmp_path / "killed"
    for survivors in (1, 4):
        process = subprocess.Popen(command(parameters, run), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(run.glob("parts/*.layers.parquet"))) < survivors:
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert list(run.glob("parts/*.parquet")), "the run was over before it could be killed"
    subprocess.run(command(parameters, run), check=True, capture_output=True)
    assert tables(run) == tables(whole)
    assert not list(run.rglob("*.tmp"))


def test_a_run_that_fails_at_once_leaves_its_place_free(setting, tmp_path, monkeypatch):
    def fails(*arguments):
        raise InputError("a budget of 3 tokens does not fit")

    analyse = local_engine.analyse
    monkeypatch.setattr(local_engine, "analyse", fails)
    with pytest.raises(InputError, match="does not fit"):
        measure(tiny(setting), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(local_engine, "analyse", analyse)
    measure(tiny(setting, budget=0.3), tmp_path / "run", progress=False)
    assert load_run(tmp_path / "run").manifest["status"] == "complete"


def test_seconds_count_the_measuring_alone(setting, tmp_path, monkeypatch):
    """A sequence takes 10 s of a clock by hand, storing it 100 s, and two starts lie 10,000 s apart."""
    clock = [0.0]

    def analyse(*arguments):
        clock[0] += 10
        return engine_analyse(*arguments)

    def add(self, *arguments):
        clock[0] += 100
        recorder_add(self, *arguments)
        if len(self.done) == 3 and clock[0] < 10_000:
            raise KeyboardInterrupt

    engine_analyse, recorder_add = local_engine.analyse, Recorder.add
    monkeypatch.setattr(driver.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(local_engine, "analyse", analyse)
    monkeypatch.setattr(Recorder, "add", add)
    with pytest.raises(KeyboardInterrupt):
        measure(tiny(setting), tmp_path / "run", progress=False)
    clock[0] += 10_000
    measure(tiny(setting), tmp_path / "run", progress=False)
    assert load_run(tmp_path / "run").manifest["seconds"] == 80


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_status_130_and_a_readable_run(setting, tmp_path, number):
    run = tmp_path / "run"
    process = subprocess.Popen(command(tiny(setting, per_category=6), run), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(run.glob("parts/*.layers.parquet")):
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130 and "the same command continues" in errors and "Traceback" not in errors
    assert load_run(run).manifest["status"] == "interrupted"


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


def test_other_parameters_never_mix(setting, finished):
    before = tables(finished)
    with pytest.raises(InputError, match=r"budget=0\.2, not 0\.3.*--restart"):
        measure(tiny(setting, budget=0.3), finished, progress=False)
    assert tables(finished) == before


def test_another_version_of_the_measurement_never_mixes(setting, finished, monkeypatch):
    monkeypatch.setattr(identity, "MEASUREMENT_VERSION", 77)
    with pytest.raises(InputError, match=r"measurement_version=\d+, not 77"):
        measure(tiny(setting), finished, progress=False)


def test_a_run_recorded_before_there_was_a_parameter_counts_as_its_default(setting, finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["parameters"]["variants"], manifest["parameters"]["max_new_tokens"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    lines = []
    measure(tiny(setting), run, progress=False, report=lines.append)
    assert "complete" in lines[0] and load_run(run).parameters.max_new_tokens == 0
    with pytest.raises(InputError, match="max_new_tokens=0, not 5"):
        measure(tiny(setting, max_new_tokens=5), run, progress=False)


# --- identity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["model.safetensors", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize("state", ["complete", "interrupted"])
def test_another_model_of_the_same_name_is_refused(setting, finished, tmp_path, changed, state):
    """Two folders called "model", or one whose weights or tokenizer were replaced in place."""
    model, run = (Path(shutil.copytree(old, tmp_path / old.name)) for old in (Path(setting["model"]), finished))
    if changed == "model.safetensors":
        other = LlamaForCausalLM.from_pretrained(model)
        other.model.norm.weight.data *= 1.5
        other.save_pretrained(model)
    else:
        (model / changed).write_text((model / changed).read_text().replace("{", "{ ", 1))
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": state}))
    before = tables(run)
    with pytest.raises(InputError, match=rf"model\.sha256\.{changed}=.*--restart"):
        measure(tiny(setting | {"model": str(model)}), run, progress=False)
    assert tables(run) == before


def test_weights_without_safetensors_belong_to_the_identity(setting, tmp_path):
    model = Path(shutil.copytree(setting["model"], tmp_path / "model"))
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"one")
    one = fingerprint(str(model))
    (model / "pytorch_model.bin").write_bytes(b"two")
    assert "pytorch_model.bin" in one["sha256"] and fingerprint(str(model)) != one


def test_other_data_of_the_same_name_is_refused(setting, finished, tmp_path):
    data = Path(shutil.copytree(setting["data_path"], tmp_path / "longbench"))
    place = data / "data" / "qasper.jsonl"
    place.write_text(place.read_text().replace("keys", "locks"))
    with pytest.raises(InputError, match=r"data\."):
        measure(tiny(setting | {"data_path": str(data)}), finished, progress=False)


def test_a_live_run_of_another_model_is_another_run(setting, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "LIVE", tmp_path / "live")
    names = ("data_path", "source", "categories", "per_category", "max_tokens", "budget", "device", "dtype")
    small = {name: getattr(tiny(setting, per_category=1), name) for name in names}
    model = Path(shutil.copytree(setting["model"], tmp_path / "model"))
    first = live_run("quick", progress=False, model=str(model), **small)
    other = LlamaForCausalLM.from_pretrained(model)
    other.model.norm.weight.data *= 1.5
    other.save_pretrained(model)
    second = live_run("quick", progress=False, model=str(model), **small)
    assert first.complete and second.complete and first.path != second.path
    assert not first.answers["nll"].equals(second.answers["nll"])
    assert live_run("quick", progress=False, model=str(model), **small).path == second.path


def test_a_file_is_hashed_once(setting, tmp_path, monkeypatch):
    """Once per process: by the check before the load, by the load, and by the manifest."""
    opened = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: opened.append(file.name) or digest(file, kind))
    model = shutil.copytree(setting["model"], tmp_path / "model")
    measure(tiny(setting | {"model": str(model)}, per_category=1), tmp_path / "run", progress=False)
    assert sum(name.endswith("model.safetensors") for name in opened) == 1


# --- nothing of others is touched ---------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path, monkeypatch) -> Path:
    """runs/ and data/runs/ of a project in a temporary folder."""
    monkeypatch.setattr(folder, "OWN", tmp_path / "runs")
    monkeypatch.setattr(folder, "PUBLISHED", tmp_path / "data" / "runs")
    return tmp_path


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", [".", "", "theirs/"])
def test_a_folder_of_others_is_refused_and_untouched(setting, tmp_path, monkeypatch, name, restart):
    theirs = tmp_path / "theirs"
    (theirs / "parts").mkdir(parents=True)
    files = {"customers.parquet": b"c", "layers.parquet": b"l", "parts/000000.layers.parquet": b"p", "thesis.txt": b"t"}
    for path, content in files.items():
        (theirs / path).write_bytes(content)
    monkeypatch.chdir(tmp_path if name == "theirs/" else theirs)
    with pytest.raises(InputError, match=r"not a run's folder.*nothing in it was touched") as caught:
        measure(tiny(setting), name, restart=restart, progress=False)
    assert "\n" not in str(caught.value)
    assert {path: (theirs / path).read_bytes() for path in files} == files and not (theirs / ".lock").exists()


def test_a_manifest_of_others_is_refused(setting, tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "my site", "icons": []}')
    with pytest.raises(InputError, match="not of a run"):
        measure(tiny(setting), tmp_path / "web", restart=True, progress=False)
    assert [path.name for path in (tmp_path / "web").iterdir()] == ["manifest.json"]


def test_restart_replaces_our_files_only(setting, finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "parts").mkdir()
    for path in ("customers.parquet", "parts/thesis.txt", "notes.md"):
        (run / path).write_text("theirs")
    measure(tiny(setting, budget=0.3, per_category=1), run, restart=True, progress=False)
    assert load_run(run).parameters.budget == 0.3
    assert all((run / path).read_text() == "theirs" for path in ("customers.parquet", "parts/thesis.txt", "notes.md"))


def test_a_load_that_fails_makes_no_folder(setting, tmp_path):
    broken = Path(shutil.copytree(setting["model"], tmp_path / "model"))
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="could not be loaded"):
        measure(tiny(setting | {"model": str(broken)}), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="max_tokens"):
        measure(tiny(setting, max_tokens=1), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_published_runs_change_by_publish_only(setting, finished, places):
    shutil.copytree(finished, places / "data" / "runs" / "published")
    before = tables(places / "data" / "runs" / "published")
    for name in ("published", places / "data" / "runs" / "published", places / "data" / "runs" / "new"):
        for restart in (False, True):
            with pytest.raises(InputError, match=r"published run.*--run.*--publish"):
                measure(tiny(setting, budget=0.3), name, restart=restart, progress=False)
    with pytest.raises(InputError, match="without a slash"):
        measure(tiny(setting), places / "elsewhere", progress=False, publish=True)
    with pytest.raises(InputError, match=r"budget=0\.2, not 0\.3.*--restart"):
        measure(tiny(setting, budget=0.3), "published", progress=False, publish=True)
    assert tables(places / "data" / "runs" / "published") == before
    assert measure(tiny(setting), "new", progress=False, publish=True) == places / "data" / "runs" / "new"


def test_a_live_run_of_a_published_profile_leaves_the_published_run(setting, finished, places, monkeypatch):
    monkeypatch.setattr(live, "LIVE", places / "_runs" / "live")
    monkeypatch.setattr(live, "load_profile", lambda name, changes: tiny(setting, per_category=1))
    published = Path(shutil.copytree(finished, places / "data" / "runs" / "published"))
    before = tables(published)
    run = live_run("published", progress=False)
    assert tables(published) == before and (places / "_runs" / "live") in run.path.parents


def test_a_readers_run_is_found_and_is_none_of_the_projects(setting, finished, places):
    shutil.copytree(finished, places / "data" / "runs" / "published")
    assert measure(tiny(setting, per_category=1), "budget-20", progress=False) == places / "runs" / "budget-20"
    assert run_names() == ["budget-20", "published"] and run_names(published=True) == ["published"]
    assert load_run("budget-20").path.parent.name == "runs" and load_run("published").complete
    shutil.copytree(finished, places / "runs" / "published")  # as after an update that brought one of the same name
    with pytest.raises(InputError, match="rename yours"):
        load_run("published")
    assert find_run("nothing") is None


def test_a_published_run_in_progress_can_be_read_and_goes_on_elsewhere(setting, finished, places, monkeypatch):
    """Its tables hold all but the last few sequences, even after a kill: parts are not committed."""
    monkeypatch.setattr(driver, "MERGE_EVERY", 2)
    monkeypatch.setattr(folder.Recorder, "merge", merge_then_stop(folder.Recorder.merge, after=2))
    with pytest.raises(SystemExit):
        measure(tiny(setting), "new", progress=False, publish=True)
    committed = places / "data" / "runs" / "new"
    shutil.rmtree(committed / "parts", ignore_errors=True)
    run = load_run("new")
    assert len(run.sequences) == 4 and not run.complete and run.manifest["status"] == "running"
    monkeypatch.undo()
    elsewhere = Path(shutil.copytree(committed, places / "elsewhere"))
    measure(tiny(setting), elsewhere, progress=False)
    assert tables(elsewhere) == tables(finished)


def merge_then_stop(merge, after: int):
    """A merge after which the process ends as by a kill: no further merge writes anything."""
    calls = []

    def stopping(self):
        calls.append(1)
        if len(calls) > after:
            raise SystemExit
        merge(self)

    return stopping


def test_a_complete_run_is_left_alone(setting, finished):
    before = (finished / "layers.parquet").stat().st_mtime_ns
    lines = []
    measure(tiny(setting), finished, progress=False, report=lines.append)
    assert (finished / "layers.parquet").stat().st_mtime_ns == before and "complete" in lines[0]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_was_deleted_is_measured_again(setting, finished, tmp_path, name):
    """As the error about a damaged table advises: delete it and measure again."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / name).unlink()
    measure(tiny(setting), run, progress=False)
    assert tables(run) == tables(finished) and load_run(run).manifest["status"] == "complete"


def test_sequences_that_were_taken_out_are_measured_again(setting, finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    answers = read_parquet(run / "answers.parquet")
    write_parquet(run / "answers.parquet", answers[answers["sequence"] != answers["sequence"].iloc[0]])
    measure(tiny(setting), run, progress=False)
    assert tables(run) == tables(finished)


def test_a_second_process_is_refused(setting, tmp_path):
    from chunkkv_lib.runs.folder import locked

    with locked(tmp_path / "run"), pytest.raises(InputError, match="another process"):
        measure(tiny(setting), tmp_path / "run", progress=False)


@pytest.mark.parametrize("name", ["manifest.json", "layers.parquet"])
def test_a_damaged_file_is_named(finished, tmp_path, name):
    for path in finished.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    with pytest.raises(InputError, match=f"{name} is damaged.*measure"):
        load_run(tmp_path)


def test_no_run_there(tmp_path):
    with pytest.raises(InputError, match=r"no run at .*measure --profile quick"):
        load_run(tmp_path / "nothing")


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
def test_a_full_or_read_only_disk_is_one_line_and_keeps_the_rest(setting, tmp_path, monkeypatch, capsys, reason):
    def write(self, sequence, layers, answers):
        if len(self.done) == 2:
            raise OSError(reason, os.strerror(reason), "parts/000002.layers.parquet")
        add(self, sequence, layers, answers)

    add = Recorder.add
    monkeypatch.setattr(Recorder, "add", write)
    assert main(command(tiny(setting), tmp_path / "run")[3:]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: cannot write") and "000002" in error and os.strerror(reason) in error
    assert len(load_run(tmp_path / "run").sequences) == 2


def test_tables_are_the_same_bytes_for_the_same_rows(tmp_path):
    frame = pd.DataFrame({"sequence": ["a", "b"], "value": [0.1, float("nan")]})
    write_parquet(tmp_path / "one.parquet", frame)
    write_parquet(tmp_path / "two.parquet", frame.copy())
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert read_parquet(tmp_path / "one.parquet")["value"].dtype == "float32"


def test_every_profile_loads_and_is_documented():
    assert {"quick", "published", "longbench", "paper"} <= set(profiles())
    assert tuple(METHODS) == METHODS_BY_NAME and tuple(EXTRA) == EXTRA_BY_NAME and set(PRESETS) == set(SETTINGS)
    for name in profiles():
        load_profile(name)
    paper = load_profile("paper")
    assert (paper.max_tokens, paper.per_category, paper.source) == (7950, 100, "longbench")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgett": 0.1}, "unknown parameter 'budgett'. Did you mean 'budget'"),
        ({"source": "longbnch"}, "Did you mean 'longbench'"),
        ({"categories": ("Summarisation",)}, "Did you mean 'Summarization'"),
        ({"datasets": ("qaspr",)}, "unknown data set 'qaspr'. Did you mean 'qasper'"),
        ({"skip": -1}, "at least 0"),
        ({"methods": ("chunk_kv",)}, "Did you mean 'ChunkKV'"),
        ({"preset": "papers"}, "Did you mean 'paper'"),
        ({"budget": 0.0}, "outside"),
        ({"budget": -3}, "between 1 and"),
        ({"budget": 1.5}, "outside"),
        ({"budget": "much"}, r"budget='much' has the wrong type; expected float \| int"),
        ({"max_tokens": 0}, "at least 1"),
        ({"reuse": 0}, "at least 1"),
        ({"window": 0}, "at least 1"),
        ({"kernel": 4}, "even"),
        ({"granularity": "head"}, "unknown granularity"),
        ({"methods": ()}, "empty"),
        ({"window": True}, "wrong type; expected int"),
        ({"seed": 1.0}, "wrong type; expected int"),
        ({"causal": 1}, "wrong type; expected bool"),
        ({"categories": 3}, "wrong type; expected a list of names"),
        ({"variants": "sensitivty"}, "Did you mean 'sensitivity'"),
    ],
)
def test_parameters_are_checked_before_anything_is_loaded(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        load_profile("quick", changes)
    assert "\n" not in str(caught.value)


def test_unknown_profile():
    with pytest.raises(InputError, match=r"unknown profile 'quik'. Did you mean 'quick'"):
        load_profile("quik")
