"""Small records with the columns of a real run, and numbers that a test can recompute."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd

CATEGORIES = ("Single-Document QA", "Few-shot Learning")
METHODS = ("ChunkKV", "SnapKV", "H2O", "Random")
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
    "model": {"name": "smollm2-135m", "sha256": "ab" * 32, "layers": 4, "dtype": "float32", "device": "cpu"},
    "data": {"source": "open"},
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "measurement_version": 1,
    "machine": {"cores": 2},
    "started": "2026-11-24T04:18:00",
    "finished": "2026-11-24T04:28:10",
    "seconds": 610.0,
    "sequences": {"wanted": 12, "measured": 12},
}


def tiny_run(per_category=6, layers=4, methods=METHODS, categories=CATEGORIES, seed=0):
    """Like a run: categories alternate, layer 0 has no layer below, first answers have no likelihood."""
    rng = np.random.default_rng(seed)
    rows, answers, sequences = [], [], []
    for i in range(per_category):
        for category in categories:
            name = f"{category[:3]}-{i}"
            sequences.append(
                {"sequence": name, "category": category, "dataset": "a" if i % 2 else "b", "prompt_tokens": 100 + i}
            )
            answers.append({"sequence": name, "method": "Full", "nll": 2.0 + i, "kl": 0.0, "top1_agreement": 1.0})
            for method in methods:
                l1, cosine = LEVELS[method]
                for layer in range(layers):
                    rows.append(
                        {
                            "sequence": name,
                            "method": method,
                            "layer": layer,
                            "category": category,
                            "dataset": "a",
                            "kv_l1_loss": l1 + rng.normal(0, 0.002),
                            "attention_cosine_similarity": cosine + rng.normal(0, 0.002),
                            "attention_mass": cosine - 0.1,
                            "attention_cosine_prompt": np.nan,
                            "overlap_layer_below": np.nan if layer == 0 else 0.3,
                        }
                    )
                answers.append(
                    {
                        "sequence": name,
                        "method": method,
                        "nll": np.nan if i == 0 else 2.0 + i + 10 * (1 - cosine),
                        "kl": 1 - cosine,
                        "top1_agreement": cosine,
                    }
                )
    return SimpleNamespace(
        name="tiny",
        records=pd.DataFrame(rows),
        answers=pd.DataFrame(answers),
        sequences=pd.DataFrame(sequences),
        manifest=MANIFEST,
    )
