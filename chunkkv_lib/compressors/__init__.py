"""Which prompt tokens stay in the KV cache: one short class per method, hyper-parameters as fields.

    kept = ChunkKV(budget=0.1, window=8, chunk_size=10).select(queries, keys)      # [S, b] int64

`queries [Hq, n, d]` and `keys [Hkv, n, d]` are one layer's tensors of the whole prompt, after RoPE. S is Hkv
(granularity "kv_head"), Hq ("query_head") or 1 ("layer"). Every method keeps exactly the budget; of equal scores the
lower position stays.

A method of your own is a subclass of `Compressor`, or of `WindowCompressor` to keep the last tokens always, whose
`scores(self, attention)` takes a `PromptAttention` and returns `self.pool_heads(scores per query head, attention)`.
"""

# ruff: noqa: F401
from .base import Compressor, WindowCompressor, budget_tokens, check_kept
from .chunkkv import ChunkKV
from .controls import Oracle, Random, Recent, StreamingLLM
from .h2o import H2O
from .presets import EXTRA, METHODS, PRESETS, preset
from .snapkv import SnapKV
