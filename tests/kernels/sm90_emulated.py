"""The Hopper attention in numpy: the same shared memory, descriptors, registers and order, where csrc/layout_sm90.cuh says.

The layout is that of the header, printed by a program; the rest is written from the PTX ISA, and follows the kernel line
by line, save that nothing happens at the same time.
"""

import functools
import json
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from wideseek_kernels import cpu_build
from wideseek_kernels.launch_plan import LaunchPlan

Array = npt.NDArray[Any]
GRIDS = [
    (1, 1, 1),
    (7, 2, 14),
    (500, 8, 132),
    (33, 2, 5),
    (16, 8, 128),
    (1000, 1, 132),
    (128, 8, 132),
]
"""Items, key heads, blocks: whose work is printed."""

PROGRAM = """
#include "layout_sm90.cuh"
#include <cstddef>
#include <cstdio>
using namespace wideseek::sm90;
template <typename F> void list(const char* name, int count, F f) {
    std::printf(", \\"%s\\": [", name);
    for (int i = 0; i < count; ++i) std::printf("%s%d", i ? ", " : "", f(i));
    std::printf("]");
}
template <int D> void room() {
    using R = Room<D>;
    std::printf(", \\"%d\\": {\\"stages\\": %d, \\"block\\": %d, \\"tile\\": %d, \\"asked\\": %d, \\"by_columns\\": %llu",
                D, R::STAGES, R::BLOCK, R::TILE_BYTES, ASKED_BYTES<D>, (unsigned long long)BY_COLUMNS<R::BLOCK>);
    std::printf(", \\"q\\": %zu, \\"k\\": %zu, \\"v\\": %zu, \\"facts\\": %zu, \\"barriers\\": %zu}", offsetof(R, q),
                offsetof(R, k), offsetof(R, v), offsetof(R, facts), offsetof(R, q_full));
}
int main() {
    std::printf("{\\"tile_keys\\": %d, \\"chunk_tiles\\": %d, \\"rows\\": %d, \\"threads\\": %d, \\"computing\\": %d", TILE,
                CHUNK_TILES, ROWS, THREADS, COMPUTING);
    std::printf(", \\"leeway\\": %d", LEEWAY);
    std::printf(", \\"registers\\": [%d, %d]", LOADING_REGISTERS, COMPUTING_REGISTERS);
    std::printf(", \\"by_rows\\": %llu, \\"steps\\": [%d, %d]", (unsigned long long)BY_ROWS, STEP_BY_ROWS, STEP_BY_COLUMNS);
    std::printf(", \\"descriptor\\": %llu", (unsigned long long)descriptor(BY_ROWS, 0x31400, 0));
    list("swizzled", 512, [](int i) { return swizzled(i / 8, i % 8); });
    list("first_row", 128, first_row), list("first_column", 128, first_column);
    list("second_row", 64, second_row), list("next_column", 64, next_column);
    const int grids[][3] = {GRIDS};
    std::printf(", \\"work\\": [");
    for (const auto& g : grids) {
        std::printf("%s[", &g == grids ? "" : ", ");
        for (int at = 0; at < (g[0] * g[1] + g[2] - 1) / g[2] * g[2]; ++at) {
            const Work w = work_of(g[0], g[1], at / g[2], at % g[2], g[2]);
            std::printf("%s[%d, %d, %d]", at ? ", " : "", w.item, w.head, w.real);
        }
        std::printf("]");
    }
    std::printf("]");
    room<64>(), room<128>();
    std::printf("}");
}
"""


@functools.cache
def layout() -> SimpleNamespace:
    """What csrc/layout_sm90.cuh says, as this machine's C++ compiler understands it."""
    grids = ", ".join("{" + ", ".join(map(str, grid)) + "}" for grid in GRIDS)
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "print.cpp"), Path(folder, "print")
        source.write_text(PROGRAM.replace("{GRIDS}", "{" + grids + "}"))
        command = [cpu_build._compiler(), "-std=c++17", f"-I{cpu_build.SOURCE}", str(source)]
        subprocess.run([*command, "-o", str(program)], check=True)
        told = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    found = json.loads(told)
    for name in ("swizzled", "first_row", "first_column", "second_row", "next_column"):
        found[name] = np.array(found[name])
    found["rooms"] = {size: SimpleNamespace(**found.pop(str(size))) for size in (64, 128)}
    return SimpleNamespace(**found)


def exchanged(addresses: Array) -> Array:
    """128-byte swizzle, as copy engine and tensor cores have it: bits 4 to 6 of an address are changed by bits 7 to 9."""
    swizzled: Array = addresses ^ ((addresses >> 7 & 7) << 4)
    return swizzled


class Memory:
    """Shared memory in 16-bit numbers, NaN at first; addresses are in bytes."""

    def __init__(self, size: int) -> None:
        self.numbers = np.full(size // 2, np.nan, np.float16)

    def copy_box(self, to: int, source: Array, column: int, row: int, rows: int) -> None:
        """The copy engine: 64 columns of some rows of source [page_size, D], swizzled."""
        at = exchanged(to + np.arange(rows)[:, None] * 128 + np.arange(64) * 2)
        self.numbers[at // 2] = source[row : row + rows, column : column + 64]

    def operand(self, descriptor: int, across: int, *, by_rows: bool) -> Array:
        """[across, 16] of a product, 16 being what is summed over, as the PTX ISA reads a descriptor."""
        start, leading, stride = ((descriptor >> bit & 0x3FFF) << 4 for bit in (0, 16, 32))
        assert descriptor >> 62 == 1 and descriptor >> 49 & 7 == 0
        x, k = np.arange(across)[:, None], np.arange(16)
        if by_rows:
            at = x // 8 * stride + x % 8 * 128 + k * 2
        else:
            at = x // 64 * leading + x % 64 * 2 + k // 8 * stride + k % 8 * 128
        return self.numbers[exchanged(start + at) // 2]


def added(acc: Array, a: Array, b: Array) -> Array:
    """acc [M, N] + a [M, 16] bT [N, 16] in fp32, summed in one order whatever the shapes."""
    for k in range(a.shape[1]):
        acc = acc + a[:, k, None].astype(np.float32) * b[None, :, k].astype(np.float32)
    return acc


def fma(a: Array, b: Array, c: Array) -> Array:
    """Rounded once, nearly: products of fp32 are exact in fp64."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def based(top: Array) -> Array:
    return np.where(top == -np.inf, np.float32(0), top)


class Group:
    """The registers of a warpgroup for one item: thread t has [t] of each."""

    def __init__(self, head_dim: int) -> None:
        told = layout()
        self.folded, self.acc = (np.zeros((128, head_dim // 2), np.float32) for _ in range(2))
        self.all, self.part = self.nothing(), self.nothing()
        self.half = told.second_row[: head_dim // 2]
        self.place = (
            told.first_row[:, None] + 8 * told.second_row,
            (told.first_column[:, None] + told.next_column),
        )

    @staticmethod
    def nothing() -> tuple[Array, Array]:
        return np.full((128, 2), -np.inf, np.float32), np.zeros((128, 2), np.float32)

    def registers(self, matrix: Array) -> Array:
        """A result [64, n] as the threads hold it."""
        count = matrix.shape[1] // 2
        return matrix[self.place[0][:, :count], self.place[1][:, :count]]

    def weigh(self, scores: Array, scale: np.float32) -> tuple[Array, Array]:
        top, total = (x.copy() for x in self.part)
        weights, again = np.empty_like(scores), np.empty((128, 2), np.float32)
        for half in range(2):
            own = np.flatnonzero(self.half[:32] == half)
            high = scores[:, own].max(1)
            for lanes in (1, 2):
                high = np.maximum(high, high[np.arange(128) ^ lanes])
            old_top, high = top[:, half].copy(), high * scale
            new_top = np.where(high > old_top + np.float32(layout().leeway), high, old_top)
            base = based(new_top)
            weights[:, own] = np.exp2(fma(scores[:, own], scale, -base[:, None]))
            row_sum = np.zeros(128, np.float32)
            for column in own:
                row_sum = row_sum + weights[:, column]
            for lanes in (2, 1):
                row_sum = row_sum + row_sum[np.arange(128) ^ lanes]
            again[:, half] = np.where(new_top == old_top, np.float32(1), np.exp2(old_top - base))
            total[:, half] = fma(total[:, half], again[:, half], row_sum)
            top[:, half] = new_top
        self.part = top, total
        return weights, again

    def fold(self, later: tuple[Array, Array]) -> None:
        top = np.maximum(self.all[0], later[0])
        base = based(top)
        one, other = np.exp2(self.all[0] - base), np.exp2(later[0] - base)
        self.all = top, fma(self.all[1], one, later[1] * other)
        self.folded = fma(self.folded, one[:, self.half], self.acc * other[:, self.half])


class Emulated:
    """Runs a plan on q [T, H, D], caches [P, KV, page_size, D] in fp16; out and lse as the op gives them, in fp32."""

    def __init__(self, q: Array, k: Array, v: Array, plan: LaunchPlan) -> None:
        self.q, self.k, self.v = q, k, v
        self.heads, self.head_dim = q.shape[1:]
        self.num_kv, self.page_size = k.shape[1:3]
        self.group = self.heads // self.num_kv
        self.shift = (self.group - 1).bit_length()
        self.told = layout()
        self.room = self.told.rooms[self.head_dim]
        self.memory = Memory(self.room.asked)
        self.scale = np.float32(1.4426950408889634 / self.head_dim**0.5)
        self.items, self.tokens, self.merges, self.pages = (
            x.numpy() for x in (plan.items, plan.tokens, plan.merges, plan.pages)
        )
        self.out = np.full(q.shape, np.nan, np.float16)
        self.lse = np.full(q.shape[:2], np.nan, np.float32)
        self.partials = np.full((plan.num_partials, *q.shape[1:]), np.nan, np.float32)
        self.states = np.full((plan.num_partials, self.heads, 2), np.nan, np.float32)
        self.used = self.round = 0
        for head in range(self.num_kv):
            for item in self.items:
                self.attend(*item.tolist(), head)
        for token in self.merges:
            self.merge(self.tokens[token])

    def fetch(self, to: int, cache: Array, first: int, head: int, tile: int, most: int) -> None:
        rows, keys = min(self.page_size, 64), tile * self.told.tile_keys
        for box in range(min(64 // rows, -(-(most - keys) // rows))):
            key = keys + box * rows
            source = cache[self.pages[first + key // self.page_size], head]
            for block in range(self.head_dim // 64):
                at = to + block * self.room.block + box * rows * 128
                self.memory.copy_box(at, source, block * 64, key % self.page_size, rows)

    def gather(self, to: int, begin: int, end: int, head: int) -> list[tuple[int, ...]]:
        """The queries of an item into shared memory, and the facts of its tokens."""
        absent = (-1, 0, -1, 0)
        count = self.told.rows >> self.shift
        facts = [tuple(self.tokens[t]) if t < end else absent for t in range(begin, begin + count)]
        for row in range(self.told.rows):
            token, query_head, inside = self.row_of(facts, head, row)
            for piece in range(self.head_dim // 8):
                at = to + row // 64 * self.room.tile + piece // 8 * self.room.block
                at += self.told.swizzled[row % 64 * 8 + piece % 8]
                numbers = self.q[token[0], query_head, 8 * piece : 8 * piece + 8] if inside else 0
                self.memory.numbers[at // 2 : at // 2 + 8] = numbers
        return facts

    def row_of(self, facts: list[tuple[int, ...]], head: int, row: int) -> tuple[Any, int, bool]:
        fact, member = facts[row >> self.shift], row & ((1 << self.shift) - 1)
        return fact, head * self.group + member, fact[0] >= 0 and member < self.group

    def scores(self, queries: int, keys: int) -> Array:
        acc = np.zeros((64, 64), np.float32)
        for step in range(self.head_dim // 16):
            further = step // 4 * (self.room.block >> 4) + step % 4 * self.told.steps[0]
            q, k = (self.told.by_rows | at >> 4 for at in (queries, keys))
            one, other = (self.memory.operand(x + further, 64, by_rows=True) for x in (q, k))
            acc = added(acc, one, other)
        return acc

    def attend(
        self, begin: int, end: int, first: int, tile_from: int, tile_to: int, head: int
    ) -> None:
        if tile_from >= tile_to:
            return
        queries = self.room.q + self.round % 2 * 2 * self.room.tile
        self.round += 1
        facts = self.gather(queries, begin, end, head)
        limits = [fact[1] for fact in facts if fact[0] >= 0]
        most, least = max(limits), min(limits)
        groups = [Group(self.head_dim) for _ in range(2)]
        for tile in range(tile_from, tile_to):
            stage = self.used % self.room.stages
            keys, values = (x + stage * self.room.tile for x in (self.room.k, self.room.v))
            self.fetch(keys, self.k, first, head, tile, most)
            self.fetch(values, self.v, first, head, tile, most)
            if tile + 1 == tile_to and tile_to * 64 > most:
                for block in range(self.head_dim // 64):
                    at = values + block * self.room.block
                    self.memory.numbers[(at + (most - tile * 64) * 128) // 2 : (at + 8192) // 2] = 0
            for number, group in enumerate(groups):
                at = queries + number * self.room.tile
                rows = number * 64 + self.told.first_row
                sees = np.array([[facts[r + h >> self.shift][1] for h in (0, 8)] for r in rows])
                self.step(group, at, keys, values, tile, sees if tile * 64 + 64 > least else None)
                if (tile + 1) % self.told.chunk_tiles == 0 or tile + 1 == tile_to:
                    self.close(group, facts, head, rows, tile // self.told.chunk_tiles, tile_from)
            self.used += 1
        if tile_from == 0:
            for number, group in enumerate(groups):
                rows = number * 64 + self.told.first_row
                self.give(group, facts, head, rows)
                self.keep(facts, head, rows, -1, group.folded, group.all)

    def step(
        self, group: Group, queries: int, keys: int, values: int, tile: int, sees: Array | None
    ) -> None:
        """One tile; sees: the limits of the threads' two rows, where some row does not see all of it."""
        scores = group.registers(self.scores(queries, keys))
        if sees is not None:
            key = tile * 64 + self.told.first_column[:, None] + self.told.next_column[:32]
            scores = np.where(key >= sees[:, self.told.second_row[:32]], -np.inf, scores)
        starts = tile % self.told.chunk_tiles == 0
        if starts:
            group.part = group.nothing()
        weights, again = group.weigh(scores.astype(np.float32), self.scale)
        acc = np.zeros((64, self.head_dim), np.float32)
        if not starts:
            group.acc = group.acc * again[:, group.half]
            acc[
                group.place[0][:, : group.acc.shape[1]], group.place[1][:, : group.acc.shape[1]]
            ] = group.acc
        packed = weights.astype(np.float16)
        thread = np.arange(128)
        for k in range(4):
            # An operand [64, 16] in registers: register r of a thread has two columns, low half first (PTX ISA).
            a = np.full((64, 16), np.nan, np.float16)
            for register in range(4):
                row = thread // 32 * 16 + thread % 32 // 4 + 8 * (register & 1)
                column = 2 * (thread % 4) + 8 * (register >> 1)
                for half in range(2):
                    a[row, column + half] = packed[:, 2 * (4 * k + register) + half]
            descriptor = (self.room.by_columns | values >> 4) + k * self.told.steps[1]
            acc = added(acc, a, self.memory.operand(descriptor, self.head_dim, by_rows=False))
        group.acc = group.registers(acc)

    def close(
        self, group: Group, facts: list[Any], head: int, rows: Array, chunk: int, tile_from: int
    ) -> None:
        of = group.part
        if tile_from == 0:
            group.fold(of)
        else:
            self.keep(facts, head, rows, chunk, group.acc, of)

    def keep(
        self,
        facts: list[Any],
        head: int,
        rows: Array,
        chunk: int,
        acc: Array,
        of: tuple[Array, ...],
    ) -> None:
        for thread in range(128):
            for half in range(2):
                fact, query_head, inside = self.row_of(facts, head, int(rows[thread]) + 8 * half)
                if not inside or fact[2] < 0 or fact[1] <= chunk * 64 * self.told.chunk_tiles:
                    continue
                slot = fact[2] + (0 if chunk < 0 else chunk + 1 - fact[3])
                own = np.flatnonzero(self.told.second_row[: acc.shape[1]] == half)
                columns = self.told.first_column[thread] + self.told.next_column[own]
                self.partials[slot, query_head, columns] = acc[thread, own]
                self.states[slot, query_head] = of[0][thread, half], of[1][thread, half]

    def give(self, group: Group, facts: list[Any], head: int, rows: Array) -> None:
        lane = np.arange(128)
        for half in range(2):
            total = group.all[1][:, half]
            by = np.where(total > 0, 1 / np.where(total > 0, total, 1), 0).astype(np.float32)
            for run in range(self.head_dim // 32):
                firsts = [4 * (4 * run + i) + 2 * half for i in range(4)]
                words = np.stack([group.folded[:, f : f + 2] * by[:, None] for f in firsts], 1)
                words = across_lanes(words, lane).reshape(128, 8)
                for thread in range(128):
                    fact, at, inside = self.row_of(facts, head, int(rows[thread]) + 8 * half)
                    if inside and fact[2] < 0:
                        begin = 32 * run + 8 * (thread & 3)
                        self.out[fact[0], at, begin : begin + 8] = words[thread]
                        log = group.all[0][thread, half] + np.log2(total[thread])
                        self.lse[fact[0], at] = log * np.log(2)

    def merge(self, token: Array) -> None:
        row, limit, first, folded = token.tolist()
        parts = slice(first, first + -(-limit // (64 * self.told.chunk_tiles)) - folded + 1)
        acc = np.zeros((self.heads, self.head_dim), np.float32)
        top, total = np.full(self.heads, -np.inf, np.float32), np.zeros(self.heads, np.float32)
        for later, state in zip(self.partials[parts], self.states[parts], strict=True):
            new_top = np.maximum(top, state[:, 0])
            base = based(new_top)
            one, other = np.exp2(top - base), np.exp2(state[:, 0] - base)
            total = fma(total, one, state[:, 1] * other)
            acc, top = fma(acc, one[:, None], later * other[:, None]), new_top
        self.out[row] = acc * (1 / total)[:, None]
        self.lse[row] = (top + np.log2(total)) * np.log(2)


def across_lanes(words: Array, lane: Array) -> Array:
    """`across_lanes` of csrc/attention_sm90.cuh: words [128, 4, ...], exchanged among each four lanes."""
    words = words.copy()
    for bit, pairs in ((1, ((0, 1), (2, 3))), (2, ((0, 2), (1, 3)))):
        up = (lane & bit > 0).reshape(-1, *[1] * (words.ndim - 2))
        for low, high in pairs:
            sent = np.where(up, words[:, low], words[:, high])[lane ^ bit]
            words[:, low], words[:, high] = (
                np.where(up, sent, words[:, low]),
                np.where(up, words[:, high], sent),
            )
    return words
