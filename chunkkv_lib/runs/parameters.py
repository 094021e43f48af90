"""Everything that can change a number of a run, in one frozen record; profiles are YAML files of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ..errors import InputError, unknown
from ..sequences.schema import CATEGORIES

if TYPE_CHECKING:
    from ..compressors import Compressor

PROFILES = Path(__file__).resolve().parents[2] / "data" / "profiles"
SOURCES = ("open", "longbench", "needles")
# The names in `compressors.METHODS`, which would load torch: the command line reads this module for its options.
METHODS = ("ChunkKV", "SnapKV", "H2O", "StreamingLLM", "Recent", "Random", "Oracle")


def _option(default: object, help: str) -> object:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Parameters:
    """One run's settings. Every field is an option of `python -m chunkkv_lib measure` and a key of a profile."""

    model: str = _option("smollm2-135m", "embedded name, hub id, local folder or .gguf file")
    device: str = _option("auto", "cpu, cuda, cuda:1, mps, or auto: a GPU if there is one")
    dtype: str = _option("auto", "float32, bfloat16, float16, or auto: what the device computes fast")
    device_map: str | None = _option(None, "auto spreads a large model over several GPUs, instead of --device")
    source: str = _option("open", "open: LongBench-shaped open text; longbench: LongBench itself; "
                         "needles: a number hidden in open text")  # fmt: skip
    data_path: str | None = _option(None, "local data.zip or folder for source longbench; without it the hub")
    categories: tuple[str, ...] = _option(CATEGORIES, "rows of the table to measure")
    per_category: int = _option(100, "sequences for each category, or needles for each depth")
    max_tokens: int = _option(4096, "tokens of a prompt; longer ones lose their middle")
    max_answer_tokens: int = _option(32, "tokens of an answer, teacher-forced as probes")
    budget: float | int = _option(0.1, "part of the prompt that stays: a fraction up to 1.0, or a count of tokens")
    preset: str = _option("paper", "hyper-parameters of the methods: paper or kvpress")
    methods: tuple[str, ...] = _option(METHODS, "compressors and controls")
    granularity: str | None = _option(None, "kv_head, query_head or layer: which heads share a kept set")
    group: str | None = _option(None, "mean, max or sum: how the scores of heads that share a set become one")
    window: int | None = _option(None, "tokens of the observation window")
    chunk_size: int | None = _option(None, "tokens of a chunk, ChunkKV only")
    kernel: int | None = _option(None, "positions pooled together, SnapKV only, odd")
    causal: bool = _option(True, "off: H2O's column sums with the historical error")
    reuse: int = _option(1, "layers that share a kept set; 1: none do")
    variants: str | None = _option(None, "sensitivity: also the methods with one hyper-parameter changed at a time")
    all_queries: bool = _option(False, "also measure the attention of all prompt queries; slower")
    max_new_tokens: int = _option(0, "tokens to generate from every cache, at most, and to score; 0: none")
    seed: int = _option(0, "of the sample of sequences and of the Random control")

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, _typed(one.name, one.type, getattr(self, one.name)))
        if self.source not in SOURCES:
            raise unknown("source", self.source, SOURCES)
        for category in self.categories:
            if category not in CATEGORIES:
                raise unknown("category", category, CATEGORIES)
        for method in self.methods:
            if method not in METHODS:
                raise unknown("method", method, METHODS)
        for name in ("per_category", "max_tokens", "max_answer_tokens", "reuse"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} does not work; it must be at least 1.")
        if self.max_new_tokens < 0:
            raise InputError(f"max_new_tokens={self.max_new_tokens} does not work; give 0 for none, or a limit.")
        for name in ("categories", "methods"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; name at least one, or leave it out for all.")
        self.compressors  # noqa: B018  a wrong hyper-parameter is told now, not after the model has been loaded

    @cached_property
    def compressors(self) -> dict[str, Compressor]:
        """The chosen methods with these hyper-parameters in the order of `METHODS`, then the variants by label."""
        from .variants import variants

        base = self.methods_alone
        return base if self.variants is None else variants(self.variants, base)[1]

    @cached_property
    def methods_alone(self) -> dict[str, Compressor]:
        """The chosen methods with these hyper-parameters, without variants."""
        from ..compressors import preset

        own = {
            name: getattr(self, name)
            for name in ("granularity", "group", "window", "chunk_size")
            if getattr(self, name) is not None
        }
        methods = preset(self.preset, budget=self.budget, causal=self.causal, seed=self.seed, **own)
        if self.kernel is not None:  # SnapKV's only: ChunkKV of the paper does not pool
            methods["SnapKV"] = replace(methods["SnapKV"], kernel=self.kernel)
        return {name: method for name, method in methods.items() if name in self.methods}

    def as_dict(self) -> dict[str, object]:
        """The fields as plain values for JSON. Of a local file only the name: its bytes are identified elsewhere."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        for name in ("model", "data_path"):
            if values[name] and Path(values[name]).expanduser().exists():
                values[name] = Path(values[name]).name
        for name in ("variants", "max_new_tokens"):  # as in runs made before there were such
            if not values[name]:
                del values[name]
        return values


def parameters(values: dict[str, object]) -> Parameters:
    """Parameters from names and values; InputError for a name that is no field."""
    known = [one.name for one in fields(Parameters)]
    for name in values:
        if name not in known:
            raise unknown("parameter", name, known)
    return Parameters(**values)


def profiles() -> list[str]:
    """Names of the profiles in data/profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yml"))


def load_profile(name: str, changes: dict[str, object] | None = None) -> Parameters:
    """The parameters of a profile, with some changed; a change to None keeps the profile's value.

    raises InputError: an unknown profile or parameter, a value of the wrong type or outside its limits.
    """
    path = PROFILES / f"{name}.yml"
    if name not in profiles():
        raise unknown("profile", name, profiles())
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {str(error).splitlines()[0]}. Mend the file.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must be a list of 'parameter: value' lines.")
    return parameters(values | {key: value for key, value in (changes or {}).items() if value is not None})


def _typed(name: str, kind: str, value: object) -> object:
    """The value as the field's type, or an InputError."""
    if value is None and kind.endswith("| None"):
        return None
    if kind.startswith("tuple"):
        value = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
        if all(isinstance(part, str) for part in value):
            return value
    base = kind.removesuffix(" | None")
    if base == "bool" and isinstance(value, bool):
        return value
    if base == "str" and isinstance(value, str):
        return value
    if "int" in base and isinstance(value, int) and not isinstance(value, bool):
        return value
    if "float" in base and isinstance(value, float):
        return value
    raise InputError(f"{name}={value!r} has the wrong type; expected {kind.replace(' | None', '')}.")
