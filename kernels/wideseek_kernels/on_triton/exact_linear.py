"""A product with weights whose bits do not depend on how many rows there are, in Triton.

T rows, C entries of each, N columns of the result. 2TCN FLOPs; reads weights once a tile of ROWS rows, bound by memory
up to some 200 rows (H200, bf16) and by the tensor cores beyond.

A result is the sum of CHUNK entries at a time, and of these sums in their order. So few rows may deal out the chunks of a
tile over programs, which a plain product of fixed order could not: a multiprocessor alone does not read fast enough.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wideseek_kernels.on_triton.token_logprob import place_of_tile

ROWS, COLUMNS = 64, 128
"""Of a tile, whatever T is: another shape might be another instruction, with another order."""

CHUNK = 1024
"""Entries that are summed up by themselves."""

PROGRAMS = 264
"""With fewer tiles than that, two for each multiprocessor of an H200, their chunks go apart."""

BAND = 16
"""Tiles of rows that go through the columns together, so that what they read stays in the L2 cache."""


def exact_linear(x: Tensor, weight: Tensor) -> Tensor:
    """See `wideseek_kernels.exact_linear`."""
    (num_rows, size), num_columns = x.shape, len(weight)
    out = x.new_empty(num_rows, num_columns)
    tiles = triton.cdiv(num_rows, ROWS) * triton.cdiv(num_columns, COLUMNS)
    chunks = triton.cdiv(size, CHUNK)
    apart = chunks > 1 and tiles < PROGRAMS
    sums = x.new_empty(chunks, num_rows, num_columns, dtype=torch.float32) if apart else out
    product_kernel[(tiles, chunks if apart else 1)](
        x,
        weight,
        sums,
        num_rows,
        num_columns,
        size,
        chunks,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        DEPTH=128 // x.element_size(),
        CHUNK=CHUNK,
        BAND=BAND,
        APART=apart,
        num_warps=4,
        num_stages=3,
    )
    if apart:
        total, block = out.numel(), 1024
        fold_kernel[(triton.cdiv(total, block),)](
            sums, out, total, chunks, BLOCK=block, num_warps=4
        )
    return out


# Not specialised in the number of rows: one program text for all, or their bits would be two compilations' matter.
@triton.jit(do_not_specialize=["num_rows"])
def product_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    num_rows,
    num_columns,
    size,
    chunks,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    CHUNK: tl.constexpr,
    BAND: tl.constexpr,
    APART: tl.constexpr,
):
    """A tile of x weightᵀ into [T, N]; APART: one chunk of it, in fp32, into [chunks, T, N]."""
    wide = tl.cdiv(num_columns, COLUMNS)
    tile, part = place_of_tile(num_rows, wide, ROWS, BAND)
    rows = tile * ROWS + tl.arange(0, ROWS)
    columns = part * COLUMNS + tl.arange(0, COLUMNS)
    # Rows and columns beyond the end read the last one, so that only the depth needs a mask.
    x_rows = x_ptr + tl.minimum(rows, num_rows - 1).to(tl.int64)[:, None] * size
    weight_rows = weight_ptr + tl.minimum(columns, num_columns - 1).to(tl.int64)[None, :] * size
    first = tl.program_id(1) if APART else 0
    last = first + 1 if APART else chunks
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for chunk in range(first, last):
        of_chunk = tl.zeros([ROWS, COLUMNS], tl.float32)
        for begin in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, size), DEPTH):
            depth = begin + tl.arange(0, DEPTH)
            left = tl.load(x_rows + depth[None, :], (depth < size)[None, :], 0.0)
            right = tl.load(weight_rows + depth[:, None], (depth < size)[:, None], 0.0)
            of_chunk = tl.dot(left, right, of_chunk, input_precision="ieee")
        total += of_chunk
    at = rows.to(tl.int64)[:, None] * num_columns + columns[None, :]
    if APART:
        at += tl.cast(first, tl.int64) * num_rows * num_columns
    tl.store(out_ptr + at, total, (rows < num_rows)[:, None] & (columns < num_columns)[None, :])


@triton.jit
def fold_kernel(sums_ptr, out_ptr, total, chunks, BLOCK: tl.constexpr):
    """Adds up chunks in their order, as one program with all of them does."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    folded = tl.zeros([BLOCK], tl.float32)
    for chunk in range(chunks):
        folded += tl.load(sums_ptr + tl.cast(chunk, tl.int64) * total + at, at < total, 0.0)
    tl.store(out_ptr + at, folded, at < total)
