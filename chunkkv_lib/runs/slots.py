"""What two metrics say if the caches are compared slot by slot: an exploratory appendix, not a measurement of the book.

Everywhere else an evicted position counts as zero. The paper prints no formula; one way to compare caches of different
lengths is to stretch the short one to the long one's length. Then it matters in which order a cache stores its entries,
and that is the switch here: by position, or by score as `topk` returns them. The rules are those of the paper's time:
one kept set per query head, and H2O with the sums that its runner computed.

    python -m chunkkv_lib.runs.slots smollm2-135m 20 data/slots/smollm2-135m.csv
"""

import sys
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ..attention import PromptAttention
from ..capture import Layer, capture
from ..compressors import H2O, ChunkKV, Compressor, Random, SnapKV
from ..files import write_text
from ..models import load_model
from ..sequences import Sequence, load_sequences

#: Label -> rule, and whether its cache is stored by score. Random choices show what either order is worth by itself.
RULES: dict[str, tuple[Compressor, bool]] = {
    "ChunkKV, by position": (ChunkKV(granularity="query_head"), False),
    "SnapKV, by score": (SnapKV(granularity="query_head"), True),
    "SnapKV, by position": (SnapKV(granularity="query_head"), False),
    "H2O, by score": (H2O(granularity="query_head", causal=False), True),
    "H2O, by position": (H2O(granularity="query_head", causal=False), False),
    "Random, by score": (Random(granularity="query_head"), True),
    "Random, by position": (Random(granularity="query_head"), False),
}
TOKENS = 1536


def slot_metrics(x: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Relative L1 distance of a cache from its compressed form, stretched to its length, and their cosine: [S] each.

    x      [S, n, d]
    order  [S, b] positions in the order in which they are stored; slot i of the n is filled with entry i * b // n
    """
    n, b = x.shape[1], order.shape[1]
    rows = order[:, torch.arange(n, device=x.device) * b // n]
    short = x.gather(1, rows[..., None].expand_as(x))
    cosine = torch.cosine_similarity(x.flatten(1), short.flatten(1), dim=1)
    return (x - short).abs().sum((1, 2)) / x.abs().sum((1, 2)), cosine


def stored(method: Compressor, attention: PromptAttention, by_score: bool) -> Tensor:
    """The kept positions [S, b] in storage order: ascending, or highest score first with the window at the end."""
    kept = method.choose(attention)
    if not by_score:
        return kept
    scores = method.scores(attention)
    past = kept[kept < scores.shape[1]].view(len(kept), -1)
    ranked = past.gather(1, scores.gather(1, past).argsort(dim=1, descending=True, stable=True))
    return torch.cat([ranked, kept[:, past.shape[1] :]], 1)


def slots(model: Any, sequence: Sequence) -> pd.DataFrame:
    """Both metrics of every rule, of keys and values, each a mean over heads and layers: a row per rule."""
    rows = []

    def visit(layer: Layer) -> None:
        attention = PromptAttention(layer.queries, layer.keys)
        caches = [x.float().repeat_interleave(len(layer.queries) // len(x), 0) for x in (layer.keys, layer.values)]
        for name, (method, by_score) in RULES.items():
            order = stored(method, attention, by_score)
            l1, cosine = zip(*(slot_metrics(x, order) for x in caches))
            rows.append((name, *(numbers.mean().item() for numbers in (*l1, *cosine))))

    capture(model, torch.tensor(sequence.prompt_ids), visit, logits_to_keep=1)
    table = pd.DataFrame(rows, columns=["rule", "l1_keys", "l1_values", "cosine_keys", "cosine_values"])
    means = table.groupby("rule", sort=False, as_index=False).mean()
    for name, value in (("document", sequence.document), ("category", sequence.category), ("sequence", sequence.id)):
        means.insert(0, name, value)
    return means


if __name__ == "__main__":
    name, per_category, path = sys.argv[1:]
    network, tokenizer = load_model(name, "cpu", "float32")
    sequences = load_sequences(tokenizer, per_category=int(per_category), max_tokens=TOKENS)
    table = pd.concat([slots(network, one) for one in tqdm(sequences, unit="sequence")], ignore_index=True)
    write_text(path, table.to_csv(index=False, float_format="%.6g"))
