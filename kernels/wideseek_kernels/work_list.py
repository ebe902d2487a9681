"""What the C++ attention does in one step, planned once for all layers: who reads which tiles with whom.

A tile is TILE keys at absolute positions. Consecutive queries of a sequence make a span; spans whose
sequences begin with the same pages stand in one unit, in which each tile they share is read once, for
all of them. A unit runs on one core. Nothing here can change a result's bits, only who waits for whom.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TILE = 64
"""Keys that go at once; csrc/attention.cpp has the same."""

SPAN_ROWS = 64
"""Queries of one sequence that go together: enough that a tile is read from memory for many."""

UNIT_ROWS = 128
"""Queries of all sequences of a unit: what they carry from tile to tile stays in a core's cache."""

Span = tuple[int, int, int, int]
"""First row of q, rows, position of the first, where its pages begin in `WorkList.pages`."""

Segment = tuple[int, int, int, int]
"""Spans from, to; tiles from, to: read for all of these spans, from the pages of the first."""


@dataclass(frozen=True, slots=True)
class WorkList:
    """Covers the first num_rows rows of q. Tensors are int64 on the CPU, as `launchers.h` has them.

    pages [n]; spans [S, 4] and segments [G, 4] as above; units [U, 4] (spans from, to; segments from,
    to), the longest first.
    """

    num_rows: int
    pages: Tensor
    spans: Tensor
    segments: Tensor
    units: Tensor


def plan_work(
    pages: list[npt.NDArray[np.int64]],
    kv_lens: list[int],
    q_lens: list[int],
    *,
    page_size: int,
    num_kv: int,
    num_threads: int,
) -> WorkList:
    """Plan a step; arguments as in `plan_attention`, pages[i] exactly ceil(kv_lens[i] / page_size)."""
    num_rows = sum(q_lens)
    # Units are many enough for all threads, and no larger than what a cache holds.
    most_rows = min(UNIT_ROWS, max(16, num_rows * num_kv // (2 * num_threads)))
    first_rows = np.cumsum([0, *q_lens]).tolist()
    first_pages = np.cumsum([0, *map(len, pages)]).tolist()
    spans: list[Span] = []
    segments: list[Segment] = []
    units: list[tuple[int, int, int, int]] = []
    costs: list[int] = []
    for family in _families(pages, page_size):
        own: list[Span] = []
        common: list[int] = []
        for index, shared in family:
            position = kv_lens[index] - q_lens[index]
            for offset in range(0, q_lens[index], SPAN_ROWS):
                rows = min(SPAN_ROWS, q_lens[index] - offset)
                own.append(
                    (first_rows[index] + offset, rows, position + offset, first_pages[index])
                )
                # A sequence's later spans share all that its earlier ones read.
                common.append(shared if offset == 0 else _tiles(own[-2]))
        for begin, end in _cut(own, most_rows):
            base = len(spans), len(segments)
            spans += own[begin:end]
            found = list(_segments(own[begin:end], common[begin:end]))
            segments += [(lo + base[0], hi + base[0], t0, t1) for lo, hi, t0, t1 in found]
            units.append((base[0], len(spans), base[1], len(segments)))
            costs.append(
                sum(
                    (t1 - t0) * sum(span[1] for span in own[begin + lo : begin + hi])
                    for lo, hi, t0, t1 in found
                )
            )
    order = sorted(range(len(units)), key=lambda u: -costs[u])
    return WorkList(
        num_rows,
        torch.from_numpy(np.concatenate([np.empty(0, np.int64), *pages])),
        _table(spans),
        _table(segments),
        _table([units[u] for u in order]),
    )


def _families(
    pages: list[npt.NDArray[np.int64]], page_size: int
) -> Iterator[list[tuple[int, int]]]:
    """Sequences that begin with the same tile, next to each other those that share most.

    Yields (sequence, whole tiles it shares with the one before it in the list, 0 for the first).
    """
    by_first: dict[int, list[int]] = {}
    for index, own in enumerate(pages):
        by_first.setdefault(int(own[0]), []).append(index)
    for members in by_first.values():
        if len(members) > 1:
            # Any order does that puts common beginnings side by side.
            members.sort(key=lambda index: pages[index].tobytes())
        family = [(members[0], 0)]
        for before, index in pairwise(members):
            shared = _common(pages[before], pages[index]) * page_size // TILE
            if shared == 0:
                yield family
                family = []
            family.append((index, shared))
        yield family


def _common(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> int:
    """Pages that both begin with."""
    shorter = min(len(one), len(other))
    different = one[:shorter] != other[:shorter]
    return int(different.argmax()) if different.any() else shorter


def _cut(spans: list[Span], most_rows: int) -> Iterator[tuple[int, int]]:
    """Runs of spans, as (from, to), of no more than so many rows, or of one span."""
    begin = rows = 0
    for index, span in enumerate(spans):
        if index > begin and rows + span[1] > most_rows:
            yield begin, index
            begin, rows = index, 0
        rows += span[1]
    yield begin, len(spans)


def _tiles(span: Span) -> int:
    """Tiles that the last row of a span sees something of."""
    return -(-(span[2] + span[1]) // TILE)


def _segments(spans: list[Span], common: list[int]) -> Iterator[Segment]:
    """What the spans of a unit read, tile by tile: a walk through the tree of what they share.

    common[i] are the tiles that i shares with i - 1. Every span sees its own tiles once, in order.
    """
    open_nodes = [(0, len(spans), 0)]
    while open_nodes:
        lo, hi, tile = open_nodes.pop()
        if hi - lo == 1:
            if tile < _tiles(spans[lo]):
                yield lo, hi, tile, _tiles(spans[lo])
            continue
        limits = [min(common[i], _tiles(spans[i - 1]), _tiles(spans[i])) for i in range(lo + 1, hi)]
        least = min(limits)
        if tile < least:
            yield lo, hi, tile, least
        starts = [lo, *(lo + 1 + i for i, limit in enumerate(limits) if limit == least)]
        open_nodes += [
            (begin, end, least) for begin, end in zip(starts, [*starts[1:], hi], strict=True)
        ]


def _table(rows: list[tuple[int, int, int, int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)
