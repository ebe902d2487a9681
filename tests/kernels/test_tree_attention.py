"""Attention over a prefix tree: every row reads exactly the rows of its own prefix, forward and backward."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from wideseek_kernels import reference_packed
from wideseek_kernels.flash_packed import lay_out
from wideseek_kernels.packed_attention import packed_attention
from wideseek_kernels.tree_attention import plan_blocks

Prefix = tuple[int, ...]
TRIES = st.lists(st.lists(st.integers(0, 2), max_size=7).map(tuple), min_size=1, max_size=7)
SIBLINGS = [(5, 5, 5, 5), (5, 5, 5, 5, 1), (5, 5, 5, 5, 2, 2), (5, 5, 7), (5, 5, 7), (9,)]


def laid_out(sequences: list[Prefix]) -> tuple[list[Prefix], list[int], list[int]]:
    """A row a distinct prefix, in the order of the sorted sequences; bounds; shared."""
    rows: list[Prefix] = []
    bounds, shared, before = [0], [], ()
    for sequence in sorted(sequences):
        common = 0
        while common < min(len(before), len(sequence)) and before[common] == sequence[common]:
            common += 1
        rows += [sequence[:end] for end in range(common + 1, len(sequence) + 1)]
        bounds.append(len(rows))
        shared.append(common)
        before = sequence
    assert len(set(rows)) == len(rows)
    return rows, bounds, shared


def visible(rows: list[Prefix]) -> Tensor:
    """[T, T]: a row reads another whose prefix its own begins with."""
    seen = [[mine[: len(theirs)] == theirs for theirs in rows] for mine in rows]
    return torch.tensor(seen, dtype=torch.bool).reshape(len(rows), len(rows))


def naive_tree_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[2])
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~mask, -math.inf).softmax(-1), v)


def drawn(rows: int, kv_heads: int, group: int, head_dim: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows)
    shapes = [(rows, kv_heads * group, head_dim)] + 2 * [(rows, kv_heads, head_dim)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.arange(1.0, 1.0 + len(out))[:, None, None]
    return list(torch.autograd.grad((out * weights).sum(), inputs, retain_graph=True))


@settings(deadline=None, max_examples=60)
@given(TRIES)
def test_blocks_hold_every_row_and_every_row_of_its_prefix_once(sequences: list[Prefix]) -> None:
    rows, bounds, shared = laid_out(sequences)
    read = torch.zeros(len(rows), len(rows), dtype=torch.int64)
    blocks = plan_blocks(bounds, shared)
    for block in blocks:
        size = (block.queries.stop - block.queries.start, block.keys.stop - block.keys.start)
        assert min(size) > 0
        ones = torch.ones(size, dtype=torch.int64)
        read[block.queries, block.keys] += ones.tril() if block.causal else ones
    assert torch.equal(read, visible(rows).long())
    assert len(blocks) <= 3 * len(sequences)


@settings(deadline=None, max_examples=60)
@given(TRIES)
def test_flash_reads_the_whole_path_of_each_sequence_with_own_rows(sequences: list[Prefix]) -> None:
    """Its last query stands at its last key, as causal flash attention takes it."""
    rows, bounds, shared = laid_out(sequences)
    layout = lay_out(tuple(bounds), tuple(shared), torch.device("cpu"))
    keys = torch.arange(len(rows)) if layout.rows is None else layout.rows
    assert (layout.rows is None) == (not any(shared))
    queries, reads = layout.query_bounds.tolist(), layout.key_bounds.tolist()
    assert layout.query_bounds.dtype == torch.int32 and queries[-1] == len(rows)
    assert layout.most_queries >= max((b - a for a, b in pairwise(queries)), default=0)
    assert layout.most_keys >= max((b - a for a, b in pairwise(reads)), default=0)
    for (start, end), (first, last) in zip(pairwise(queries), pairwise(reads), strict=True):
        path = [rows[row] for row in keys[first:last].tolist()]
        assert start < end and path == [path[-1][:n] for n in range(1, len(path) + 1)]
        assert path[-(end - start) :] == rows[start:end]


@settings(deadline=None, max_examples=40)
@given(TRIES, st.integers(1, 3), st.integers(1, 3), st.sampled_from([2, 8, 10]))
def test_tree_equals_flat_in_attention(
    sequences: list[Prefix], kv_heads: int, group: int, head_dim: int
) -> None:
    """Output and gradients, of the CPU's blocks and of the twin, against the dense mask."""
    rows, bounds, shared = laid_out(sequences)
    if not rows:
        return
    inputs = drawn(len(rows), kv_heads, group, head_dim)
    expected = naive_tree_attention(*inputs, visible(rows))
    for out in (
        packed_attention(*inputs, torch.tensor(bounds), torch.tensor(shared)),
        reference_packed.tree_attention(*inputs, bounds, shared),
    ):
        torch.testing.assert_close(out, expected)
        for ours, theirs in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_gradients_are_those_of_finite_differences() -> None:
    rows, bounds, shared = laid_out(SIBLINGS)
    inputs = drawn(len(rows), 2, 2, 4)
    layout = (torch.tensor(bounds), torch.tensor(shared))
    assert gradcheck(lambda q, k, v: packed_attention(q, k, v, *layout), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_whole_sequences(dtype: torch.dtype) -> None:
    """Merging blocks loses no more than a quarter over attention of each sequence in one piece."""
    generator = torch.Generator().manual_seed(0)
    trunk = tuple(torch.randint(9, (96,), generator=generator).tolist())
    rows, bounds, shared = laid_out([trunk[: 64 + i] + (10 + i,) * 40 for i in range(8)])
    half = [x.detach().to(dtype).requires_grad_() for x in drawn(len(rows), 2, 2, 16)]
    exact = [x.detach().double().requires_grad_() for x in half]
    expected = naive_tree_attention(*exact, visible(rows))
    tree = packed_attention(*half, torch.tensor(bounds), torch.tensor(shared))
    twin = reference_packed.tree_attention(*half, bounds, shared)
    assert tree.dtype == dtype
    ours, theirs = ((out.double() - expected).norm() for out in (tree, twin))
    assert ours <= 1.25 * theirs, (ours, theirs)
    wanted = gradients(expected, exact)
    for mine, others, right in zip(
        gradients(tree, half), gradients(twin, half), wanted, strict=True
    ):
        assert mine.dtype == dtype
        assert (mine.double() - right).norm() <= 1.25 * (others.double() - right).norm()


def test_without_sharing_the_tree_mask_is_packing_to_the_bit() -> None:
    q, k, v = drawn(9, 2, 2, 8)
    bounds = torch.tensor([0, 4, 5, 9])
    flat = packed_attention(q, k, v, bounds)
    assert torch.equal(packed_attention(q, k, v, bounds, torch.tensor([0, 0, 0])), flat)


def test_one_sequence_that_continues_another_equals_it_whole() -> None:
    q, k, v = drawn(9, 2, 2, 8)
    whole = packed_attention(q, k, v, torch.tensor([0, 9]))
    cut = packed_attention(q, k, v, torch.tensor([0, 4, 4, 9]), torch.tensor([0, 4, 4]))
    torch.testing.assert_close(cut, whole)


def test_no_row_hears_from_a_sibling() -> None:
    """To the bit: what a sibling says, however large, is in nobody else's sums."""
    rows, bounds, shared = laid_out(SIBLINGS)
    q, k, v = (x.detach() for x in drawn(len(rows), 2, 2, 8))
    layout = (torch.tensor(bounds), torch.tensor(shared))
    before = packed_attention(q, k, v, *layout)
    for start, end in pairwise(bounds):
        loud_k, loud_v = k.clone(), v.clone()
        loud_k[start:end] = 1e3
        loud_v[start:end] = math.nan
        deaf = ~visible(rows)[:, start:end].any(1)
        after = packed_attention(q, loud_k, loud_v, *layout)
        assert torch.equal(after[deaf], before[deaf])
        assert after[~deaf].isnan().all()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"k": torch.ones(5, 3, 4)}, "q has 4 heads, expected a multiple of 3"),
        ({"k": torch.ones(6, 2, 4)}, "k has shape"),
        ({"v": torch.ones(5, 1, 4)}, "v has shape"),
        ({"k": torch.ones(5, 2, 4, dtype=torch.float64)}, r"k is torch\.float64"),
        ({"v": torch.ones(5, 2, 4, dtype=torch.bfloat16)}, r"v is torch\.bfloat16"),
        ({"q": torch.ones(5, 16)}, "q has shape"),
        ({"cu_seqlens": torch.tensor([0, 3, 6])}, "cu_seqlens must ascend from 0"),
        ({"cu_seqlens": torch.tensor([0, 6, 5])}, "cu_seqlens must ascend from 0"),
        ({"cu_seqlens": torch.tensor([1, 3, 5])}, "cu_seqlens must ascend from 0"),
        ({"cu_seqlens": torch.tensor([0.0, 3.0, 5.0])}, r"cu_seqlens is torch\.float32"),
        ({"cu_seqlens": torch.tensor([], dtype=torch.int64)}, "cu_seqlens must ascend"),
        ({"shared": torch.tensor([0])}, "shared has shape"),
        ({"shared": torch.tensor([0.0, 1.0])}, r"shared is torch\.float32"),
        ({"shared": torch.tensor([0, 4])}, r"shared\[1\] must be 0 to 3"),
        ({"shared": torch.tensor([0, -1])}, r"shared\[1\] must be 0 to 3"),
        ({"shared": torch.tensor([1, 2])}, r"shared\[0\] must be 0 to 0"),
    ],
)
def test_bad_input_is_named(changed: dict[str, Tensor], told: str) -> None:
    good = {
        "q": torch.ones(5, 4, 4),
        "k": torch.ones(5, 2, 4),
        "v": torch.ones(5, 2, 4),
        "cu_seqlens": torch.tensor([0, 3, 5]),
        "shared": torch.tensor([0, 2]),
    }
    packed_attention(**good)
    with pytest.raises(ValueError, match=told):
        packed_attention(**good | changed)
