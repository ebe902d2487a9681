"""Reads the keys and values of tokens out of their pages, side by side: the reverse of `kv_write`."""

import torch
from torch import Tensor

from wideseek_kernels import reference
from wideseek_kernels.border import (
    CSRC_CACHES,
    FLOATS,
    check,
    check_for_kernel,
    takes_csrc,
    takes_kernel,
)
from wideseek_kernels.kv_cache import FP8, as_bytes


def kv_gather(k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """The keys and values in slots slots[t] of the caches, both [T, KV, D] and of their dtype.

    k_cache, v_cache [P, KV, page_size, D] of one dtype, fp8 too; slots [T] int64, page * page_size + place in
    the page. Moves 4 KV D b bytes a token of b bytes an element. Not differentiable in a kernel.
    Raises ValueError, in C++ also for a slot out of range. A GPU's slots are not read on the host:
    one out of range gives NaN, and stops the kernel under TRITON_DEBUG=1.
    """
    check("k_cache", k_cache, (None, None, None, None), k_cache.device, *FLOATS, FP8)
    check("v_cache", v_cache, tuple(k_cache.shape), k_cache.device, k_cache.dtype)
    check("slots", slots, (None,), k_cache.device, torch.int64)
    if takes_kernel(k_cache):
        caches = as_bytes(k_cache), as_bytes(v_cache)
        check_for_kernel(k_cache=caches[0], v_cache=caches[1], slots=slots)
        from wideseek_kernels.on_triton import kv_pages as on_triton

        k, v = on_triton.kv_gather(*caches, slots)
        return k.view(k_cache.dtype), v.view(k_cache.dtype)
    if not takes_csrc(k_cache, v_cache, dtypes=CSRC_CACHES):
        return reference.kv_gather(k_cache, v_cache, slots)
    num_pages, num_kv, page_size, head_dim = k_cache.shape
    k, v = (k_cache.new_empty(len(slots), num_kv, head_dim) for _ in range(2))
    bad: int = torch.ops.wideseek.kv_gather(
        k_cache, v_cache, slots.contiguous(), k, v, torch.get_num_threads()
    )
    if bad >= 0:
        raise ValueError(
            f"slots[{bad}] is {int(slots[bad])}, of {num_pages * page_size} in k_cache"
        )
    return k, v
