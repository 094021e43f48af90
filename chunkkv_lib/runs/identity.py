"""What makes two runs the same, and what a manifest says about the machine besides."""

import importlib.metadata
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

import torch

from ..errors import InputError
from ..measure import MEASUREMENT_VERSION
from ..models import fingerprint
from ..sequences import needles, second_question, source_identity
from .folder import ROOT
from .parameters import Parameters

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pandas", "datasets", "lm-eval", "gguf")


def identity_of(settings: Parameters) -> dict[str, object]:
    """What two runs must have in common to be the same. Files are hashed; the model is not loaded."""
    return {
        "parameters": settings.as_dict(),
        "model": fingerprint(settings.model),
        "data": data_identity(settings),
        "measurement_version": MEASUREMENT_VERSION,
    }


def data_identity(settings: Parameters) -> dict[str, object]:
    """What a manifest says about the data of a run."""
    own = {one.SOURCE: one.VERSION for one in (needles, second_question)}
    if settings.source not in own:
        return source_identity(settings.source, settings.data_path)
    found = source_identity("open", settings.data_path)  # the texts that they are made of
    return found | {"source": settings.source, "source_version": own[settings.source]}


def refuse_another_run(folder: Path, manifest: dict, identity: dict) -> None:
    """raises InputError: the folder's run has another identity; the message names the first part that differs."""
    old = {key: manifest[key] for key in identity}
    old["parameters"] = Parameters().as_dict() | old["parameters"]  # recorded before there was such a parameter
    old["model"] = {key: old["model"].get(key) for key in identity["model"]}
    if changed := differences(old, identity):
        what = changed[0].removeprefix("parameters.") + (" and other differences" if changed[1:] else "")
        raise InputError(f"{folder} holds a run with {what}: choose another --run, or replace it with --restart.")


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """What differs between two nested records, in words: "model.dtype=float32, not bfloat16"."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            a, b = (text if len(text) <= 60 else f"{text[:57]}..." for text in (str(a), str(b)))
            found.append(f"{prefix}{key}={a}, not {b}")
    return found


def described_code() -> str | None:
    """The commit of this library as git describes it, for information; None outside a clone or without git."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a measurement runs through."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def machine() -> dict[str, object]:
    """What the measurement ran on, without any name that would identify its owner."""
    info = {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}
    info |= {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}
    if torch.cuda.is_available():
        info["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return info
