"""Files and locks on every system: umask, mounts that refuse fsync or locks, Windows, clones that turn line breaks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from common import refused
from tiny import command

from chunkkv_lib.files import replace_atomically, sha256, write_text
from chunkkv_lib.runs import load_run
from chunkkv_lib.runs.folder import locked

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_is_respected(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(RuntimeError), replace_atomically(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("reason", [errno.EPERM, errno.EINVAL, errno.ENOSPC])
def test_a_mount_without_fsync_is_written_and_a_full_one_is_told(tmp_path, monkeypatch, reason):
    def fsync(file):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "fsync", fsync)
    if reason == errno.ENOSPC:
        with pytest.raises(OSError, match="No space"):
            write_text(tmp_path / "file", "text")
        assert not list(tmp_path.iterdir())
    else:
        write_text(tmp_path / "file", "text")
        assert (tmp_path / "file").read_text() == "text"


def test_a_hash_follows_the_file(tmp_path):
    write_text(tmp_path / "file", "one")
    one = sha256(tmp_path / "file")
    write_text(tmp_path / "file", "two")
    assert sha256(tmp_path / "file") != one


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_still_keeps_a_second_process_out(tmp_path, monkeypatch, reason):
    fcntl = pytest.importorskip("fcntl")

    def flock(file, operation):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):  # it is free again afterwards
        with locked(tmp_path / "run"):
            (tmp_path / "run" / "manifest.json").touch()
            with refused("another process", "--run"), locked(tmp_path / "run"):
                pass


def test_everything_is_there_without_fcntl(tmp_path):
    """As on Windows; there filelock has a lock of its own."""
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from chunkkv_lib import InputError, analyse, live_run, load_run\n"
        "from chunkkv_lib.runs.folder import Path, locked\n"
        "with locked(Path('run')):\n"
        "    try: locked(Path('run')).__enter__()\n"
        "    except InputError as error: print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "another process" in done.stdout, done.stderr
    assert not (tmp_path / "run").exists(), "an empty folder is not left behind"


#: What Windows lacks is taken away once the libraries, which ask for the name of the system, are there.
WINDOWS = """
import os, sys
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "geteuid", "getloadavg", "sched_getaffinity", "killpg", "setsid"):
    if hasattr(os, name):
        delattr(os, name)
from chunkkv_lib.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_run_needs_nothing_that_windows_lacks(setting, tmp_path):
    arguments = command(setting, tmp_path / "run", per_category=1)[3:]  # without "python -m chunkkv_lib"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", WINDOWS, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and load_run(tmp_path / "run").manifest["status"] == "complete", done.stderr[-2000:]


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_a_clone_whose_git_turns_line_breaks_has_the_same_bytes(tmp_path):
    """The smallest file of every kind that is committed; tables and pictures hold bytes that look like line breaks."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    tracked = sorted((ROOT / name for name in listed if name and (ROOT / name).is_file()), key=os.path.getsize)
    if not tracked:
        pytest.skip("not a clone")
    smallest = {path.suffix: path for path in reversed(tracked) if path.stat().st_size}
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    for path in [ROOT / ".gitattributes", *smallest.values()]:
        shutil.copyfile(path, one / path.name)
    for name in ("a.png", "a.zip", "a.woff2", "a.parquet"):
        (one / name).write_bytes(b"no zero byte\r\nand\nnone here")
    before = {path.name: path.read_bytes() for path in one.iterdir()}
    git = ("git", "-c", "core.autocrlf=true", "-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "files"), ("clone", "-q", ".", str(two))):
        subprocess.run([*git, *arguments], cwd=one, check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in two.iterdir() if path.is_file()} == before
