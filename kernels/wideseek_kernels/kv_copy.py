"""Copies whole pages: the last page of a sequence that forks, and pages that move together."""

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


def kv_copy(k_cache: Tensor, v_cache: Tensor, sources: Tensor, targets: Tensor) -> None:
    """Copy page sources[i] of both caches, which are mutated, into page targets[i].

    k_cache, v_cache [P, KV, page_size, D] of one dtype, fp8 too; sources, targets [N] int64, no page twice
    among the targets nor both a source and a target. Moves 4 KV page_size D b bytes a page of b
    bytes an element. Raises ValueError. A GPU's pages are not read on the host: one out of range is
    not copied, and stops the kernel under TRITON_DEBUG=1.
    """
    check("k_cache", k_cache, (None, None, None, None), k_cache.device, *FLOATS, FP8)
    check("v_cache", v_cache, tuple(k_cache.shape), k_cache.device, k_cache.dtype)
    check("sources", sources, (None,), k_cache.device, torch.int64)
    check("targets", targets, (len(sources),), k_cache.device, torch.int64)
    if takes_kernel(k_cache):
        k_cache, v_cache = as_bytes(k_cache), as_bytes(v_cache)
        check_for_kernel(k_cache=k_cache, v_cache=v_cache, sources=sources, targets=targets)
        from wideseek_kernels.on_triton import kv_pages as on_triton

        return on_triton.kv_copy(k_cache, v_cache, sources, targets)
    _check_pages(len(k_cache), sources, targets)
    if not takes_csrc(k_cache, v_cache, dtypes=CSRC_CACHES):
        return reference.kv_copy(k_cache, v_cache, sources, targets)
    bad: int = torch.ops.wideseek.kv_copy(
        k_cache, v_cache, sources.contiguous(), targets.contiguous(), torch.get_num_threads()
    )
    assert bad < 0
    return None


def _check_pages(num_pages: int, sources: Tensor, targets: Tensor) -> None:
    """ValueError where the pages of a copy on the CPU are out of range, or where order would count."""
    for name, pages in (("sources", sources), ("targets", targets)):
        outside = ((pages < 0) | (pages >= num_pages)).nonzero()
        if len(outside):
            at = int(outside[0])
            raise ValueError(f"{name}[{at}] is {int(pages[at])}, of {num_pages} pages in k_cache")
    wanted = targets.tolist()
    if len(set(wanted)) < len(wanted) or set(wanted) & set(sources.tolist()):
        raise ValueError(f"targets has {wanted}: a page twice, or one of the sources")
