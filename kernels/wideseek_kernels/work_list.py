"""What a step of attention reads, planned once for all layers: who reads which tiles with whom.

A tile is TILE keys at absolute positions. Consecutive queries of a sequence make a span; spans whose
sequences begin with the same pages stand in one unit, in which each tile they share is read once, for
all of them. A part of a unit runs on one core: all of it, or where units are fewer than cores some of
its chunks of CHUNK keys. Nothing here can change a result's bits, only who waits for whom.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TILE = 64
"""Keys that go at once; csrc/rows_of_attention.h has the same."""

CHUNK_TILES = 16
"""Tiles that are summed up by themselves, whoever does it; csrc/rows_of_attention.h has the same."""

SPAN_ROWS = 64
"""Queries of one sequence that go together: enough that a tile is read from memory for many."""

UNIT_ROWS = 128
"""Queries of all sequences of a unit: what they carry from tile to tile stays in a core's cache."""

PARTS_A_THREAD = 4
"""Into how many parts units are split for each core, where they are few: the last is not waited for long."""


ALWAYS = 1 << 40
"""Sharing costs nothing here: what a sequence reads after what it shares goes on from there."""


class Tiling(NamedTuple):
    """How a step is cut, as `launchers.h` has it.

    Keys of a tile; tiles are shared in multiples of granule and split in multiples of chunk; queries
    of a span and of a unit at most; about how many parts the whole is split into where units are few;
    tiles that two sequences may read apart for one they share, beyond which they share nothing.
    """

    tile: int
    granule: int
    chunk: int
    span_rows: int
    unit_rows: int
    parts: int
    worth: int


@dataclass(frozen=True, slots=True)
class WorkList:
    """Covers the first num_rows rows of q. Tensors are int64 on the CPU, as `launchers.h` has them.

    pages [n]; spans [S, 4]: first row of q, rows, position of the first, where its pages begin;
    segments [G, 4]: spans from, to, tiles from, to, read for all of these spans from the pages of the
    first; units [U, 6]: spans from, to, segments from, to, tiles, first of its partials or -1 where it
    is not split, the longest first; parts [P, 3]: unit, tiles from, to. num_partials are the chunks of
    all queries of split units.
    """

    num_rows: int
    pages: Tensor
    spans: Tensor
    segments: Tensor
    units: Tensor
    parts: Tensor
    num_partials: int


def plan_work(
    pages: list[npt.NDArray[np.int64]],
    kv_lens: list[int],
    q_lens: list[int],
    *,
    page_size: int,
    num_kv: int,
    num_threads: int,
) -> WorkList:
    """Plan a step; arguments as in `plan_attention`, pages[i] exactly ceil(kv_lens[i] / page_size).

    Calls C++: `cpu_kernels()` must be true. Source of the shared walk: Juravsky 2024, arXiv 2402.05099.
    """
    num_rows = sum(q_lens)
    # Units are many enough for all threads, and no larger than what a cache holds.
    unit_rows = min(UNIT_ROWS, max(16, num_rows * num_kv // (2 * num_threads)))
    parts = max(1, PARTS_A_THREAD * num_threads // num_kv) if num_threads > 1 else 1
    tiling = Tiling(TILE, 1, CHUNK_TILES, SPAN_ROWS, unit_rows, parts, ALWAYS)
    return cut(pages, kv_lens, q_lens, page_size, tiling)


def cut(
    pages: list[npt.NDArray[np.int64]],
    kv_lens: list[int],
    q_lens: list[int],
    page_size: int,
    tiling: Tiling,
) -> WorkList:
    """The same with any tiling."""
    queries = np.asarray(q_lens, np.int64)
    most_spans = int((-(-queries // tiling.span_rows)).sum())
    flat = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *pages]))
    first_pages = np.zeros(len(pages) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, pages), np.int64, len(pages)), out=first_pages[1:])
    spans, segments, units, parts = (
        torch.empty((rows, columns), dtype=torch.int64)
        for rows, columns in (
            (most_spans, 4),
            (2 * most_spans, 4),
            (most_spans, 6),
            (2 * (most_spans + tiling.parts), 3),
        )
    )
    counts = torch.empty(5, dtype=torch.int64)
    torch.ops.wideseek.plan_work(
        flat,
        torch.from_numpy(first_pages),
        torch.tensor(kv_lens, dtype=torch.int64),
        torch.from_numpy(queries),
        page_size,
        torch.tensor(tiling),
        spans,
        segments,
        units,
        parts,
        counts,
    )
    num_spans, num_segments, num_units, num_parts, num_partials = counts.tolist()
    return WorkList(
        int(queries.sum()),
        flat,
        spans[:num_spans],
        segments[:num_segments],
        units[:num_units],
        parts[:num_parts],
        num_partials,
    )
