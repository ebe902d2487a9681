"""The other C++ ops against their twins; rows do not see each other, nor what lies around them."""

from itertools import product

import pytest
import torch
from torch import Tensor
from wideseek_kernels import reference, reference_sample
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.kv_write import norm_rotary_kv_write
from wideseek_kernels.rms_norm import add_rms_norm, rms_norm
from wideseek_kernels.sample import sample, sample_with_entropy
from wideseek_kernels.swiglu import swiglu
from wideseek_kernels.token_logprob import token_logprob

from tests.kernels.threads import three_threads  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler")

DTYPES = [torch.float32, torch.bfloat16]
ROWS = [1, 19, 99]
SIZES = [1, 7, 16, 64, 333]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(actual: Tensor, exact: Tensor) -> None:
    """Within some roundings of fp32, or half a step of bf16 and those."""
    rtol = 2e-6 if actual.dtype == torch.float32 else 2**-8
    torch.testing.assert_close(actual.double(), exact, atol=1e-6, rtol=rtol)


def in_cpp(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin is out of reach."""

    def unreachable(*_: object) -> None:
        raise AssertionError(f"the twin of {op} ran")

    monkeypatch.setattr(reference, op, unreachable)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), list(product(ROWS, SIZES)))
def test_rms_norm(rows: int, size: int, dtype: torch.dtype) -> None:
    x, weight = drawn(rows, size, dtype=dtype), drawn(size, seed=1)
    exact = reference.rms_norm(x.double(), weight.double(), 1e-6)
    close(rms_norm(x, weight, 1e-6), exact)
    assert torch.equal(rms_norm(x[-1:], weight, 1e-6), rms_norm(x, weight, 1e-6)[-1:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_add_rms_norm_has_the_bits_of_its_two_steps(size: int, dtype: torch.dtype) -> None:
    x, residual = drawn(19, size, dtype=dtype), drawn(19, size, seed=1, dtype=dtype)
    weight = drawn(size, seed=2, dtype=dtype)
    normed, summed = add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(summed, x + residual)
    assert torch.equal(normed, rms_norm(x + residual, weight, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), list(product(ROWS, SIZES)))
def test_swiglu(rows: int, size: int, dtype: torch.dtype) -> None:
    gate, up = 8 * drawn(rows, size, dtype=dtype), drawn(rows, size, seed=1, dtype=dtype)
    close(swiglu(gate, up), reference.swiglu(gate.double(), up.double()))
    assert torch.equal(swiglu(gate[-1:], up[-1:]), swiglu(gate, up)[-1:])


def test_swiglu_of_the_largest_numbers_is_finite() -> None:
    gate = torch.tensor([[-3e38, -100.0, 0.0, 100.0, 3e38]])
    assert torch.equal(swiglu(gate, torch.ones_like(gate)), gate.clamp_min(0))
    assert swiglu(torch.full((1, 3), torch.nan), torch.ones(1, 3)).isnan().all()


def test_strides_go_to_the_twin() -> None:
    strided = drawn(8, 3).T
    close(swiglu(strided, strided), reference.swiglu(strided.double(), strided.double()))


def test_gradients_are_the_twins_and_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, up = drawn(3, 8), drawn(8, seed=1), drawn(3, 8, seed=2)
    for op, inputs in (
        (lambda a, b: rms_norm(a, b, 1e-6), (x, weight)),
        (swiglu, (x, up)),
    ):
        plain = op(*inputs)
        ours, theirs = ([y.clone().requires_grad_() for y in inputs] for _ in range(2))
        out = op(*ours)
        assert torch.equal(out.detach(), plain)
        grads = torch.autograd.grad(out, ours, up)
        with monkeypatch.context() as context:
            context.setattr("wideseek_kernels.border.cpu_kernels", lambda: False)
            twins = torch.autograd.grad(op(*theirs), theirs, up)
        for grad, twin in zip(grads, twins, strict=True):
            torch.testing.assert_close(grad, twin)
        assert not torch.equal(grads[0], torch.zeros(3, 8))


@pytest.mark.parametrize(("rows", "vocab"), [(1, 7), (19, 515), (600, 333)])
def test_token_logprobs_are_those_of_sampling(rows: int, vocab: int) -> None:
    """To the bit; entropies and gradients are the twin's."""
    hidden, weight = drawn(rows, 16), drawn(vocab, 16, seed=1)
    ones, zeros = torch.ones(rows), torch.zeros(rows, dtype=torch.int64)
    logits = torch.cat([x @ weight.T for x in hidden.split(reference.LOGIT_ROWS)])
    tokens, _, plain, entropy = sample_with_entropy(
        logits, ones, zeros, ones, torch.zeros(rows), torch.arange(rows), zeros
    )
    ours = [x.clone().requires_grad_() for x in (hidden, weight)]
    logprobs, entropies = token_logprob(*ours, tokens)
    assert torch.equal(logprobs.detach(), plain)
    torch.testing.assert_close(entropies.detach(), entropy, atol=1e-5, rtol=1e-5)
    grads = torch.autograd.grad((logprobs * hidden[:, 0] + entropies * hidden[:, 1]).sum(), ours)
    wide = [x.double().requires_grad_() for x in (hidden, weight)]
    twin, twin_entropy = reference.token_logprob(*wide, tokens)
    of_twin = torch.autograd.grad((twin * hidden[:, 0] + twin_entropy * hidden[:, 1]).sum(), wide)
    for grad, exact in zip(grads, of_twin, strict=True):
        torch.testing.assert_close(grad.double(), exact, atol=2e-4, rtol=1e-4)


def test_under_autocast_the_gradient_is_the_twins() -> None:
    hidden, weight = drawn(5, 16), drawn(40, 16, seed=1)
    grads = []
    for op in (token_logprob, reference.token_logprob):
        inputs = [x.clone().requires_grad_() for x in (hidden, weight)]
        with torch.autocast("cpu", torch.bfloat16):
            logprobs, entropies = op(*inputs, torch.arange(5))
        grads.append(torch.autograd.grad((logprobs + entropies).sum(), inputs))
    for ours, twin in zip(*grads, strict=True):
        torch.testing.assert_close(ours, twin)


def test_an_id_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="ids has 0 to 7, of 7 tokens"):
        token_logprob(drawn(2, 4), drawn(7, 4), torch.tensor([0, 7]))


class Heads:
    """q, k and v as parts of one projection's rows, tables, and caches of NaN."""

    def __init__(self, tokens: int, head_dim: int, dtype: torch.dtype, normed: bool) -> None:
        rows = drawn(tokens, 8, head_dim, dtype=dtype)
        self.q, self.k, self.v = rows[:, :4], rows[:, 4:6], rows[:, 6:]
        self.norms = (
            (drawn(head_dim, seed=3, dtype=dtype), drawn(head_dim, seed=4, dtype=dtype))
            if normed
            else (None, None)
        )
        self.cos, self.sin = drawn(tokens, head_dim, seed=5), drawn(tokens, head_dim, seed=6)
        generator = torch.Generator().manual_seed(7)
        self.slots = torch.randperm(8 * 16, generator=generator)[: max(1, tokens - 2)]
        self.k_cache, self.v_cache = (
            torch.full((8, 2, 16, head_dim), torch.nan).to(dtype) for _ in range(2)
        )

    def arguments(self, first: int = 0) -> tuple[Tensor | float | None, ...]:
        q, k, v, cos, sin = (x[first:] for x in (self.q, self.k, self.v, self.cos, self.sin))
        caches = (self.k_cache, self.v_cache)
        return (q, k, v, *self.norms, 1e-6, cos, sin, *caches, self.slots[first:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("tokens", "head_dim"), [(1, 64), (19, 16), (99, 32), (19, 128), (3, 256)])
def test_norm_rotary_kv_write(
    tokens: int, head_dim: int, normed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, twin = (Heads(tokens, head_dim, dtype, normed) for _ in range(2))
    expected = reference.norm_rotary_kv_write(*twin.arguments())
    in_cpp("norm_rotary_kv_write", monkeypatch)
    actual = norm_rotary_kv_write(*heads.arguments())
    step = 1e-5 if dtype == torch.float32 else 2**-7
    same = {"atol": 2e-6, "rtol": step, "equal_nan": True}
    torch.testing.assert_close(actual, expected, **same)
    # The NaN of all other slots are part of what must be equal.
    torch.testing.assert_close(heads.k_cache, twin.k_cache, **same)
    assert torch.equal(heads.v_cache.nan_to_num(9e9), twin.v_cache.nan_to_num(9e9))
    assert torch.equal(norm_rotary_kv_write(*heads.arguments(tokens - 1)), actual[-1:])


@pytest.mark.parametrize("bad", [-1, 128])
def test_a_slot_out_of_range_is_named_and_nothing_written(bad: int) -> None:
    heads = Heads(5, 16, torch.float32, True)
    heads.slots = torch.tensor([1, 2, bad])
    with pytest.raises(ValueError, match=rf"^slots\[2\] is {bad}, of 128"):
        norm_rotary_kv_write(*heads.arguments())
    assert heads.k_cache.isnan().all() and heads.v_cache.isnan().all()


def settings(n: int, seed: int) -> tuple[Tensor, ...]:
    """Temperatures, filters, seeds and positions of n rows, every filter on in some and off in others."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(n)

    def uniform() -> Tensor:
        return torch.rand(n, generator=generator)

    temperature = torch.where(index % 5 == 0, 0.0, 0.2 + 1.2 * uniform())
    top_k = torch.where(index % 3 == 0, torch.randint(1, 60, (n,), generator=generator), 0)
    top_p = torch.where(index % 2 == 0, 0.5 + uniform() / 2, 1.0)
    min_p = torch.where(index % 7 == 0, 0.1 * uniform(), 0.0)
    seeds = torch.randint(-(2**62), 2**62, (n,), generator=generator)
    return temperature, top_k, top_p, min_p, seeds, index


@pytest.mark.parametrize(("rows", "vocab"), [(1, 1), (19, 3), (99, 17), (300, 989), (64, 8512)])
def test_sample_draws_the_tokens_of_its_twin(rows: int, vocab: int) -> None:
    logits, chosen = 2.5 * drawn(rows, vocab), settings(rows, vocab)
    tokens, logprobs, plain = sample(logits, *chosen)
    expected = reference_sample.sample(logits, *chosen)
    assert torch.equal(tokens, expected[0])
    torch.testing.assert_close(logprobs, expected[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, expected[2], atol=1e-5, rtol=1e-5)


def test_sample_in_rows_that_do_not_see_each_other() -> None:
    logits, chosen = 2.5 * drawn(40, 333), settings(40, 1)
    together = sample(logits, *chosen)
    for row in range(40):
        part = slice(row, row + 1)
        alone = sample(logits[part], *(x[part] for x in chosen))
        assert all(torch.equal(a, b[part]) for a, b in zip(alone, together, strict=True))


def test_sample_never_draws_a_barred_token() -> None:
    logits = torch.full((200, 40), -torch.inf)
    logits[:, [3, 17, 39]] = torch.tensor([0.0, 1.0, 0.5])
    _, top_k, top_p, min_p, seeds, positions = settings(200, 2)
    tokens, logprobs, _ = sample(logits, torch.ones(200), top_k, top_p, min_p, seeds, positions)
    assert set(tokens.tolist()) <= {3, 17, 39}
    assert logprobs.isfinite().all()


def test_sample_and_its_entropy() -> None:
    logits, chosen = drawn(19, 50), settings(19, 3)
    *sampled, entropy = sample_with_entropy(logits, *chosen)
    for one, other in zip(sampled, sample(logits, *chosen), strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(entropy, reference_sample.entropy(logits))
