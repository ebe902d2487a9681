"""The plan of C++ attention: every query meets each of its key tiles once, in order, in the right pages."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.work_list import CHUNK_TILES, TILE, UNIT_ROWS, WorkList, plan_work

pytestmark = pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler")

Sequences = tuple[list[npt.NDArray[np.int64]], list[int], list[int]]


@st.composite
def sequences(draw: st.DrawFn, page_size: int) -> Sequences:
    """Sequences that share beginnings at random: pages, kv_lens, q_lens."""
    pages: list[npt.NDArray[np.int64]] = []
    kv_lens, q_lens = [], []
    fresh = 0
    for _ in range(draw(st.integers(0, 7))):
        kv_len = draw(st.integers(1, 700))
        count = -(-kv_len // page_size)
        beginning = pages[draw(st.integers(0, len(pages) - 1))] if pages else np.empty(0, np.int64)
        beginning = beginning[: draw(st.integers(0, min(count, len(beginning))))]
        own = np.arange(fresh, fresh + count - len(beginning))
        fresh += len(own)
        pages.append(np.concatenate([beginning, own]).astype(np.int64))
        kv_lens.append(kv_len)
        q_lens.append(draw(st.one_of(st.just(1), st.integers(1, kv_len))))
    return pages, kv_lens, q_lens


def readings(work: WorkList) -> dict[int, list[tuple[int, int]]]:
    """Of each row of q: the (tile, span it is read from) it meets, in the order of the units."""
    met: dict[int, list[tuple[int, int]]] = {row: [] for row in range(work.num_rows)}
    for span_from, span_to, segment_from, segment_to, *_ in work.units.tolist():
        for lo, hi, tile_from, tile_to in work.segments[segment_from:segment_to].tolist():
            assert span_from <= lo < hi <= span_to
            for first, rows, _, _ in work.spans[lo:hi].tolist():
                for row in range(first, first + rows):
                    met[row] += [(tile, lo) for tile in range(tile_from, tile_to)]
    return met


@pytest.mark.parametrize("page_size", [1, 16, 64, 128])
@given(data=st.data(), num_threads=st.integers(1, 9))
def test_every_query_meets_its_tiles_once_in_order_and_in_its_pages(
    page_size: int, data: st.DataObject, num_threads: int
) -> None:
    pages, kv_lens, q_lens = data.draw(sequences(page_size))
    work = plan_work(pages, kv_lens, q_lens, page_size=page_size, num_kv=2, num_threads=num_threads)
    met = readings(work)
    flat, row = work.pages.numpy(), 0
    for own, kv_len, q_len in zip(pages, kv_lens, q_lens, strict=True):
        for position in range(kv_len - q_len, kv_len):
            tiles = [tile for tile, _ in met[row]]
            # A span's last tile is that of its last row: the rows before may see nothing of it.
            needed = position // TILE + 1
            assert tiles == list(range(len(tiles))) and len(tiles) >= needed
            for tile, span in met[row][:needed]:
                begin = tile * TILE // page_size
                end = -(-min((tile + 1) * TILE, position + 1) // page_size)
                read_from = flat[work.spans[span, 3] :]
                assert np.array_equal(read_from[begin:end], own[begin:end])
            row += 1
    assert row == work.num_rows
    for begin, end, *_ in work.units.tolist():
        assert end - begin == 1 or int(work.spans[begin:end, 1].sum()) <= UNIT_ROWS


@given(
    lens=st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 200)), min_size=1, max_size=5),
    num_threads=st.integers(1, 64),
)
def test_parts_are_whole_chunks_and_cover_each_tile_of_their_unit_once(
    lens: list[tuple[int, int]], num_threads: int
) -> None:
    kv_lens, q_lens = [n for n, _ in lens], [min(n, q) for n, q in lens]
    counts = [-(-n // 64) for n in kv_lens]
    pages = [np.arange(n) + 200 * i for i, n in enumerate(counts)]
    work = plan_work(pages, kv_lens, q_lens, page_size=64, num_kv=2, num_threads=num_threads)
    read: dict[int, list[tuple[int, int]]] = {unit: [] for unit in range(len(work.units))}
    for unit, tile_from, tile_to in work.parts.tolist():
        read[unit].append((tile_from, tile_to))
    partials = 0
    for unit, (span_from, span_to, _, _, tiles, first) in enumerate(work.units.tolist()):
        cuts = [0, *(tile_to for _, tile_to in read[unit])]
        assert [tile_from for tile_from, _ in read[unit]] == cuts[:-1] and cuts[-1] == tiles
        assert all(begin < end for begin, end in read[unit])
        assert all(cut % CHUNK_TILES == 0 for cut in cuts[:-1])
        assert first == (partials if len(read[unit]) > 1 else -1)
        if first >= 0:
            partials += int(work.spans[span_from:span_to, 1].sum()) * -(-tiles // CHUNK_TILES)
    assert work.num_partials == partials


def test_one_long_sequence_is_split_for_all_threads() -> None:
    pages = [np.arange(256)]
    work = plan_work(pages, [16384], [1], page_size=64, num_kv=4, num_threads=16)
    assert len(work.parts) == 16
    assert (work.parts[:, 2] - work.parts[:, 1]).tolist() == [CHUNK_TILES] * 16
    alone = plan_work(pages, [16384], [1], page_size=64, num_kv=4, num_threads=1)
    assert alone.parts.tolist() == [[0, 0, 256]]


def test_what_all_share_is_read_once_by_as_many_units_as_there_are_threads() -> None:
    prefix = np.arange(32)
    pages = [np.append(prefix, 32 + i) for i in range(64)]
    lens, ones = [33 * 64] * 64, [1] * 64
    for num_threads, units in ((1, 1), (2, 1), (8, 4)):
        work = plan_work(pages, lens, ones, page_size=64, num_kv=4, num_threads=num_threads)
        assert len(work.units) == units
        shared = work.segments[work.segments[:, 1] - work.segments[:, 0] > 1]
        assert shared[:, 2:].tolist() == [[0, 32]] * units
        assert len(work.segments) == units + 64


def test_the_longest_unit_goes_first() -> None:
    pages = [np.arange(1), np.arange(10, 30), np.arange(40, 45)]
    work = plan_work(pages, [64, 1280, 320], [1, 1, 1], page_size=64, num_kv=1, num_threads=2)
    tiles = [int(work.segments[unit[2], 3]) for unit in work.units.tolist()]
    assert tiles == [20, 5, 1]
