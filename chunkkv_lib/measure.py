"""One sequence x methods -> two tables (`analyse`)."""

import zlib
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, replace

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import metrics
from .attention import PromptAttention, attention_logits, attention_rows, not_finite, output_rows
from .capture import Layer, capture
from .compressors import Compressor, preset
from .decoding import CompressedCache, answer_scores, check_decoding, decode
from .errors import InputError, check_whole
from .sequence import Sequence

MEASUREMENT_VERSION = 2  # raised when a number that a run records changes; runs of different versions never mix
WINDOW = 8  # queries of the observation window whose attention is compared, whatever the methods' own windows
FULL = "Full"  # the full cache's row beside the methods'


def analyse(
    model: PreTrainedModel,
    sequence: Sequence,
    methods: Mapping[str, Compressor] | None = None,
    reuse: int = 1,
    all_queries: bool = False,
    check: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compress one sequence's cache with every method and measure the loss, in one forward pass and one short one.

    The cache is chosen from all prompt tokens, as a serving system does; then the last one is read once more from what
    is left, so that every token of the answer, the first included, is predicted from the compressed cache.

    sequence     token ids of prompt, question (where it is read after the compression) and answer, teacher-forced; the
                 queries that predict the answer are the probes: of the last token before it, and of all its own but one
    methods      name -> compressor; None: all methods at 10 %, preset "paper"
    reuse        N: layers l with l mod N != 0 take the kept sets of the layer below (the paper's index reuse); 1: off
    all_queries  also the attention cosine of all prompt queries, a second sweep over the attention
    check        compare decoding with the model's own forward pass first, once per model (`check_decoding`)
    return       two DataFrames: one row per method and layer, and one per method ("Full" first) for the answer
    raises InputError: an empty prompt or answer, a budget or window that does not fit the prompt, a sequence or model
        that `check_model` or `check_decoding` refuses.
    """
    if check:
        check_decoding(model, (*sequence.prompt_ids, *sequence.answer_ids))
    return Measurement(model, sequence, methods, reuse, all_queries).tables()


@dataclass(eq=False, repr=False)
class Measurement:
    """One sequence's forward pass, looked at layer by layer: kept sets, losses, and the compressed caches.

    Arguments as in `analyse`.

    before      ids of the tokens that are read from the compressed cache before the answer: prompt's last, question's
    logits      [m, vocabulary] from the full cache, that predict the answer
    caches      names of the methods that keep equally many tokens -> their caches, in one batch
    full_cache  that of a method which keeps everything, where `keep_full` asks for it
    """

    model: PreTrainedModel
    sequence: Sequence
    methods: Mapping[str, Compressor] | None
    reuse: int
    all_queries: bool
    keep_full: InitVar[bool] = False

    def __post_init__(self, keep_full: bool) -> None:
        model, sequence = self.model, self.sequence
        self.methods = dict(preset() if self.methods is None else self.methods)
        if not self.methods:
            raise InputError("no method was given; name at least one, or pass None for all.")
        check_whole(reuse=self.reuse)
        ids = torch.tensor((*sequence.prompt_ids, *sequence.question_ids, *sequence.answer_ids))
        self.n, self.start = len(sequence.prompt_ids), len(ids) - len(sequence.answer_ids)  # where the answer starts
        self.caches: dict[tuple[str, ...], CompressedCache] = {}
        self.full_cache = CompressedCache(self.n, reread=True) if keep_full else None
        self.kept: dict[str, Tensor] = {}  # of the last layer seen
        self.proper: dict[str, Tensor] = {}  # whether these are positions of the prompt, each once, in order
        self.layers: list[tuple[int, Tensor]] = []  # index, and numbers [M, columns] of each layer seen
        on_device = ids.to(model.device)  # once a GPU is busy, this would wait for it
        self.before, self.answer = on_device[self.n - 1 : self.start], on_device[self.start :]
        self.logits = capture(model, ids, self.visit, logits_to_keep=len(self.answer) + 1)[:-1]

    def visit(self, layer: Layer) -> None:
        """Choose what stays of one layer, measure what that loses, and keep nothing but the compressed caches."""
        n = self.n
        keys, values = layer.keys[:, :n], layer.values[:, :n]
        log_sums = None if layer.log_sums is None else layer.log_sums[:, :n]
        # `tables` looks for NaN in all layers at once: to look here would make the CPU wait for a GPU.
        probes = layer.queries[:, self.start - 1 : -1]
        attention = PromptAttention(layer.queries[:, :n], keys, log_sums, probes, check=False)
        below = {name: kept.to(keys.device) for name, kept in self.kept.items()}  # a model may be spread over GPUs
        self.kept = dict(below)
        for name, method in self.methods.items() if not below or layer.index % self.reuse == 0 else ():
            if "seed" in method.__dataclass_fields__:  # new draws for every layer and sequence, the same everywhere
                method = replace(method, seed=zlib.crc32(f"{method.seed} {self.sequence.id} {layer.index}".encode()))
            chosen = method.choose(attention)
            # Scores that are NaN leave places empty, as -1; a reader's own rule may choose anything.
            right = (chosen >= 0).all() & (chosen < n).all() & (chosen[:, 1:] > chosen[:, :-1]).all()
            self.proper[name], self.kept[name] = right, chosen.clamp(0, n - 1)
        self.layers.append((layer.index, self.columns(attention, values, layer, below)))
        for size in sorted({kept.shape[1] for kept in self.kept.values()}):
            names = tuple(name for name, kept in self.kept.items() if kept.shape[1] == size)
            cache = self.caches.setdefault(names, CompressedCache(n, reread=True))
            cache.add(keys, values, [self.kept[name] for name in names])
        if self.full_cache:
            self.full_cache.add(keys, values, [torch.arange(n, device=keys.device)[None]])

    def columns(self, attention: PromptAttention, values: Tensor, layer: Layer, below: Mapping[str, Tensor]) -> Tensor:
        """One layer's numbers, each a metric's mean over heads and probes: [M, metrics and two flags: finite, proper].

        values  [Hkv, n, d] the prompt's
        layer   with the tokens after the prompt
        below   the kept sets of the layer below
        """
        keys, spans, n = attention.keys, self.sequence.evidence_spans, self.n
        # What is the same for all methods is computed once.
        probes, logits = attention.probe_rows(), attention.probe_logits()
        window = attention.window_rows(min(WINDOW, n))
        without_sink = probes.clone()
        without_sink[..., 0] = 0
        compared = {
            "attention_cosine_similarity": probes,
            "attention_cosine_window": window,
            "attention_cosine_no_sink": without_sink,
            "attention_cosine_logits": logits,
        }
        lengths = {column: rows.norm(dim=-1) for column, rows in compared.items()}
        key_mass, value_mass = metrics.token_mass(keys), metrics.token_mass(values)
        key_energy, value_energy = metrics.token_mass(keys, power=2), metrics.token_mass(values, power=2)
        outputs = output_rows(probes, values)
        question = layer.queries[:, n : self.start]
        asked = attention_rows(question, keys) if question.shape[1] else None
        share, later = self.after_prompt(attention, layer)
        full = metrics.with_later(outputs, torch.ones_like(share), share, later)
        kept_sets = list(self.kept.values())
        of_prompt = metrics.prompt_cosine(attention, kept_sets) if self.all_queries else [None] * len(kept_sets)
        shows = attention.queries if attention.log_sums is None else attention.log_sums  # NaN in queries is seen here
        finite = torch.stack([x.sum(dtype=torch.float32) for x in (shows, key_mass, value_mass)]).isfinite().all()

        rows = []
        for (name, kept), prompt_cosines in zip(self.kept.items(), of_prompt):
            loss_keys, loss_values = metrics.lost_share(key_mass, kept), metrics.lost_share(value_mass, kept)
            evidence, whole = metrics.passage_survival(kept, spans, n) if spans else (None, None)
            mass, some = metrics.row_mass(probes, kept), metrics.kept_outputs(probes, values, kept)
            error = each = None
            if layer.residual is not None and layer.output_weight is not None:
                # The last prompt token is read once more, so that it is there whether it was kept or not.
                heads = len(probes) // len(kept)
                gone = (kept[:, -1] != n - 1).repeat_interleave(heads)[:, None] * probes[..., -1]  # [Hq, r]
                last = values[:, -1].repeat_interleave(len(probes) // len(values), 0)[:, None].to(probes.dtype)
                compressed = metrics.with_later(some + gone[..., None] * last, mass + gone, share, later)
                residual = layer.residual[self.start - 1 : -1]
                error, each = metrics.injected_error(full, compressed, layer.output_weight, residual)
            numbers = {
                "kv_l1_loss": (loss_keys.mean() + loss_values.mean()) / 2,
                "kv_l1_loss_keys": loss_keys,
                "kv_l1_absolute_keys": metrics.lost_mean(key_mass, kept, keys.shape[2]),
                "key_cosine": (1 - metrics.lost_share(key_energy, kept)).sqrt(),
                "kv_l1_loss_values": loss_values,
                "kv_l1_absolute_values": metrics.lost_mean(value_mass, kept, values.shape[2]),
                "value_cosine": (1 - metrics.lost_share(value_energy, kept)).sqrt(),
                **{column: metrics.row_cosine(x, kept, lengths[column]) for column, x in compared.items()},
                "attention_mass": mass,
                "attention_output_cosine": metrics.output_cosine(outputs, some),
                "attention_cosine_prompt": prompt_cosines,
                "overlap_layer_below": metrics.overlap(kept, below[name]) if name in below else None,
                "evidence_kept": evidence,
                "evidence_whole": whole,
                "injected_error": error,
                "injected_error_worst_head": None if each is None else each.mean(1).max(),
                "pages_freed": metrics.pages_freed(kept, n),
                "question_attention_mass": None if asked is None else metrics.row_mass(asked, kept),
            }
            missing = torch.tensor(torch.nan, dtype=torch.float32, device=keys.device)
            flags = [finite.float(), self.proper[name].to(keys.device).float()]
            rows.append([missing if x is None else x.float().nanmean() for x in numbers.values()] + flags)
            self.names = list(numbers)
        return torch.stack([torch.stack(row) for row in rows])

    def after_prompt(self, attention: PromptAttention, layer: Layer) -> tuple[Tensor, Tensor]:
        """Of the probes: the prompt's share of their attention [Hq, m], and the output over later tokens [Hq, m, d]."""
        keys, values = layer.keys[:, self.n : -1], layer.values[:, self.n : -1]
        probes = attention.probe_queries
        # A row's largest probability is exp(its logit - log-sum-exp).
        of_prompt = attention.probe_logits().amax(-1) - attention.probe_rows().amax(-1).log()
        if not keys.shape[1]:  # an answer of one token, asked for by the prompt itself
            return torch.ones_like(of_prompt), of_prompt.new_zeros(*of_prompt.shape, values.shape[2])
        positions = torch.arange(self.start - 1 - self.n, keys.shape[1], device=keys.device)
        logits = attention_logits(probes, keys, positions)  # the first probe may see none of them
        later = output_rows(logits.softmax(-1).nan_to_num(), values)
        return torch.sigmoid(of_prompt - logits.logsumexp(-1)), later

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The two DataFrames of `analyse`; InputError where a layer holds NaN or infinity."""
        scores = self.scores()  # begun before any number is asked for
        numbers = torch.stack([layer.to(self.layers[0][1].device) for _, layer in self.layers]).tolist()
        records = []
        for (index, _), layer in zip(self.layers, numbers):
            for (name, kept), row in zip(self.kept.items(), layer):
                if not row[-2]:
                    raise not_finite(f"the queries, keys or values of layer {index}")
                if not row[-1]:
                    raise InputError(f"{name} chose something else in layer {index} than positions of the prompt, each "
                                     "once, in ascending order; look for NaN in its scores.")  # fmt: skip
                own = {"method": name, "kept_tokens": kept.shape[1]}
                records.append(own | dict(zip(self.names, row)) | {"layer": index})
        layers = pd.DataFrame(records)
        layers.insert(layers.columns.get_loc("overlap_layer_below"), "layer", layers.pop("layer"))

        names = [FULL, *self.methods]
        values = torch.stack([torch.stack(list(scores[name].values())) for name in names]).tolist()
        answers = pd.DataFrame(values, columns=list(scores[FULL]))
        answers.insert(0, "method", names)
        answers.insert(1, "scored_tokens", len(self.answer))
        for frame in (layers, answers):
            frame.insert(0, "sequence", self.sequence.id)
        return layers, answers

    def scores(self) -> dict[str, dict[str, Tensor]]:
        """How well every cache predicts the answer, by method: `answer_scores`."""
        found, read = {(FULL,): self.logits[None]}, torch.cat([self.before, self.answer[:-1]])
        for names, cache in self.caches.items():
            found[names] = decode(self.model, cache, read, logits_to_keep=len(self.answer))
        scores, answer = {}, self.answer.to(self.logits.device)
        for names, batch in found.items():
            numbers = answer_scores(batch, self.logits, answer)
            scores |= {name: {key: x[row] for key, x in numbers.items()} for row, name in enumerate(names)}
        return scores
