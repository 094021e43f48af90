"""Inputs for the Triton kernels, and their results, written to a file from a process of their own.

    TRITON_INTERPRET=1 python tests/kernel_cases.py results.pt     # on the CPU, by Triton's interpreter
    python tests/kernel_cases.py results.pt sm_86 sm_90            # only compile, for GPUs that need not be there

Triton decides once per process, when it is imported, whether it interprets; hence the process.
"""

import sys

import references as ref
import torch

#: name -> query heads, KV heads, tokens, head dimension, dtype, rows of a tile.
CASES = {
    "one token": (2, 2, 1, 64, torch.float32, 16),
    "shorter than a tile": (2, 1, 7, 16, torch.float32, 16),
    "exactly a tile": (2, 1, 16, 64, torch.bfloat16, 16),
    "one more than a tile": (2, 1, 17, 64, torch.bfloat16, 16),
    "four tiles and groups of three": (6, 2, 61, 64, torch.float32, 16),
    "head dimension 5": (2, 1, 40, 5, torch.float32, 16),
    "head dimension 96": (2, 1, 83, 96, torch.bfloat16, 32),
    "head dimension 128": (4, 2, 75, 128, torch.float16, 32),
    "head dimension 256": (2, 1, 67, 256, torch.bfloat16, 32),
    "large tiles": (1, 1, 129, 64, torch.bfloat16, 128),
}
GPUS = {"sm_86": (86, 99 << 10), "sm_90": (90, 227 << 10)}  # capability, shared memory


def inputs(name: str, device: str = "cpu") -> list[torch.Tensor]:
    """Queries and keys of a case, as views into memory that is NaN wherever the case has no business to read."""
    query_heads, kv_heads, n, d, dtype, _ = CASES[name]
    views = []
    for x in ref.random_layer(query_heads, kv_heads, n, d, seed=len(name), dtype=dtype)[:2]:
        around = torch.full((n + 20, x.shape[0] + 1, d + 3), torch.nan, dtype=dtype, device=device)
        view = around[:n, : x.shape[0], :d].transpose(0, 1)  # tokens lie further apart than heads, as in a model
        views.append(view.copy_(x.to(device)))
    return views


def interpreted() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Log-sum-exp and column sums of every case."""
    from chunkkv_lib import attention_triton

    results = {}
    for name, (*_, block) in CASES.items():
        queries, keys = inputs(name)
        lse = attention_triton.log_sum_exp(queries, keys, block)
        results[name] = lse, attention_triton.column_sums(queries, keys, lse, block)
    return results


def compiled(gpu: str, head_dim: int = 128) -> dict[str, tuple[int, int]]:
    """Bytes of shared memory that each kernel needs and may have on a GPU, from the real compiler."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from chunkkv_lib import attention_triton

    capability, memory = GPUS[gpu]
    block, stages = attention_triton.tile_shape(head_dim, torch.bfloat16, memory)
    fixed = {"D": head_dim, "WIDE": head_dim, "BLOCK": block}
    pointers = {"queries": "*bf16", "keys": "*bf16", "log_sums": "*fp32", "result": "*fp32"}
    kinds = pointers | {"scale": "fp32"} | dict.fromkeys(fixed, "constexpr")
    results = {}
    for kernel in (attention_triton._log_sum_exp_kernel, attention_triton._column_sums_kernel):
        names = kernel.arg_names
        aligned = [i for i, name in enumerate(names) if name in pointers or name.endswith(("_head", "_token"))]
        signature = {name: kinds.get(name, "i32") for name in names}
        source = ASTSource(kernel, signature, fixed, {(i,): [["tt.divisibility", 16]] for i in aligned})
        options = {"num_warps": attention_triton.warps(head_dim, block), "num_stages": stages}
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        results[kernel.__name__] = made.metadata.shared, memory
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    gpus = sys.argv[2:]
    torch.save({gpu: compiled(gpu) for gpu in gpus} if gpus else interpreted(), sys.argv[1])
