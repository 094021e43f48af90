"""Small things to do on a chapter's page: a calculator, the toy of twelve tokens with open numbers, a guess first."""

from collections.abc import Mapping
from collections.abc import Sequence as Many

from IPython.display import HTML

from .. import budget_tokens
from ..report.arithmetic import PRESETS, readable, serving_memory
from .page import rendered

SHAPE = ("layers", "kv_heads", "head_dim", "hidden", "intermediate", "weights")
WAYS = {"whole": "Whole cache", "after": "Compressed after the prefill", "layer": "Compressed layer by layer"}
ROWS = ("The cache of one user", "Peak while one prompt is read", "Users on the device at once")


def calculator(tokens: int = 8192, budget: float = 0.1, model: str = "Llama-3-8B", device: float = 24) -> HTML:
    """Memory of a KV cache for a model, a prompt and a budget of the reader's choice; without JavaScript, for these.

    budget  part of the prompt that stays; model: a name of `PRESETS`; device: its memory in GiB
    """
    kept = budget_tokens(budget, tokens)
    found = serving_memory(PRESETS[model], tokens, kept, device * 2**30)
    rows = {}
    for row, label in enumerate(ROWS):
        values = [found[way][row] for way in WAYS]
        texts = [f"{value:,}" if row == 2 else readable(value) for value in values]
        rows[label] = [(text, f"{100 * value / (max(values) or 1):.4g}") for text, value in zip(texts, values)]
    presets = {name: {one: getattr(shape, one) for one in SHAPE} for name, shape in PRESETS.items()}
    models = {name: name for name in PRESETS} | {"": "your own shape"}
    return HTML(rendered("calculator.html", presets=presets, models=models, model=model, tokens=tokens, kept=kept,
                         percent=f"{100 * budget:g}", device=device, ways=WAYS.values(), rows=rows))  # fmt: skip


def toy(
    words: Many[str], table: Many[Many[int]], answer: Many[int], budget: int, window: int, chunk: int, kernel: int
) -> HTML:
    """A causal attention table to be edited, and what H2O, SnapKV and ChunkKV keep of it. Needs JavaScript.

    words   of the n tokens
    table   n rows of whole numbers, row i has i + 1 of them
    answer  n numbers: the attention of the answer's token
    """
    settings = {"budget": budget, "window": window, "chunk": chunk, "kernel": kernel}
    return HTML(rendered("toy.html", words=words, table=table, answer=answer, **settings))


def guess(name: str, metric: str, measured: Mapping[str, float]) -> HTML:
    """A reader's own order of the methods, and of what a random choice scores, before the measurement is laid over.

    name      of the guess, under which the reader's browser remembers it
    metric    in words
    measured  method -> value between 0 and 1, the higher the better, "Random" among them. Needs JavaScript
    """
    rounded = {method: round(float(value), 6) for method, value in measured.items()}
    methods = [method for method in rounded if method != "Random"]
    return HTML(rendered("guess.html", name=name, metric=metric, measured=rounded, methods=methods))
