"""The Triton kernels against float64: interpreted on the CPU, compiled for GPUs that are not here, run where one is."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import references as ref
import torch
from kernel_cases import CASES, GPUS, inputs

from chunkkv_lib import attention as module
from chunkkv_lib.attention import PromptAttention, column_sums, log_sum_exp
from chunkkv_lib.compressors import H2O

TESTS = Path(__file__).parent
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None,
    reason="triton is not installed; PyTorch's CUDA wheels bring it, elsewhere: pip install triton==3.7.1",
)
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("triton") is None, reason="needs a CUDA GPU and triton"
)
each_case = pytest.mark.parametrize("name", CASES)


def in_a_process(folder: Path, *arguments: str, interpret: str = "0") -> dict:
    """What `kernel_cases.py` writes. Triton reads TRITON_INTERPRET when it is imported."""
    cache = {"TRITON_INTERPRET": interpret, "TRITON_CACHE_DIR": str(folder / "cache")}
    paths = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, str(TESTS / "kernel_cases.py"), str(folder / "results.pt"), *arguments],
        check=True, env=os.environ | cache | {"PYTHONPATH": paths}, timeout=300,
    )  # fmt: skip
    return torch.load(folder / "results.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return in_a_process(tmp_path_factory.mktemp("interpreted"), interpret="1")


def check(name: str, lse: torch.Tensor, sums: torch.Tensor) -> None:
    # Inputs of 16 bits carry their rounding into both sides; the arithmetic is float32.
    assert lse.dtype == sums.dtype == torch.float32
    q, k = (ref.array(x) for x in inputs(name))
    np.testing.assert_allclose(lse.cpu(), ref.log_sum_exp(q, k), rtol=2e-6, atol=5e-6)
    np.testing.assert_allclose(sums.cpu(), ref.column_sums(q, k), rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(sums.sum(-1).cpu(), lse.shape[1], rtol=1e-5)


@needs_triton
@each_case
def test_interpreted_kernels_equal_the_reference(results, name):
    check(name, *results[name])


@needs_triton
def test_the_compiler_takes_the_kernels_and_shared_memory_suffices(tmp_path):
    for needs in in_a_process(tmp_path, *GPUS).values():
        assert sorted(needs) == ["_column_sums_kernel", "_log_sum_exp_kernel"]
        assert all(0 < used <= available for used, available in needs.values())


def stand_in(dtype=torch.bfloat16, head_dim=128, is_cuda=True) -> SimpleNamespace:
    """What the choice of a path looks at in a tensor."""
    return SimpleNamespace(is_cuda=is_cuda, device="cuda:1", dtype=dtype, shape=(4, 100, head_dim))


@needs_triton
def test_which_tensors_go_to_the_kernels(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: {"cuda:1": (8, 0)}[device])
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert module._triton(stand_in(dtype), stand_in(dtype)).__name__.endswith("attention_triton")
    for other in (stand_in(torch.float64), stand_in(head_dim=257), stand_in(is_cuda=False)):
        assert module._triton(other, other) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert module._triton(stand_in(), stand_in()) is None
    monkeypatch.undo()
    monkeypatch.setattr(module, "find_spec", lambda name: None)  # not installed
    assert module._triton(stand_in(), stand_in()) is None


def test_column_sums_take_the_kernels_where_there_are_some(monkeypatch):
    """The log-sum-exp too, unless it is given."""
    calls = []
    kernels = SimpleNamespace(
        log_sum_exp=lambda queries, keys: calls.append("lse") or torch.zeros(queries.shape[:2]),
        column_sums=lambda queries, keys, lse: calls.append("sums") or lse + 1,
    )
    queries, keys, _ = ref.random_layer(4, 2, 10)  # float64, which no CPU kernel takes
    monkeypatch.setattr(module, "_triton", lambda queries, keys: kernels)
    assert (PromptAttention(queries, keys).column_sums() == 1).all()
    assert calls == ["lse", "sums"]
    assert (PromptAttention(queries, keys, torch.ones(4, 10)).column_sums() == 2).all()
    assert calls == ["lse", "sums", "sums"]


@needs_gpu
@each_case
def test_kernels_on_the_gpu_equal_the_reference(name):
    """The library's own functions, with the tiles that they choose."""
    queries, keys = inputs(name, "cuda")
    assert module._triton(queries, keys) is not None
    check(name, log_sum_exp(queries, keys), column_sums(queries, keys))


@needs_gpu
@pytest.mark.parametrize("head_dim", [64, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_kernels_and_pytorch_agree_on_the_gpu(head_dim, dtype, monkeypatch):
    """On a prompt of many tiles, whose sums also come out with the same bits every time."""
    queries, keys, _ = (x.cuda() for x in ref.random_layer(8, 2, 2049, head_dim, dtype=dtype))
    first = column_sums(queries, keys)
    assert torch.equal(column_sums(queries, keys), first)
    kept = H2O().select(queries, keys)
    monkeypatch.setattr(module, "_triton", lambda queries, keys: None)
    torch.testing.assert_close(column_sums(queries, keys), first, rtol=1e-4, atol=1e-5)
    same = (kept[:, :, None] == H2O().select(queries, keys)[:, None]).any(-1).float().mean()
    assert same > 0.99  # rounding may swap two tokens with nearly the same score
