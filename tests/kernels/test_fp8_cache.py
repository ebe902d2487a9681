"""Keys and values in fp8: what is written is the nearest number there is, in C++ as in the twin."""

import pytest
import torch
from torch import Tensor
from wideseek_kernels import reference
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.kv_cache import FP8, as_bytes
from wideseek_kernels.kv_write import norm_rotary_kv_write
from wideseek_kernels.reference import quantised

HEAD_DIM, PAGE_SIZE = 16, 8

EVERY = torch.arange(256, dtype=torch.uint8).view(FP8).float()
"""All that fp8 can say: 253 numbers, -0 among them, and two NaN."""


def numbers() -> Tensor:
    """Every number of fp8, what lies half way between two, the neighbours of all these, and numbers of every size."""
    half_way = (EVERY[:-1] + EVERY[1:]) / 2
    marks = torch.cat((EVERY, half_way, torch.tensor([448.5, 464.0, 465.0, 1e9, torch.inf])))
    marks = torch.cat((marks, -marks))
    toward = [torch.nextafter(marks, torch.full_like(marks, to)) for to in (-1e9, 1e9)]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**31), 2**31 - 1, (2**14,), dtype=torch.int32, generator=generator)
    every = torch.cat((marks, *toward, drawn.view(torch.float32)))
    return every[: len(every) // HEAD_DIM * HEAD_DIM].view(-1, 1, HEAD_DIM)


def write(x: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Caches in fp8 into which x was written as keys, not turned, and as values, row t in slot t."""
    pages = -(-len(x) // PAGE_SIZE)
    caches = tuple(torch.zeros(pages, 1, PAGE_SIZE, HEAD_DIM, dtype=FP8) for _ in range(2))
    cos, sin, slots = torch.ones(len(x), HEAD_DIM), torch.zeros(len(x), HEAD_DIM), range(len(x))
    weights = (weight, weight, 1e-6)
    norm_rotary_kv_write(x, x, x, *weights, cos, sin, *caches, torch.tensor(slots))
    return caches  # type: ignore[return-value]


def test_every_number_of_fp8_is_kept() -> None:
    kept = quantised(EVERY).float()
    torch.testing.assert_close(kept, EVERY, rtol=0, atol=0, equal_nan=True)
    assert kept.isnan().sum() == 2


def test_rounding_is_to_the_nearest_and_large_numbers_saturate() -> None:
    x = numbers().flatten()
    x = x[~x.isnan()]
    kept = quantised(x).double()
    assert kept.isfinite().all() and kept.abs().max() == 448
    x = x.double().clamp(-448, 448)
    assert ((kept - x).abs() <= (x.abs() / 16).clamp_min(2**-10)).all()
    finite = EVERY[EVERY.isfinite()].double()
    sample = slice(0, None, 97)
    nearest = (x[sample, None] - finite).abs().amin(1)
    assert torch.equal((kept - x)[sample].abs(), nearest)
    assert torch.equal(quantised(torch.zeros(3)).float(), torch.zeros(3))
    assert quantised(torch.tensor([torch.nan, -torch.nan])).isnan().all()


@pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cpp_writes_the_bytes_of_the_twin(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = numbers().to(dtype)
    monkeypatch.setattr(reference, "norm_rotary_kv_write", None)  # out of reach
    expected = quantised(x)
    written = write(x)[1].flatten(0, 2)[: len(x)].view(x.shape)
    assert torch.equal(written.isnan(), x.isnan())
    known = ~x.isnan()
    assert torch.equal(as_bytes(written)[known], as_bytes(expected)[known])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fp8_keys_are_the_plain_ones_rounded_once_more(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 9 * torch.randn(99, 1, HEAD_DIM, generator=generator).to(dtype)
    weight = torch.rand(HEAD_DIM, generator=generator).to(dtype)
    keys = torch.zeros(13, 1, PAGE_SIZE, HEAD_DIM, dtype=dtype)
    tables = torch.ones(99, HEAD_DIM), torch.zeros(99, HEAD_DIM)
    slots = torch.arange(99)
    norm_rotary_kv_write(x, x, x, weight, weight, 1e-6, *tables, keys, keys.clone(), slots)
    assert torch.equal(as_bytes(write(x, weight)[0]), as_bytes(quantised(keys)))


def test_both_caches_are_in_fp8_or_none_is() -> None:
    x, cache = torch.ones(1, 1, HEAD_DIM), torch.zeros(1, 1, PAGE_SIZE, HEAD_DIM)
    rest = (x, x, x, None, None, 1e-6, x[0], x[0])
    with pytest.raises(ValueError, match=r"^v_cache is torch.float32, expected torch.float8"):
        norm_rotary_kv_write(*rest, cache.to(FP8), cache, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"^k_cache is torch.bfloat16, expected torch.float32 or"):
        norm_rotary_kv_write(*rest, cache.bfloat16(), cache, torch.tensor([0]))
