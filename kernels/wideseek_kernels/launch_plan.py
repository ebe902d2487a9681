"""What the Triton attention does in one step, planned once for all layers: which programs read which keys.

An item is up to TOKENS queries, or what another kernel has room for, and the tiles they read together;
every key head runs it. Queries whose sequences begin with the same pages read what they share in one
item, in whole chunks of keys. What the first chunks of a query came to is folded as it comes; every
later chunk that another item reads is kept as a partial, and partials are folded in the order of keys:
that is one order, however a step is cut.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wideseek_kernels.on_device import on_device
from wideseek_kernels.work_list import TILE, Tiling, cut

TOKENS = 16
"""Queries of an item. With four query heads a key head they fill the 64 rows of a Hopper product."""

CHUNK_TILES = 8
"""Tiles that are summed up by themselves, whoever does it, and that queries share at least."""

WORTH = 32
"""Tiles that a query may read after one it shares with another, for sharing to be worth it: each chunk
of them is then kept as a partial. Of keys in bf16 and four query heads, where a tile of 64 keys is 64
times the partial of a tile, written and read, and of two queries one reads what they share. In fp8 it
would be 16."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Covers num_rows rows of q. Tensors are int64, on the device of the caches when it is launched.

    items [N, 5]: tokens from, to, first page in `pages`, tiles from, to; the longest first, which is
    the order in which a device takes them up. tokens [T, 4]: row of q, keys it sees, first partial or
    -1 where one item does all, chunks that the partial has. merges [M]: tokens that have partials.
    most_tokens: of an item.
    """

    num_rows: int
    num_partials: int
    items: Tensor
    tokens: Tensor
    merges: Tensor
    pages: Tensor
    most_tokens: int = TOKENS

    def to(self, device: torch.device) -> Self:
        """The same with the tables on this device, from the CPU."""
        tables = on_device((self.items, self.tokens, self.merges, self.pages), device)
        items, tokens, merges, pages = tables
        return replace(self, items=items, tokens=tokens, merges=merges, pages=pages)


def plan_launch(
    pages: list[npt.NDArray[np.int64]],
    kv_lens: list[int],
    q_lens: list[int],
    *,
    page_size: int,
    programs: int,
    device: torch.device,
    most_tokens: int = TOKENS,
    rows: npt.NDArray[np.int64] | None = None,
) -> LaunchPlan:
    """Plan a step; arguments as in `plan_attention`, pages[i] exactly ceil(kv_lens[i] / page_size).

    programs: how many items of a key head run at the same time; long items are split until that many
    have something to do. rows: of q, one for each query, where they are not the first ones in order.
    Calls C++: `cpu_kernels()` must be true.
    """
    tiling = Tiling(TILE, CHUNK_TILES, CHUNK_TILES, most_tokens, most_tokens, 1, WORTH)
    work = cut(pages, kv_lens, q_lens, page_size, tiling)
    spans, segments = work.spans.numpy(), work.segments.numpy()
    first_tokens = np.concatenate([[0], np.cumsum(spans[:, 1])])
    items = _split(
        np.column_stack(
            [
                first_tokens[segments[:, 0]],
                first_tokens[segments[:, 1]],
                spans[segments[:, 0], 3],
                segments[:, 2:],
            ]
        ),
        programs,
    )
    tokens, num_partials = _tokens(spans, items)
    if rows is not None:
        tokens[:, 0] = rows[tokens[:, 0]]
    return LaunchPlan(
        num_rows=work.num_rows,
        num_partials=num_partials,
        items=torch.from_numpy(items),
        tokens=torch.from_numpy(tokens),
        merges=torch.from_numpy(np.flatnonzero(tokens[:, 2] >= 0)),
        pages=work.pages,
        most_tokens=most_tokens,
    ).to(device)


def _split(items: npt.NDArray[np.int64], programs: int) -> npt.NDArray[np.int64]:
    """Items cut between chunks into pieces of about a program's share, the longest first."""
    tiles = items[:, 4] - items[:, 3]
    share = -(-int(tiles.sum()) // (programs * CHUNK_TILES)) * CHUNK_TILES
    pieces = -(-tiles // max(share, CHUNK_TILES))
    # The pieces of an item differ by one chunk at most: none is left over that is not worth its start.
    size = -(-tiles // np.maximum(pieces * CHUNK_TILES, 1)) * CHUNK_TILES
    pieces = -(-tiles // np.maximum(size, 1))
    whole = np.repeat(np.arange(len(items)), pieces)
    index = np.arange(len(whole)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    cuts = items[whole]
    cuts[:, 3] = items[whole, 3] + index * size[whole]
    cuts[:, 4] = np.minimum(cuts[:, 3] + size[whole], items[whole, 4])
    return cuts[np.argsort(cuts[:, 3] - cuts[:, 4], kind="stable")]


def _tokens(
    spans: npt.NDArray[np.int64], items: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], int]:
    """The table of tokens, and the number of partials."""
    span = np.repeat(np.arange(len(spans)), spans[:, 1])
    offset = np.arange(len(span)) - np.repeat(np.cumsum(spans[:, 1]) - spans[:, 1], spans[:, 1])
    limits = spans[span, 2] + offset + 1
    folded = np.zeros(len(span), np.int64)  # chunks that the token's first item folds
    for begin, end, tile in items[items[:, 3] == 0][:, [0, 1, 4]].tolist():
        folded[begin:end] = -(-tile // CHUNK_TILES)
    chunks = -(-limits // (TILE * CHUNK_TILES))
    counts = np.where(folded < chunks, 1 + chunks - folded, 0)
    first = np.where(counts > 0, np.cumsum(counts) - counts, -1)
    rows = spans[span, 0] + offset
    return np.column_stack([rows, limits, first, folded]), int(counts.sum())
