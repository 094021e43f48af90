"""The methods by name, and the two settings of their hyper-parameters that were really in use."""

from ..errors import check_known
from .base import Compressor
from .chunkkv import ChunkKV
from .controls import Oracle, Random, Recent, StreamingLLM
from .h2o import H2O
from .snapkv import SnapKV

#: Every method, in the order of tables and figures. The command line, the figures and the tests read this list.
METHODS: dict[str, type[Compressor]] = {
    cls.__name__: cls for cls in (ChunkKV, SnapKV, H2O, StreamingLLM, Recent, Random, Oracle)
}

#: "paper": the runner of the paper's time; the paper's own table of hyper-parameters is not public, so this is an
#: assumption. "kvpress": the library into which ChunkKV's author brought the method.
PRESETS: dict[str, dict[str, dict]] = {
    "paper": {},
    "kvpress": {
        "SnapKV": {"window": 64, "kernel": 5, "pooling": "avg"},
        "ChunkKV": {
            "window": 64, "kernel": 5, "pooling": "avg", "chunk_size": 20, "aggregate": "mean", "granularity": "layer",
        },
    },
}  # fmt: skip

#: Two more methods by name, with the same reach: both look at 15 neighbours. Their fields come before all others.
EXTRA: dict[str, tuple[type[Compressor], dict]] = {
    "SnapKV-15": (SnapKV, {"kernel": 15, "pooling": "max"}),
    "ChunkKV-15": (ChunkKV, {"chunk_size": 10, "kernel": 15, "pooling": "max"}),
}


def preset(name: str = "paper", extra: bool = False, **fields: object) -> dict[str, Compressor]:
    """All methods with the hyper-parameters of a preset.

    name    "paper" or "kvpress"
    extra   also those of `EXTRA`
    fields  hyper-parameters that replace the preset's, for the methods that have them: budget=0.2, chunk_size=5
    return  method name -> compressor, in the order of `METHODS`
    raises InputError: an unknown preset or field, or a value that a method refuses.
    """
    check_known("preset", name, PRESETS)
    known = sorted({field for cls in METHODS.values() for field in cls.__dataclass_fields__})
    for field in fields:
        check_known("hyper-parameter", field, known)
    methods = {}
    for method, (cls, own) in ({key: (cls, {}) for key, cls in METHODS.items()} | (EXTRA if extra else {})).items():
        wanted = PRESETS[name].get(cls.__name__, {}) | fields | own
        methods[method] = cls(**{key: value for key, value in wanted.items() if key in cls.__dataclass_fields__})
    return methods
