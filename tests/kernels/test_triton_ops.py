"""Every Triton kernel against its twin in fp64: on a CUDA device, or on the CPU in Triton's interpreter.

Interpreted only where TRITON_INTERPRET=1 stands before the first import: test_triton_interpreted.py
sees to that. What a kernel allocates is full of NaN before it writes.
"""

import math
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from wideseek_kernels import reference, reference_sample
from wideseek_kernels.kv_cache import FP8, as_bytes
from wideseek_kernels.kv_copy import kv_copy
from wideseek_kernels.kv_gather import kv_gather
from wideseek_kernels.kv_write import norm_rotary_kv_write
from wideseek_kernels.rms_norm import add_rms_norm, rms_norm
from wideseek_kernels.sample import sample, sample_with_entropy
from wideseek_kernels.swiglu import swiglu
from wideseek_kernels.token_logprob import token_logprob

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = (
    []
    if INTERPRETED
    else [
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ]
)

# The interpreter adds up bf16 wrongly, and each program costs it milliseconds.
DTYPES = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])
ROWS = [1, 19, 99, 989]
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("error")  # with which torch fills what it allocates with NaN
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.set_deterministic_debug_mode("default")


def drawn(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, grad: bool = False
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype).requires_grad_(grad)


def exact(x: Tensor) -> Tensor:
    """The same numbers in fp64 on the CPU, for the twin; a leaf if x is."""
    return x.detach().double().cpu().requires_grad_(x.requires_grad)


def close(actual: Tensor | None, expected: Tensor | None) -> None:
    assert actual is not None and expected is not None
    tolerance = TOLERANCES[actual.dtype]
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=tolerance)


def same_as_twin(
    op: Callable[..., Tensor | tuple[Tensor, ...]],
    twin: Callable[..., Tensor | tuple[Tensor, ...]],
    *inputs: Tensor,
) -> None:
    """Results and gradients; the gradients of the results are drawn."""
    exact_inputs = [exact(x) if x.is_floating_point() else x.cpu() for x in inputs]
    outs, exact_outs = op(*inputs), twin(*exact_inputs)
    outs = (outs,) if isinstance(outs, Tensor) else outs
    exact_outs = (exact_outs,) if isinstance(exact_outs, Tensor) else exact_outs
    grads = [drawn(*out.shape, seed=7 + i, dtype=out.dtype) for i, out in enumerate(outs)]
    torch.autograd.backward(outs, grads)
    torch.autograd.backward(exact_outs, [exact(grad) for grad in grads])
    for out, expected in zip(outs, exact_outs, strict=True):
        close(out.detach(), expected.detach())
    for x, exact_x in zip(inputs, exact_inputs, strict=True):
        if x.requires_grad:
            scale = 1.0 + exact_x.grad.abs().max().item()  # type: ignore[union-attr]
            close(x.grad / scale, exact_x.grad / scale)  # type: ignore[operator]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_rms_norm(rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wideseek_kernels.on_triton.rms_norm.PROGRAMS", 3)  # several turns each
    x, weight = drawn(rows, 200, dtype=dtype, grad=True), drawn(200, seed=1, dtype=dtype, grad=True)
    same_as_twin(
        lambda x, w: rms_norm(x, w, 1e-6), lambda x, w: reference.rms_norm(x, w, 1e-6), x, weight
    )


def test_rms_norm_of_heads_and_of_a_long_row() -> None:
    for shape in ((5, 3, 16), (2, 5000)):
        x, weight = drawn(*shape, grad=True), drawn(shape[-1], seed=1, grad=True)
        same_as_twin(
            lambda x, w: rms_norm(x, w, 0.5), lambda x, w: reference.rms_norm(x, w, 0.5), x, weight
        )


@pytest.mark.parametrize("rows", ROWS)
def test_add_rms_norm(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wideseek_kernels.on_triton.rms_norm.PROGRAMS", 3)
    x, residual = (drawn(rows, 200, seed=s, grad=True) for s in (0, 1))
    same_as_twin(
        lambda *inputs: add_rms_norm(*inputs, 1e-6),
        lambda *inputs: reference.add_rms_norm(*inputs, 1e-6),
        x,
        residual,
        drawn(200, seed=2, grad=True),
    )


def test_add_rms_norm_has_the_bits_of_its_two_steps() -> None:
    x, residual = (drawn(19, 200, seed=s, dtype=torch.float16) for s in (0, 1))
    weight = drawn(200, seed=2, dtype=torch.float16)
    normed, summed = add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(summed, x + residual)
    assert torch.equal(normed, rms_norm(summed, weight, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_swiglu(rows: int, dtype: torch.dtype) -> None:
    gate, up = (drawn(rows, 33, seed=s, dtype=dtype, grad=True) for s in (0, 1))
    same_as_twin(swiglu, reference.swiglu, gate, up)


def test_swiglu_of_large_gates_is_finite() -> None:
    gate = torch.tensor([-2000.0, -90.0, 0.0, 90.0, 2000.0], device=DEVICE, requires_grad=True)
    same_as_twin(swiglu, reference.swiglu, gate, drawn(5, grad=True))


def test_swiglu_of_rows_of_one_product_has_the_bits_of_rows_apart() -> None:
    both = drawn(19, 2 * 2100, dtype=torch.float16)
    gate, up = both.split(2100, dim=1)
    assert torch.equal(swiglu(gate, up), swiglu(gate.contiguous(), up.contiguous()))


PAGE_SIZE = 4


class Step:
    """The inputs of norm_rotary_kv_write, q, k and v being parts of one projection, and NaN pages."""

    def __init__(
        self,
        tokens: int,
        heads: int,
        kv_heads: int,
        dim: int,
        dtype: torch.dtype,
        cache: torch.dtype | None = None,
    ) -> None:
        qkv = drawn(tokens, heads + 2 * kv_heads, dim, dtype=dtype)
        self.q, self.k, self.v = qkv.split([heads, kv_heads, kv_heads], 1)
        self.q_weight, self.k_weight = (drawn(dim, seed=s, dtype=dtype) for s in (1, 2))
        angles = torch.outer(torch.arange(tokens) * 3.0, 10.0 ** -torch.arange(dim // 2))
        cos, sin = angles.cos(), angles.sin()
        self.cos = torch.cat((cos, cos), 1).to(DEVICE)
        self.sin = torch.cat((-sin, sin), 1).to(DEVICE)
        pages = tokens // PAGE_SIZE + 3
        self.k_cache, self.v_cache = (
            torch.full((pages, kv_heads, PAGE_SIZE, dim), torch.nan, device=DEVICE).to(
                cache or dtype
            )
            for _ in range(2)
        )
        order = torch.randperm(pages * PAGE_SIZE, generator=torch.Generator().manual_seed(0))
        self.slots = order[:tokens].to(DEVICE)

    def twin(self, normed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """q, and the caches after the step, of the twin in fp64."""
        k_cache, v_cache = exact(self.k_cache), exact(self.v_cache)
        q = reference.norm_rotary_kv_write(
            *(exact(x) for x in (self.q, self.k, self.v)),
            exact(self.q_weight) if normed else None,
            exact(self.k_weight) if normed else None,
            1e-6,
            *(exact(x) for x in (self.cos, self.sin)),
            k_cache,
            v_cache,
            self.slots.cpu(),
        )
        return q, k_cache, v_cache

    def run(self, normed: bool) -> Tensor:
        return norm_rotary_kv_write(
            self.q,
            self.k,
            self.v,
            self.q_weight if normed else None,
            self.k_weight if normed else None,
            1e-6,
            self.cos,
            self.sin,
            self.k_cache,
            self.v_cache,
            self.slots,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "dim", "normed"),
    [(1, 32, 8, 128, True), (19, 5, 1, 10, True), (19, 12, 4, 64, False)]
    + ([] if INTERPRETED else [(99, 32, 8, 128, True), (989, 12, 4, 64, True)]),
)
def test_norm_rotary_kv_write(
    tokens: int, heads: int, kv_heads: int, dim: int, normed: bool, dtype: torch.dtype
) -> None:
    step = Step(tokens, heads, kv_heads, dim, dtype)
    q, k_cache, v_cache = step.twin(normed)
    close(step.run(normed), q)
    for cache, expected in ((step.k_cache, k_cache), (step.v_cache, v_cache)):
        assert torch.equal(cache.isnan().cpu(), expected.isnan()), "written where it should not be"
        close(cache.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loud", [1.0, 1e-3, 1e3])
def test_fp8_pages_hold_the_plain_ones_rounded_once_more(loud: float, dtype: torch.dtype) -> None:
    """Of small numbers, and of such that saturate; a NaN is one in fp8, too."""
    plain, step = (Step(19, 4, 2, 16, dtype, cache) for cache in (None, FP8))
    for each in (plain, step):
        each.k_weight *= loud
        each.v *= loud
        each.v[3, 1, 5], each.v[4, 1, 5] = torch.nan, torch.inf
    assert torch.equal(plain.run(True), step.run(True))
    for cache, full in ((step.k_cache, plain.k_cache), (step.v_cache, plain.v_cache)):
        expected = reference.quantised(full)
        assert torch.equal(cache.isnan(), expected.isnan())
        written = ~cache.isnan()
        assert torch.equal(as_bytes(cache)[written], as_bytes(expected)[written])


def test_padding_rows_and_slots_out_of_range_are_written_nowhere() -> None:
    step = Step(6, 4, 2, 16, torch.float32)
    q, k_cache, _ = step.twin(True)
    step.slots[3] = step.k_cache.shape[0] * PAGE_SIZE
    step.slots = step.slots[:4]
    close(step.run(True), q)
    rows = [int(slot) for slot in step.slots[:3]]
    for row in rows:
        page, place = divmod(row, PAGE_SIZE)
        close(step.k_cache[page, :, place], k_cache[page, :, place])
    assert (~step.k_cache.isnan()).sum() == (~step.v_cache.isnan()).sum() == 3 * 2 * 16


def caches(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return drawn(7, 3, 5, 24).to(dtype), drawn(7, 3, 5, 24, seed=1).to(dtype)


@pytest.mark.parametrize("dtype", [*DTYPES, FP8])
def test_kv_copy(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wideseek_kernels.on_triton.kv_pages.BLOCK", 128)  # several programs a page
    k_cache, v_cache = caches(dtype)
    expected = k_cache.clone(), v_cache.clone()
    sources, targets = torch.tensor([2, 6, 2, 99]), torch.tensor([4, 0, 1, 3])
    reference.kv_copy(*expected, sources[:3].to(DEVICE), targets[:3].to(DEVICE))
    kv_copy(k_cache, v_cache, sources.to(DEVICE), targets.to(DEVICE))
    assert torch.equal(as_bytes(k_cache), as_bytes(expected[0]))
    assert torch.equal(as_bytes(v_cache), as_bytes(expected[1]))
    kv_copy(k_cache, v_cache, sources[:0].to(DEVICE), targets[:0].to(DEVICE))


@pytest.mark.parametrize("dtype", [*DTYPES, FP8])
def test_kv_gather(dtype: torch.dtype) -> None:
    k_cache, v_cache = caches(dtype)
    slots = torch.tensor([34, 0, 7, 7, 35], device=DEVICE)
    k, v = kv_gather(k_cache, v_cache, slots)
    expected = reference.kv_gather(k_cache, v_cache, slots[:4])
    for ours, twin in ((k, expected[0]), (v, expected[1])):
        assert torch.equal(as_bytes(ours[:4]), as_bytes(twin))
    assert k[4].isnan().all() and v[4].isnan().all()
    assert kv_gather(k_cache, v_cache, slots[:0])[0].shape == (0, 3, 24)


def test_norm_rotary_kv_write_rounds_where_its_steps_round() -> None:
    step = Step(19, 4, 2, 16, torch.float16)
    q = rms_norm(step.q.contiguous(), step.q_weight, 1e-6)
    steps, _ = reference.apply_rotary(q, q, step.cos, step.sin)
    # Bits may still differ where the fp32 sum is contracted and lies half way.
    assert (step.run(True) != steps).float().mean() < 0.01


def columns(n: int, **settings: float) -> list[Tensor]:
    """The arguments of `sample` after the logits, the same in every row but for the seeds."""
    asked = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | settings
    floats, ints = torch.float32, torch.int64
    values = [
        torch.full((n,), asked[name], dtype=ints if name == "top_k" else floats) for name in asked
    ]
    values += [torch.arange(n) * 1234567891011 - 5, torch.arange(n) * 7]
    return [value.to(DEVICE) for value in values]


def same_sample_as_twin(logits: Tensor, settings: list[Tensor]) -> None:
    tokens, logprobs, plain, entropies = sample_with_entropy(logits, *settings)
    cpu = logits.cpu(), *(column.cpu() for column in settings)
    expected = reference_sample.sample(*cpu)
    assert tokens.tolist() == expected[0].tolist()
    for ours, twin in ((logprobs, expected[1]), (plain, expected[2])):
        torch.testing.assert_close(ours.cpu(), twin, atol=2e-5, rtol=1e-5)
    twin = reference_sample.entropy(cpu[0])
    torch.testing.assert_close(entropies.cpu(), twin, atol=2e-5, rtol=1e-5)


SETTINGS: list[dict[str, float]] = [
    {},
    {"temperature": 0.0, "top_k": 5},
    {"temperature": 0.6, "top_k": 20},
    {"top_p": 0.9},
    {"temperature": 1.5, "min_p": 0.05},
    {"temperature": 0.8, "top_k": 50, "top_p": 0.7, "min_p": 0.01},
    {"temperature": 1e-30, "top_p": 0.9},
    {"top_p": 0.0},
    {"min_p": 1.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("vocab", [1, 600])
def test_sample_draws_what_its_twin_draws(vocab: int, settings: dict[str, float]) -> None:
    rows = 1 if INTERPRETED else 99
    same_sample_as_twin(drawn(rows, vocab) * 3, columns(rows, **settings))


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_p": 0.9, "min_p": 1e-4}, {"temperature": 0.7, "top_k": 300, "top_p": 0.95}],
    ids=str,
)
def test_sample_over_several_splits(settings: dict[str, float]) -> None:
    rows = 1 if INTERPRETED else 99
    same_sample_as_twin(drawn(rows, 20_000) * 4, columns(rows, **settings))


@pytest.mark.parametrize("settings", [{"top_k": 400}, {"top_p": 0.9}, {"min_p": 0.9}], ids=str)
def test_a_filter_that_keeps_more_than_the_likely_reads_the_row(
    settings: dict[str, float],
) -> None:
    rows = 1 if INTERPRETED else 99
    same_sample_as_twin(drawn(rows, 600) * 0.01, columns(rows, **settings))


def test_equal_logits_are_kept_or_dropped_together() -> None:
    rows = 2 if INTERPRETED else 99
    row = torch.tensor([0.0, 2.0, 2.0, 2.0, -torch.inf, 1.0], device=DEVICE)
    logits = row.expand(rows, -1).contiguous()
    for settings in ({"top_k": 2}, {"top_p": 0.3}, {"min_p": 1.0}):
        tokens, logprobs, _ = sample(logits, *columns(rows, **settings))
        assert set(tokens.tolist()) <= {1, 2, 3}
        torch.testing.assert_close(logprobs.cpu(), torch.full((rows,), -math.log(3)))
    tokens, _, _ = sample(logits, *columns(rows, temperature=0.0))
    assert tokens.tolist() == [1] * rows


def test_a_row_is_the_same_bits_whatever_the_batch() -> None:
    rows, vocab = 3, 9000
    logits, settings = drawn(rows, vocab) * 3, columns(rows, temperature=0.9)
    settings[1][0], settings[2][1], settings[0][2] = 7, 0.5, 0.0
    together = sample_with_entropy(logits, *settings)
    for row in range(rows):
        one = slice(row, row + 1)
        alone = sample_with_entropy(logits[one], *(column[one] for column in settings))
        for whole, part in zip(together, alone, strict=True):
            assert torch.equal(whole[one], part)


def test_frequencies_are_those_of_the_distribution() -> None:
    """Chi-square of drawn tokens against the filtered softmax, five deviations."""
    n = 64 if INTERPRETED else 50_000
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0, 1.5])
    tokens, _, _ = sample(logits.expand(n, -1).contiguous().to(DEVICE), *columns(n))
    expected = logits.softmax(-1) * n
    counts = torch.bincount(tokens.cpu(), minlength=8)
    freedom = 7
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert (chi_square - freedom) / math.sqrt(2 * freedom) < 5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "vocab", "size"), [(1, 7, 16), (19, 300, 99), (200, 129, 64)])
def test_token_logprob(
    rows: int, vocab: int, size: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "wideseek_kernels.on_triton.token_logprob.GRADIENT_BYTES"
    monkeypatch.setattr(module, 1)  # a backward of several slices
    hidden = (drawn(rows, size) / 4).to(dtype).detach().requires_grad_()
    weight = drawn(vocab, size, seed=1, dtype=dtype, grad=True)
    ids = torch.randint(vocab, (rows,), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    same_as_twin(token_logprob, reference.token_logprob, hidden, weight, ids)


def test_token_logprob_of_a_row_is_the_same_bits_whatever_the_batch() -> None:
    hidden, weight = drawn(140, 32), drawn(200, 32, seed=1)
    ids = torch.arange(140, device=DEVICE)
    together, alone = (token_logprob(hidden[s], weight, ids[s]) for s in (slice(0, 140), [130]))
    assert torch.equal(together[0][130:131], alone[0])
    assert torch.equal(together[1][130:131], alone[1])


def test_token_logprob_of_a_certain_token_is_zero_and_of_no_token_nan() -> None:
    weight = torch.tensor([[900.0], [0.0], [-900.0]], device=DEVICE)
    hidden = torch.ones(3, 1, device=DEVICE)
    logprobs, entropies = token_logprob(hidden, weight, torch.tensor([0, 2, 3], device=DEVICE))
    assert logprobs[:2].tolist() == [0.0, -1800.0] and logprobs[2].isnan()
    assert entropies.tolist() == [0.0, 0.0, 0.0]
