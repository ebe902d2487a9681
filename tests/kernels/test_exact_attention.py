"""The trainer's attention with the engine's bits: its results and gradients are the twins', its bits those of pages."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from wideseek_kernels import exact_attention as exact
from wideseek_kernels import packed_attention as packed
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.packed_attention import norm_rotary_packed_attention
from wideseek_kernels.packed_layout import PackedLayout

pytestmark = pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler")

BOUNDS = [0, 37, 37, 38, 70, 101, 160]
SHARED = [0, 20, 17, 18, 16, 32]
"""A prefix that ends in a page, one of a sequence without rows, one that goes on where it branched, one of whole pages."""
ROWS = 171
HEADS, KV, DIM = 4, 2, 32


def inputs(*, normed: bool) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(ROWS, HEADS, DIM), (ROWS, KV, DIM), (ROWS, KV, DIM)]
    q, k, v = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    weights = [(1 + torch.rand(DIM, generator=generator)).requires_grad_() for _ in range(2)]
    return [q, k, v, *(weights if normed else (None, None))]


def attend(given: list[Tensor | None], bounds: list[int], shared: list[int] | None) -> Tensor:
    rows = given[0].shape[0] if given[0] is not None else 0
    angles = torch.linspace(0, 9, rows)[:, None] * torch.linspace(1, 0.1, DIM)
    return norm_rotary_packed_attention(
        *given,  # type: ignore[arg-type]
        1e-6,
        angles.cos(),
        angles.sin(),
        PackedLayout(torch.tensor(bounds), None if shared is None else torch.tensor(shared)),
    )


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("shared", [SHARED, None])
def test_results_and_gradients_are_the_twins(
    shared: list[int] | None, normed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name in ("ours", "twin"):
        if name == "twin":
            monkeypatch.setattr(packed, "takes_exact", lambda *_: False)
        else:
            monkeypatch.setattr(packed, "_attend", None)  # out of reach
        given = inputs(normed=normed)
        out = attend(given, BOUNDS, shared)
        wanted = [x for x in given if x is not None]
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        found[name] = [out.detach(), *torch.autograd.grad(out, wanted, grad)]
        monkeypatch.undo()
    for ours, twin in zip(found["ours"], found["twin"], strict=True):
        torch.testing.assert_close(ours, twin, atol=2e-5, rtol=1e-4)
    assert (found["ours"][0][BOUNDS[-1] :] == 0).all()


def test_a_row_has_the_same_bits_in_a_tree_and_alone() -> None:
    """Every sequence on its own, its prefix written out."""
    given = inputs(normed=True)
    q, k, v, *weights = (x if x is None else x.detach() for x in given)
    assert q is not None and k is not None and v is not None
    path = torch.empty(0, dtype=torch.int64)
    angles = torch.linspace(0, 9, ROWS)[:, None] * torch.linspace(1, 0.1, DIM)
    with torch.no_grad():
        tree = attend([q, k, v, *weights], BOUNDS, SHARED)
    for (start, end), depth in zip(pairwise(BOUNDS), SHARED, strict=True):
        path = torch.cat((path[:depth], torch.arange(start, end)))
        if start == end:
            continue
        alone = exact.exact_attention(
            q[path],
            k[path],
            v[path],
            *weights,  # type: ignore[arg-type]
            1e-6,
            angles.cos()[path],
            angles.sin()[path],
            PackedLayout(torch.tensor([0, len(path)])),
        )
        assert torch.equal(alone[depth:], tree[start:end])


def test_heads_that_the_engine_has_no_kernel_for_go_to_the_twin() -> None:
    q = torch.randn(3, 2, 8)
    assert not exact.takes_exact(q, q, q)
    assert not exact.takes_exact(*(torch.randn(3, 2, 64).bfloat16(),) * 3)
    assert exact.takes_exact(*(torch.randn(3, 2, 64),) * 3)
