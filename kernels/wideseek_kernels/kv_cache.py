"""Memory for keys and values."""

import mmap

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
"""What a cache may hold instead of the dtype of the queries, in half the bytes of bf16: e4m3, without a scale.

A float has the same relative precision, 2^-4 here, wherever it lies in its range, and a scale would only move that:
from 2^-6 to 448, down to 2^-9 with fewer digits. Normed and rotated keys are below sqrt(2 D) times their largest
weight; what is beyond 448 becomes that.
"""

FP8_MAX = 448.0

HUGE = 2 << 20
"""Bytes of a huge page on the machines we know."""


def as_bytes(cache: Tensor) -> Tensor:
    """A cache in fp8 as its bytes, which torch can index and Triton's kernels know; any other as it is."""
    return cache.view(torch.uint8) if cache.dtype == FP8 else cache


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
