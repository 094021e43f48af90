"""What is measured of this library: the plain prefill, and the analysis of all methods and of two.

    python -m chunkkv_lib.bench.ours < job.json
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..compressors import Compressor, preset
from ..measure import analyse
from ..models import load_model
from ..sequences import Sequence
from .worker import Step, serve

#: Methods whose scores come from a few rows of the attention; H2O among all of them needs every row.
FEW_ROWS = ("SnapKV", "ChunkKV")


def steps(job: dict) -> dict[str, Step]:
    """The steps of this library; every analysis compresses, measures all metrics, and decodes the answer."""
    model, _ = load_model(job["model"], job["device"], job["dtype"])
    methods = preset()
    few = {name: methods[name] for name in FEW_ROWS}
    return {
        "prefill": lambda prompt: prefill(model, prompt),
        "all methods": lambda prompt: analysis(model, prompt, job["answer"], methods),
        " + ".join(FEW_ROWS): lambda prompt: analysis(model, prompt, job["answer"], few),
    }


def prefill(model, prompt: list[int]) -> float:
    """The plain prefill that a serving system pays: SDPA attention, the full cache is kept. Returns its tokens."""
    with torch.inference_mode():
        ids = torch.tensor([prompt], device=model.device)
        return model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values.get_seq_length()


def analysis(model, prompt: list[int], answer: list[int], methods: Mapping[str, Compressor]) -> float:
    """Everything that a run records of one sequence. Returns the tokens that the methods keep."""
    layers, _ = analyse(model, Sequence.from_ids(prompt, answer, id="bench"), methods)
    return float(layers["kept_tokens"].mean())


if __name__ == "__main__":
    serve(steps)
