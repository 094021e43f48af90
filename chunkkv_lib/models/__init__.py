"""Load a causal language model with its tokenizer, and say exactly which one it is."""

# ruff: noqa: F401
from .load import EMBEDDED, describe, fingerprint, load_config, load_model, load_tokenizer, pick_device, pick_dtype
