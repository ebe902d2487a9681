"""Where things lie in the Hopper attention, and who waits for whom: checked against the PTX ISA, in numpy, without a GPU."""

import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from wideseek_kernels import attention_sm90, cpu_build, launch_plan, work_list
from wideseek_kernels.cuda_build import AttentionSm90

from tests.kernels.sm90_emulated import GRIDS, Memory, across_lanes, exchanged, layout

pytestmark = pytest.mark.skipif(not cpu_build.cpu_kernels(), reason="no C++ compiler")

THREAD = np.arange(128)


def test_python_and_the_kernel_mean_the_same_tiles() -> None:
    told = layout()
    assert told.tile_keys == work_list.TILE == 64
    assert told.chunk_tiles == launch_plan.CHUNK_TILES
    source = (Path(launch_plan.__file__).parent / "on_triton/paged_attention.py").read_text()
    assert f"LEEWAY = tl.constexpr({told.leeway}.0)" in source  # Triton may not be there
    assert told.rows == attention_sm90.ROWS == 128
    loading, computing = told.registers
    assert loading * 128 + computing * told.computing <= 168 * 384 and told.threads == 384
    assert loading % 8 == computing % 8 == 0
    for room in told.rooms.values():
        assert room.asked <= 232_448 and room.barriers % 8 == 0 and room.facts % 16 == 0
        assert all(at % 1024 == 0 for at in (room.q, room.k, room.v, room.tile, room.block))


def test_the_launcher_is_called_with_the_fields_of_its_header() -> None:
    header = (cpu_build.SOURCE / "launch_sm90.cuh").read_text()
    body = re.search(r"struct WideseekAttentionSm90 \{(.*?)\};", header, re.DOTALL)
    assert body is not None
    found = []
    for line in re.sub(r"//.*", "", body[1]).split(";"):
        kind, _, names = line.strip().partition(" ")
        if kind == "const":
            kind, _, names = names.partition(" ")
        for name in filter(None, names.split(",")):
            pointer = "*" in name or kind == "void*" or kind == "float*"
            size = 8 if pointer or kind == "int64_t" else 4
            found.append((name.strip(" *"), size))
    fields = [(name, getattr(AttentionSm90, name).size) for name, _ in AttentionSm90._fields_]
    assert found == fields


def test_registers_of_results_and_operands_are_those_of_the_isa() -> None:
    """PTX ISA, wgmma: accumulator D of m64nNk16, and operand A of 16-bit numbers in registers."""
    told = layout()
    for i in range(64):
        row = 16 * (THREAD // 32) + THREAD % 32 // 4 + 8 * (i // 2 % 2)
        column = 8 * (i // 4) + 2 * (THREAD % 4) + i % 2
        assert np.array_equal(told.first_row + 8 * told.second_row[i], row)
        assert np.array_equal(told.first_column + told.next_column[i], column)
    for step in range(4):
        for register in range(4):
            for half in range(2):
                i = 2 * (4 * step + register) + half  # the number that `pack` puts there
                column = 16 * step + 2 * (THREAD % 4) + half + 8 * (register >> 1)
                assert np.array_equal(told.first_column + told.next_column[i], column)
                assert told.second_row[i] == register & 1


def test_queries_are_written_where_the_copy_engine_would_write_them() -> None:
    rows, pieces = np.divmod(np.arange(512), 8)
    assert np.array_equal(layout().swizzled, exchanged(rows * 128 + pieces * 16))


@pytest.mark.parametrize("head_dim", [64, 128])
def test_products_read_the_numbers_that_were_copied(head_dim: int) -> None:
    told, rng = layout(), np.random.default_rng(0)
    room = told.rooms[head_dim]
    a, b = (rng.integers(-4, 5, (64, head_dim)).astype(np.float16) for _ in range(2))
    memory = Memory(room.asked)
    for number, at in ((a, room.q + room.tile), (b, room.k + room.tile)):
        for rows in (0, 16, 32, 48):  # pages of 16
            for block in range(head_dim // 64):
                to = at + block * room.block + rows * 128
                memory.copy_box(to, number, block * 64, rows, 16)
    for step in range(head_dim // 16):
        further = step // 4 * (room.block >> 4) + step % 4 * told.steps[0]
        for numbers, at in ((a, room.q + room.tile), (b, room.k + room.tile)):
            found = memory.operand((told.by_rows | at >> 4) + further, 64, by_rows=True)
            assert np.array_equal(found, numbers[:, 16 * step : 16 * step + 16])
    for step in range(4):
        descriptor = (room.by_columns | (room.k + room.tile) >> 4) + step * told.steps[1]
        found = memory.operand(descriptor, head_dim, by_rows=False)
        assert np.array_equal(found, b[16 * step : 16 * step + 16].T)


def test_results_are_stored_by_the_lane_that_has_all_of_a_run() -> None:
    words = np.stack([100 * run + THREAD % 4 for run in range(4)], 1)  # run, piece
    assert np.array_equal(across_lanes(words, THREAD), 100 * (THREAD % 4)[:, None] + np.arange(4))


@pytest.mark.parametrize(("grid", "work"), list(zip(GRIDS, range(len(GRIDS)), strict=True)))
def test_every_item_of_every_head_is_done_once_and_blocks_have_as_much_to_do(
    grid: tuple[int, int, int], work: int
) -> None:
    items, heads, blocks = grid
    told = np.array(layout().work[work]).reshape(-1, blocks, 3)
    done = Counter(tuple(one[:2].tolist()) for one in told.reshape(-1, 3) if one[2])
    assert done == Counter((i, head) for i in range(items) for head in range(heads))
    assert told[:-1, :, 2].all()  # who has nothing in a round has nothing after it
    cost = np.arange(items, 0, -1)  # longest first
    sums = np.array([sum(cost[i] for i, _, real in told[:, b] if real) for b in range(blocks)])
    if len(told) > 7:
        assert sums.max() <= 1.03 * sums.mean()  # of a prefill: shorter and shorter items


class Barrier:
    """An mbarrier: a phase ends when all have arrived."""

    def __init__(self, arrivals: int) -> None:
        self.arrivals = self.pending = arrivals
        self.phase = 0

    def arrive(self) -> None:
        self.pending -= 1
        assert self.pending >= 0
        if self.pending == 0:
            self.pending, self.phase = self.arrivals, self.phase ^ 1

    def over(self, parity: int) -> bool:
        return self.phase != parity


class Place:
    """A tile of the ring, or a buffer of queries: what is in it, how many read it, its two barriers."""

    def __init__(self, fillers: int) -> None:
        self.holds: tuple[int, int] | None = None
        self.readers = 0
        self.full, self.empty = Barrier(fillers), Barrier(8)


class Block:
    """One block's work as the kernel orders it, each step of each warp at a time that chance chooses."""

    def __init__(self, items: list[int], stages: int, chance: random.Random) -> None:
        self.items, self.stages, self.chance = items, stages, chance
        self.k, self.v = ([Place(1) for _ in range(stages)] for _ in range(2))
        self.q = [Place(1), Place(1)]
        self.zeroed = Barrier(8)
        self.copies: list[tuple[Place, tuple[int, int]]] = []
        self.finished = 0

    def run(self) -> None:
        warps = [self.load_tiles(), self.load_queries(), *(self.compute() for _ in range(8))]
        while warps or self.copies:
            before = len(warps), self.finished, len(self.copies)
            stuck = True
            for warp in self.chance.sample(warps, len(warps)):
                for _ in range(self.chance.randint(1, 5)):
                    try:
                        stuck &= not next(warp)
                    except StopIteration:
                        warps.remove(warp)
                        stuck = False
                        break
            if self.copies and (stuck or self.chance.random() < 0.5):
                place, what = self.copies.pop(self.chance.randrange(len(self.copies)))
                place.holds = what
                place.full.arrive()
                stuck = False
            assert not stuck, before

    def until(self, barrier: Barrier, parity: int) -> Iterator[bool]:
        while not barrier.over(parity):
            yield False
        yield True

    def load_tiles(self) -> Iterator[bool]:
        loaded = 0
        for item, tiles in enumerate(self.items):
            for tile in range(tiles):
                for ring in (self.k, self.v):
                    place = ring[loaded % self.stages]
                    yield from self.until(place.empty, loaded // self.stages & 1 ^ 1)
                    assert place.readers == 0
                    place.holds = None
                    self.copies.append((place, (item, tile)))
                loaded += 1

    def load_queries(self) -> Iterator[bool]:
        for item in range(len(self.items)):
            place = self.q[item & 1]
            yield from self.until(place.empty, item >> 1 & 1 ^ 1)
            assert place.readers == 0
            place.holds = item, 0
            place.full.arrive()

    def meet(self) -> Iterator[bool]:
        phase = self.zeroed.phase
        self.zeroed.arrive()
        yield from self.until(self.zeroed, phase)

    def compute(self) -> Iterator[bool]:
        used = 0
        for item, tiles in enumerate(self.items):
            queries = self.q[item & 1]
            yield from self.until(queries.full, item >> 1 & 1)
            assert queries.holds == (item, 0)
            queries.readers += 1
            if tiles:
                yield from self.attend(item, tiles, used)
                used += tiles
            queries.readers -= 1
            queries.empty.arrive()
        self.finished += 1

    def take(self, ring: list[Place], used: int, what: tuple[int, int]) -> Iterator[bool]:
        place = ring[used % self.stages]
        yield from self.until(place.full, used // self.stages & 1)
        assert place.holds == what
        place.readers += 1

    def release(self, ring: list[Place], used: int, what: tuple[int, int]) -> None:
        place = ring[used % self.stages]
        assert place.holds == what
        place.readers -= 1
        place.empty.arrive()

    def attend(self, item: int, tiles: int, used: int) -> Iterator[bool]:
        yield from self.take(self.k, used, (item, 0))
        self.release(self.k, used, (item, 0))
        for tile in range(tiles - 1):
            yield from self.take(self.v, used, (item, tile))
            yield from self.take(self.k, used + 1, (item, tile + 1))
            yield True
            self.release(self.k, used + 1, (item, tile + 1))
            yield True
            self.release(self.v, used, (item, tile))
            used += 1
        yield from self.take(self.v, used, (item, tiles - 1))
        yield from self.meet()
        self.release(self.v, used, (item, tiles - 1))


@pytest.mark.parametrize("stages", [3, 8])
def test_nobody_waits_for_ever_or_reads_what_is_being_written(stages: int) -> None:
    for seed in range(40):
        chance = random.Random(seed)
        items = [chance.choice([0, 1, 1, 2, 3, 5, 9, 20]) for _ in range(chance.randint(1, 9))]
        block = Block(items, stages, chance)
        block.run()
        assert block.finished == 8
        every = [block.zeroed, *(b for p in block.k + block.v for b in (p.full, p.empty))]
        assert all(barrier.pending == barrier.arrivals for barrier in every), "an arrival left over"


def test_triton_builds_the_same_descriptors() -> None:
    """Its compiled attention has run on an H100: products of the same shapes from the same kind of shared memory."""
    pytest.importorskip("triton", reason="triton is in the dev extra, for Linux alone")
    from tests.kernels.triton_ptx import attention_ptx

    told = layout()
    ptx = attention_ptx(128)
    found = {int(number) for number in re.findall(r"\b(4611686\d{12})\b", ptx)}
    room = told.rooms[128]
    by_rows = {
        told.by_rows + block * (room.block >> 4) + step * told.steps[0]
        for block in range(2)
        for step in range(4)
    }
    by_columns = {room.by_columns + step * told.steps[1] for step in range(4)}
    assert found == by_rows | by_columns
