"""Who reads whom among packed rows: read and checked once, planned once, used by every layer."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wideseek_kernels.border import check
from wideseek_kernels.paged_attention import AttentionPlan, plan_attention
from wideseek_kernels.tree_attention import Block, plan_blocks

INTS = (torch.int32, torch.int64)
PAGE = 16
"""Tokens a page where packed sequences are laid out in pages; no bit depends on it."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Packed sequences in pages: those of each that has rows, the slot of every row, slots to copy from and to."""

    pages: list[npt.NDArray[np.int64]]
    slots: Tensor
    sources: Tensor
    targets: Tensor
    count: int


class PackedLayout:
    """Sequences side by side; cu_seqlens [S + 1] and shared [S] as in `packed_attention`. ValueError for others.

    They are read on the host: leave them on the CPU, where that costs nothing.
    """

    def __init__(self, cu_seqlens: Tensor, shared: Tensor | None = None) -> None:
        check("cu_seqlens", cu_seqlens, (None,), cu_seqlens.device, *INTS)
        self.bounds: list[int] = cu_seqlens.tolist()
        if len(self.bounds) < 2 or self.bounds[0] != 0 or sorted(self.bounds) != self.bounds:
            raise ValueError(f"cu_seqlens must ascend from 0, not {self.bounds}")
        self.rows = self.bounds[-1]
        self.shared = [0] * (len(self.bounds) - 1)
        if shared is not None:
            check("shared", shared, (len(self.shared),), shared.device, *INTS)
            self.shared = shared.tolist()
        self._check_shared()
        self._plan: AttentionPlan | None = None

    def _check_shared(self) -> None:
        before = 0
        for i, (depth, (start, end)) in enumerate(
            zip(self.shared, pairwise(self.bounds), strict=True)
        ):
            if not 0 <= depth <= before:
                raise ValueError(
                    f"shared[{i}] must be 0 to {before}, the length before, not {depth}"
                )
            before = depth + end - start

    @cached_property
    def blocks(self) -> list[Block]:
        """For `tree_attention` and its gradients."""
        return plan_blocks(self.bounds, self.shared)

    @cached_property
    def pages(self) -> Pages:
        """As an engine would have them: a whole page of a shared prefix is that of the sequence before; of a page that two
        sequences share in part, the tokens are copied.
        """
        pages: list[npt.NDArray[np.int64]] = []
        held: list[int] = []  # pages of the sequence before
        slots = np.empty(self.rows, np.int64)
        path = np.empty(self.rows, np.int64)  # where its tokens were written first
        sources, targets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        free = 0
        for (start, end), depth in zip(pairwise(self.bounds), self.shared, strict=True):
            length = depth + end - start
            whole, rest = divmod(depth, PAGE)
            if start == end:
                held = held[: -(-depth // PAGE)]
                continue
            needed = -(-length // PAGE) - whole
            held = [*held[:whole], *range(free, free + needed)]
            free += needed
            own, places = np.array(held, np.int64), np.arange(depth, length)
            pages.append(own)
            slots[start:end] = own[places // PAGE] * PAGE + places % PAGE
            if rest:
                sources.append(path[depth - rest : depth].copy())
                targets.append(own[whole] * PAGE + np.arange(rest))
            path[depth:length] = slots[start:end]
        return Pages(
            pages,
            torch.from_numpy(slots),
            torch.from_numpy(np.concatenate(sources)),
            torch.from_numpy(np.concatenate(targets)),
            free,
        )

    def plan(self, cache: Tensor) -> AttentionPlan:
        """Of the pages, for caches like this one [P, KV, PAGE, D]."""
        if self._plan is None or self._plan.cache_shape != tuple(cache.shape):
            ends = [
                (depth + end - start, end - start)
                for (start, end), depth in zip(pairwise(self.bounds), self.shared, strict=True)
                if start < end
            ]
            kv_lens, q_lens = [kv for kv, _ in ends], [rows for _, rows in ends]
            self._plan = plan_attention(self.pages.pages, kv_lens, q_lens, cache)
        return self._plan
