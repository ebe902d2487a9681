"""Packed and tree attention on a GPU: one call of the flash attention that torch brings, forward and backward.

Of a tree, each sequence's own rows are its queries, and the keys along its path are read side by side first. So no
pair of rows is computed twice; shared keys are only copied, which costs bytes and no products.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

_flash = torch.ops.aten._flash_attention_forward
DTYPES = (torch.bfloat16, torch.float16)
LARGEST_HEAD = 256


@dataclass(frozen=True, slots=True)
class Layout:
    """Where queries and keys of each sequence that has rows lie, int32 [S + 1] on the GPU, and the longest of each.

    rows: of the keys, int64, every path after the one before; None where nothing is shared and keys lie as queries do.
    """

    query_bounds: Tensor
    key_bounds: Tensor
    most_queries: int
    most_keys: int
    rows: Tensor | None


def takes_flash(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel takes q [T, H, D], k and v [T, KV, D]: 16-bit floats of one kind on a GPU, D in eights."""
    size = q.shape[2]
    return (
        q.is_cuda
        and q.numel() > 0
        and q.dtype in DTYPES
        and q.dtype == k.dtype == v.dtype
        and size % 8 == 0
        and size <= LARGEST_HEAD
        and torch.backends.cuda.is_flash_attention_available()
    )


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, bounds: list[int], shared: list[int]
) -> Tensor:
    """q [T, H, D], k and v [T, KV, D], bounds and shared as in `packed_attention` -> [T, H, D]; differentiable."""
    layout = lay_out(tuple(bounds), tuple(shared), q.device)
    if layout.rows is not None:
        k, v = _read(k, layout.rows), _read(v, layout.rows)
    out: Tensor = _flash(
        *(q, k, v, layout.query_bounds, layout.key_bounds, layout.most_queries, layout.most_keys),
        *(0.0, True, False),  # dropout; causal, the last query reading the last key; debug mask
    )[0]
    return out


@lru_cache(maxsize=4)
def lay_out(bounds: tuple[int, ...], shared: tuple[int, ...], device: torch.device) -> Layout:
    """The layout of a micro-batch: made for its first layer, and the same for all others and the way back."""
    own = [end - start for start, end in pairwise(bounds)]
    paths, path = [], torch.empty(0, dtype=torch.int64)
    for start, length, depth in zip(bounds, own, shared, strict=False):
        path = torch.cat((path[:depth], torch.arange(start, start + length)))
        if length:
            paths.append(path)
    queries = [length for length in own if length]
    keys = [len(path) for path in paths]
    return Layout(
        query_bounds=_bounds(queries).to(device),
        key_bounds=_bounds(keys).to(device),
        # Where no sequence has two rows, torch takes a path made for decoding, whose sums cannot be derived.
        most_queries=max([2, *queries]),
        most_keys=max([2, *keys]),
        rows=torch.cat(paths).to(device) if any(shared) else None,
    )


def _bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)


def _read(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of x [T, KV, D]. As an embedding: its backward adds up in fp32 and in one order, that of indexing does not."""
    return F.embedding(rows, x.flatten(1)).view(-1, *x.shape[1:])
