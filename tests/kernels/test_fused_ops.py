"""The twins of token_logprob, add_rms_norm and norm_rotary_kv_write, and the entropy of sample."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from wideseek_kernels import reference
from wideseek_kernels.kv_write import kv_write, norm_rotary_kv_write
from wideseek_kernels.rms_norm import add_rms_norm, rms_norm
from wideseek_kernels.rotary import apply_rotary
from wideseek_kernels.sample import sample, sample_with_entropy
from wideseek_kernels.token_logprob import token_logprob

from tests.kernels.threads import three_threads  # noqa: F401 - a fixture


def drawn(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.requires_grad_(grad)


def test_token_logprob_by_hand() -> None:
    hidden, weight = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [math.log(3)]])
    logprobs, entropies = token_logprob(hidden, weight, torch.tensor([0, 1]))
    fair = math.log(2)
    uneven = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    torch.testing.assert_close(logprobs, torch.tensor([-math.log(4), -fair]))
    torch.testing.assert_close(entropies, torch.tensor([uneven, fair]))


@pytest.mark.parametrize("rows", [0, 1, 19, 989])
def test_slices_of_rows_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = drawn(rows, 12, grad=True), drawn(40, 12, seed=1, grad=True)
    ids = torch.arange(rows) % 40
    results = []
    for limit in (7, 10_000):
        monkeypatch.setattr(reference, "LOGIT_ROWS", limit)
        logprobs, entropies = token_logprob(hidden, weight, ids)
        grads = torch.autograd.grad((logprobs + 2 * entropies).sum(), (hidden, weight))
        results.append((logprobs, entropies, *grads))
    for sliced, whole in zip(*results, strict=True):
        torch.testing.assert_close(sliced, whole)


def test_no_logits_of_all_rows_are_kept() -> None:
    """What autograd saves is the input, not [T, V]."""
    hidden, weight = drawn(600, 4, grad=True), drawn(50, 4, seed=1, grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: sizes.append(x.numel()) or x, lambda x: x
    ):
        token_logprob(hidden, weight, torch.zeros(600, dtype=torch.int64))
    assert max(sizes, default=0) <= hidden.numel()


def test_gradients_are_those_of_finite_differences() -> None:
    hidden, weight = drawn(5, 3, grad=True), drawn(7, 3, seed=1, grad=True)
    ids = torch.tensor([0, 6, 3, 3, 1])
    assert gradcheck(lambda h, w: token_logprob(h, w, ids), (hidden, weight))
    x, residual, scale = drawn(3, 6, grad=True), drawn(3, 6, seed=1, grad=True), drawn(6, grad=True)
    assert gradcheck(lambda *inputs: add_rms_norm(*inputs, 1e-3), (x, residual, scale))


def test_add_rms_norm_is_the_norm_of_the_sum_and_the_sum() -> None:
    x, residual, weight = drawn(3, 6), drawn(3, 6, seed=1), drawn(6, seed=2)
    normed, summed = add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(summed, x + residual)
    assert torch.equal(normed, rms_norm(x + residual, weight, 1e-6))


@pytest.mark.parametrize("normed", [True, False])
def test_norm_rotary_kv_write_is_its_three_steps(normed: bool) -> None:
    q, k, v = drawn(3, 4, 8), drawn(3, 2, 8, seed=1), drawn(3, 2, 8, seed=2)
    q_weight, k_weight = drawn(8, seed=3), drawn(8, seed=4)
    cos, sin, slots = drawn(3, 8, seed=5), drawn(3, 8, seed=6), torch.tensor([5, 2])
    k_cache, v_cache, k_steps, v_steps = (drawn(2, 2, 4, 8, seed=7) for _ in range(4))
    weights = (q_weight, k_weight) if normed else (None, None)
    out = norm_rotary_kv_write(q, k, v, *weights, 1e-6, cos, sin, k_cache, v_cache, slots)
    if normed:
        q, k = rms_norm(q, q_weight, 1e-6), rms_norm(k, k_weight, 1e-6)
    q, k = apply_rotary(q, k, cos, sin)
    kv_write(k[:2], v[:2], k_steps, v_steps, slots)
    assert torch.equal(out, q)
    assert torch.equal(k_cache, k_steps) and torch.equal(v_cache, v_steps)
    assert not torch.equal(k_cache, drawn(2, 2, 4, 8, seed=7))


def test_entropy_is_of_the_plain_softmax_and_finite_where_tokens_are_barred() -> None:
    logits = torch.tensor([[0.0, math.log(3), -torch.inf], [1.0, 1.0, 1.0]])
    ones, zeros = torch.ones(2), torch.zeros(2, dtype=torch.int64)
    arguments = (logits, ones * 0.5, zeros + 1, ones, ones * 0, zeros, zeros)
    *sampled, entropies = sample_with_entropy(*arguments)
    expected = [0.25 * math.log(4) + 0.75 * math.log(4 / 3), math.log(3)]
    torch.testing.assert_close(entropies, torch.tensor(expected))
    for with_entropy, alone in zip(sampled, sample(*arguments), strict=True):
        assert torch.equal(with_entropy, alone)
