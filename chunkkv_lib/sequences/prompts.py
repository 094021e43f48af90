"""LongBench's prompts, generation lengths and metric names, read out of the installed lm-eval package.

lm-eval ships one YAML file per task. Only those files are read: importing lm_eval itself would pull in an
evaluation framework. Ten of its sixteen English and code templates are LongBench's own, character by character;
the six others differ in white space and are corrected here.
"""

import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from ..errors import InputError
from .schema import longbench_name

REQUIREMENT = "lm-eval==0.4.13"

# data set -> (how lm-eval's template ends, how LongBench's ends)
_CORRECTIONS = {
    "triviaqa": ("{{context}}\n{{question}}", "{{context}}\n\n{{question}}"),
    "samsum": ("{{context}}\n{{question}}", "{{context}}\n\n{{question}}"),
    "passage_count": ("The final answer is:", "The final answer is: "),
    "passage_retrieval_en": ("The answer is:", "The answer is: "),
    "lcc": ("Next line of code:", "Next line of code:\n"),
    "repobench-p": ("Next line of code:", "Next line of code:\n"),
}


def prompt(row: Mapping) -> str:
    """The whole prompt of a row, as LongBench writes it: raw, without a chat template.

    row  LongBench's fields; an open data set gets the prompt of the LongBench set it is modelled on
    """
    fields = {"context": row["context"], "question": row["input"]}
    # One pass, so that braces inside a text are never taken for a field.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], template(row["dataset"]))


def template(dataset: str) -> str:
    """The data set's prompt with `{{context}}` and `{{question}}` (LongBench's `input`) where the texts go."""
    name = longbench_name(dataset)
    text = task(name)["doc_to_text"]
    if name not in _CORRECTIONS:
        return text
    theirs, longbenchs = _CORRECTIONS[name]
    if not text.endswith(theirs):
        raise InputError(f"lm-eval's prompt for {name} is not the known one; `pip install {REQUIREMENT}`.")
    return text.removesuffix(theirs) + longbenchs


def max_gen_toks(dataset: str) -> int:
    """How many tokens LongBench lets a model generate for this data set."""
    return task(longbench_name(dataset))["generation_kwargs"]["max_gen_toks"]


def task_folder() -> Path:
    """Where lm-eval keeps its LongBench tasks."""
    package = importlib.util.find_spec("lm_eval")
    for place in (package and package.submodule_search_locations) or ():
        folder = Path(place) / "tasks" / "longbench"
        if folder.is_dir():
            return folder
    raise InputError(f"LongBench's prompts come with lm-eval, which is not installed; `pip install {REQUIREMENT}`.")


class _Loader(yaml.SafeLoader):
    """Reads `!function module.name` as the string "module.name" and imports nothing."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@functools.cache
def task(name: str) -> dict:
    """The settings of a task of LongBench, as lm-eval states them."""
    return yaml.load((task_folder() / f"{name}.yaml").read_text(encoding="utf-8"), Loader=_Loader)
