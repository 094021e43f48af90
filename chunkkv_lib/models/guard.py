"""What transformers complains of while it loads a model: an error of one line, or a line on stderr; never swallowed."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from transformers.utils import logging as transformers_logging

from ..errors import InputError
from ..files import say

# Word in an exception's message -> what to do about it; the first that fits counts.
_REMEDIES = {
    "holds integers": "Put its quantization_config back, or take the unquantised model.",
    "custom code": "Code from a model's repository is never run here: take a model that transformers knows by itself.",
    "gated": "Ask for access on the model's page, then `hf auth login`.",
    "no file named model.safetensors": "Weights are read from safetensors only, not from pickles (.bin): load the "
    "model elsewhere once and save it with `save_pretrained`.",
    "utf-8": "Set PYTHONUTF8=1, or choose a path of plain letters; else a file in it is damaged.",
    "safetensor": "The file is damaged or incomplete; download or save it again.",
    "gguf": "The file may be truncated, or of a kind that transformers cannot read: download it again, or pass a "
    "folder in safetensors format.",
    "module 'torch' has no attribute": "Its config.json names no dtype that there is; mend it there, such as float32.",
    "quantiz": "Install the package that its quantization_config asks for, or take the unquantised model.",
    "": "Check the name; for a hub model connect to the network once (gated ones need `hf auth login`) or pass a local "
    "folder or .gguf file.",
}


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """Around a loader's calls for the model `name`.

    Exceptions of a model that cannot be loaded become an InputError. Warnings are printed to stderr, each once and on
    one line; progress bars are not.
    """
    logger, bars = logging.getLogger("transformers"), transformers_logging.is_progress_bar_enabled()
    handlers, level = logger.handlers, logger.level
    heard: dict[str, None] = {}
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: heard.setdefault(" ".join(record.getMessage().split()))
    logger.handlers, logger.level = [listener], logging.WARNING
    transformers_logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # the libraries below have no common class; tokenizers raises plain Exception
        text = " ".join(str(error).split()) or type(error).__name__
        remedy = next(remedy for word, remedy in _REMEDIES.items() if word in f"{text} {name}".lower())
        raise InputError(f"model {name!r} could not be loaded: {text[:200].rstrip('.')}. {remedy}") from error
    finally:
        logger.handlers, logger.level = handlers, level
        if bars:
            transformers_logging.enable_progress_bar()
        for message in heard:
            if "LOAD REPORT" not in message:  # `check_loaded` says this in fewer words
                say(f"model {name!r}: {message}")


def check_loaded(name: str, found: Mapping[str, Iterable]) -> None:
    """InputError unless every tensor of the model came from the file; a line on stderr for tensors left over.

    found  transformers' loading info. Without this check a missing tensor would hold random numbers.
    """
    missing = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    if missing:
        what = f"{_listed(missing)} in the right shape"
        raise InputError(f"the weights of model {name!r} lack {what}; download or save them again.")
    if found["unexpected_keys"]:
        say(f"model {name!r}: its architecture has no place for {_listed(found['unexpected_keys'])}; left out.")


def check_stored(folder: Path) -> None:
    """ValueError if weights are integers, which without their quantization_config would be read as plain numbers."""
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, "pt") as stored:
            for key in stored.offset_keys():
                if key.endswith(".weight") and stored.get_slice(key).get_dtype()[0] in "IU":
                    raise ValueError(f"{key} holds integers, and config.json does not say what they stand for")


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
