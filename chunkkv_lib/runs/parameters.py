"""Everything that can change a number of a run, in one frozen record; profiles are YAML files of it.

Light to import: no torch, no transformers.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ConfigDict, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from ..errors import InputError, check_known, check_whole
from ..files import DATA
from ..sequences import needles, second_question
from ..sequences.schema import CATEGORIES, CATEGORY_OF

if TYPE_CHECKING:
    from ..compressors import Compressor

PROFILES = DATA / "profiles"
SOURCES = ("open", "longbench", needles.SOURCE, second_question.SOURCE)
# Names that `compressors` has too, which would load torch: the command line reads this module for its options.
METHODS = ("ChunkKV", "SnapKV", "H2O", "StreamingLLM", "Recent", "Random", "Oracle")
EXTRA = ("SnapKV-15", "ChunkKV-15")
PRESETS = ("paper", "kvpress")
SINGULAR = {"categories": "category", "datasets": "data set", "forms": "form", "methods": "method"}


def _option(default: object, help: str, choices: tuple[str, ...] = (), least: int | None = None) -> object:
    """A field with what the command line, the book's table of options and the checks below want to know of it."""
    return field(default=default, metadata={"help": help, "choices": choices, "least": least})


def _one_line_errors(record: type) -> type:
    """Let a pydantic dataclass refuse values with an InputError of one line, also in `dataclasses.replace`."""
    build = record.__init__

    @functools.wraps(build)
    def __init__(self, **values: object) -> None:
        kinds = {one.name: one.type for one in fields(record)}
        for name in values:
            check_known("parameter", name, kinds)
        try:
            build(self, **values)
        except ValidationError as error:
            name = error.errors()[0]["loc"][0]
            kind = kinds[name].replace(" | None", "").replace("tuple[str, ...]", "a list of names")
            raise InputError(f"{name}={values[name]!r} has the wrong type; expected {kind}.") from None
        self.check()

    record.__init__ = __init__
    return record


@_one_line_errors
@dataclass(frozen=True, config=ConfigDict(strict=True))
class Parameters:
    """One run's settings. Every field is an option of `python -m chunkkv_lib measure` and a key of a profile.

    A new field is one more line here: runs recorded without it count as having its default.
    """

    model: str = _option("smollm2-135m", "embedded name, hub id, local folder or .gguf file")
    device: str = _option("auto", "cpu, cuda, cuda:1, mps, or auto: a GPU if there is one")
    dtype: str = _option("auto", "float32, bfloat16, float16, or auto: what the device computes fast")
    device_map: str | None = _option(None, "auto spreads a large model over several GPUs, instead of --device")
    source: str = _option("open", "open: open text in LongBench's shapes; longbench: LongBench itself; needles: hidden "
                         "codes; second-question: one asked after the compression", SOURCES)  # fmt: skip
    data_path: str | None = _option(None, "local data.zip or folder for source longbench; without it the hub")
    categories: tuple[str, ...] = _option(CATEGORIES, "rows of the table to measure", CATEGORIES)
    datasets: tuple[str, ...] = _option((), "only these data sets of the rows; none named: all", tuple(CATEGORY_OF))
    per_category: int = _option(100, "sequences of a category, needles of a form and length, or pairs in all", least=1)
    skip: int = _option(0, "sequences of each row to leave out first: those that another run has drawn", least=0)
    max_tokens: int = _option(4096, "tokens of a prompt; longer ones lose their middle", least=1)
    max_answer_tokens: int = _option(32, "tokens of an answer, teacher-forced as probes", least=1)
    forms: tuple[str, ...] = _option(tuple(needles.FORMS), "how needles are worded", tuple(needles.FORMS))
    asks: tuple[str, ...] = _option(second_question.ASKS, "what the window sees of a second question: the question "
                                    "itself, a neutral sentence, another question", second_question.ASKS)  # fmt: skip
    budget: float | int = _option(0.1, "part of the prompt that stays: a fraction up to 1.0, or a count of tokens")
    preset: str = _option("paper", "hyper-parameters of the methods: paper or kvpress", PRESETS)
    methods: tuple[str, ...] = _option(METHODS, "compressors and controls", (*METHODS, *EXTRA))
    granularity: str | None = _option(None, "kv_head, query_head or layer: which heads share a kept set")
    group: str | None = _option(None, "mean, max or sum: how the scores of heads that share a set become one")
    window: int | None = _option(None, "tokens of the observation window", least=1)
    chunk_size: int | None = _option(None, "tokens of a chunk, ChunkKV only", least=1)
    kernel: int | None = _option(None, "positions pooled together, SnapKV only, odd", least=1)
    causal: bool = _option(True, "off: H2O's column sums with the historical error")
    reuse: int = _option(1, "layers that share a kept set; 1: none do", least=1)
    variants: str | None = _option(None, "also changed methods: sensitivity, reach, blocks or query heads")
    all_queries: bool = _option(False, "also measure the attention of all prompt queries; slower")
    layer_means: bool = _option(False, "record the mean over layers only: for runs of very many variants")
    max_new_tokens: int = _option(0, "tokens to generate from every cache, at most, and to score; 0: none", least=0)
    seed: int = _option(0, "of the sample of sequences and of the Random control")

    @field_validator("categories", "datasets", "forms", "asks", "methods", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        """One name, or a list of them as YAML and JSON have it, as a tuple."""
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value

    def check(self) -> None:
        """raises InputError: a value that is not among a field's choices or below its least, methods that refuse."""
        for one in fields(self):
            value, choices, least = getattr(self, one.name), one.metadata["choices"], one.metadata["least"]
            for name in value if isinstance(value, tuple) else (value,):
                if choices:
                    check_known(SINGULAR.get(one.name, one.name), name, choices)
            if value == () != one.default:
                raise InputError(f"{one.name} is empty; name at least one, or leave it out for all.")
            if least is not None and value is not None:
                check_whole(least, **{one.name: value})
        self.compressors  # noqa: B018  a wrong hyper-parameter is told now, not after the model has been loaded

    @functools.cached_property
    def compressors(self) -> dict[str, Compressor]:
        """The chosen methods with these hyper-parameters in the order of their list, then the variants by label."""
        from .variants import variants

        return self.methods_alone if self.variants is None else variants(self.variants, self.methods_alone)

    @functools.cached_property
    def methods_alone(self) -> dict[str, Compressor]:
        """The chosen methods with these hyper-parameters, without variants."""
        from ..compressors import preset

        names = ("granularity", "group", "window", "chunk_size")
        own = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        methods = preset(self.preset, extra=True, budget=self.budget, causal=self.causal, seed=self.seed, **own)
        if self.kernel is not None:  # SnapKV's only: ChunkKV of the paper does not pool
            methods["SnapKV"] = replace(methods["SnapKV"], kernel=self.kernel)
        return {name: method for name, method in methods.items() if name in self.methods}

    def as_dict(self) -> dict[str, object]:
        """The fields as plain values for JSON. Of a local file only the name: its bytes are identified elsewhere."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        for name in ("model", "data_path"):
            if values[name] and Path(values[name]).expanduser().exists():
                values[name] = Path(values[name]).name
        return values


def profiles() -> list[str]:
    """Names of the profiles in data/profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yml"))


def load_profile(name: str, changes: dict[str, object] | None = None) -> Parameters:
    """The parameters of a profile, with some changed; a change to None keeps the profile's value."""
    path = PROFILES / f"{name}.yml"
    check_known("profile", name, profiles())
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {str(error).splitlines()[0]}. Mend the file.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must be a list of 'parameter: value' lines.")
    return Parameters(**values | {key: value for key, value in (changes or {}).items() if value is not None})
