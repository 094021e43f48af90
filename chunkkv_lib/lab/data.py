"""The lab's prompts, two of open text or a reader's own, and what the page shows of one that ran through a model."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel

from ..attention import PromptAttention
from ..capture import Layer, capture
from ..compressors import METHODS
from ..decoding import CompressedCache, decode, generate
from ..errors import InputError
from ..runs.answers import opening
from ..sequence import Sequence
from ..sequences.encoding import encode_prompt, own_sequence, sentence_with, token_texts
from ..sequences.open_data import articles
from .codes import WINDOWS, LayerCodes, layer_codes, packed
from .rules import Setting, kept_tokens

LONGEST = 4000  # tokens of a prompt that a page can hold
TEXTS_OF = "squad_articles"  # the open data set whose texts the book's prompts quote
PROBES = 2  # tokens of the answer whose attention is shown
WRITTEN = 8  # tokens of an answer that the model writes
BUDGETS = (5.0, 10.0, 20.0, 40.0)
#: Settings for which the page tells what the model wrote; all other settings are only looked at.
RECORDED = tuple(
    [Setting(method, budget) for budget in BUDGETS for method in METHODS]
    + [Setting("ChunkKV", budget, chunk_size=size) for budget in BUDGETS for size in (5, 20)]
    + [Setting("SnapKV", budget, kernel=1) for budget in BUDGETS]
)


def question_about(
    tokenizer: Any,
    text: str,
    question: str,
    answer: str,
    evidence: str | None = None,
    name: str = "your text",
    lead: str = "",
) -> Sequence:
    """A text, a question about it, and its answer, as one sequence: the question stands at the end of the prompt.

    evidence  the passage that holds the answer; None: the first sentence in which the answer stands, if there is one
    lead      how the answer begins, as a part of the prompt
    raises InputError: an empty text, question or answer, or a prompt of more than LONGEST tokens.
    """
    for what, given in (("text", text), ("question", question), ("answer", answer)):
        if not given.strip():
            raise InputError(f"the {what} is empty; give at least one word.")
    text = text.strip()
    prompt = f"{text}\n\nQuestion: {question.strip()}\nAnswer: {lead}".rstrip()
    ids = encode_prompt(tokenizer, prompt, 10**9)
    if len(ids) > LONGEST:
        raise InputError(
            f"the text and the question have {len(ids):,} tokens, and the page takes at most {LONGEST:,}. "
            f"Shorten the text by about {100 * (1 - LONGEST / len(ids)):.0f} %."
        )
    return own_sequence(tokenizer, prompt, answer, evidence or sentence_with(text, answer.strip()), 10**9, name)


def open_prompts(tokenizer: Any) -> list[Sequence]:
    """The two prompts of the book's page: a number hidden in an encyclopedia's article, and a question about another.

    The texts are those of the open data set `squad_articles`; they are downloaded once.
    """
    paragraphs = {one["title"]: [part["context"] for part in one["paragraphs"]] for one in articles()}
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", "\n".join(paragraphs["Normans"][27:35]))
    needle = "The door code of the library is 65125."
    return [
        question_about(
            tokenizer,
            " ".join([*sentences[:2], needle, *sentences[2:]]),
            "What is the door code of the library?",
            "65125",
            evidence=needle,
            name="A number hidden in an article on the Normans",
            lead="The door code of the library is",
        ),
        question_about(
            tokenizer,
            "\n".join(paragraphs["Victoria_(Australia)"][7:13]),
            "What group can amend the Victorian constitution?",
            "Parliament of Victoria",
            name="A question about an article on Victoria",
            lead="The Victorian constitution can be amended by the",
        ),
    ]


def prompt_data(
    model: PreTrainedModel,
    tokenizer: Any,
    sequence: Sequence,
    credit: str = "",
    recorded: Iterable[Setting] = RECORDED,
) -> tuple[dict, list[LayerCodes]]:
    """What the page's scripts read of a prompt (assets/codes.js), and every layer's codes.

    sequence        its evidence is outlined in the page
    credit          one line: whose text it is
    recorded        settings whose caches the model writes an answer from
    raises InputError: a prompt too short for a window, or what `capture` refuses.
    """
    n, answer, recorded = len(sequence.prompt_ids), list(sequence.answer_ids), list(recorded)
    windows = [window for window in WINDOWS if window < n]
    if not windows or not answer:
        raise InputError(f"the prompt has {n} tokens and the answer {len(answer)}; give more than 4, and at least 1.")
    shown = probe_tokens(tokenizer, answer)
    rows = torch.tensor([n - 1 + i for i in shown])  # the queries that predict these tokens
    layers: list[LayerCodes] = []
    caches = {setting.tokens(n): CompressedCache(n, reread=True) for setting in (*recorded, Setting(budget=100.0))}

    def visit(layer: Layer) -> None:
        keys, values, at = layer.keys[:, :n], layer.values[:, :n], len(layers)
        log_sums = None if layer.log_sums is None else layer.log_sums[:, :n]
        attention = PromptAttention(layer.queries[:, :n], keys, log_sums, layer.queries[:, rows])
        layers.append(layer_codes(attention, values, windows))
        for tokens, cache in caches.items():
            settings = [one for one in recorded if one.tokens(n) == tokens]
            kept = [kept_tokens(layers[-1], one, at) for one in settings]
            cache.add(keys, values, kept + ([torch.arange(n)[None]] if tokens == n else []))

    capture(model, torch.tensor([*sequence.prompt_ids, *answer]), visit)
    # An answer ends at a line break, or where the model ends its text.
    stops = [ids[0] for text in ("\n", "\n\n") if len(ids := tokenizer.encode(text, add_special_tokens=False)) == 1]
    if tokenizer.eos_token_id is not None:
        stops.append(tokenizer.eos_token_id)
    written = {}
    for tokens, cache in caches.items():
        settings = [one for one in recorded if one.tokens(n) == tokens] + ["full"] * (tokens == n)
        # The prompt's last token is read once more, so that the answer's first one comes from the compressed cache too.
        logits = decode(model, cache, torch.tensor(sequence.prompt_ids[-1:]), append=True, logits_to_keep=1)[:, 0]
        ids = generate(model, cache, [opening(row, stops)[0] for row in logits], WRITTEN, stops)
        written |= dict(zip(settings, (tokenizer.decode(row).strip() for row in ids), strict=True))
    heads = len(layers[0].columns)
    return {
        "name": sequence.id,
        "credit": credit,
        "n": n,
        "layers": len(layers),
        "heads": heads,
        "group": len(layers[0].probes) // heads,
        "windows": windows,
        "texts": token_texts(tokenizer, sequence.prompt_ids, sequence.prompt_text),
        "answer": sequence.answers[0] if sequence.answers else tokenizer.decode(answer).strip(),
        "probes": [tokenizer.decode([answer[i]]) for i in shown],
        "marked": [i for first, stop in sequence.evidence_spans for i in range(first, stop)],
        "full": written.pop("full"),
        "written": [[*vars(setting).values(), text] for setting, text in written.items()],
        "weights": [int(x) for layer in layers for x in layer.weights.ravel()],
        "codes": packed(layers),
    }, layers


def probe_tokens(tokenizer: Any, answer: list[int]) -> list[int]:
    """Which tokens of the answer are looked at: the first that are not blank, at most PROBES."""
    words = [i for i, token in enumerate(answer) if tokenizer.decode([token]).strip()]
    return (words or [0])[:PROBES]
