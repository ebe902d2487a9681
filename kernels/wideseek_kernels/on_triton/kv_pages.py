"""Pages and slots of the caches moved in Triton. Bound by memory: each byte is read and written once.

Caches in fp8 come as their bytes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Elements of a page that one program copies."""


def kv_copy(k_cache: Tensor, v_cache: Tensor, sources: Tensor, targets: Tensor) -> None:
    """See `wideseek_kernels.kv_copy`. A page out of the caches' range is not copied."""
    if len(sources) == 0:
        return
    size = k_cache[0].numel()
    kv_copy_kernel[(len(sources), triton.cdiv(size, BLOCK), 2)](
        k_cache, v_cache, sources, targets, len(k_cache), SIZE=size, BLOCK=BLOCK, num_warps=8
    )


def kv_gather(k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """See `wideseek_kernels.kv_gather`. A slot out of the caches' range gives NaN."""
    num_pages, num_kv, page_size, head_dim = k_cache.shape
    k, v = (
        torch.empty(len(slots), num_kv, head_dim, dtype=k_cache.dtype, device=k_cache.device)
        for _ in range(2)
    )
    if len(slots):
        kv_gather_kernel[(len(slots), 2)](
            k_cache,
            v_cache,
            slots,
            k,
            v,
            num_pages * page_size,
            KV_HEADS=num_kv,
            PAGE_SIZE=page_size,
            HEAD_DIM=head_dim,
            HEADS_TILE=triton.next_power_of_2(num_kv),
            DIM_TILE=triton.next_power_of_2(head_dim),
            num_warps=4,
        )
    return k, v


@triton.jit
def kv_copy_kernel(
    k_cache_ptr,
    v_cache_ptr,
    sources_ptr,
    targets_ptr,
    num_pages,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    source = tl.load(sources_ptr + tl.program_id(0))
    target = tl.load(targets_ptr + tl.program_id(0))
    known = (source >= 0) & (source < num_pages) & (target >= 0) & (target < num_pages)
    tl.device_assert(known, "sources, targets: a page beyond the caches")
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (at < SIZE) & known
    if tl.program_id(2) == 0:
        tl.store(
            k_cache_ptr + target * SIZE + at,
            tl.load(k_cache_ptr + source * SIZE + at, inside),
            inside,
        )
    else:
        tl.store(
            v_cache_ptr + target * SIZE + at,
            tl.load(v_cache_ptr + source * SIZE + at, inside),
            inside,
        )


@triton.jit
def kv_gather_kernel(
    k_cache_ptr,
    v_cache_ptr,
    slots_ptr,
    k_ptr,
    v_ptr,
    capacity,
    KV_HEADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS_TILE: tl.constexpr,
    DIM_TILE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token)
    known = (slot >= 0) & (slot < capacity)
    tl.device_assert(known, "slots: a slot beyond the caches")
    heads, dims = tl.arange(0, HEADS_TILE)[:, None], tl.arange(0, DIM_TILE)[None, :]
    inside = (heads < KV_HEADS) & (dims < HEAD_DIM)
    cell = (slot // PAGE_SIZE * KV_HEADS + heads) * PAGE_SIZE + slot % PAGE_SIZE
    at = cell * HEAD_DIM + dims
    NAN: tl.constexpr = 0x7F if k_cache_ptr.dtype.element_ty == tl.uint8 else float("nan")
    to = token * KV_HEADS * HEAD_DIM + heads * HEAD_DIM + dims
    if tl.program_id(1) == 0:
        tl.store(k_ptr + to, tl.load(k_cache_ptr + at, inside & known, NAN), inside)
    else:
        tl.store(v_ptr + to, tl.load(v_cache_ptr + at, inside & known, NAN), inside)
