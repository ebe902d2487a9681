"""The plain-PyTorch twins against hand-computed values and independent formulas."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from wideseek_kernels.packed_attention import packed_attention
from wideseek_kernels.rms_norm import rms_norm
from wideseek_kernels.rotary import apply_rotary
from wideseek_kernels.swiglu import swiglu


def drawn(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.requires_grad_(grad)


def test_rms_norm_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    out = rms_norm(x, torch.tensor([1.0, 10.0]), 0.5)
    rms = math.sqrt(12.5 + 0.5)
    torch.testing.assert_close(out, torch.tensor([[3 / rms, 40 / rms], [0.0, 0.0]]))


def test_rms_norm_squares_in_fp32() -> None:
    x = torch.full((1, 4), 300.0, dtype=torch.float16)  # 300² is past the largest fp16
    out = rms_norm(x, torch.ones(4, dtype=torch.float16), 1e-6)
    torch.testing.assert_close(out, torch.ones(1, 4, dtype=torch.float16))


def test_swiglu_by_hand() -> None:
    out = swiglu(torch.tensor([0.0, 1.0, -2.0]), torch.tensor([5.0, 2.0, 3.0]))
    expected = [0.0, 2 / (1 + math.exp(-1)), -6 / (1 + math.exp(2))]
    torch.testing.assert_close(out, torch.tensor(expected))


def tables(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    angles = torch.outer(positions.double(), frequencies.double())
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def test_rotary_is_a_complex_rotation_of_the_half_split_pairs() -> None:
    q, k = drawn(5, 3, 8), drawn(5, 1, 8, seed=1)
    positions = torch.tensor([0, 7, 2, 2, 1000])
    frequencies = torch.tensor([1.0, 0.3, 0.05, 0.001])
    turn = torch.exp(1j * torch.outer(positions.double(), frequencies.double()))[:, None]
    for x, rotated in zip((q, k), apply_rotary(q, k, *tables(positions, frequencies)), strict=True):
        z = torch.complex(x[..., :4], x[..., 4:]) * turn
        torch.testing.assert_close(rotated, torch.cat((z.real, z.imag), -1))


def test_rotary_scores_depend_on_distance_alone() -> None:
    q, k = drawn(1, 1, 8), drawn(1, 1, 8, seed=1)
    frequencies = torch.tensor([1.0, 0.3, 0.05, 0.001])

    def score(q_position: int, k_position: int) -> float:
        rotated_q, _ = apply_rotary(q, k, *tables(torch.tensor([q_position]), frequencies))
        _, rotated_k = apply_rotary(q, k, *tables(torch.tensor([k_position]), frequencies))
        return float((rotated_q * rotated_k).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-5)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


def test_rotary_of_bf16_is_rounded_once() -> None:
    q, k = drawn(4, 2, 8).bfloat16(), drawn(4, 1, 8, seed=1).bfloat16()
    cos, sin = tables(torch.arange(4), torch.tensor([1.0, 0.3, 0.05, 0.001]))
    exact, _ = apply_rotary(q.double(), k.double(), cos, sin)
    rotated, _ = apply_rotary(q, k, cos.float(), sin.float())
    assert rotated.dtype == torch.bfloat16
    torch.testing.assert_close(rotated, exact.bfloat16(), rtol=0, atol=0)


def naive_attention(q: Tensor, k: Tensor, v: Tensor, bounds: list[int]) -> Tensor:
    """Row by row, head by head, from the definition."""
    group = q.shape[1] // k.shape[1]
    out = torch.zeros_like(q)
    for start, end in itertools.pairwise(bounds):
        for row in range(start, end):
            for head in range(q.shape[1]):
                keys = k[start : row + 1, head // group]
                weights = torch.softmax(keys @ q[row, head] / math.sqrt(q.shape[2]), dim=0)
                out[row, head] = weights @ v[start : row + 1, head // group]
    return out


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    head_dim=st.sampled_from([2, 8, 10]),
)
def test_packed_attention_is_causal_attention_of_each_sequence(
    lengths: list[int], kv_heads: int, group: int, head_dim: int
) -> None:
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    q = drawn(bounds[-1], kv_heads * group, head_dim)
    k, v = (drawn(bounds[-1], kv_heads, head_dim, seed=s) for s in (1, 2))
    out = packed_attention(q, k, v, torch.tensor(bounds, dtype=torch.int32))
    torch.testing.assert_close(out, naive_attention(q, k, v, bounds))
    assert out.is_contiguous()


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_packed_attention_in_bf16_is_the_fp32_one_rounded(kv_heads: int) -> None:
    """With as many key heads as query heads a CPU takes plain products instead of the fused kernel."""
    bounds = [0, 30, 37]
    full = [drawn(37, heads, 16, seed=heads + i) for i, heads in enumerate((4, kv_heads, kv_heads))]
    half = [x.float().bfloat16().requires_grad_() for x in full]
    out = packed_attention(*half, torch.tensor(bounds))
    expected = naive_attention(*(x.detach().double() for x in half), bounds)
    torch.testing.assert_close(out.double(), expected, rtol=0.02, atol=0.02)
    out.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in half)


def test_packed_attention_does_not_see_neighbours() -> None:
    q, k, v = drawn(9, 4, 8), drawn(9, 2, 8, seed=1), drawn(9, 2, 8, seed=2)
    bounds = [0, 4, 5, 9]
    packed = packed_attention(q, k, v, torch.tensor(bounds))
    for start, end in itertools.pairwise(bounds):
        rows = slice(start, end)
        alone = packed_attention(q[rows], k[rows], v[rows], torch.tensor([0, end - start]))
        torch.testing.assert_close(packed[rows], alone, rtol=0, atol=0)


def test_gradients_are_those_of_finite_differences() -> None:
    x, weight = drawn(3, 6, grad=True), drawn(6, seed=1, grad=True)
    assert gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, weight))
    assert gradcheck(swiglu, (x, drawn(3, 6, seed=2, grad=True)))
    q, k, v = (drawn(5, heads, 4, seed=heads, grad=True) for heads in (4, 2, 2))
    cos, sin = tables(torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1.0, 0.1]))
    assert gradcheck(lambda q, k: apply_rotary(q, k, cos, sin), (q, k))
    bounds = torch.tensor([0, 3, 3, 5])
    assert gradcheck(lambda q, k, v: packed_attention(q, k, v, bounds), (q, k, v))


def test_packed_attention_gradients_equal_the_naive_ones() -> None:
    bounds = [0, 6, 7, 12]
    grads = []
    for attention in (
        lambda q, k, v: packed_attention(q, k, v, torch.tensor(bounds)),
        lambda q, k, v: naive_attention(q, k, v, bounds),
    ):
        qkv = [drawn(12, heads, 8, seed=i, grad=True) for i, heads in enumerate((6, 2, 2))]
        attention(*qkv).square().sum().backward()
        grads.append([x.grad for x in qkv])
    for ours, naive in zip(*grads, strict=True):
        torch.testing.assert_close(ours, naive)
