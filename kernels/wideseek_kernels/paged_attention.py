"""Causal attention of many sequences whose keys and values lie in pages, planned once a step.

Exact: a query's result has the same bits whatever the step computes beside it, however its prompt
was cut into chunks, whoever shares its pages and wherever they lie: every sum runs over absolute
key positions in an order of its own. The twin holds to that as far as the BLAS lets it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wideseek_kernels import reference_attention
from wideseek_kernels.border import FLOATS, check, check_for_kernel, takes_csrc
from wideseek_kernels.reference_attention import ROW_TILE, GatherPlan
from wideseek_kernels.work_list import WorkList, plan_work

__all__ = ["ROW_TILE", "AttentionPlan", "paged_attention", "plan_attention"]

HEAD_DIMS = (16, 32, 64, 128)
"""What csrc/attention.cpp is compiled for."""


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Who reads which pages in one step; the same for every layer.

    Covers the first num_rows rows of q; made for caches of this shape [P, KV, page_size, D] and dtype.
    """

    num_rows: int
    cache_shape: tuple[int, ...]
    cache_dtype: torch.dtype
    parts: WorkList | GatherPlan


def plan_attention(
    pages: list[npt.NDArray[np.int64]],
    kv_lens: list[int],
    q_lens: list[int],
    cache: Tensor,
) -> AttentionPlan:
    """Plan a step in which sequence i has q_lens[i] queries, the last of its kv_lens[i] tokens.

    pages[i] are its pages in order, at least ceil(kv_lens[i] / page_size); those that several
    sequences begin with are read once for all of them. The queries lie side by side in the order of
    the sequences, which is best that of their length. cache [P, KV, page_size, D] is any layer's.
    Raises ValueError: pages, kv_lens, q_lens, cache.
    """
    check("cache", cache, (None, None, None, None), cache.device, *FLOATS)
    _, num_kv, page_size, head_dim = cache.shape
    pages = _checked(pages, kv_lens, q_lens, cache)
    parts: WorkList | GatherPlan
    if head_dim in HEAD_DIMS and takes_csrc(cache):
        threads = torch.get_num_threads()
        parts = plan_work(
            pages, kv_lens, q_lens, page_size=page_size, num_kv=num_kv, num_threads=threads
        )
    else:
        parts = reference_attention.plan_attention(pages, kv_lens, q_lens, cache)
    return AttentionPlan(parts.num_rows, tuple(cache.shape), cache.dtype, parts)


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: AttentionPlan) -> Tensor:
    """softmax(q kᵀ / sqrt(D)) v over the pages of each sequence, keys up to the query's position.

    q [T, H, D], k_cache and v_cache [P, KV, page_size, D] of one dtype, query head h reading key
    head h // (H / KV) -> [T, H, D]; rows beyond the plan's come out 0. The keys of the queries are
    in the cache already. Reads each key and value of a shared or own page once for at most
    `work_list.UNIT_ROWS` queries, 4 H D FLOPs each. Not differentiable in C++. Raises ValueError.
    """
    num_kv, head_dim = k_cache.shape[1], k_cache.shape[3]
    check("q", q, (None, None, head_dim), q.device, plan.cache_dtype)
    check("k_cache", k_cache, plan.cache_shape, q.device, q.dtype)
    check("v_cache", v_cache, plan.cache_shape, q.device, q.dtype)
    if num_kv == 0 or q.shape[1] % num_kv:
        raise ValueError(f"q has {q.shape[1]} heads, expected a multiple of {num_kv} of k_cache")
    if len(q) < plan.num_rows:
        raise ValueError(f"q has {len(q)} rows, expected at least {plan.num_rows} of the plan")
    if isinstance(plan.parts, GatherPlan):
        return reference_attention.paged_attention(q, k_cache, v_cache, plan.parts)
    check_for_kernel(q=q, k_cache=k_cache, v_cache=v_cache)
    work, out = plan.parts, torch.empty_like(q)
    out[work.num_rows :] = 0
    torch.ops.wideseek.paged_attention(
        q,
        out,
        k_cache,
        v_cache,
        work.pages,
        work.spans,
        work.segments,
        work.units,
        torch.get_num_threads(),
    )
    return out


def _checked(
    pages: list[npt.NDArray[np.int64]], kv_lens: list[int], q_lens: list[int], cache: Tensor
) -> list[npt.NDArray[np.int64]]:
    """The pages that are read; ValueError where one is out of range or missing."""
    num_pages, _, page_size, _ = cache.shape
    for name, lens in (("kv_lens", kv_lens), ("q_lens", q_lens)):
        if len(lens) != len(pages):
            raise ValueError(f"{name} has length {len(lens)}, expected {len(pages)} as pages")
    read = []
    for index, own in enumerate(pages):
        if not 1 <= q_lens[index] <= kv_lens[index]:
            raise ValueError(
                f"q_lens[{index}] is {q_lens[index]}, expected 1 to kv_lens[{index}], "
                f"{kv_lens[index]}"
            )
        count = -(-kv_lens[index] // page_size)
        if len(own) < count:
            raise ValueError(
                f"pages[{index}] has length {len(own)}, expected {count} for {kv_lens[index]} keys"
            )
        read.append(own[:count])
    if read:
        every = np.concatenate(read)
        if every.min() < 0 or every.max() >= num_pages:
            raise ValueError(f"pages has {every.min()} to {every.max()}, of {num_pages} pages")
    return read
