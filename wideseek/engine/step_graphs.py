"""StepGraphs: small steps of the model as CUDA graphs, for a decode step is over before Python has launched it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from wideseek_kernels.launch_plan import LaunchPlan
from wideseek_kernels.paged_attention import AttentionPlan

from wideseek.engine.step_attention import PagedAttention
from wideseek.model.qwen3 import Qwen3

SIZES = (8, 16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512)
"""Rows of a graph. A step takes the next one that leaves a row over."""


@dataclass(slots=True)
class Graph:
    """One captured forward pass, and the tensors at whose addresses it reads and writes."""

    graph: torch.cuda.CUDAGraph
    tokens: Tensor
    positions: Tensor
    slots: Tensor
    plan: LaunchPlan
    hidden: Tensor


class StepGraphs:
    """Graphs of `model` over these caches [layers, P, KV, page_size, D], each captured when it is first wanted.

    A graph's tables have room for more than a step fills. What is left over: items without queries, slots that are no
    slot, and merges of nothing into the last row, which is no sequence's. Bits are those of the same number of rows
    without a graph.
    """

    def __init__(self, model: Qwen3, k_cache: Tensor, v_cache: Tensor) -> None:
        self._model, self._k_cache, self._v_cache = model, k_cache, v_cache
        self._graphs: dict[int, Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, plan: AttentionPlan
    ) -> Tensor | None:
        """Hidden states [size, C] of a step of at most SIZES[-1] - 1 tokens, to be read before the next one; else None.

        tokens, positions: [rows], of which the first len(slots) are the step's.
        """
        parts, count = plan.parts, len(slots)
        size = next((size for size in SIZES if size > count), None)
        if size is None or not isinstance(parts, LaunchPlan):
            return None
        known = self._graphs.get(size)
        if known is None or not _has_room(known.plan, parts):
            self._graphs.pop(size, None)
            known = self._graphs[size] = self._capture(size, parts, plan, known)
        self._fill(known, tokens, positions, slots, parts)
        known.graph.replay()
        return known.hidden

    @staticmethod
    def _fill(
        graph: Graph, tokens: Tensor, positions: Tensor, slots: Tensor, plan: LaunchPlan
    ) -> None:
        count = len(slots)
        graph.tokens[:count].copy_(tokens[:count])
        graph.positions[:count].copy_(positions[:count])
        graph.slots.fill_(-1)
        graph.slots[:count].copy_(slots)
        static = graph.plan
        static.items.zero_()
        static.items[: len(plan.items)].copy_(plan.items)
        static.tokens[: len(plan.tokens)].copy_(plan.tokens)
        static.merges.fill_(len(static.tokens) - 1)
        static.merges[: len(plan.merges)].copy_(plan.merges)
        static.pages[: len(plan.pages)].copy_(plan.pages)

    def _capture(
        self, size: int, plan: LaunchPlan, whole: AttentionPlan, before: Graph | None
    ) -> Graph:
        """A graph of `size` rows with room for the plan, and for what the one before it had room for."""
        had = before.plan if before is not None else plan
        device = self._k_cache.device

        def table(rows: int, *columns: int) -> Tensor:
            return torch.zeros(rows, *columns, dtype=torch.int64, device=device)

        static = LaunchPlan(
            num_rows=0,  # all rows are cleared, and those that there are then written
            num_partials=_room(plan.num_partials, had.num_partials, 256),
            items=table(_room(len(plan.items), len(had.items), 256), plan.items.shape[1]),
            tokens=table(size, 4),
            merges=table(size),
            pages=table(_room(len(plan.pages), len(had.pages), 1024)),
        )
        # The last token sees no key and has no partial: a merge of it writes zeros into the row left over.
        static.tokens[-1] = torch.tensor([size - 1, 0, 0, 1], device=device)
        static.merges.fill_(size - 1)
        tokens, positions = table(size), table(size)
        slots = table(size).fill_(-1)
        attention = PagedAttention(
            self._k_cache, self._v_cache, slots, replace(whole, num_rows=0, parts=static)
        )
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # kernels are compiled before the capture, not in it
            self._model(tokens, positions, attention)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            hidden = self._model(tokens, positions, attention)
        return Graph(graph, tokens, positions, slots, static, hidden)


def _has_room(static: LaunchPlan, plan: LaunchPlan) -> bool:
    return (
        len(plan.items) <= len(static.items)
        and len(plan.pages) <= len(static.pages)
        and plan.num_partials <= static.num_partials
    )


def _room(wanted: int, had: int, least: int) -> int:
    """A power of two: capacities that grow are seldom outgrown again."""
    return 1 << (max(wanted, had, least) - 1).bit_length()
