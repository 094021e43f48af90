"""Where the Triton kernels can be used; everything else is PyTorch's."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor


def kernels(name: str, *tensors: Tensor) -> ModuleType | None:
    """The module of Triton kernels `name` inside this library, if these tensors are on a GPU that it works on.

    name     such as "attention.triton_rows"
    tensors  all must be on a GPU with bfloat16 arithmetic, and triton be installed
    """
    if not all(x.is_cuda for x in tensors) or find_spec("triton") is None:
        return None
    if any(torch.cuda.get_device_capability(x.device) < (8, 0) for x in tensors):
        return None
    return import_module(f"{__package__.rpartition('.')[0]}.{name}")
