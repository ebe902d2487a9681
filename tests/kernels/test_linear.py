"""Products with weights on a CPU: the C++ kernel for few rows against fp64, and what may be asked."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.exact_linear import exact_linear
from wideseek_kernels.fast_linear import FEW_ROWS, fast_linear

needs_kernels = pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@needs_kernels
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 19, FEW_ROWS])
@pytest.mark.parametrize(
    ("size", "columns"), [(1, 1), (37, 19), (256, 130), (300, 66), (600, 3), (515, 64)]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_few_rows_are_multiplied_with_weights(
    rows: int, size: int, columns: int, threads: int
) -> None:
    """By the kernel itself, which AVX-512 machines do not pick. NaN before and behind is neither read nor written."""
    x, weight = drawn(rows, size), drawn(columns, size, seed=1)
    read_x, read_weight = (
        torch.cat((torch.full((64,), torch.nan), each.flatten(), torch.full((64,), torch.nan)))
        for each in (x, weight)
    )
    out = torch.full((rows + 2, columns), torch.nan)
    torch.ops.wideseek.linear(
        read_x[64:-64].view(rows, size),
        read_weight[64:-64].view(columns, size),
        out[1:-1],
        threads,
    )
    expected = x.double() @ weight.double().T
    torch.testing.assert_close(out[1:-1].double(), expected, rtol=1e-5, atol=1e-5 * size**0.5)
    assert out[0].isnan().all() and out[-1].isnan().all()


@needs_kernels
@pytest.mark.parametrize(
    ("rows", "capability", "in_cpp"),
    [
        (1, "AVX2", True),
        (FEW_ROWS, "AVX2", True),
        (FEW_ROWS + 1, "AVX2", False),
        (1, "AVX512", False),
    ],
)
def test_fast_linear_takes_the_kernel_where_it_is_ahead(
    rows: int, capability: str, in_cpp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    x, weight = drawn(rows, 30), drawn(20, 30, seed=1)
    expected = x @ weight.T
    asked: list[int] = []

    def torchs_own(x: Tensor, weight: Tensor) -> Tensor:
        asked.append(len(x))
        return expected

    monkeypatch.setattr("torch.nn.functional.linear", torchs_own)
    torch.testing.assert_close(fast_linear(x, weight), expected)
    assert bool(asked) != in_cpp


def test_exact_linear_on_a_cpu_has_the_same_bits_for_any_number_of_rows() -> None:
    x, weight = drawn(150, 384), drawn(130, 384, seed=1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = exact_linear(x, weight)
        for part in (slice(0, 1), slice(149, 150), slice(60, 130), slice(3, 67)):
            assert torch.equal(exact_linear(x[part], weight), whole[part])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("linear", [exact_linear, fast_linear])
def test_bad_input_names_the_argument(linear: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"weight has shape \[3, 4\], expected \[\*, 5\]"):
        linear(drawn(2, 5), drawn(3, 4))
    with pytest.raises(ValueError, match=r"weight is torch\.float64"):
        linear(drawn(2, 5), drawn(3, 5).double())
    with pytest.raises(ValueError, match="x has shape"):
        linear(drawn(5), drawn(3, 5))
