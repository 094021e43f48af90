"""Files and locks on every system: umask, mounts that refuse fsync or locks, Windows, clones that turn line breaks.

And wheels as carriers of data, tested with pip itself and a package index that is a local folder.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from common import ROOT, message, refused
from tiny import command

from chunkkv_lib import files
from chunkkv_lib.files import Wheel, cache_dir, replace_atomically, write_text
from chunkkv_lib.runs import load_run
from chunkkv_lib.runs.folder import locked


def failing(reason: int):
    """A function of the system that fails for this reason."""

    def fail(*arguments):
        raise OSError(reason, os.strerror(reason))

    return fail


def test_a_file_has_the_umasks_mode_and_a_failing_writer_leaves_it_and_nothing_else(tmp_path):
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "file", "old")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    with pytest.raises(RuntimeError), replace_atomically(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("reason", [errno.EPERM, errno.EINVAL])
def test_a_mount_without_fsync_is_written_and_a_full_one_is_told(tmp_path, monkeypatch, reason):
    monkeypatch.setattr(os, "fsync", failing(reason))
    write_text(tmp_path / "file", "text")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "file", "longer text")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "text")]


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_still_keeps_a_second_process_out(tmp_path, monkeypatch, reason):
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", failing(reason))
    for _ in range(2):  # it is free again afterwards
        with locked(tmp_path / "run"):
            (tmp_path / "run" / "manifest.json").touch()
            with refused("another process", "--run"), locked(tmp_path / "run"):
                pass


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
    options = {"env": os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}, "cwd": tmp_path}
    done = subprocess.run([sys.executable, "-c", WINDOWS, *arguments], capture_output=True, text=True, **options)
    assert done.returncode == 0 and load_run(tmp_path / "run").manifest["status"] == "complete", done.stderr[-2000:]


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_a_clone_whose_git_turns_line_breaks_has_the_same_bytes(tmp_path):
    """Tables and pictures hold bytes that look like line breaks."""
    shutil.copyfile(ROOT / ".gitattributes", tmp_path / ".gitattributes")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    names = ["a.png", "a.zip", "a.woff2", "a.parquet", "a.py", "a.ipynb", "Makefile"]
    command = ["git", "check-attr", "text", "eol", "--", *names]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split("\n")
    assert [f"{name}: text: unset" in said for name in names] == [True] * 4 + [False] * 3
    assert all(f"{name}: eol: lf" in said for name in names[4:])
    listed = subprocess.run(["git", "ls-files", "--eol"], cwd=ROOT, capture_output=True, text=True).stdout
    for line in listed.splitlines():  # none outside a clone
        assert "attr/-text" in line if line.startswith("i/-text") else "crlf" not in line.split()[0], line


NAME = "demo-1.0-py3-none-any.whl"
DATA = b"a text\n" * 1000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and pip cut off from every index but the folder `index`."""
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "index"), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("CHUNKKV_CACHE", str(tmp_path / "cache"))
    (tmp_path / "index").mkdir()
    return tmp_path / "cache" / "wheels"


@pytest.fixture
def wheel(cache, tmp_path):
    """A wheel in the index, with one data file; made for another Python, which must not matter for data."""
    path, info = tmp_path / "index" / NAME, "demo-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("demo/text.txt", DATA)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\nRequires-Python: <3\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    content = path.read_bytes()
    return Wheel("demo==1.0", NAME, len(content), hashlib.sha256(content).hexdigest())


def test_downloaded_once_then_offline(wheel, cache, tmp_path, monkeypatch, capfd):
    assert wheel.read("demo/text.txt") == DATA
    assert wheel.path() == cache / NAME
    assert [p.name for p in cache.iterdir()] == [NAME]
    assert "demo==1.0" in capfd.readouterr().err  # a download of 80 MB should not look like a hang
    monkeypatch.setattr(files.subprocess, "run", lambda *_, **__: pytest.fail("pip was called again"))
    assert wheel.read("demo/text.txt") == DATA


def test_settings_of_pip_for_installing_do_not_matter(wheel, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("USER", "REQUIRE_HASHES", "DRY_RUN"):
        monkeypatch.setenv(f"PIP_{name}", "1")
    for name in ("TARGET", "PREFIX", "ROOT", "CONSTRAINT", "REQUIREMENT", "PYTHON", "NO_BINARY", "PLATFORM"):
        monkeypatch.setenv(f"PIP_{name}", "elsewhere")
    (tmp_path / "pip.conf").write_text("[global]\nrequire-hashes = true\nuser = true\ntarget = elsewhere\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert wheel.read("demo/text.txt") == DATA
    assert not (tmp_path / "elsewhere").exists() and [p.name for p in cache.iterdir()] == [NAME]


def test_not_to_be_had_or_another_file(wheel, cache, tmp_path):
    other = Wheel(wheel.requirement, wheel.filename, wheel.bytes, "0" * 64)
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in message(other.path)
    (tmp_path / "index" / NAME).unlink()
    text = message(wheel.path)
    assert "demo==1.0" in text and "No matching distribution" in text and f"put {NAME} into {cache}" in text
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("WARNING: Retrying after connection broken by 'x': /simple/demo/\nERROR: No matching distribution found\n",
         "cannot be reached; pip says: No matching distribution found. Connect"),
        ("ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 28] No space left on device\n",
         "No space left on device"),
        ("/usr/bin/python: No module named pip\n", "No module named pip"),
    ],
)  # fmt: skip
def test_no_connection_a_full_disk_or_no_pip_is_said(wheel, monkeypatch, stderr, said):
    failed = SimpleNamespace(returncode=1, stderr=stderr)
    monkeypatch.setattr(files.subprocess, "run", lambda *_, **__: failed)
    assert said in message(wheel.path)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:100] + b"!" + content[101:]])
def test_damaged_in_the_cache(wheel, damage):
    place = wheel.path()
    content = damage(place.read_bytes())
    place.write_bytes(content)
    text = message(lambda: wheel.read("demo/text.txt"))
    assert str(place) in text and wheel.sha256 in text and hashlib.sha256(content).hexdigest() in text
    place.unlink()  # the remedy works
    assert wheel.read("demo/text.txt") == DATA


def test_without_a_place_to_write_or_a_home_it_is_told_what_to_set(wheel, tmp_path, monkeypatch):
    """As in containers that run under a number nobody has entered."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHUNKKV_CACHE", str(tmp_path / "file" / "cache"))
    assert "CHUNKKV_CACHE" in message(wheel.path)
    for variable in ("HOME", "XDG_CACHE_HOME", "CHUNKKV_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    assert "set CHUNKKV_CACHE" in message(cache_dir)


def test_interrupted_download_leaves_nothing(wheel, cache, monkeypatch):
    def interrupted(command, **_):
        Path(command[command.index("--dest") + 1], NAME).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(files.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wheel.path()
    assert not list(cache.iterdir())


def test_two_processes_at_once(wheel, cache):
    code = f"from chunkkv_lib.files import Wheel; {wheel!r}.read('demo/text.txt')"
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    assert [(process.communicate()[1][-300:], process.returncode)[1] for process in both] == [0, 0]
    assert [p.name for p in cache.iterdir()] == [NAME]
    assert wheel.read("demo/text.txt") == DATA
