"""Paged attention for Hopper in CUDA C++: what `paged_attention` gives sequences with many queries to.

Exact as the Triton kernel is, and meant to have its bits, but for the sign of a zero: the same tiles and chunks, each sum
in the same order, the tensor cores' products of the same shapes. Then a step may be shared out between the two, and either
go on from keys that the other made. It was not compared on a GPU yet, and the engine does not use it before. Where the
Triton kernel's products are not a warpgroup's too, of 64 rows, it is refused: below three query heads a key head.
"""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.cuda_build import AttentionSm90, sm90_kernels
from wideseek_kernels.launch_plan import TOKENS, LaunchPlan

HEAD_DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)

ROWS = 128
"""Of an item: tokens times query heads a key head, in powers of two. csrc/layout_sm90.cuh has the same."""

GROUP_ROWS = 64
"""Of a warpgroup's product."""


def rows_a_token(cache: Tensor, num_heads: int) -> int:
    """Rows that a token's query heads of a key head take, a power of two."""
    return 1 << (num_heads // cache.shape[1] - 1).bit_length()


def refused(cache: Tensor, num_heads: int) -> str | None:
    """Why the kernel takes no such cache [P, KV, page_size, D] or number of query heads; None where it does."""
    _, num_kv, page_size, head_dim = cache.shape
    if cache.dtype not in DTYPES:
        return f"cache is {cache.dtype}, expected 16-bit floats"
    if head_dim not in HEAD_DIMS:
        return f"cache has head_dim {head_dim}, expected one of {HEAD_DIMS}"
    if page_size < 8 or (page_size % 64 and 64 % page_size):
        return f"cache has pages of {page_size}, expected a multiple or, from 8 on, a divisor of 64"
    if num_kv == 0 or num_heads % num_kv or not 1 <= num_heads // num_kv <= ROWS:
        return f"num_heads is {num_heads}, expected 1 to {ROWS} times the {num_kv} of cache"
    if rows_a_token(cache, num_heads) * TOKENS < GROUP_ROWS:
        return f"num_heads is {num_heads}, of whose products with {num_kv} the Triton kernel has other bits"
    return None


def takes_sm90(device: torch.device) -> bool:
    """Whether the kernel runs on this device: Hopper, and there is a compiler for it and one to plan with."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) == (9, 0)
        and cpu_kernels()
        and sm90_kernels() is not None
    )


def attention_sm90(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: LaunchPlan, out: Tensor, lse: Tensor
) -> None:
    """Writes the rows of the plan into out [T, H, D] and lse [T, H]; the operands are those of `paged_attention`.

    plan: in items of at most ROWS rows. Raises RuntimeError where the device or the driver refuses.
    """
    num_heads, head_dim = q.shape[1:]
    partials = q.new_empty(plan.num_partials, num_heads, head_dim, dtype=torch.float32)
    states = q.new_empty(plan.num_partials, num_heads, 2, dtype=torch.float32)
    given = AttentionSm90(
        *(x.data_ptr() for x in (q, k_cache, v_cache, out, lse, partials, states)),
        *(x.data_ptr() for x in (plan.items, plan.tokens, plan.merges, plan.pages)),
        torch.cuda.current_stream(q.device).cuda_stream,
        *(len(plan.items), len(plan.merges), plan.most_tokens),
        *(num_heads, k_cache.shape[1], k_cache.shape[0], k_cache.shape[2], head_dim),
        *(q.get_device(), q.dtype == torch.bfloat16),
    )
    library = sm90_kernels()
    assert library is not None
    with torch.cuda.device(q.device):
        code = library.wideseek_attention_sm90(ctypes.byref(given))
    if code:
        tell: Callable[[int], bytes] = library.wideseek_attention_sm90_error
        raise RuntimeError(f"attention_sm90: {tell(code).decode()}")
