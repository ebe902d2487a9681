"""Tables of integers on their way to a device: side by side, in one copy that the host does not wait for."""

from collections.abc import Sequence

import torch
from torch import Tensor


def aligned(count: int) -> int:
    """So many integers or one more: a table that begins at no multiple of 16 bytes has Triton compile a kernel once more."""
    return count + count % 2


def on_device(tables: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The int64 tables of the CPU, contiguous, as views of one tensor on the device; on a CPU the tables themselves."""
    if device.type != "cuda":
        return list(tables)
    starts = [0]
    for table in tables:
        starts.append(starts[-1] + aligned(table.numel()))
    packed = torch.empty(starts[-1], dtype=torch.int64, pin_memory=True)
    for start, table in zip(starts, tables, strict=False):
        packed[start : start + table.numel()] = table.flatten()
    there = packed.to(device, non_blocking=True)  # pinned memory stays until the copy is over
    return [
        there[start : start + table.numel()].view(table.shape)
        for start, table in zip(starts, tables, strict=False)
    ]
