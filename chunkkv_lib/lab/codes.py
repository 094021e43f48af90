"""What the lab's page knows of a prompt: every layer's scores, masses and probe attention as small codes.

A page cannot hold a model, but everything a rule decides, and both metrics, follow from a few numbers per token. They
are stored as integers, and all sums of them are exact, in the page and here: so both choose the very same tokens.
"""

import base64
import zlib
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..attention import PromptAttention

WINDOWS = (4, 8, 16, 32)
OCTAVES = 25  # factors of two below a layer's largest score that are told apart; what is smaller counts as nothing
STEPS = 640  # of a score's code within one of them, all as wide: at most 0.16 % of the score
_codes = np.arange(OCTAVES * STEPS + 1)
#: What a score's code stands for. Whole numbers below 2**35, so that sums over tokens and heads are exact.
SCORES = np.where(_codes > 0, (STEPS + _codes % STEPS) * 2.0 ** (_codes // STEPS), 0)
#: What a code of probe attention stands for, squared: attention is stored as its square root.
PROBES = np.arange(256, dtype=np.float64) ** 2


@dataclass(frozen=True)
class LayerCodes:
    """One layer of one prompt of n tokens, as uint8 codes, scores as uint16; H KV heads, G query heads share each.

    votes    [W, H, n] attention from the last 4, 8, 16, 32 queries, mean over the query heads; codes of SCORES
    columns  [H, n] attention from all the prompt's queries, the same
    keys     [H, n] sum of |key| over the head dimension, as a part of the layer's largest
    values   [H, n] the same of the values
    probes   [H * G, P, n] attention of P probes; a row's own length is taken out, and codes of PROBES remain
    weights  [H * G, P] int64, the lengths that were taken out, as parts of the layer's longest row in 4095ths
    """

    votes: np.ndarray
    columns: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    probes: np.ndarray
    weights: np.ndarray


def layer_codes(attention: PromptAttention, values: Tensor, windows: Many[int] = WINDOWS) -> LayerCodes:
    """One layer's codes. `attention` has probe queries; values [Hkv, n, d]."""
    heads = len(attention.keys)

    def shared(x: Tensor) -> Tensor:  # [Hq, n] -> [Hkv, n]
        return x.unflatten(0, (heads, -1)).mean(1)

    rows = attention.window_rows(windows[-1])
    votes = torch.stack([shared(rows[:, windows[-1] - window :].sum(1)) for window in windows])
    probes = attention.probe_rows()
    length = probes.norm(dim=-1, keepdim=True)
    return LayerCodes(
        votes=np.stack([_score_codes(one) for one in votes]),
        columns=_score_codes(shared(attention.column_sums())),
        keys=_parts(attention.keys.float().abs().sum(-1), 255),
        values=_parts(values.float().abs().sum(-1), 255),
        probes=_parts((probes / length).sqrt(), 255, 1),
        weights=_parts(length[..., 0], 4095).astype(np.int64),
    )


def _score_codes(x: Tensor) -> np.ndarray:
    """Codes of scores x >= 0: the last one is the layer's largest, STEPS less is half of it, 0 is nothing."""
    part, power = torch.frexp(x.double() / x.max())  # = part * 2**power, and part is in [1/2, 1), or 0
    codes = STEPS * (OCTAVES - 2 + power + 2 * part) * (part > 0)
    return codes.round().clamp(min=0).cpu().numpy().astype(np.uint16)


def _parts(x: Tensor, steps: int, largest: float | None = None) -> np.ndarray:
    parts = (x.double() / (x.max() if largest is None else largest) * steps).round().cpu().numpy()
    return parts.astype(np.uint8 if steps < 256 else np.uint16)


def packed(layers: Many[LayerCodes]) -> str:
    """All layers' codes as one text: field by field, deflated, in base64. Of a score's 14 bits the last 6 lie apart."""
    scores = [np.stack([getattr(layer, name) for layer in layers]) for name in ("votes", "columns")]
    parts = [(one >> 6).astype(np.uint8).tobytes() for one in scores]
    parts += [(one & 63).astype(np.uint8).tobytes() for one in scores]
    parts += [getattr(layer, name).tobytes() for name in ("keys", "values", "probes") for layer in layers]
    return base64.b64encode(zlib.compress(b"".join(parts), 9)).decode()
