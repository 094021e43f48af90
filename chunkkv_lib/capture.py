"""One forward pass of a model, looked at layer by layer while it runs.

The model's ordinary SDPA attention computes the result; a visitor sees each layer's queries, keys and values after
RoPE and lets them go. Nothing of the model is patched: an attention function is registered with transformers under a
name of its own, used inside a context manager, and taken away again, also after an exception.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .attention import causal_attention
from .errors import InputError

_numbers = itertools.count()


@dataclass(frozen=True)
class Layer:
    """What the attention of one layer worked on, for one sequence of t tokens."""

    index: int  # 0 for the layer next to the embeddings
    queries: Tensor  # [Hq, t, d] after RoPE, scaled so that the model's logits are q.k / sqrt(d)
    keys: Tensor  # [Hkv, t, d] after RoPE, as the model caches them
    values: Tensor  # [Hkv, t, d]
    log_sums: Tensor | None  # [Hq, t] float32, of the causal logits; None where the kernel does not give it
    residual: Tensor | None = None  # [t, hidden] the stream to which the output is added; None where it was not found
    output_weight: Tensor | None = None  # [hidden, Hq * d] W_O, from the heads' outputs to the stream; None as above


@contextmanager
def attention_as(model: PreTrainedModel, attend: Callable) -> Iterator[None]:
    """Let `attend` be the model's attention function inside the block, with SDPA's masks; then restore the model.

    attend(module, query, key, value, attention_mask, **kwargs) -> (output [batch, t, Hq, d], None)
    """
    name, before = f"chunkkv_{next(_numbers)}", model.config._attn_implementation
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)  # without it the mask would silently be another one
    try:
        model.set_attn_implementation(name)
        with torch.autocast(model.device.type, enabled=False):  # a caller's own would round what is measured
            yield
    finally:
        model.set_attn_implementation(before)
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)


def capture(
    model: PreTrainedModel, token_ids: Tensor, visit: Callable[[Layer], None], logits_to_keep: int = 1
) -> Tensor:
    """Run the model once over a sequence and hand every layer's attention tensors to `visit`.

    token_ids       [t] int64
    visit           called once per layer, lowest first; what it does not keep is freed before the next layer
    logits_to_keep  logits of that many last positions are returned
    return          [logits_to_keep, vocabulary] logits, bit for bit those of the model with SDPA attention
    raises InputError: what `check_model` refuses, a token that the model does not embed, attention that is not seen.
    """
    ids = torch.as_tensor(token_ids)
    if ids.dim() != 1:
        raise InputError(f"the token ids have shape {tuple(ids.shape)}; give one sequence, without a batch dimension.")
    check_model(model, len(ids))
    check_tokens(ids, model.get_input_embeddings().num_embeddings)
    seen, residuals = set(), {}
    hidden_size = model.config.get_text_config().hidden_size
    owners = {child: parent for parent in model.modules() for child in parent.children() if hasattr(child, "layer_idx")}

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        if kwargs.get("s_aux") is not None:
            raise unseen(model, "adds learned sinks to its softmax, which the scores do not model")
        seen.add(module.layer_idx)
        plain = attention_mask is None and query.shape[2] > 1 and not kwargs.get("softcap")
        if plain and (found := causal_attention(query, key, value, scaling)):
            output, log_sums = found[0].transpose(1, 2).contiguous(), found[1]
        else:
            output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
            log_sums = None
        correction = (scaling or query.shape[-1] ** -0.5) * query.shape[-1] ** 0.5
        queries = query[0] if abs(correction - 1) < 1e-6 else query[0] * correction
        weight = output_weight(module, query.shape[1] * value.shape[-1], hidden_size)
        residual = residuals.pop(owners.get(module), None)
        visit(Layer(module.layer_idx, queries, key[0], value[0], log_sums, residual, weight))
        return output, None

    def remember(layer, arguments, named) -> None:
        """What a decoder layer is called with: the residual stream, its first argument, where there is one of it."""
        stream = arguments[0] if arguments else named["hidden_states"]
        residuals[layer] = stream[0] if stream.dim() == 3 else None  # Gemma 3n carries several streams side by side

    with ExitStack() as hooks, attention_as(model, attend), torch.inference_mode():
        for one in set(owners.values()):
            hooks.callback(one.register_forward_pre_hook(remember, with_kwargs=True).remove)
        logits = model(input_ids=ids[None].to(model.device), use_cache=False, logits_to_keep=logits_to_keep).logits[0]
    logits = logits[-logits_to_keep:]  # some models do not know the argument
    if len(seen) != model.config.get_text_config().num_hidden_layers:
        raise unseen(model, "computes attention in a way of its own in some layers, so that it cannot be captured")
    return logits


def output_weight(attention: nn.Module, size: int, hidden_size: int) -> Tensor | None:
    """W_O [hidden_size, size] of an attention module: its last linear map from all heads' outputs to the stream."""
    found = None
    for child in attention.children():
        weight = getattr(child, "weight", None)
        if weight is not None and type(child).__name__ == "Conv1D":  # GPT-2's, which multiplies from the other side
            weight = weight.t()
        if weight is not None and weight.is_floating_point() and weight.shape == (hidden_size, size):
            found = weight.detach()
    return found


def unseen(model: PreTrainedModel, why: str) -> InputError:
    """The error for a model whose attention cannot be captured as it is."""
    return InputError(
        f"{model.config.get_text_config().model_type} {why}. Take a model with ordinary causal attention, such as "
        "Llama, Mistral, Qwen or Phi-3."
    )


def check_tokens(ids: Tensor, size: int) -> None:
    """InputError for a token beyond the `size` that the model embeds; on a GPU an assertion would end the process."""
    if ids.max() >= size:
        told = f"the sequence holds token id {int(ids.max())}, the model embeds 0 to {size - 1}"
        raise InputError(f"{told}. Encode the text with the model's own tokenizer.")


def check_model(model: PreTrainedModel, tokens: int, start: int | None = None) -> None:
    """Raise InputError if what the model's configuration says rules a sequence of `tokens` tokens out.

    start  first position beyond the prompt that is decoded from a cache; None: the whole sequence in one pass
    """
    config = model.config.get_text_config()
    name, setting = config.model_type, lambda field: getattr(config, field, None)
    if tokens == 0:
        raise InputError("the sequence is empty (0 tokens); at least 1 token is needed. Pass a longer prompt.")
    if (cap := setting("attn_logit_softcapping")) is not None:
        raise unseen(model, f"soft-caps its logits (attn_logit_softcapping={cap}), which the scores do not model")
    types = set(setting("layer_types") or ())
    if odd := min(types - {"full_attention", "sliding_attention", "chunked_attention"}, default=""):
        # sparse attention of some kind on the one hand, linear attention, convolutions and state spaces on the other
        sparse = "attention" in odd and "linear" not in odd
        keeps = "attend in a way of their own" if sparse else "keep no cache of tokens"
        raise unseen(model, f"has layers that {keeps} ({odd})")

    ropes = setting("rope_parameters") or {}  # one dict, or one for each kind of layer
    ropes = [rope for rope in (ropes, *ropes.values()) if isinstance(rope, dict) and "rope_type" in rope]
    positions = setting("max_position_embeddings") or 0
    if positions > 0:  # YaRN extends it, and some configurations state the length before
        positions = max([positions, *(int((rope.get("factor") or 1) * rope.get("original_max_position_embeddings", 0))
                                      for rope in ropes if rope["rope_type"] == "yarn")])  # fmt: skip
    sees_all = types == {"full_attention"} or (not types and setting("use_sliding_window") is False)
    window, kind = None if sees_all else setting("sliding_window"), "sliding_attention"
    if "chunked_attention" in types:
        window, kind = config.attention_chunk_size, "chunked_attention"
    # Llama 4 scales by positions of its own cache, which is not in use when tokens are decoded here.
    tuned = start is not None and setting("attn_temperature_tuning") and setting("floor_scale")
    limits = [  # the most tokens that can be measured, and why; None: no limit
        (positions if positions > 0 else None, f"the model's positions end at {positions}"),
        (window, f"{name} has {kind} layers that see only the last {window} tokens"),
        *((setting(field) or None, f"{name} attends to {setting(field)} tokens at most ({field})")
          for field in ("index_topk", "keep_window_size")),
        (tuned or None, f"{name} scales its logits from position {tuned} on (attn_temperature_tuning)"),
    ]  # fmt: skip
    for most, why in limits:
        if most is not None and tokens > most:
            raise InputError(
                f"the sequence has {tokens} tokens (prompt and answer), {why}. Lower max_tokens so that they fit in "
                f"{most}, or take a model without this limit."
            )
    for rope in ropes if start is not None else ():
        switch = rope.get("original_max_position_embeddings") or setting("original_max_position_embeddings") or 0
        two = rope["rope_type"] == "longrope" and rope["short_factor"] != rope["long_factor"]
        if two and start <= switch <= tokens:  # cached keys would have been turned by the one, new ones by the other
            raise InputError(
                f"{name} turns keys and queries by other angles in texts of more than {switch} tokens, and the answer "
                f"crosses that length. Lower max_tokens by {tokens - switch + 1} or more."
            )
