"""Pages copied and tokens gathered on a CPU, in C++ and by the twins; memory for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from wideseek_kernels import reference
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.kv_cache import FP8, HUGE, as_bytes, new_kv_cache
from wideseek_kernels.kv_copy import kv_copy
from wideseek_kernels.kv_gather import kv_gather
from wideseek_kernels.kv_write import kv_write

# fp16 goes to the twins.
DTYPES = [torch.float32, torch.bfloat16, FP8, torch.float16]
CPU = torch.device("cpu")


def caches(dtype: torch.dtype, pages: int = 9, page_size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(pages, 3, page_size, 7, generator=generator).to(dtype) for _ in range(2))
    return k, v


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twins are out of reach."""
    if not cpu_kernels():
        pytest.skip("no C++ compiler")

    def unreachable(*_: object) -> None:
        raise AssertionError("a twin ran")

    monkeypatch.setattr(reference, "kv_copy", unreachable)
    monkeypatch.setattr(reference, "kv_gather", unreachable)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [1, 5, 989])
def test_what_is_copied_is_there_and_nothing_else_changed(
    page_size: int, dtype: torch.dtype
) -> None:
    k_cache, v_cache = caches(dtype, page_size=page_size)
    before = k_cache.clone(), v_cache.clone()
    kv_copy(k_cache, v_cache, torch.tensor([8, 2, 8]), torch.tensor([0, 7, 3]))
    for after, was in zip(map(as_bytes, (k_cache, v_cache)), map(as_bytes, before), strict=True):
        assert torch.equal(after[[0, 7, 3]], was[[8, 2, 8]])
        assert torch.equal(after[[1, 2, 4, 5, 6, 8]], was[[1, 2, 4, 5, 6, 8]])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 19, 989])
def test_gathering_gives_back_what_was_written(count: int, dtype: torch.dtype) -> None:
    k_cache, v_cache = (torch.full_like(x, torch.nan) for x in caches(dtype, pages=260))
    k, v = (torch.randn(count, 3, 7).to(dtype) for _ in range(2))
    slots = torch.randperm(260 * 5)[:count]
    given = (k.float(), v.float()) if dtype == FP8 else (k, v)
    kv_write(*given, k_cache, v_cache, slots)
    read = kv_gather(k_cache, v_cache, slots)
    assert read[0].dtype == read[1].dtype == dtype
    assert torch.equal(as_bytes(read[0]), as_bytes(k))
    assert torch.equal(as_bytes(read[1]), as_bytes(v))


@pytest.mark.usefixtures("in_cpp")
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_both_run_in_cpp(dtype: torch.dtype) -> None:
    k_cache, v_cache = caches(dtype)
    kv_copy(k_cache, v_cache, torch.tensor([1]), torch.tensor([2]))
    kv_gather(k_cache, v_cache, torch.tensor([1]))


def test_pages_out_of_range_or_in_an_order_that_counts_are_refused() -> None:
    cache = torch.zeros(4, 2, 8, 16)

    def refused(match: str, sources: list[int], targets: list[int]) -> None:
        with pytest.raises(ValueError, match=match):
            kv_copy(cache, cache, torch.tensor(sources), torch.tensor(targets))

    refused(r"^sources\[1\] is 4, of 4 pages", [0, 4], [1, 2])
    refused(r"^targets\[0\] is -1, of 4 pages", [0], [-1])
    refused(r"^targets has \[2, 2\]: a page twice", [0, 1], [2, 2])
    refused(r"^targets has \[1, 2\]: a page twice, or one of the sources", [0, 1], [1, 2])


@pytest.mark.usefixtures("in_cpp")
def test_slots_out_of_range_are_refused() -> None:
    cache = torch.zeros(4, 2, 8, 16)
    for bad in (-1, 32):
        with pytest.raises(ValueError, match=rf"^slots\[1\] is {bad}, of 32"):
            kv_gather(cache, cache, torch.tensor([31, bad]))


def test_a_large_cache_is_zeros_in_huge_pages() -> None:
    shape = (4, 3, HUGE)
    cache = new_kv_cache(shape, torch.bfloat16, CPU)
    assert cache.shape == shape and cache.dtype == torch.bfloat16 and cache.is_contiguous()
    assert not cache.any()
    cache[-1] = 1
    assert cache.sum(dtype=torch.float64) == 3 * HUGE
    smaps = Path("/proc/self/smaps")
    if smaps.exists():
        # "hg": the kernel was asked for huge pages, whether or not it has any.
        entry = next(
            x for x in smaps.read_text().split("VmFlags:") if f"{cache.data_ptr():x}-" in x
        )
        rest = smaps.read_text().split(entry)[1]
        assert "hg" in rest.splitlines()[0].split()


def test_a_small_cache_is_zeros() -> None:
    assert new_kv_cache((2, 3), torch.float32, CPU).tolist() == [[0.0] * 3] * 2
