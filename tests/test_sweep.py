"""Every causal model type that transformers can build small: measured rightly, or refused in one line.

A type works if the captured pass gives its own logits, softmax(q.k) of what the capture saw is its own eager attention,
and a method that keeps everything scores as the full cache. `data/models/sweep.csv` is the table for the book; after an
update of transformers `python tests/test_sweep.py` writes it anew.
"""

import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers
from common import captured
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from chunkkv_lib import InputError, Sequence, analyse, preset
from chunkkv_lib.decoding import CompressedCache, generate

TABLE = Path(__file__).parents[1] / "data" / "models" / "sweep.csv"
IDS = torch.randint(3, 97, (48,), generator=torch.Generator().manual_seed(1))
ANSWER = 8  # of these tokens

#: Sizes by the many names that configurations have for them; a configuration takes those it knows.
SMALL = {
    "vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "dim_model": 32, "embedding_size": 32, "word_embed_proj_dim": 32,
    "intermediate_size": 48, "n_inner": 48, "ffn_dim": 48, "decoder_ffn_dim": 48, "dff": 48,
    "intermediate_size_mlp": 48,
    "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "decoder_layers": 4, "num_layers": 4, "num_decoder_layers": 4,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "decoder_attention_heads": 4, "num_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "first_k_dense_replace": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "qk_head_dim": 16,
    "v_head_dim": 8, "rotary_dim": 4, "sliding_window": 64, "attention_chunk_size": 64, "index_head_dim": 8,
    "index_n_heads": 2, "index_topk": 64, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97,
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_expand": 2, "mamba_n_groups": 1,
}  # fmt: skip
#: What some types need besides, or instead; a list of layer types is cut to the number of layers.
SPECIAL = {
    "gpt_neo": {"attention_types": [[["global"], 4]]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "gemma3n_text": {"num_kv_shared_layers": 2, "intermediate_size": [48] * 4},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "falcon": {"new_decoder_architecture": True},
}


def build(kind: str, **changes) -> torch.nn.Module | None:
    """A model of this type of about 0.1 M random parameters; None if its logits are not finite.

    An exception of any kind where the sizes above are not enough.
    """
    base = CONFIG_MAPPING[kind]().get_text_config()
    special = SPECIAL.get(base.model_type, {}) | changes
    known = {*getattr(type(base), "__dataclass_fields__", {}), *getattr(base, "attribute_map", {})}
    sizes = {name: value for name, value in SMALL.items() if name in known}
    for attempt in ({}, {"num_key_value_heads": 4}):  # MLA has as many KV heads as query heads
        options = sizes | {name: attempt[name] for name in attempt if name in sizes} | special
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(type(base)(**options))
        if sum(weight.numel() for weight in model.parameters()) > 3e6:
            raise ValueError("no setting makes it small")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(model.config).eval()
        for weight in model.parameters():  # far from the start of training, where much is zero or one
            noise = torch.randn_like(weight)
            weight.data = 0.3 * noise if weight.dim() > 1 else weight.data + 0.2 * noise
        try:
            with torch.inference_mode():
                return model if model(input_ids=IDS[None], use_cache=False).logits.isfinite().all() else None
        except RuntimeError:
            if attempt:
                raise


def eager_difference(model: torch.nn.Module, ids: torch.Tensor) -> float:
    """Largest difference between softmax(q.k) of what the capture sees and the attention that the model reports."""
    layers = captured(model, ids)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        reported = model(input_ids=ids[None], output_attentions=True).attentions
    largest = 0.0
    for layer, attention in zip(layers, reported, strict=True):
        keys = layer.keys.repeat_interleave(len(layer.queries) // len(layer.keys), 0)
        logits = layer.queries @ keys.transpose(1, 2) * layer.queries.shape[-1] ** -0.5
        rows = logits.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), -torch.inf).softmax(-1)
        largest = max(largest, float((rows - attention[0]).abs().max()))
    return largest


def outcome(model: torch.nn.Module | None, ids: torch.Tensor = IDS) -> tuple[str, str]:
    """("works", ""), ("refused", why), or ("fails", how)."""
    if model is None:
        return "not tried", "its random logits are not finite"
    prompt, answer = ids[:-ANSWER], ids[-ANSWER:]
    methods = preset(budget=0.3) | {"Everything": preset(budget=1.0)["SnapKV"]}
    try:
        layers, answers = analyse(model, Sequence.from_ids(prompt, answer), methods)
        difference = eager_difference(model, ids)
    except InputError as error:
        return ("refused", str(error)) if "\n" not in str(error) else ("fails", "more than one line")
    except Exception as error:
        return "fails", f"{type(error).__name__}: {error}".split("\n")[0]
    kept_all = answers.set_index("method")
    for wrong, how in (
        (abs(kept_all.loc["Everything", "kl"]) > 1e-5, "budget 1.0 is not the full cache"),
        (difference > 1e-4, "softmax(q.k) is not its attention"),
        (not layers["kv_l1_loss"].between(0, 1).all(), "a loss outside 0 to 1"),
    ):
        if wrong:
            return "fails", how
    return "works", ""


def sweep(kinds: list[str]) -> pd.DataFrame:
    """One row for every type: "works", "refused", "fails" or "not tried", and why."""
    transformers.logging.set_verbosity_error()
    rows = []
    for kind in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = build(kind)
            except Exception as error:  # a setting that this type needs is not among SMALL and SPECIAL
                result, reason = "not tried", f"could not be built small: {type(error).__name__}"
            else:
                result, reason = outcome(model)
        rows.append({"model_type": kind, "result": result, "reason": reason})
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_every_model_type_works_or_is_refused(one_thread):
    found = sweep(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    assert found[found["result"] == "fails"].empty, found[found["result"] == "fails"].to_string()
    pd.testing.assert_frame_equal(found[["model_type", "result"]], pd.read_csv(TABLE)[["model_type", "result"]])


def test_the_table_of_the_sweep_is_whole():
    counts = pd.read_csv(TABLE)["result"].value_counts()
    assert counts["works"] >= 65 and "fails" not in counts


# What of a configuration decides, in types that are known to work otherwise.


def longrope(switch: int) -> dict[str, object]:
    """Settings of a Phi-3 that turns its keys by other angles in texts of more than so many tokens."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": switch} | factors
    return {"original_max_position_embeddings": switch, "rope_parameters": rope}


PHI3 = {"max_position_embeddings": 256, "sliding_window": None}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
QWEN2 = {"max_position_embeddings": 64, "rope_parameters": YARN}  # as Qwen documents it: the positions before


@pytest.mark.parametrize(
    ("kind", "changes", "tokens", "refusal"),
    [
        ("gemma4_text", {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2},
         48, "gemma4"),
        ("gemma4_text", {"global_head_dim": 16}, 48, ""),
        ("gemma4_text", {"num_global_key_value_heads": 1}, 48, ""),
        ("deepseek_v3", {}, 48, ""),
        ("deepseek_v2", {"v_head_dim": 12}, 48, ""),
        ("llama4_text", {"attn_temperature_tuning": True, "floor_scale": 8}, 48, "attn_temperature_tuning"),
        ("doge", {"keep_window_size": 16}, 48, "keep_window_size"),
        ("deepseek_v32", {"index_topk": 16}, 48, "indexed_attention"),
        ("phi3", PHI3 | longrope(151), 160, ""),
        ("phi3", PHI3 | longrope(152), 160, "texts of more than 152 tokens"),
        ("phi3", PHI3 | longrope(159), 160, "texts of more than 159 tokens"),
        ("phi3", PHI3 | longrope(160), 160, ""),
        ("qwen2", QWEN2, 256, ""),
        ("qwen2", QWEN2, 257, "positions end at 256"),
    ],
)  # fmt: skip
def test_settings_that_once_gave_wrong_numbers(kind, changes, tokens, refusal, one_thread):
    """Shared layers, sizes that differ by layer, logits that depend on position, sparse attention, and answers that
    cross the switch of LongRoPE: right or refused."""
    torch.manual_seed(0)
    result, reason = outcome(build(kind, **changes), torch.randint(3, 97, (tokens,)))
    assert result == ("refused" if refusal else "works") and refusal in reason, reason


def test_a_written_answer_that_would_cross_longropes_switch_is_refused(one_thread):
    model = build("phi3", sliding_window=None, **longrope(20))
    with pytest.raises(InputError, match=r"max_new_tokens=8 does not fit: .*texts of more than 20 tokens"):
        generate(model, CompressedCache(15), 3, max_new_tokens=8)


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = sweep(sys.argv[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    print(table.to_string())
    if not sys.argv[1:]:
        TABLE.parent.mkdir(exist_ok=True)
        table.to_csv(TABLE, index=False)
