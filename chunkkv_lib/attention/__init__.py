"""Pieces of causal attention on plain tensors, never an n x n matrix.

Shapes: `queries [Hq, n, d]`, `keys [Hkv, n, d]` after RoPE; query head h reads KV head h // (Hq // Hkv). Logits are
q.k / sqrt(d). Everything is computed in float32 or better, whatever the tensors' dtype. Inputs are never changed.
"""

from .checks import check_heads, check_prompt
from .column_sums import column_sums, log_sum_exp, uncausal_column_sums
from .flash import causal_attention
from .prompt import PromptAttention
from .rows import attention_logits, attention_rows, kept_outputs, output_rows

__all__ = [
    "PromptAttention",
    "attention_logits",
    "attention_rows",
    "causal_attention",
    "check_heads",
    "check_prompt",
    "column_sums",
    "kept_outputs",
    "log_sum_exp",
    "output_rows",
    "uncausal_column_sums",
]
