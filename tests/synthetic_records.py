"""Small records with the columns of a real run, and numbers that a test can recompute."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd

CATEGORIES = ("Single-Document QA", "Few-shot Learning")
METHODS = ("ChunkKV", "SnapKV", "H2O", "Random")
METRICS = ("kv_l1_loss", "attention_cosine_similarity")
LEVELS = {
    "ChunkKV": (0.89, 0.95),
    "SnapKV": (0.90, 0.97),
    "H2O": (0.92, 0.93),
    "Random": (0.90, 0.40),
    "Oracle": (0.905, 0.99),
}
MANIFEST = {
    "name": "tiny",
    "status": "complete",
    "parameters": {"budget": 0.1, "source": "open"},
    "model": {"name": "smollm2-135m", "dtype": "float32", "device": "cpu"},
    "data": {"source": "open"},
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "measurement_version": 1,
    "finished": "2026-11-24T04:28:10",
    "sequences": {"wanted": 12, "measured": 12},
}


def tiny_run(per_category=6, layers=4, methods=METHODS, categories=CATEGORIES, seed=0):
    """Like a run: categories alternate, layer 0 has no layer below, first answers have no likelihood."""
    rng = np.random.default_rng(seed)
    rows, answers, sequences = [], [], []
    for i, category in product(range(per_category), categories):
        name = f"{category[:3]}-{i}"
        sequences.append((name, category, "a" if i % 2 else "b", 100 + i))
        answers.append((name, "Full", 2.0 + i, 0.0, 1.0))
        for method in methods:
            cosine = LEVELS[method][1]
            answers.append((name, method, np.nan if i == 0 else 2.0 + i + 10 * (1 - cosine), 1 - cosine, cosine))
            for layer in range(layers):
                rows.append((name, method, layer, category, "a", *rng.normal(LEVELS[method], 0.002), cosine - 0.1))
    names = ["sequence", "method", "layer", "category", "dataset", *METRICS, "attention_mass"]
    records = pd.DataFrame(rows, columns=names).assign(attention_cosine_prompt=np.nan)
    records["overlap_layer_below"] = np.where(records["layer"] == 0, np.nan, 0.3)
    return SimpleNamespace(
        name="tiny",
        records=records,
        answers=pd.DataFrame(answers, columns=["sequence", "method", "nll", "kl", "top1_agreement"]),
        sequences=pd.DataFrame(sequences, columns=["sequence", "category", "dataset", "prompt_tokens"]),
        manifest=MANIFEST,
    )


def needle_ids(rounds, lengths, depths=(0, 40)):
    """Ids of needles: in each round every length at every depth."""
    return [f"needle:code:{k}:{depth:03d}:{i:02d}" for i in range(rounds) for k in lengths for depth in depths]


def run_of(source, sequences, values, name="score"):
    """A run in memory: one column of numbers, an array by method of a value for each sequence."""
    table = pd.DataFrame(sequences)
    answers = pd.DataFrame(values, index=table["sequence"]).rename_axis(columns="method").stack().rename(name)
    manifest = MANIFEST | {"parameters": {"source": source}}
    return SimpleNamespace(
        name="made", manifest=manifest, sequences=table, answers=answers.reset_index(), layers=pd.DataFrame()
    )
