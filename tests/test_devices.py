"""Layers on several GPUs, as `device_map="auto"` puts them: no operation mixes devices, the numbers stay.

The GPUs are not there: tensors of the CPU carry the name of a device, and must not be mixed. Inside `FakeDevices` a
tensor says that it lives on a device such as "cuda:1"; an operation on tensors of different devices raises, as it would
on the real ones; `.to(device)` and `device=` move and place. The arithmetic is the CPU's.
"""

import copy
from functools import partial

import pandas as pd
import pytest
import torch
from common import tiny_model, token_ids
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

from chunkkv_lib import Sequence, analyse, preset
from chunkkv_lib.capture import capture
from chunkkv_lib.decoding import CompressedCache, generate

pytestmark = pytest.mark.usefixtures("one_thread")

PLACES = ["cuda:0", "cuda:1", "cuda:2"]
SEQUENCE = Sequence.from_ids(token_ids(100), token_ids(6, seed=1))
CPU = torch.device("cpu")
MOVES = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.copy_}


def put(x: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """Give a tensor a device's name, in place."""
    x._lives_on = torch.device(device)
    return x


def place(x: torch.Tensor) -> torch.device:
    return getattr(x, "_lives_on", CPU)


class FakeDevices(TorchFunctionMode):
    """The block runs as if named devices were there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.device] = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        if function == torch.Tensor.device.__get__:
            return place(args[0])
        wanted = named(function, args, kwargs)
        # A number on the CPU may meet any device, as may indices on the CPU that pick from a tensor.
        places = {place(x) for x in tensors if x.dim() or place(x) != CPU}
        if function is torch.Tensor.__getitem__:
            places -= {CPU}
        if len(places) > 1 and function not in MOVES:
            raise RuntimeError(f"{function} on tensors of {sorted(map(str, places))}")
        here = wanted or (place(args[0]) if function in MOVES else next(iter(places), CPU))
        self.seen.add(here)
        moved = tree_map_only(torch.device, lambda _: CPU, (args, kwargs))
        result = function(*moved[0], **moved[1])
        if function in MOVES and result is args[0] and here != place(result):
            result = result.view_as(result)  # another tensor, as a move makes one
        return tree_map_only(torch.Tensor, lambda x: put(x, here), result)


def named(function, args: tuple, kwargs: dict) -> torch.device | None:
    """The device that a call names."""
    if function is torch.Tensor.cpu:
        return CPU
    device = kwargs.get("device")
    if device is None and function is torch.Tensor.to:
        device = next((x for x in args[1:] if isinstance(x, torch.device)), None)
    return device if device is None else torch.device(device)


def spread(model, devices: list[str]) -> None:
    """Put a Llama's layers on devices in turn, the embedding on the first; hidden states move with the layers."""

    def move(device, module, args, kwargs):
        return tree_map_only(torch.Tensor, lambda x: x.to(device), (args, kwargs))

    def bring_back(module, args, result):
        result.logits = result.logits.to(torch.device(devices[0]))  # as accelerate does: where the input was
        return result

    parts = {model.model.embed_tokens: devices[0], model.model.rotary_emb: devices[0]}
    parts |= {layer: devices[i * len(devices) // len(model.model.layers)] for i, layer in enumerate(model.model.layers)}
    parts |= {model.model.norm: devices[-1], model.lm_head: devices[-1]}
    for module, device in parts.items():
        for x in (*module.parameters(), *module.buffers()):
            put(x, device)
        module.register_forward_pre_hook(partial(move, torch.device(device)), with_kwargs=True)
    model.register_forward_hook(bring_back)


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
