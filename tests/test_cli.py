"""The command line: every mistake is one line and status 2."""

from __future__ import annotations

import dataclasses

import pytest

from chunkkv_lib.__main__ import main
from chunkkv_lib.runs import Parameters

COMMANDS = ("measure", "verify", "book", "pdf", "students", "tidy", "bench", "homework", "grade")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_with_its_default(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "default" in text
    if command == "measure":
        for field in dataclasses.fields(Parameters):
            assert "--" + field.name.replace("_", "-") in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measur"], "Did you mean 'measure'? (see"),
        (["measure", "--profile", "quik"], "Did you mean 'quick'"),
        (["measure", "--budgte", "0.1"], "Possible options: --budget"),
        (["measure", "--budget", "a"], "not a number"),
        (["measure", "--budget", "1.5"], "outside (0, 1]"),
        (["measure", "--window", "1.5"], "valid integer"),
        (["measure", "--methods", "ChunkKV,SnapKv"], "Did you mean 'SnapKV'"),
        (["measure", "--model", "smolm2-135m"], "Did you mean 'smollm2-135m'"),
        (["measure", "--device", "cuda:9"], "not present"),
        (["measure", "--profile", "needles", "--data-path", "data.zip"], "for source 'longbench' alone"),
        (["verify", "no-such-run"], "no run at"),
        (["book", "--profile", "nope"], "unknown profile"),
        (["book", "-p", "budgte=0.1"], "Did you mean 'budget'"),
        (["book", "-p", "budget"], "budget"),
        ([], "Missing command"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    if arguments[:1] == ["measure"]:
        arguments = [*arguments, "--run", str(tmp_path / "run")]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_wrong_path_of_data_is_told_before_anything_is_loaded(capsys, tmp_path):
    options = ["--source", "longbench", "--data-path", str(tmp_path / "nowhere.zip"), "--run", str(tmp_path / "run")]
    assert main(["measure", *options]) == 2
    error = capsys.readouterr().err
    assert "nowhere.zip" in error and "Loading" not in error and not list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be_written_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    assert main(["students", "--output", str(tmp_path / "file" / "copies")]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: cannot write") and "file" in error and len(error.splitlines()) == 1
