"""The way over the model hub, with a stand-in for it: the paper's profile end to end, and what can go wrong on it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub import COMMIT, running_hub
from sequence_parts import LONGBENCH_SETS, a_row, archive, as_lines
from tiny import WORDS, change_json, tiny_model

from chunkkv_lib.runs import load_run
from chunkkv_lib.sequences import longbench

ROOT = Path(__file__).resolve().parents[1]
MODEL, DATA = "meta-llama/Meta-Llama-3-8B-Instruct", f"datasets/{longbench.REPOSITORY}"


pytestmark = pytest.mark.slow  # each starts a process of its own


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The gated model of the paper, here tiny and open, and LongBench's archive at its pinned revision."""
    folder = tmp_path_factory.mktemp("hub")
    with running_hub() as hub:
        (folder / "data").mkdir()
        rows = {
            name: as_lines([a_row(name, i, context=f"{name} {i} " + " ".join(WORDS * 20)) for i in (0, 1)])
            for name in LONGBENCH_SETS
        }
        archive(folder / "data" / "data.zip", **rows)
        hub.folders = {MODEL: tiny_model(folder / "model"), DATA: folder / "data"}
        change_json(folder / "model" / "config.json", max_position_embeddings=8192)  # as the paper's model has
        hub.revisions[DATA] = longbench.REVISION
        hub.official = {name: longbench._blob_id(content) for name, content in rows.items()}
        yield hub


def python(hub, home: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a script in a process whose hub is the stand-in, and whose copies of its files are below `home`."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    known |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    options = {"env": known | environment, "cwd": home, "timeout": 300, "stdin": subprocess.DEVNULL}
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, **options)


OFFICIAL = "from chunkkv_lib.sequences import longbench; longbench.OFFICIAL = {official!r}\n"
MAIN = "import sys; from chunkkv_lib.__main__ import main; sys.exit(main(sys.argv[1:]))"
EXECUTE = """
import sys
from pathlib import Path
from chunkkv_lib.book.build import clean_environment, execute
from chunkkv_lib.book.chapters import read_chapters
from chunkkv_lib.book.parameters import parse_assignments
name, folder, *given = sys.argv[1:]
chapter = next(one for one in read_chapters(Path.cwd()) if one.name.endswith(name))
with clean_environment(Path(folder)):
    execute(chapter, parse_assignments(given, [chapter]), Path.cwd(), Path(folder) / f"{name}.ipynb")
"""
LOAD = """
import json, sys
from chunkkv_lib import InputError, load_model
for name in sys.argv[1:]:
    try:
        load_model(name, "cpu")
        print(json.dumps([name, "loaded"]))
    except InputError as error:
        print(json.dumps([name, str(error)]))
"""


@pytest.fixture(scope="module")
def paper(hub, tmp_path_factory):
    """A clone in which the paper's profile was measured, as `paper`: four sequences of every category.

    The archive and the weights break off once, and are resumed.
    """
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "chunkkv_lib", clone / "chunkkv_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("chapters", "data", "_toc.yml", "requirements.txt", "Makefile"):
        (clone / name).symlink_to(ROOT / name)
    hub.cuts.update(["data.zip", "model.safetensors"])
    done = measure(hub, clone)
    assert done.returncode == 0, done.stderr
    return clone


def measure(hub, clone: Path, **environment: str) -> subprocess.CompletedProcess:
    options = ["--device", "cpu", "--dtype", "float32", "--max-tokens", "128", "--per-category", "4", "--run", "paper"]
    script = OFFICIAL.format(official=hub.official) + MAIN
    return python(hub, clone, script, "measure", "--profile", "paper", *options, PYTHONPATH=str(clone), **environment)


def test_the_papers_profile_runs_over_the_hub(hub, paper):
    run = load_run(paper / "runs" / "paper")
    assert run.manifest["status"] == "complete" and len(run.sequences) == 20 and run.layers["kv_l1_loss"].notna().all()
    assert run.manifest["model"]["name"] == MODEL and run.manifest["model"]["revision"] == COMMIT
    assert run.manifest["data"]["revision"] == longbench.REVISION
    assert hub.requested[f"GET {MODEL} model.safetensors"] == hub.requested[f"GET {DATA} data.zip"] == 2
    again = measure(hub, paper, HF_HUB_OFFLINE="1")
    assert again.returncode == 0 and "nothing to measure" in again.stderr + again.stdout


@pytest.mark.parametrize("chapter", ["06_layers", "09_significance", "10_your_own"])
def test_chapters_show_a_run_of_the_papers_profile(chapter, hub, paper, tmp_path):
    """As `book -p published=paper` executes them; chapter 10's live run is of the hub's model as well."""
    given = (chapter, str(tmp_path), "published=paper", *([f"model={MODEL}"] if chapter == "10_your_own" else []))
    done = python(hub, paper, EXECUTE, *given, PYTHONPATH=str(paper))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Llama-3-8B-Instruct" in (tmp_path / f"{chapter}.ipynb").read_text(encoding="utf-8")


def test_models_that_are_not_to_be_had_end_in_one_line(hub, tmp_path):
    hub.closed.update({"gated/ask": 401, "gated/no": 403})
    hub.folders["slow/model"] = tiny_model(tmp_path / "model")
    hub.delay["model.safetensors"] = 30
    names = ["gated/ask", "gated/no", "nobody/nothing", "slow/model"]
    try:
        done = python(hub, tmp_path, LOAD, *names, HF_HUB_DOWNLOAD_TIMEOUT="1")
    finally:
        hub.delay.clear()
    said = dict(json.loads(line) for line in done.stdout.splitlines())
    assert list(said) == names, done.stderr
    assert all("could not be loaded" in text and "\n" not in text for text in said.values())
    assert all("Ask for access" in said[name] and "hf auth login" in said[name] for name in names[:2])
    assert "Check the name" in said["nobody/nothing"] and "connect to the network" in said["slow/model"]
