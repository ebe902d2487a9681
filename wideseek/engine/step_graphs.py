"""StepGraphs: small steps of the model as CUDA graphs, for a decode step is over before Python has launched it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from wideseek_kernels.launch_plan import LaunchPlan
from wideseek_kernels.on_device import aligned
from wideseek_kernels.paged_attention import AttentionPlan

from wideseek.engine.step_attention import PagedAttention
from wideseek.engine.step_inputs import StepInputs
from wideseek.model.qwen3 import Qwen3

SIZES = (8, 16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512)
"""Rows of a graph. A step takes the next one that leaves a row over."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What a graph reads that changes from step to step, int64, all of it in one tensor: on the device, or on the host."""

    packed: Tensor
    tokens: Tensor
    positions: Tensor
    slots: Tensor
    plan: LaunchPlan


@dataclass(slots=True)
class Graph:
    """One captured forward pass: the tables at whose addresses it reads, what goes there next, and what comes out.

    copied: the host's tables are on the device, and may be written again.
    """

    graph: torch.cuda.CUDAGraph
    there: Tables
    here: Tables
    copied: torch.cuda.Event
    hidden: Tensor


class StepGraphs:
    """Graphs of `model` over these caches [layers, P, KV, page_size, D], each captured when it is first wanted.

    A graph's tables have room for more than a step fills. What is left over: items without tiles, slots that are no
    slot, and merges of nothing into the last row, which is no sequence's. The rows left over hold anything, and no other
    row sees them. Bits are those of the same number of rows without a graph.
    """

    def __init__(self, model: Qwen3, k_cache: Tensor, v_cache: Tensor) -> None:
        self._model, self._k_cache, self._v_cache = model, k_cache, v_cache
        self._graphs: dict[int, Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    @staticmethod
    def takes(num_tokens: int) -> bool:
        """Whether there is a graph for a step of so many tokens."""
        return num_tokens < SIZES[-1]

    def run(self, inputs: StepInputs, plan: AttentionPlan) -> Tensor:
        """Hidden states [rows, C] of a step that it takes, to be read before the next one.

        plan: of the Triton kernel alone, with its tables on the CPU.
        """
        assert isinstance(plan.parts, LaunchPlan) and plan.wide is None
        size = next(size for size in SIZES if size > len(inputs.slots))
        known = self._graphs.get(size)
        if known is None or not _has_room(known.there.plan, plan.parts):
            self._graphs.pop(size, None)
            known = self._graphs[size] = self._capture(size, plan.parts, plan, known)
        known.copied.synchronize()
        _fill(known.here, inputs, plan.parts)
        known.there.packed.copy_(known.here.packed, non_blocking=True)
        known.copied.record()
        known.graph.replay()
        return known.hidden

    def _capture(
        self, size: int, plan: LaunchPlan, whole: AttentionPlan, before: Graph | None
    ) -> Graph:
        """A graph of `size` rows with room for the plan, and for what the one before it had room for."""
        had = before.there.plan if before is not None else plan
        device = self._k_cache.device
        room = LaunchPlan(
            num_rows=size,
            num_partials=_room(plan.num_partials, had.num_partials, 256),
            items=_table(_room(len(plan.items), len(had.items), 64), plan.items.shape[1]),
            tokens=_table(size, 4),
            merges=_table(size),
            pages=_table(_room(len(plan.pages), len(had.pages), 1024)),
        )
        here, there = _tables(size, room, None), _tables(size, room, device)
        _clear(here)
        there.packed.copy_(here.packed)
        attention = PagedAttention(
            self._k_cache,
            self._v_cache,
            there.slots,
            replace(whole, num_rows=size, parts=there.plan),
        )
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # kernels are compiled before the capture, not in it
            self._model(there.tokens, there.positions, attention)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            hidden = self._model(there.tokens, there.positions, attention)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        return Graph(graph, there, here, copied, hidden)


def _table(rows: int, *columns: int) -> Tensor:
    return torch.empty(rows, *columns, dtype=torch.int64, device="meta")


def _tables(size: int, room: LaunchPlan, device: torch.device | None) -> Tables:
    """Tables of these shapes side by side on the device, or without one in pinned memory of the host."""
    columns = [_table(size) for _ in range(3)]
    shapes = [table.shape for table in (*columns, room.items, room.tokens, room.merges, room.pages)]
    lengths = [aligned(shape.numel()) for shape in shapes]
    packed = torch.zeros(sum(lengths), dtype=torch.int64, device=device, pin_memory=device is None)
    tokens, positions, slots, items, facts, merges, pages = (
        part[: shape.numel()].view(shape)
        for part, shape in zip(torch.split(packed, lengths), shapes, strict=True)
    )
    plan = replace(room, items=items, tokens=facts, merges=merges, pages=pages)
    return Tables(packed, tokens, positions, slots, plan)


def _clear(tables: Tables) -> None:
    """A step of nothing: the last token sees no key and has no partial, and a merge of it writes zeros into its row."""
    size = len(tables.tokens)
    tables.packed.zero_()
    tables.slots.fill_(-1)
    tables.plan.tokens[-1] = torch.tensor([size - 1, 0, 0, 1])
    tables.plan.merges.fill_(size - 1)


def _fill(tables: Tables, inputs: StepInputs, plan: LaunchPlan) -> None:
    """What a step says, on the host, and nothing of the step before it."""
    count, static = len(inputs.slots), tables.plan
    tables.tokens.numpy()[:count] = inputs.tokens[:count]
    tables.positions.numpy()[:count] = inputs.positions[:count]
    for table, values, nothing in (
        (tables.slots, inputs.slots, -1),
        (static.items, plan.items.numpy(), 0),
        (static.merges, plan.merges.numpy(), len(tables.tokens) - 1),
    ):
        there = table.numpy()
        there[: len(values)] = values
        there[len(values) :] = nothing
    static.tokens.numpy()[: len(plan.tokens)] = plan.tokens.numpy()
    static.pages.numpy()[: len(plan.pages)] = plan.pages.numpy()


def _has_room(static: LaunchPlan, plan: LaunchPlan) -> bool:
    return (
        len(plan.items) <= len(static.items)
        and len(plan.pages) <= len(static.pages)
        and plan.num_partials <= static.num_partials
    )


def _room(wanted: int, had: int, least: int) -> int:
    """A power of two: capacities that grow are seldom outgrown again."""
    return 1 << (max(wanted, had, least) - 1).bit_length()
