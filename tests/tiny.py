"""A tiny model with a tokenizer, and LongBench-shaped rows, on disk: a whole run in seconds."""

import json
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chunkkv_lib.runs import Parameters, measure

WORDS = [
    "the", "cat", "sat", "on", "a", "mat", "and", "read", "about", "keys", "values", "queries", "heads", "layers",
    "tokens", "caches", "windows", "chunks",
]  # fmt: skip


def tiny_model(folder: Path) -> Path:
    """A random Llama of 3 layers with 4 query and 2 KV heads, saved to `folder` with a byte-level tokenizer."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, 400, special_tokens=["<eos>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_longbench(folder: Path, rows: int = 6) -> Path:
    """Synthetic question-answering rows in the layout of LongBench's archive: folder/data/<data set>.jsonl."""
    for dataset in ("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique"):
        path = folder / "data" / f"{dataset}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(_row(dataset, i)) + "\n" for i in range(rows)))
    return folder


def _row(dataset: str, i: int) -> dict:
    context = " ".join(WORDS[(i + 3 * j + j * j) % len(WORDS)] for j in range(150 + 20 * i))
    return {
        "input": f"What did cat {i} read about?", "context": context, "answers": ["keys and values", "tokens"],
        "length": 150 + 20 * i, "dataset": dataset, "language": "en", "all_classes": None, "_id": f"{dataset}-{i}",
    }  # fmt: skip


def copy_of(source: str | Path, place: Path) -> Path:
    return Path(shutil.copytree(source, place))


def change_json(place: Path, **changes: object) -> None:
    """Change entries of a JSON file, such as a model's configuration or a run's manifest."""
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))


#: A run of 8 short sequences.
SMALL = {"categories": ("Single-Document QA", "Multi-Document QA"), "per_category": 4, "max_tokens": 256,
         "max_answer_tokens": 8, "budget": 0.2, "device": "cpu", "dtype": "float32"}  # fmt: skip


def parameters(setting: dict[str, str], **changes: object) -> Parameters:
    """Those of `SMALL`, of `setting`, which is the fixture, and changes."""
    return Parameters(**(SMALL | setting | changes))


def measured(setting: dict[str, str], run: str | Path, report=lambda line: None, options=None, **changes) -> Path:
    """`measure` of these parameters, without a word."""
    return measure(parameters(setting, **changes), run, progress=False, report=report, **(options or {}))


def command(setting: dict[str, str], run: Path, **changes: object) -> list[str]:
    """The same on the command line."""
    wanted = {"profile": "quick", "run": run} | SMALL | {"categories": ",".join(SMALL["categories"])}
    wanted |= setting | changes
    options = [part for name, value in wanted.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "chunkkv_lib", "measure", *options]


def tables(folder: Path) -> dict[str, bytes]:
    """The bytes of a run's three tables."""
    return {f"{name}.parquet": (folder / f"{name}.parquet").read_bytes() for name in ("sequences", "layers", "answers")}
