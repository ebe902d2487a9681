"""Memory for keys and values."""

import mmap

import torch
from torch import Tensor

HUGE = 2 << 20
"""Bytes of a huge page on the machines we know."""


def new_kv_cache(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros of this shape, such as [L, P, KV, page_size, D].

    On Linux's CPUs in huge pages, as far as there are any: attention reads from all over the cache, and
    translating the addresses of pages of 4 KiB each takes it longer than reading some of them.
    """
    count = int(torch.Size(shape).numel())
    size = count * dtype.itemsize
    if device.type != "cpu" or size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)
