"""The Triton kernels on rows and scores against float64 and against the definition; interpreted, and on a GPU."""

from __future__ import annotations

import pytest
import torch
from row_kernel_cases import ROWS, SCORES, inputs, kept_sets, results
from test_kernels import in_a_process, needs_gpu, needs_triton

from chunkkv_lib.attention import kept_outputs
from chunkkv_lib.compressors.base import highest, kept_from_mask
from chunkkv_lib.metrics import KeptSets, row_cosine, row_mass, row_output_cosine


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interpreted")
    return in_a_process(folder, interpret="1", script="row_kernel_cases.py")


@pytest.fixture(scope="module")
def on_the_gpu():
    return results("cuda")


def check_rows(name: str, found: dict[str, torch.Tensor]) -> None:
    rows, values, masks = (x.double() for x in inputs(name))
    heads, sets = len(rows), masks.shape[1]
    keep = masks.repeat_interleave(heads // sets, 1)
    keep = torch.cat([keep, torch.ones_like(keep[:1])])
    without_sink = keep * (torch.arange(keep.shape[2]) > 0)
    for power in (0, 1):
        for first, these in enumerate((keep, without_sink)):
            wanted = torch.einsum("hrn,mhn->mhr", rows ** (power + 1), these)
            torch.testing.assert_close(found["sums"][power, first].cpu().double(), wanted, rtol=5e-6, atol=1e-9)
    repeated = values.repeat_interleave(heads // len(values), 0)
    torch.testing.assert_close(found["weighted"].cpu().double(), rows @ repeated, rtol=1e-5, atol=2e-6)
    kept = kept_sets(name)
    outputs = [kept_outputs(rows, values, kept), found["outputs"].cpu().double()]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=2e-6)
    zeroed = torch.zeros(len(kept), heads, rows.shape[2], dtype=torch.float64)
    zeroed.scatter_(2, kept.repeat_interleave(heads // sets, 1), 1)
    torch.testing.assert_close(outputs[0], (rows * zeroed[:, :, None]) @ repeated)
    wanted = torch.stack([values.abs().sum(-1), values.square().sum(-1)])
    torch.testing.assert_close(found["masses"].cpu().double(), wanted, rtol=2e-6, atol=1e-9)


def check_scores(name: str, found: dict[str, torch.Tensor]) -> None:
    scores, count = SCORES[name]
    order = scores.double().sort(dim=-1, descending=True, stable=True).indices[:, :count]
    assert torch.equal(found["positions"].cpu(), order.sort(-1).values)
    assert torch.equal(found["mask"].cpu().sum(-1), torch.full((len(scores),), count))


@needs_triton
@pytest.mark.parametrize("name", ROWS)
def test_interpreted_sums_equal_the_reference(interpreted, name):
    check_rows(name, interpreted[name])


@needs_triton
@pytest.mark.parametrize("name", SCORES)
def test_interpreted_selection_equals_a_stable_sort(interpreted, name):
    check_scores(name, interpreted[name])


@pytest.mark.parametrize("name", SCORES)
def test_pytorchs_selection_equals_a_stable_sort(name):
    scores, count = SCORES[name]
    mask = highest(scores, count)
    check_scores(name, {"mask": mask, "positions": kept_from_mask(mask, count)})


@needs_gpu
@pytest.mark.parametrize("name", ROWS)
def test_sums_on_the_gpu_equal_the_reference(on_the_gpu, name):
    check_rows(name, on_the_gpu[name])


@needs_gpu
@pytest.mark.parametrize("name", SCORES)
def test_selection_on_the_gpu_equals_a_stable_sort(on_the_gpu, name):
    check_scores(name, on_the_gpu[name])


@needs_gpu
@pytest.mark.parametrize("shapes", [[(2, 30)], [(2, 30), (8, 30), (1, 12)]])
def test_metrics_on_the_gpu_equal_those_on_the_cpu(shapes):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, 32, 1000, generator=generator).mul(3).softmax(-1)
    values = torch.randn(2, 1000, 64, generator=generator).bfloat16()
    kepts = [torch.rand(s, 1000, generator=generator).argsort(-1)[:, :b].sort(-1).values for s, b in shapes]
    here = [KeptSets(kepts, 1000), KeptSets([kept.cuda() for kept in kepts], 1000)]
    for metric in (row_cosine, row_mass, lambda rows, sets: row_cosine(rows, sets, sink=False)):
        torch.testing.assert_close(metric(rows.cuda(), here[1]).cpu(), metric(rows, here[0]), rtol=1e-5, atol=1e-6)
    found = row_output_cosine(rows.cuda(), values.cuda(), here[1]).cpu()
    torch.testing.assert_close(found, row_output_cosine(rows, values, here[0]), rtol=1e-4, atol=1e-5)
