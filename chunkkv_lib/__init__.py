"""KV-cache compression, layer by layer: what ChunkKV, SnapKV and H2O throw away, and whether it matters.

    from chunkkv_lib import ChunkKV, SnapKV, H2O            # which tokens stay
    from chunkkv_lib import kv_l1_loss, attention_cosine_similarity   # what was lost
    from chunkkv_lib import load_model, Sequence, analyse   # one sequence on a real model

What is not listed here is found in the module of its subject.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

# ruff: noqa: F403
if TYPE_CHECKING:  # so that an editor finds every name; at run time each is imported when it is first used
    from .attention import *
    from .compressors import *
    from .decoding import *
    from .errors import *
    from .measure import *
    from .metrics import *
    from .models import *
    from .runs import *
    from .sequence import *
    from .sequences import *

__version__ = "0.1.0"


def _lazily(package: str, homes: dict[str, tuple[str, ...]]) -> tuple:
    """`__all__` and `__getattr__` of a package: module -> its names, each loaded when it is first used.

    So the pure functions do not pay for transformers, datasets or matplotlib, and no `--help` for torch.
    """
    home = {name: module for module, names in homes.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(_import_module(f".{home[name]}", package), name)

    return sorted(home), __getattr__


__all__, __getattr__ = _lazily(__name__, {
    "compressors": (
        "ChunkKV", "SnapKV", "H2O", "StreamingLLM", "Recent", "Random", "Oracle", "METHODS", "budget_tokens", "preset",
        "Compressor", "WindowCompressor",
    ),
    "attention": ("PromptAttention", "attention_rows", "column_sums"),
    "metrics": (
        "kv_l1_loss", "kv_l1_absolute", "cache_cosine", "attention_cosine_similarity", "attention_mass",
        "attention_output_cosine", "overlap", "passage_survival",
    ),
    "errors": ("InputError",),
    "models": ("load_model",),
    "sequence": ("Sequence",),
    "sequences": ("CATEGORIES", "load_sequences"),
    "decoding": ("generate",),
    "measure": ("analyse",),
    "runs": ("live_run", "load_run", "trial_run"),
})  # fmt: skip


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
