"""Layers on several GPUs, as `device_map="auto"` puts them: no operation mixes devices, the numbers stay."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
import torch
from common import tiny_model, token_ids
from fake_devices import FakeDevices, put, spread

from chunkkv_lib import Sequence, analyse, preset
from chunkkv_lib.capture import capture
from chunkkv_lib.decoding import CompressedCache, generate

pytestmark = pytest.mark.usefixtures("one_thread")

PLACES = ["cuda:0", "cuda:1", "cuda:2"]
SEQUENCE = Sequence.from_ids(token_ids(100), token_ids(6, seed=1))


@pytest.fixture
def spread_model():
    model = copy.deepcopy(tiny_model())
    spread(model, PLACES)
    return model


def test_the_fake_devices_refuse_to_mix():
    with FakeDevices():
        a, b = put(torch.ones(3), "cuda:0"), put(torch.ones(3), "cuda:1")
        with pytest.raises(RuntimeError, match=r"cuda:0.*cuda:1"):
            a + b
        assert (a + b.to(a.device)).device == a.device == torch.device("cuda:0")
        assert torch.zeros(2, device=b.device).device == b.device and a.tolist() == [1, 1, 1]


@pytest.mark.parametrize("reuse", [1, 2])
def test_analysis_of_layers_on_several_devices(spread_model, reuse):
    methods = preset() | preset(granularity="layer") if reuse == 1 else preset()
    expected = analyse(tiny_model(), SEQUENCE, methods, reuse, all_queries=True)
    with FakeDevices() as mode:
        found = analyse(spread_model, SEQUENCE, methods, reuse, all_queries=True)
    assert {str(device) for device in mode.seen} >= set(PLACES)
    for mine, theirs in zip(found, expected):
        pd.testing.assert_frame_equal(mine, theirs, rtol=1e-4, atol=1e-5)


def test_generation_from_layers_on_several_devices(spread_model):
    def continuation(model):
        cache, n = CompressedCache(100), 100
        methods = preset()
        del methods["Oracle"]

        def visit(layer):
            kept = [method.select(layer.queries[:, :n], layer.keys[:, :n]) for method in methods.values()]
            cache.add(layer.keys, layer.values, kept)

        first = capture(model, token_ids(n), visit)[-1].argmax().item()
        return generate(model, cache, first, max_new_tokens=5)

    expected = continuation(tiny_model())
    with FakeDevices():
        assert continuation(spread_model) == expected
