"""Measuring a run again: it agrees with itself, and a changed number, text or model is found out."""

from pathlib import Path

import pandas as pd
import pytest
from common import refused
from tiny import change_json, copy_of

from chunkkv_lib.runs import verification, verify
from chunkkv_lib.runs.folder import read_parquet, write_parquet


@pytest.fixture
def places(setting) -> dict[str, str]:
    return {"model": setting["model"], "data_path": setting["data_path"]}


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return copy_of(finished, tmp_path / "tiny")


def change(run: Path, table: str, column: str, by: object) -> None:
    frame = read_parquet(run / f"{table}.parquet")
    frame[column] = frame[column] + by
    write_parquet(run / f"{table}.parquet", frame)


def again(run: Path, places: dict[str, str], **options) -> tuple[pd.DataFrame, str]:
    """The largest differences, and the line that names the sequences."""
    lines = []
    return verify(run, progress=False, report=lines.append, **options, **places), lines[0]


def test_a_run_agrees_with_itself(run, places):
    worst, line = again(run, places, count=9)
    assert "8 sequences" in line and worst["difference"].max() < 1e-6
    assert {"kv_l1_loss", "attention_cosine_similarity", "nll", "kept_tokens"} <= set(worst["column"])


@pytest.mark.parametrize(
    ("table", "column", "by"),
    [("layers", "kv_l1_loss", 0.01), ("layers", "attention_mass", float("nan")), ("answers", "nll", -0.1)],
)
def test_a_changed_number_is_found(run, places, table, column, by):
    change(run, table, column, by)
    worst = again(run, places, count=1)[0]
    assert list(worst["column"][worst["difference"] > worst["limit"]]) == [column]
    with refused("tiny", "other numbers"):
        verification.verify_runs([str(run)], 1, report=lambda line: None, **places)


def test_another_text_is_found(run, places):
    change(run, "sequences", "text_hash", "0")
    with refused("not the same text"):
        again(run, places)


def test_another_model_or_version_is_found(run, places, tmp_path, monkeypatch):
    model = copy_of(places["model"], tmp_path / "model")
    change_json(model / "config.json", rope_theta=7.0)
    with refused("model.sha256.config.json=", "--model"):
        again(run, places | {"model": str(model)})
    monkeypatch.setattr(verification, "MEASUREMENT_VERSION", 77)
    monkeypatch.setattr(verification, "load_model", None)  # told before a model is loaded
    with refused("measurement_version=", "this code has 77", "measure the run again"):
        again(run, places)


def test_the_choice_of_sequences_follows_the_seed(run, places):
    lines = {again(run, places, count=2, seed=seed)[1] for seed in (5, 5, 6)}
    assert len(lines) == 2
    with refused("count=0"):
        again(run, places, count=0)


def test_published_runs_that_cannot_be_measured_here_are_named(run, places, monkeypatch):
    lines = []
    monkeypatch.setattr(verification, "run_names", lambda published: [str(run)])
    with refused("no run could be verified"):
        verification.verify_runs([], 1, report=lines.append)
    assert "cannot be verified here" in lines[0] and "tiny" in lines[0]
    verification.verify_runs([], 1, report=lines.append, **places)
    assert any("measured again" in line for line in lines)
