"""Pieces of causal attention on plain tensors, never an n x n matrix.

Shapes: `queries [Hq, n, d]`, `keys [Hkv, n, d]` after RoPE; query head h reads KV head h // (Hq // Hkv). Logits are
q.k / sqrt(d). Everything is computed in float32 or better, whatever the tensors' dtype. Inputs are never changed.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass
from importlib.util import find_spec
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from .errors import InputError

LOG2_E = 1.4426950408889634
TILE_BYTES = 4 * 384 * 768  # a tile of probabilities should stay in the cache between its product, exponential and sum

# --- rows: the full attention of a few queries --------------------------------------------------------------------


def attention_logits(queries: Tensor, keys: Tensor, positions: Tensor | None = None) -> Tensor:
    """Scaled logits q.k / sqrt(d) of a few queries; keys that a query cannot see get -inf.

    queries    [Hq, r, d]
    keys       [Hkv, n, d]
    positions  [r] int64, absolute position of each query: it sees the keys 0..position. None: it sees all keys.
    return     [Hq, r, n] float32 (float64 for float64 inputs)
    raises InputError: shapes that do not fit.
    """
    group = check_heads(queries, keys)
    kv_heads, n, d = keys.shape
    # One product per KV head with the group's queries stacked: the keys are never repeated.
    stacked, columns = queries.reshape(kv_heads, group * queries.shape[1], d), keys.transpose(1, 2)
    if keys.is_cuda and queries.dtype == keys.dtype and keys.dtype in (torch.bfloat16, torch.float16):
        # Products of 16-bit numbers are exact in float32, and the result is: the keys need not be widened.
        logits = torch.bmm(stacked, columns, out_dtype=torch.float32).mul_(d**-0.5)
    else:
        wide = torch.promote_types(queries.dtype, torch.float32)
        logits = torch.matmul(stacked.to(wide) * d**-0.5, columns.to(wide))
    logits = logits.view(queries.shape[0], -1, n)
    # Positions on a GPU are not looked at: the CPU would have to wait for them.
    if positions is not None and (positions.device.type != "cpu" or int(positions.min()) < n - 1):
        hidden = torch.arange(n, device=keys.device) > positions.to(keys.device)[:, None]
        logits.masked_fill_(hidden, -torch.inf)
    return logits


def attention_rows(queries: Tensor, keys: Tensor, positions: Tensor | None = None) -> Tensor:
    """Softmax of `attention_logits`: rows that sum to 1 over the keys each query sees. Shapes as there."""
    return attention_logits(queries, keys, positions).softmax(-1)


def output_rows(rows: Tensor, values: Tensor) -> Tensor:
    """Attention outputs: each row's weighted sum of the values. rows [Hq, r, n], values [Hkv, n, d] -> [Hq, r, d]."""
    query_heads, r, n = rows.shape
    kv_heads = values.shape[0]
    stacked = rows.reshape(kv_heads, query_heads // kv_heads * r, n)
    return torch.matmul(stacked, values.to(rows.dtype)).view(query_heads, r, -1)


# --- column sums: what each key receives from the whole prompt ----------------------------------------------------


def log_sum_exp(queries: Tensor, keys: Tensor) -> Tensor:
    """Log-sum-exp of every query's causal logits: queries [Hq, n, d], keys [Hkv, n, d] -> [Hq, n], at least float32."""
    check_heads(queries, keys)
    if triton := _triton(queries, keys):
        return triton.log_sum_exp(queries, keys)
    if queries.device.type == "cpu" and (found := causal_attention(queries[None], keys[None], keys[None])):
        return found[1]
    rows = _rows_per_tile(queries, keys)
    tiles = []
    for start in range(0, queries.shape[1], rows):
        stop = min(start + rows, queries.shape[1])
        positions = torch.arange(start, stop, device=keys.device)
        tiles.append(attention_logits(queries[:, start:stop], keys[:, :stop], positions).logsumexp(-1))
    return torch.cat(tiles, 1)


@torch.no_grad()
def column_sums(queries: Tensor, keys: Tensor, log_sums: Tensor | None = None) -> Tensor:
    """Attention that each key receives, summed over all causal queries of the prompt (H2O, arXiv 2306.14048).

    With a row's log-sum-exp at hand, exp(logit - log-sum-exp) is the final probability, so tiles can be added up in one
    sweep. On a GPU the kernels of `attention_triton.py` do it, where they can; the code here is their
    reference and takes all other cases.

    queries, keys  [Hq, n, d] and [Hkv, n, d]
    log_sums       [Hq, n], `log_sum_exp(queries, keys)`; computed if None
    return         [Hq, n], at least float32; a head's sums add up to n
    """
    log_sums = log_sum_exp(queries, keys) if log_sums is None else log_sums
    if triton := _triton(queries, keys):
        return triton.column_sums(queries, keys, log_sums)
    wide = torch.promote_types(queries.dtype, torch.float32)
    # The matrix product subtracts the log-sum-exp as its bias.
    k, q = (keys.to(wide) * keys.shape[2] ** -0.5).contiguous(), queries.to(wide).contiguous()
    norms = (-log_sums.to(wide)).contiguous()
    n, side, group = keys.shape[1], math.isqrt(_tile_bytes(queries) // 8), queries.shape[0] // keys.shape[0]

    @torch.inference_mode()  # a mode belongs to its thread
    def sums_of_keys(head: int, start: int) -> Tensor:
        """What the keys start .. start + side receive as one query head sees them: [side], of the last ones fewer."""
        mine = k[head // group, start : start + side]
        sums = torch.zeros(len(mine), dtype=wide, device=k.device)
        for first in range(start, n, 2 * side):
            some = slice(first, first + 2 * side)
            tile = _exp_of_linear(mine, q[head, some], norms[head, some])  # [side, 2 * side]
            if first == start:
                tile.triu_()  # no query sees the keys after it
            sums += tile.sum(1)
        return sums

    pieces = [(head, start) for head in range(queries.shape[0]) for start in range(0, n, side)]
    return torch.cat(_in_threads(sums_of_keys, pieces, queries.device)).view(-1, n)


def unmasked_column_sums(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Column sums as KVCache-Factory took them until June 2026: only the last window x window corner is masked.

    Every query but the last `window` >= 1 sees all keys, later ones too. For the appendix on that error only.
    """
    check_heads(queries, keys)
    n, rows = keys.shape[1], _rows_per_tile(queries, keys)
    sums = torch.zeros(queries.shape[:2], dtype=torch.promote_types(queries.dtype, torch.float32), device=keys.device)
    for tile, positions in zip(queries.split(rows, 1), torch.arange(n, device=keys.device).split(rows)):
        sees = torch.where(positions < n - window, n - 1, positions)
        sums += attention_rows(tile, keys, sees).sum(1)
    return sums


def _exp_of_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """exp(x @ weight.T + bias), where that is at most 1: [r, d], [c, d], [c], all contiguous -> [r, c]."""
    # Powers of two take a quarter of exp's time. On AMD's processors oneDNN takes half of MKL's, and the slope of its
    # leaky ReLU multiplies all that is below zero, without another sweep.
    if x.device.type == "cpu" and x.dtype == torch.float32 and _onednn_pays():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "leaky_relu", [LOG2_E], "").exp2_()
    return F.linear(x, weight, bias).mul_(LOG2_E).exp2_()


def _onednn_pays() -> bool:
    """Whether oneDNN is there, not switched off, and faster here; its operator is not part of torch's public ones."""
    there = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    wide = there and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _tile_bytes(x: Tensor) -> int:
    """Bytes of a float32 tile of logits or probabilities, at least 16 x 32; a GPU's may be larger."""
    return max(4 * 16 * 32, TILE_BYTES if x.device.type == "cpu" else 64 * TILE_BYTES)


def _rows_per_tile(queries: Tensor, keys: Tensor) -> int:
    """Rows of queries per tile of all heads and keys, a multiple of 16."""
    return max(16, _tile_bytes(queries) // (4 * queries.shape[0] * keys.shape[1]) // 16 * 16)


def _triton(queries: Tensor, keys: Tensor) -> ModuleType | None:
    """The Triton kernels, where they can take these tensors: on a GPU with bfloat16 arithmetic, in 16 or 32 bits."""
    if not (queries.is_cuda and keys.is_cuda) or find_spec("triton") is None:
        return None
    if any(torch.cuda.get_device_capability(x.device) < (8, 0) for x in (queries, keys)):
        return None
    from . import attention_triton as found

    fits = {queries.dtype, keys.dtype} <= set(found.DTYPES) and keys.shape[2] <= found.MAX_HEAD_DIM
    return found if fits else None


def _in_threads(work: Callable[..., Tensor], pieces: Sequence[tuple], device: torch.device) -> list[Tensor]:
    """work(*piece) for every piece, results in order, whatever the number of threads.

    On the CPU as many pieces at a time as torch has threads, each in one of them, since many small operations in a row
    would have all threads meet after each; elsewhere one after the other. Meanwhile torch has 1 thread in the process.
    """
    before = torch.get_num_threads()
    threads = min(before, len(pieces))
    if threads < 2 or device.type != "cpu":
        return [work(*piece) for piece in pieces]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(lambda piece: work(*piece), pieces))
    finally:
        torch.set_num_threads(before)


# --- one layer's pieces, shared -----------------------------------------------------------------------------------


@dataclass(eq=False, repr=False)
class PromptAttention:
    """The pieces of a prompt's attention that scores and metrics are made of, each computed at most once.

    raises InputError: shapes that do not fit, an empty prompt, NaN or infinity.
    """

    queries: Tensor  # [Hq, n, d], the prompt's, after RoPE
    keys: Tensor  # [Hkv, n, d], the prompt's, after RoPE
    log_sums: Tensor | None = None  # [Hq, n] log-sum-exp of the causal logits, where the kernel already gave it
    probe_queries: Tensor | None = None  # [Hq, m, d], those that will read the cache (that predict the answer)
    probe_positions: Tensor | None = None  # [m] their absolute positions; None: they see all of the prompt
    check: InitVar[bool] = True  # False: the caller looks for NaN later; to look here makes the CPU wait for a GPU

    def __post_init__(self, check: bool) -> None:
        queries, keys, probes = self.queries, self.keys, self.probe_queries
        check_heads(queries, keys)
        self.n, self._pieces = keys.shape[1], {}
        if queries.shape[1] != self.n:
            raise InputError(f"{queries.shape[1]} queries, {self.n} keys: pass exactly those of the prompt.")
        if self.n == 0:
            raise InputError("the prompt is empty (0 tokens); at least 1 token is needed. Pass a longer prompt.")
        if probes is not None:
            check_heads(probes, keys)
        for name, x in (("queries", queries), ("keys", keys), ("probe queries", probes)):
            if check and x is not None:
                check_finite(name, x)

    def window_logits(self, window: int) -> Tensor:
        """Scaled logits of the last `window` queries, -inf where a key is not visible: [Hq, window, n]."""
        self.check_window(window)
        positions = torch.arange(self.n - window, self.n, device=self.keys.device)
        mine = self.queries[:, self.n - window :]
        return self._once(("window logits", window), lambda: attention_logits(mine, self.keys, positions))

    def window_rows(self, window: int) -> Tensor:
        """Attention of the last `window` queries, causal inside the window: [Hq, window, n]."""
        return self._once(("window rows", window), lambda: self.window_logits(window).softmax(-1))

    def column_sums(self) -> Tensor:
        """Attention received by each key from all prompt queries: [Hq, n]."""
        return self._once(("column sums",), lambda: column_sums(self.queries, self.keys, self.log_sums))

    def probe_logits(self) -> Tensor:
        """Scaled logits of the probe queries over the prompt's keys: [Hq, m, n]."""
        if self.probe_queries is None:
            raise InputError("no probe queries were given; build PromptAttention(queries, keys, probe_queries=...).")
        probes = self.probe_queries, self.keys, self.probe_positions
        return self._once(("probe logits",), lambda: attention_logits(*probes))

    def probe_rows(self) -> Tensor:
        """Attention of the probe queries over the prompt's keys: [Hq, m, n]."""
        return self._once(("probe rows",), lambda: self.probe_logits().softmax(-1))

    def check_window(self, window: int) -> None:
        """Raise InputError for a window that is longer than the prompt, or empty."""
        if not 1 <= window <= self.n:
            raise InputError(f"window={window} does not fit {self.n} prompt tokens; give one between 1 and {self.n}.")

    def _once(self, name: tuple, compute: Callable[[], Tensor]) -> Tensor:
        if name not in self._pieces:
            self._pieces[name] = compute()
        return self._pieces[name]


# --- SDPA's kernels -----------------------------------------------------------------------------------------------


def causal_attention(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor] | None:
    """Causal attention with the kernel that SDPA picks for these tensors; None where that one has no log-sum-exp.

    queries  [1, Hq, n, d]
    keys     [1, Hkv, n, d], values as well; Hq is a multiple of Hkv
    scale    of the logits; None: 1 / sqrt(d)
    return   [1, Hq, n, d] in the queries' dtype, and [Hq, n] float32 natural log-sum-exp of the scaled logits
    """
    ops = torch.ops.aten
    tensors = queries, keys, values
    if values.shape[3] != queries.shape[3] or len({x.dtype for x in tensors}) > 1:  # the one as in DeepSeek's MLA
        return None
    if any(x.stride(3) != 1 for x in tensors):  # the CPU's kernel would read other numbers, and say nothing
        return None
    if queries.device.type == "cpu" and queries.dtype != torch.float64:
        kernel = ops._scaled_dot_product_flash_attention_for_cpu
        output, log_sums = kernel(queries, keys, values, 0.0, True, scale=scale)
        return output, log_sums[0]
    if not queries.is_cuda or queries.shape[3] % 8:
        return None
    grouped = queries.shape[1] != keys.shape[1]
    choice = torch._fused_sdp_choice(queries, keys, values, None, 0.0, True, scale=scale, enable_gqa=grouped)
    if choice == SDPBackend.FLASH_ATTENTION.value:
        kernel, options = ops._scaled_dot_product_flash_attention, ()
    elif choice == SDPBackend.CUDNN_ATTENTION.value:
        kernel, options = ops._scaled_dot_product_cudnn_attention, (None, True)
    else:
        return None
    output, log_sums = kernel(queries, keys, values, *options, 0.0, True, False, scale=scale)[:2]
    return output, log_sums.reshape(queries.shape[1:3])


# --- what one layer's tensors must look like; mistakes are told before any work is done ---------------------------


def check_finite(name: str, x: Tensor) -> None:
    """Raise InputError if `x` holds NaN or infinity."""
    # The sum tells it in one quick pass; only where it overflowed must every value be looked at.
    if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
        raise not_finite(name)


def not_finite(name: str) -> InputError:
    """The error for tensors that hold NaN or infinity."""
    return InputError(
        f"{name} hold NaN or infinity; every value must be finite. Run the model in float32 or bfloat16 "
        "(float16 overflows beyond 65504), or look for the layer that produced them."
    )


def check_heads(queries: Tensor, keys: Tensor) -> int:
    """The number of query heads that share a KV head; InputError if `queries` and `keys` do not fit together.

    queries  [Hq, any, d]
    keys     [Hkv, n, d], Hq a multiple of Hkv
    """
    for name, x in (("queries", queries), ("keys", keys)):
        if x.dim() != 3 or not x.is_floating_point():
            raise InputError(
                f"{name} have shape {tuple(x.shape)} and dtype {x.dtype}; expected 3 dimensions [heads, tokens, head "
                "dimension] of a floating-point dtype. One sequence at a time: drop the batch dimension."
            )
    (query_heads, _, d), (kv_heads, _, keys_d) = queries.shape, keys.shape
    if d != keys_d:
        raise InputError(f"queries have head dimension {d} and keys {keys_d}; both must be equal, of the same layer.")
    if kv_heads == 0 or query_heads == 0 or query_heads % kv_heads:
        raise InputError(
            f"{query_heads} query heads do not divide over {kv_heads} KV heads; their number must be a multiple of the "
            "KV heads'. Pass the keys un-repeated, as the model caches them."
        )
    return query_heads // kv_heads
