"""Continue from compressed caches: the answer's likelihood, and greedy generation.

Caches of several methods ride in one batch, so that all methods cost little more than one. New tokens have their true
positions n, n + 1, ...; kept keys keep theirs, since RoPE is already in them.

The prefill predicts the first token of an answer before anything is compressed. To see what a compressed cache says of
it, the prompt's last token is read once more: its own entry counts as evicted, and it is computed anew from the cache.
"""

import functools
from collections.abc import Iterable
from collections.abc import Sequence as Many

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from .capture import attention_as, capture, check_model, unseen
from .errors import InputError, check_whole

CHECKED = 64  # tokens on which a model's decoding is tried
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}  # what rounding may do


class CompressedCache:
    """What each of M methods kept of a prompt of n tokens: keys and values, filled in layer by layer with `add`.

    reread  the next token is the prompt's last one, read once more at its position n - 1; False: it is a token at n
    """

    def __init__(self, n: int, reread: bool = False) -> None:
        self.next_position, self.reread = n - reread, reread
        self.layers: list[tuple[Tensor, Tensor]] = []  # keys and values, each [M, heads, b, d]
        self.evicted: list[Tensor] = []  # [M, heads], whether the first entry is that of the token read once more

    def add(self, keys: Tensor, values: Tensor, kept_sets: Iterable[Tensor]) -> None:
        """Gather the kept positions of the next layer.

        keys, values  [Hkv, n, d]
        kept_sets     one `[S, b]` per method, all with the same b
        """
        kept_sets = list(kept_sets)
        heads = max(len(keys), *(len(kept) for kept in kept_sets))
        rows = torch.stack([kept.repeat_interleave(heads // len(kept), 0) for kept in kept_sets])  # [M, heads, b]
        owner = torch.arange(heads, device=keys.device)[:, None] // (heads // keys.shape[0])
        rows = rows.flip(-1)  # the order of entries does not matter; the highest position comes first
        self.layers.append((keys[owner, rows], values[owner, rows]))
        self.evicted.append(rows[..., 0] == keys.shape[1] - 1)

    @property
    def methods(self) -> int:
        """Number of caches in the batch."""
        return self.layers[0][0].shape[0]


def decode(
    model: PreTrainedModel, cache: CompressedCache, token_ids: Tensor, append: bool = False, logits_to_keep: int = 0
) -> Tensor:
    """Logits of new tokens that read the compressed caches, and each other causally.

    token_ids       [t], the same for every method, or [M, t]
    append          True adds the new tokens' keys and values to the cache, for the next step
    logits_to_keep  logits of that many last tokens are returned; 0: of all t
    return          [M, t, vocabulary]
    raises InputError: the new tokens lie beyond the model's last position, or outside a layer's sliding window.
    """
    ids = torch.as_tensor(token_ids, device=model.device)
    ids = ids.expand(cache.methods, -1) if ids.dim() == 1 else ids
    check_model(model, cache.next_position + ids.shape[1], cache.next_position + cache.reread)
    positions = cache.next_position + torch.arange(ids.shape[1], device=ids.device)

    @functools.cache  # the same in all layers of a device
    def hidden(t: int, total: int, group: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        later = torch.ones(t, total, dtype=torch.bool, device=device).triu(total - t + 1)
        return torch.zeros(t, total, dtype=dtype, device=device).masked_fill_(later, -torch.inf).repeat(group, 1)

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        keys, values = (  # [M, heads, b + t, d] from [M, heads, b, d] and [M, Hkv, t, d]
            torch.cat([kept, new.repeat_interleave(kept.shape[1] // new.shape[1], 1)], 2)
            for kept, new in zip(cache.layers[module.layer_idx], (key, value))
        )
        if append:
            cache.layers[module.layer_idx] = (keys, values)
        group, t = query.shape[1] // keys.shape[1], query.shape[2]
        rows = query.reshape(*keys.shape[:2], group * t, -1)  # a group's queries in a row: no key is repeated
        mask = hidden(t, keys.shape[2], group, query.dtype, query.device)
        if cache.reread:
            mask = mask.repeat(*keys.shape[:2], 1, 1)
            mask[..., 0].masked_fill_(cache.evicted[module.layer_idx][..., None], -torch.inf)
        output = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=scaling)
        return output.reshape(*query.shape[:3], -1).transpose(1, 2).contiguous(), None

    inputs = {"input_ids": ids, "position_ids": positions.expand_as(ids)}
    with attention_as(model, attend), torch.inference_mode():
        logits = model(**inputs, use_cache=False, logits_to_keep=logits_to_keep).logits
    if append:
        cache.next_position += ids.shape[1]
    return logits[:, -logits_to_keep:]  # some models do not know the option


def check_decoding(model: PreTrainedModel, token_ids: Iterable[int]) -> None:
    """Once per model object: an answer decoded from an uncompressed cache must be what the model itself predicts.

    Models that add something to their logits, share layers or count positions in a way of their own fail here, whatever
    they are called. Tried on the last `CHECKED` of the given tokens, of which the last quarter is decoded.
    raises InputError: logits differ (root mean square) by more than `TOLERANCE` of their standard deviation, or the
        attempt fails; a model in training mode.
    """
    if model.training:  # asked every time: it may have been trained since
        raise InputError("the model is in training mode, where dropout changes its numbers; call model.eval() first.")
    if getattr(model, "_chunkkv_decodes", False):
        return
    ids = torch.as_tensor(list(token_ids))[-CHECKED:].to(model.device)
    n = max(1, 3 * len(ids) // 4)
    cache, everything = CompressedCache(n), torch.arange(n)[None]
    try:
        captured = capture(model, ids, lambda layer: cache.add(layer.keys[:, :n], layer.values[:, :n],
                           [everything.to(layer.keys.device)]), logits_to_keep=len(ids) - n)  # fmt: skip
        decoded = decode(model, cache, ids[n:])[0]
        with torch.inference_mode(), torch.autocast(model.device.type, enabled=False):
            expected = model(input_ids=ids[None]).logits[0, n:]
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # anything: the model's own code works in ways that were not foreseen
        reason = " ".join(str(error).split())[:160].rstrip(".")
        raise unseen(model, f"cannot be measured: reading its attention fails ({reason})") from error
    if not expected.isfinite().all():
        return  # an overflow: the analysis will name the layer
    tolerance = TOLERANCE[model.dtype]
    for found, how in ((captured, "in the captured pass"), (decoded, "decoded from an uncompressed cache")):
        difference = ((found - expected).float().square().mean().sqrt() / expected.float().std()).item()
        if not difference <= tolerance:
            raise InputError(
                f"{model.config.get_text_config().model_type} predicts something else {how} than by itself: its logits "
                f"differ by {difference:.1g} of their standard deviation, at most {tolerance:g} is rounding. Take "
                "another model (or pass check=False)."
            )
    model._chunkkv_decodes = True


def answer_scores(logits: Tensor, full_logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """How well logits from compressed caches predict the answer, against those from the full cache.

    logits       [M, t, vocabulary] of the tokens before the targets, one row per cache
    full_logits  [t, vocabulary], from the full cache
    targets      [t] int64 answer tokens, at least one
    return       numbers [M], as tensors, so that a GPU is not waited for. nll: mean negative log-likelihood, nats per
                 token; kl: mean KL divergence from the full cache's prediction, nats; top1_agreement: share of tokens
                 with the same most likely next one; accuracy: 1 if the most likely token is the answer's every time,
                 else 0; nll_after_first: nll of the tokens after the first, which a deployed system predicts before
                 it compresses
    """
    full = full_logits.float().log_softmax(-1)
    probabilities, likeliest = full.exp(), full.argmax(-1)
    rows = []
    for ours in logits:  # one at a time: a vocabulary is large
        ours = ours.float().log_softmax(-1)
        best, each = ours.argmax(-1), F.nll_loss(ours, targets, reduction="none")
        numbers = {
            "nll": each.mean(),
            "kl": torch.sub(full, ours, out=ours).mul_(probabilities).sum() / len(targets),
            "top1_agreement": (best == likeliest).float().mean(),
            "accuracy": (best == targets).all().float(),
            "nll_after_first": each[1:].mean(),
        }
        rows.append(numbers)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def generate(
    model: PreTrainedModel,
    cache: CompressedCache,
    first_tokens: int | Many[int],
    max_new_tokens: int = 32,
    stop_ids: Iterable[int] = (),
) -> list[list[int]]:
    """Greedy continuation of every method's cache.

    first_tokens  the first token of every method's continuation, or one for all
    stop_ids      a row ends before the first of these
    return        M lists of token ids, each at most `max_new_tokens` long; the cache holds the tokens afterwards
    raises InputError: max_new_tokens below 1, or more than the model has positions for.
    """
    check_whole(max_new_tokens=max_new_tokens)
    try:
        check_model(model, cache.next_position + max_new_tokens - 1, cache.next_position + cache.reread)
    except InputError as error:
        raise InputError(f"max_new_tokens={max_new_tokens} does not fit: {error}") from None
    stops = set(stop_ids)
    rows: list[list[int]] = [[] for _ in range(cache.methods)]
    live = [True] * cache.methods
    tokens = torch.as_tensor(first_tokens, device=model.device).expand(cache.methods)[:, None]
    for step in range(max_new_tokens):
        for row, token in enumerate(tokens[:, 0].tolist()):
            live[row] = live[row] and token not in stops
            if live[row]:
                rows[row].append(token)
        if not any(live) or step == max_new_tokens - 1:
            break
        tokens = decode(model, cache, tokens, append=True)[:, -1:].argmax(-1)
    return rows
