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

from wideseek_kernels import attention_sm90, reference_attention
from wideseek_kernels.border import (
    CSRC_CACHES,
    CSRC_DTYPES,
    FLOATS,
    INTERPRETED,
    KERNEL_DTYPES,
    check,
    check_for_kernel,
    takes_csrc,
    takes_kernel,
)
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.kv_cache import FP8, as_bytes
from wideseek_kernels.launch_plan import TOKENS, LaunchPlan, plan_launch
from wideseek_kernels.reference_attention import GatherPlan, row_tile
from wideseek_kernels.work_list import WorkList, plan_work

__all__ = [
    "AttentionPlan",
    "paged_attention",
    "paged_attention_with_lse",
    "plan_attention",
    "row_tile",
]

HEAD_DIMS = (16, 32, 64, 128)
"""What csrc/attention.cpp and the Triton kernel are compiled for."""


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Who reads which pages in one step; the same for every layer.

    Covers the first num_rows rows of q; made for caches of this shape [P, KV, page_size, D] and dtype, and q of dtype.
    wide: the rows of which `attention_sm90` takes care, for num_heads query heads; None where there are none.
    """

    num_rows: int
    cache_shape: tuple[int, ...]
    cache_dtype: torch.dtype
    dtype: torch.dtype
    parts: WorkList | LaunchPlan | GatherPlan
    wide: LaunchPlan | None = None
    num_heads: int | None = None


def plan_attention(
    pages: list[npt.NDArray[np.int64]],
    kv_lens: list[int],
    q_lens: list[int],
    cache: Tensor,
    dtype: torch.dtype | None = None,
    *,
    num_heads: int | None = None,
    device: torch.device | None = None,
) -> AttentionPlan:
    """Plan a step in which sequence i has q_lens[i] queries, the last of its kv_lens[i] tokens.

    pages[i] are its pages in order, at least ceil(kv_lens[i] / page_size); those that several
    sequences begin with are read once for all of them. The queries lie side by side in the order of
    the sequences, which is best that of their length. cache [P, KV, page_size, D] is any layer's;
    dtype that of the queries, the cache's own by default, which only a cache in fp8 may differ from.
    num_heads: of the queries; where it is known a Hopper GPU gives sequences with many to the kernel in
    CUDA C++, which is to change no bit (see `attention_sm90`). device: where a GPU's tables are put, by
    default beside the cache.
    The plans of C++ and Triton are made in C++; without a compiler the twin runs, on a GPU too.
    Raises ValueError: pages, kv_lens, q_lens, cache.
    """
    check("cache", cache, (None, None, None, None), cache.device, *FLOATS, FP8)
    dtype = dtype or cache.dtype
    if dtype not in FLOATS or cache.dtype not in (dtype, FP8):
        raise ValueError(f"dtype is {dtype}, which does not read a cache of {cache.dtype}")
    _, num_kv, page_size, head_dim = cache.shape
    pages = _checked_pages(pages, kv_lens, q_lens, cache)
    parts: WorkList | LaunchPlan | GatherPlan
    wide = None
    if head_dim in HEAD_DIMS and dtype in CSRC_DTYPES and takes_csrc(cache, dtypes=CSRC_CACHES):
        threads = torch.get_num_threads()
        parts = plan_work(
            pages, kv_lens, q_lens, page_size=page_size, num_kv=num_kv, num_threads=threads
        )
    elif head_dim in HEAD_DIMS and dtype in KERNEL_DTYPES and takes_kernel(cache) and cpu_kernels():
        parts, wide = _plan_on_gpu(pages, kv_lens, q_lens, cache, num_heads, device or cache.device)
    else:
        parts = reference_attention.plan_attention(pages, kv_lens, q_lens, cache, dtype)
    shape = tuple(cache.shape)
    return AttentionPlan(sum(q_lens), shape, cache.dtype, dtype, parts, wide, num_heads)


def _plan_on_gpu(
    pages: list[npt.NDArray[np.int64]],
    kv_lens: list[int],
    q_lens: list[int],
    cache: Tensor,
    num_heads: int | None,
    device: torch.device,
) -> tuple[LaunchPlan, LaunchPlan | None]:
    """Those with few queries for Triton, the others for CUDA C++ where it takes them."""
    _, num_kv, page_size, _ = cache.shape
    many: list[int] = []
    if (
        num_heads is not None
        and attention_sm90.takes_sm90(cache.device)
        and attention_sm90.refused(cache, num_heads) is None
    ):
        most_tokens = attention_sm90.ROWS // attention_sm90.rows_a_token(cache, num_heads)
        many = [i for i, count in enumerate(q_lens) if count >= most_tokens]
    programs = _programs(cache.device, num_kv)
    if not many:
        whole = plan_launch(
            pages, kv_lens, q_lens, page_size=page_size, programs=programs, device=device
        )
        return whole, None
    firsts = np.cumsum([0, *q_lens])

    def planned(which: list[int], programs: int, most_tokens: int) -> LaunchPlan:
        rows = [np.arange(firsts[i], firsts[i + 1]) for i in which]
        return plan_launch(
            [pages[i] for i in which],
            [kv_lens[i] for i in which],
            [q_lens[i] for i in which],
            page_size=page_size,
            programs=programs,
            device=device,
            most_tokens=most_tokens,
            rows=np.concatenate([np.empty(0, np.int64), *rows]),
        )

    few = sorted({*range(len(q_lens))} - {*many})
    # A multiprocessor runs one wide item at a time.
    wide = planned(many, max(1, _processors(cache.device) // num_kv), most_tokens)
    return planned(few, programs, TOKENS), wide


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: AttentionPlan) -> Tensor:
    """softmax(q kᵀ / sqrt(D)) v over the pages of each sequence, keys up to the query's position.

    q [T, H, D], k_cache and v_cache [P, KV, page_size, D] of its dtype or in fp8, query head h reading
    key head h // (H / KV) -> [T, H, D]; rows beyond the plan's come out 0. The keys of the queries are
    in the cache already. Reads each key and value of a shared or own page once for at most
    `work_list.UNIT_ROWS` queries, 4 H D FLOPs each; on a GPU for `launch_plan.TOKENS`. What is in fp8
    is the same number in the dtype of q; on a GPU fp16 stands in for bf16, and queries must not reach
    65,520 then. Not differentiable. Raises ValueError.
    """
    return _attend(q, k_cache, v_cache, plan, with_lse=False)[0]


def paged_attention_with_lse(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: AttentionPlan
) -> tuple[Tensor, Tensor]:
    """`paged_attention`, and log(sum(exp(q kᵀ / sqrt(D)))) [T, H] fp32, -inf beyond the plan's rows."""
    return _attend(q, k_cache, v_cache, plan, with_lse=True)


def _attend(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: AttentionPlan, *, with_lse: bool
) -> tuple[Tensor, Tensor]:
    """The result, and its log-sum-exp: anything where it is not wanted."""
    _check_operands(q, k_cache, v_cache, plan)
    if isinstance(plan.parts, GatherPlan):
        out = reference_attention.paged_attention(q, k_cache, v_cache, plan.parts)
        if not with_lse:
            return out, out
        return out, reference_attention.log_sum_exp(q, k_cache, plan.parts)
    check_for_kernel(q=q, k_cache=as_bytes(k_cache), v_cache=as_bytes(v_cache))
    if isinstance(plan.parts, LaunchPlan):
        return _on_gpu(q, k_cache, v_cache, plan.parts, plan)
    return _on_cpu(q, k_cache, v_cache, plan.parts, with_lse=with_lse)


def _on_gpu(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, parts: LaunchPlan, plan: AttentionPlan
) -> tuple[Tensor, Tensor]:
    from wideseek_kernels.on_triton import paged_attention as on_triton

    out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)
    out[plan.num_rows :] = 0
    lse[plan.num_rows :] = -torch.inf
    on_triton.paged_attention(q, as_bytes(k_cache), as_bytes(v_cache), parts, out, lse)
    if plan.wide is not None:
        attention_sm90.attention_sm90(q, k_cache, v_cache, plan.wide, out, lse)
    return out, lse


def _on_cpu(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, work: WorkList, *, with_lse: bool
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(q)
    out[work.num_rows :] = 0
    lse = torch.full(q.shape[:2], -torch.inf) if with_lse else None
    torch.ops.wideseek.paged_attention(
        q,
        out,
        lse,
        k_cache,
        v_cache,
        work.pages,
        work.spans,
        work.segments,
        work.units,
        work.parts,
        work.num_partials,
        torch.get_num_threads(),
    )
    return out, out if lse is None else lse


def _programs(device: torch.device, num_kv: int) -> int:
    """Items of a key head that a launch is cut into at least: four for a multiprocessor, which runs two at a time.

    Four, so that none waits long for the last: on an H100 a tree of 64 x (16k shared + 2k) takes 279 µs, with two 331.
    """
    if INTERPRETED:
        return 4
    return max(1, 4 * _processors(device) // num_kv)


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _check_operands(q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: AttentionPlan) -> None:
    """ValueError naming what does not fit the plan, or the rest."""
    num_kv, head_dim = k_cache.shape[1], k_cache.shape[3]
    check("q", q, (None, None, head_dim), q.device, plan.dtype)
    check("k_cache", k_cache, plan.cache_shape, q.device, plan.cache_dtype)
    check("v_cache", v_cache, plan.cache_shape, q.device, plan.cache_dtype)
    if num_kv == 0 or q.shape[1] % num_kv:
        raise ValueError(f"q has {q.shape[1]} heads, expected a multiple of {num_kv} of k_cache")
    if plan.wide is not None and q.shape[1] != plan.num_heads:
        raise ValueError(f"q has {q.shape[1]} heads, expected {plan.num_heads} of the plan")
    if len(q) < plan.num_rows:
        raise ValueError(f"q has {len(q)} rows, expected at least {plan.num_rows} of the plan")
    for name, x in (("q", q), ("k_cache", k_cache), ("v_cache", v_cache)):
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} requires grad, and paged attention has none")


def _checked_pages(
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
