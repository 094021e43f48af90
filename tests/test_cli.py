"""The command line: every mistake is one line and status 2; and what an import costs and does."""

import subprocess
import sys
from pathlib import Path

import pytest

from chunkkv_lib.__main__ import main

COMMANDS = ("measure", "verify", "book", "pdf", "students", "tidy", "bench", "homework", "grade")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_with_defaults(command, capsys):
    assert main([command, "--help"]) == 0
    assert "default" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measur"], "Did you mean 'measure'? (see"),
        (["measure", "--profile", "quik"], "Did you mean 'quick'"),
        (["measure", "--budgte", "0.1"], "Possible options: --budget"),
        (["measure", "--budget", "a"], "not a number"),
        (["measure", "--budget", "1.5"], "outside (0, 1]"),
        (["measure", "--methods", "ChunkKV,SnapKv"], "Did you mean 'SnapKV'"),
        (["measure", "--model", "smolm2-135m"], "Did you mean 'smollm2-135m'"),
        (["measure", "--device", "cuda:9"], "not present"),
        (["measure", "--profile", "needles", "--data-path", "data.zip"], "for source 'longbench' alone"),
        (["measure", "--source", "longbench", "--data-path", "nowhere.zip"], "nowhere.zip"),
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
    assert not list(tmp_path.iterdir())
    assert "Loading" not in error or message != "nowhere.zip", "told before anything is loaded"


def test_a_place_where_nothing_can_be_written_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    assert main(["students", "--output", str(tmp_path / "file" / "copies")]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: cannot write") and "file" in error and len(error.splitlines()) == 1


def run(code: str, folder: Path) -> str:
    """What a fresh interpreter prints; it must succeed in silence, and leave no file."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    options = {"capture_output": True, "text": True, "cwd": folder, "env": environment, "timeout": 120}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert (done.returncode, done.stderr) == (0, "") and not [path for path in folder.rglob("*") if path.is_file()]
    return done.stdout


HEAVY = {"transformers", "datasets", "matplotlib", "seaborn", "papermill", "sklearn", "torch", "pandas"}


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import chunkkv_lib", set()),
        ("from chunkkv_lib import ChunkKV, H2O, kv_l1_loss, attention_cosine_similarity", {"torch"}),
        ("from chunkkv_lib.book import provenance, project_root; project_root()", set()),
        ("import chunkkv_lib.__main__", set()),  # so that every --help answers at once
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement, allowed, tmp_path):
    loaded = set(run(f"import sys; {statement}; print(*sys.modules)", tmp_path).split())
    assert "chunkkv_lib" in loaded and HEAVY & loaded <= allowed


EFFECTS = """
import os, random, threading, torch, transformers
from transformers import AttentionInterface, AttentionMaskInterface
def state():
    kinds = [sorted(registry.valid_keys()) for registry in (AttentionInterface(), AttentionMaskInterface())]
    numbers = [torch.get_num_threads(), threading.active_count(), transformers.logging.get_verbosity()]
    settings = [torch.is_grad_enabled(), torch.get_default_dtype(), os.getcwd(), {**os.environ}]
    return [kinds, numbers, settings, torch.get_rng_state().tolist(), random.getstate()]
before = state()
import chunkkv_lib
assert len([getattr(chunkkv_lib, name) for name in chunkkv_lib.__all__]) >= 25 and state() == before
"""


def test_importing_everything_changes_no_setting(tmp_path):
    assert run(EFFECTS, tmp_path) == ""
