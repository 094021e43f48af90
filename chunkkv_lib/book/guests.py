"""Which tokens kvpress keeps and which we keep, on the same prompts, and what the metrics say of both.

    python -m chunkkv_lib bench --guests        # writes data/bench/guests.csv

kvpress runs in the environment that `bench` makes for it. Its presses are asked as they are: a press leaves a shorter
cache, and the kept positions are those whose keys are, bit for bit, in the cache without a press.
This file also runs by itself in the peer's environment, where nothing of the library is: hence the late imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import pandas as pd

REMOVED = 0.9  # a press counts the part that goes
PRESSES = {  # the press, in kvpress's words
    "SnapKV": f"SnapKVPress({REMOVED})",
    "ChunkKV": f"ChunkKVPress(SnapKVPress({REMOVED}))",
    "ObservedAttention": f"ObservedAttentionPress({REMOVED})",
}
CATEGORIES = ("Single-Document QA", "Summarization", "Few-shot Learning", "Synthetic & Code")


def compare_guests(
    model: str = "smollm2-135m", max_tokens: int = 1536, output: str | Path = "data/bench/guests.csv"
) -> pd.DataFrame:
    """One prompt of each of four categories; a row per press, means over prompts, layers and heads, written as CSV.

    columns  press, n and kept (tokens), equal (share of heads and layers in which both keep the same set), jaccard,
             and both primary metrics, `_guest` of the press's sets and `_ours` of our method with as many tokens
    raises   InputError: kvpress cannot be installed, or fails.
    """
    import pandas as pd

    from .. import load_model, load_sequences, preset
    from ..attention import PromptAttention
    from ..bench import peer_python
    from ..capture import capture
    from ..files import write_text
    from ..metrics import attention_cosine_similarity, kv_l1_loss, overlap

    loaded, tokenizer = load_model(model, device="cpu", dtype="float32")
    sequences = load_sequences(tokenizer, categories=CATEGORIES, per_category=1, max_tokens=max_tokens)
    job = {"folder": tokenizer.name_or_path, "prompts": [list(one.prompt_ids) for one in sequences]}
    guests = kept_by_guests(peer_python(), job)
    ours = preset("kvpress") | {"ObservedAttention": preset("kvpress")["H2O"]}
    rows = []
    for i, sequence in enumerate(sequences):
        n = len(sequence.prompt_ids)
        probes = torch.arange(n - 1, n + len(sequence.answer_ids) - 1)

        def visit(layer, i=i, n=n, probes=probes):
            queries, keys, values = layer.queries[:, :n], layer.keys[:, :n], layer.values[:, :n]
            attention = PromptAttention(queries, keys)
            for press in PRESSES:
                theirs = torch.tensor(guests[press][i][layer.index])
                sets = {"guest": theirs, "ours": replace(ours[press], budget=theirs.shape[1]).choose(attention)}
                sets["ours"] = sets["ours"].expand_as(theirs)
                row = {
                    "press": press,
                    "n": n,
                    "kept": theirs.shape[1],
                    "jaccard": float(overlap(*sets.values()).mean()),
                }
                row["equal"] = float((sets["ours"] == theirs).all(1).float().mean())
                for name, kept in sets.items():
                    l1 = torch.stack([kv_l1_loss(keys, kept), kv_l1_loss(values, kept)]).mean()
                    cosine = attention_cosine_similarity(layer.queries[:, probes], keys, kept, probes).mean()
                    row |= {f"kv_l1_loss_{name}": float(l1), f"attention_cosine_similarity_{name}": float(cosine)}
                rows.append(row)

        capture(loaded, torch.tensor([*sequence.prompt_ids, *sequence.answer_ids]), visit)
    table = pd.DataFrame(rows).groupby("press", sort=False).mean().reset_index()
    write_text(output, table.to_csv(index=False, float_format="%.6f"))
    return table


def kept_by_guests(python: Path, job: dict) -> dict[str, list]:
    """press -> for every prompt and layer the kept positions [Hkv, b], ascending; computed by `python`."""
    from ..errors import InputError

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-P", __file__], input=json.dumps(job), capture_output=True, text=True, env=environment
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(
            f"kvpress failed: {lines[-1][:200]}. Delete its environment in {python.parent} to have it made anew."
        )
    return json.loads(done.stdout.splitlines()[-1])


def _ask(job: dict) -> dict[str, list]:
    """In the peer's environment: every press on every prompt."""
    import kvpress
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32, attn_implementation="sdpa").eval()

    def keys(prompt: list[int], press=None) -> list[torch.Tensor]:
        with torch.inference_mode():
            if press is None:
                return [layer.keys[0] for layer in model(torch.tensor([prompt])).past_key_values.layers]
            with press(model):
                return [layer.keys[0] for layer in model(torch.tensor([prompt])).past_key_values.layers]

    kept = {}
    for name, text in PRESSES.items():
        model.set_attn_implementation("eager" if name == "ObservedAttention" else "sdpa")
        kept[name] = []
        for prompt in job["prompts"]:
            pairs = zip(keys(prompt), keys(prompt, eval(text, vars(kvpress))), strict=True)
            kept[name].append([_positions(full, left).tolist() for full, left in pairs])
    return kept


def _positions(full: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Where the keys left [H, b, d] stand in full [H, n, d]: int64 [H, b], ascending."""
    found = []
    for every, some in zip(full, left, strict=True):
        _, number = torch.unique(torch.cat([every, some]), dim=0, return_inverse=True)
        place = torch.full((int(number.max()) + 1,), -1).scatter(0, number[: len(every)], torch.arange(len(every)))
        found.append(place[number[len(every) :]].sort().values)
    if min(one.min() for one in found) < 0:
        raise ValueError("a kept key is not one of the full cache's")
    return torch.stack(found)


if __name__ == "__main__":
    print(json.dumps(_ask(json.load(sys.stdin))))
