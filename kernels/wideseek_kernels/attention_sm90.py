"""Paged attention for Hopper in CUDA C++, beside the Triton one: for its benchmark and GPU tests, until it has won there.

Exact as `paged_attention` is, within itself: tiles of 64 keys at absolute positions, chunks of 4 of them folded in order,
whoever else is in the step. Its bits are not promised to be those of the Triton kernel, which sums a row's weights and
divides otherwise, though both have the same tiles and chunks. So one of the two must run all steps of all sequences
whose bits are to agree, prefill and decode alike: keys of deeper layers hold the bits of whichever ran.
"""

import ctypes
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wideseek_kernels.border import check_for_kernel
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.cuda_build import AttentionSm90, sm90_kernels
from wideseek_kernels.launch_plan import LaunchPlan, plan_launch
from wideseek_kernels.paged_attention import AttentionPlan, check_operands, checked_pages

HEAD_DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)

ROWS = 128
"""Of an item: tokens times query heads a key head, in powers of two. csrc/attention_sm90.cuh has the same."""


def plan_attention_sm90(
    pages: list[npt.NDArray[np.int64]],
    kv_lens: list[int],
    q_lens: list[int],
    cache: Tensor,
    num_heads: int,
) -> AttentionPlan:
    """As `plan_attention`, in items of 128 rows of a key head: twice what the Triton kernel takes with 4 heads each.

    Items are split into about as many as there are multiprocessors: each runs one after the other. ValueError as there,
    and where the kernel is not compiled for the cache. C++ makes the plan: `cpu_kernels()` must be true.
    """
    _, num_kv, page_size, _ = cache.shape
    why = refused(cache, num_heads)
    if why is not None:
        raise ValueError(why)
    processors = 132
    if cache.is_cuda:
        processors = torch.cuda.get_device_properties(cache.device).multi_processor_count
    group = num_heads // num_kv
    parts = plan_launch(
        checked_pages(pages, kv_lens, q_lens, cache),
        kv_lens,
        q_lens,
        page_size=page_size,
        programs=max(1, processors // num_kv),
        device=cache.device,
        most_tokens=ROWS >> (group - 1).bit_length(),
    )
    return AttentionPlan(parts.num_rows, tuple(cache.shape), cache.dtype, cache.dtype, parts)


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
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: AttentionPlan
) -> tuple[Tensor, Tensor]:
    """As `paged_attention_with_lse`, with a plan of `plan_attention_sm90` and bf16 or fp16 on a Hopper GPU.

    Raises ValueError; RuntimeError where the device or the driver refuses.
    """
    check_operands(q, k_cache, v_cache, plan)
    check_for_kernel(q=q, k_cache=k_cache, v_cache=v_cache)
    why = refused(k_cache, q.shape[1])
    if why is not None:
        raise ValueError(why)
    if not isinstance(plan.parts, LaunchPlan):
        raise ValueError("plan is none for a GPU")
    if not takes_sm90(q.device):
        raise ValueError(f"q is on {q.device}, expected a Hopper GPU, and nvcc to compile for it")
    return _launch(q, k_cache, v_cache, plan.parts)


def _launch(q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: LaunchPlan) -> tuple[Tensor, Tensor]:
    num_heads, head_dim = q.shape[1:]
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)
    out[plan.num_rows :] = 0
    lse[plan.num_rows :] = -torch.inf
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
    return out, lse
