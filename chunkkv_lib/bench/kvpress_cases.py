"""What is measured of kvpress 0.5.5: the plain prefill, and a prefill with each of three presses, at their defaults.

Runs in kvpress's own environment, where chunkkv_lib is not installed; `worker` lies beside this file.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from kvpress import ChunkKVPress, ObservedAttentionPress, SnapKVPress
from transformers import AutoModelForCausalLM
from worker import Step, serve

REMOVED = 0.9  # kvpress counts the part that goes: 10 % stay


def steps(job: dict) -> dict[str, Step]:
    """Plain SDPA prefill, and the presses; ObservedAttention, their relative of H2O, needs eager attention."""
    options = {"dtype": getattr(torch, job["dtype"]), "attn_implementation": "sdpa"}
    model = AutoModelForCausalLM.from_pretrained(job["folder"], **options).to(job["device"]).eval()
    presses = {
        "prefill": (None, "sdpa"),
        "SnapKV": (SnapKVPress(REMOVED), "sdpa"),
        "ChunkKV": (ChunkKVPress(SnapKVPress(REMOVED)), "sdpa"),
        "ObservedAttention": (ObservedAttentionPress(REMOVED), "eager"),
    }
    return {name: _step(model, *press) for name, press in presses.items()}


def _step(model, press, attention: str) -> Step:
    def step(prompt: list[int]) -> float:
        model.set_attn_implementation(attention)
        ids = torch.tensor([prompt], device=model.device)
        with torch.inference_mode(), press(model) if press else nullcontext():
            cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        return sum(layer.keys.shape[2] for layer in cache.layers) / len(cache.layers)

    return step


if __name__ == "__main__":
    serve(steps)
