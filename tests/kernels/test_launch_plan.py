"""The plan of Triton attention: every query meets each of its keys once, chunks in order, partials apart."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.launch_plan import CHUNK_TILES, TOKENS, LaunchPlan, plan_launch
from wideseek_kernels.work_list import TILE

pytestmark = pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler")

CHUNK = CHUNK_TILES * TILE
Sequences = tuple[list[npt.NDArray[np.int64]], list[int], list[int]]


def planned(
    pages: list[npt.NDArray[np.int64]],
    kv_lens: list[int],
    q_lens: list[int],
    programs: int,
    page_size: int = 64,
) -> LaunchPlan:
    device = torch.device("cpu")
    return plan_launch(
        pages, kv_lens, q_lens, page_size=page_size, programs=programs, device=device
    )


@st.composite
def sequences(draw: st.DrawFn, page_size: int) -> Sequences:
    """Sequences that share beginnings at random: pages, kv_lens, q_lens."""
    pages: list[npt.NDArray[np.int64]] = []
    kv_lens, q_lens, fresh = [], [], 0
    for _ in range(draw(st.integers(0, 6))):
        kv_len = draw(st.integers(1, 2500))
        count = -(-kv_len // page_size)
        beginning = pages[draw(st.integers(0, len(pages) - 1))] if pages else np.empty(0, np.int64)
        beginning = beginning[: draw(st.integers(0, min(count, len(beginning))))]
        own = np.arange(fresh, fresh + count - len(beginning))
        fresh += len(own)
        pages.append(np.concatenate([beginning, own]).astype(np.int64))
        kv_lens.append(kv_len)
        q_lens.append(draw(st.one_of(st.just(1), st.integers(1, min(kv_len, 80)))))
    return pages, kv_lens, q_lens


@pytest.mark.parametrize("page_size", [16, 64, 128])
@given(data=st.data(), programs=st.integers(1, 40))
def test_every_query_meets_its_keys_once_in_its_pages_and_partials_do_not_meet(
    page_size: int, data: st.DataObject, programs: int
) -> None:
    pages, kv_lens, q_lens = data.draw(sequences(page_size))
    plan = planned(pages, kv_lens, q_lens, programs, page_size)
    tokens, flat = plan.tokens.tolist(), plan.pages.numpy()
    assert (
        sorted(token[0] for token in tokens)
        == list(range(sum(q_lens)))
        == list(range(plan.num_rows))
    )
    owner = np.repeat(np.arange(len(pages)), q_lens)
    read: dict[int, list[tuple[int, int]]] = {token: [] for token in range(len(tokens))}
    for token_from, token_to, first_page, tile_from, tile_to in plan.items.tolist():
        assert 0 < token_to - token_from <= TOKENS and tile_from % CHUNK_TILES == 0
        for token in range(token_from, token_to):
            row, limit, *_ = tokens[token]
            read[token].append((tile_from, tile_to))
            begin = tile_from * TILE // page_size
            end = -(-min(tile_to * TILE, limit) // page_size)
            own = pages[owner[row]]
            assert np.array_equal(flat[first_page + begin : first_page + end], own[begin:end])
    slots: list[int] = []
    for token, (row, limit, first, folded) in enumerate(tokens):
        kv_len, q_len = kv_lens[owner[row]], q_lens[owner[row]]
        assert limit == kv_len - q_len + 1 + row - sum(q_lens[: owner[row]])
        met = sorted(read[token])
        ends = [tile_to for _, tile_to in met]
        assert [tile_from for tile_from, _ in met] == [0, *ends[:-1]] and ends[-1] * TILE >= limit
        chunks = -(-limit // CHUNK)
        assert folded == -(-ends[0] // CHUNK_TILES) and (first < 0) == (folded >= chunks)
        slots += range(first, first + 1 + chunks - folded) if first >= 0 else []
    assert sorted(slots) == list(range(plan.num_partials))
    assert plan.merges.tolist() == [t for t, token in enumerate(tokens) if token[2] >= 0]


def test_a_shared_prefix_is_read_once_by_each_sixteen_queries() -> None:
    prefix = np.arange(32)
    pages = [np.append(prefix, 32 + i) for i in range(64)]
    plan = planned(pages, [33 * 64] * 64, [1] * 64, programs=1)
    shared = [item for item in plan.items.tolist() if item[1] - item[0] == TOKENS]
    assert [item[3:] for item in shared] == [[0, 32]] * 4
    assert len(plan.items) == 4 + 64


def test_a_prefix_is_not_shared_where_that_costs_more_than_it_saves() -> None:
    """One chunk in common, and partials of one or 64 chunks after it."""
    for own, items in ((CHUNK_TILES, 3), (64 * CHUNK_TILES, 2)):
        pages = [
            np.concatenate([np.arange(CHUNK_TILES), np.arange(own) + 10 + 600 * i])
            for i in range(2)
        ]
        lens = [64 * (CHUNK_TILES + own)] * 2
        assert len(planned(pages, lens, [1, 1], programs=1).items) == items


def test_a_long_sequence_is_split_for_all_programs_and_the_longest_goes_first() -> None:
    pages = [np.arange(1), np.arange(10, 522)]
    plan = planned(pages, [64, 512 * 64], [1, 1], programs=16)
    tiles = (plan.items[:, 4] - plan.items[:, 3]).tolist()
    assert tiles == sorted(tiles, reverse=True)
    share = -(-513 // (16 * CHUNK_TILES)) * CHUNK_TILES
    assert tiles[0] == share and len(tiles) == 1 + -(-512 // share)
