"""Which tokens kvpress keeps and which we keep, on the same prompts, and what the metrics say of both.

    python -m chunkkv_lib bench --guests        # writes data/bench/guests.csv

kvpress runs in the environment that `bench` makes for it. Its presses are asked as they are: a press leaves a shorter
cache, and the kept positions are those whose keys are, bit for bit, in the cache without a press.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from .. import load_model, load_sequences, preset
from ..attention import PromptAttention
from ..bench import peer_python, run_worker
from ..capture import capture
from ..errors import InputError
from ..files import write_text
from ..metrics import attention_cosine_similarity, kv_l1_loss, overlap

CATEGORIES = ("Single-Document QA", "Summarization", "Few-shot Learning", "Synthetic & Code")


def compare_guests(
    model: str = "smollm2-135m", max_tokens: int = 1536, output: str | Path = "data/bench/guests.csv"
) -> pd.DataFrame:
    """One prompt of each of four categories; a row per press, means over prompts, layers and heads, written as CSV.

    columns  press, n and kept (tokens), equal (share of heads and layers in which both keep the same set), jaccard,
             and both primary metrics, `_guest` of the press's sets and `_ours` of our method with as many tokens
    raises   InputError: kvpress cannot be installed, or fails.
    """
    loaded, tokenizer = load_model(model, device="cpu", dtype="float32")
    sequences = load_sequences(tokenizer, categories=CATEGORIES, per_category=1, max_tokens=max_tokens)
    python, prompts = peer_python(), [list(one.prompt_ids) for one in sequences]
    job = {"library": "guests", "folder": tokenizer.name_or_path, "prompts": prompts, "step": None}
    try:
        guests = run_worker(str(python), job | {"device": "cpu", "dtype": "float32"})
    except ChildProcessError as error:
        raise InputError(
            f"kvpress failed: {error}. Delete its environment in {python.parent} to have it made anew."
        ) from None
    ours = preset("kvpress") | {"ObservedAttention": preset("kvpress")["H2O"]}
    rows = []
    for i, sequence in enumerate(sequences):
        n = len(sequence.prompt_ids)
        probes = torch.arange(n - 1, n + len(sequence.answer_ids) - 1)

        def visit(layer, i=i, n=n, probes=probes):
            keys, values = layer.keys[:, :n], layer.values[:, :n]
            attention = PromptAttention(layer.queries[:, :n], keys)
            for press, kept_by in guests.items():
                theirs = torch.tensor(kept_by[i][layer.index])
                mine = replace(ours[press], budget=theirs.shape[1]).choose(attention).expand_as(theirs)
                row = {"press": press, "n": n, "kept": theirs.shape[1], "jaccard": float(overlap(theirs, mine).mean())}
                row["equal"] = float((mine == theirs).all(1).float().mean())
                for name, kept in {"guest": theirs, "ours": mine}.items():
                    l1 = torch.stack([kv_l1_loss(keys, kept), kv_l1_loss(values, kept)]).mean()
                    cosine = attention_cosine_similarity(layer.queries[:, probes], keys, kept, probes).mean()
                    row |= {f"kv_l1_loss_{name}": float(l1), f"attention_cosine_similarity_{name}": float(cosine)}
                rows.append(row)

        capture(loaded, torch.tensor([*sequence.prompt_ids, *sequence.answer_ids]), visit)
    table = pd.DataFrame(rows).groupby("press", sort=False).mean().reset_index()
    write_text(output, table.to_csv(index=False, float_format="%.6f"))
    return table
