"""Products with weights on a CPU: the C++ kernel for few rows against fp64, and what may be asked."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.linear import FEW_ROWS, exact_linear, fast_linear


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 19, FEW_ROWS])
@pytest.mark.parametrize(
    ("size", "columns"), [(1, 1), (37, 19), (256, 130), (300, 66), (600, 3), (515, 64)]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_few_rows_are_multiplied_with_weights(
    rows: int, size: int, columns: int, threads: int
) -> None:
    """By the kernel itself, which a machine with AVX-512 does not pick; what is not written stays NaN."""
    if not cpu_kernels():
        pytest.skip("no compiler")
    x, weight = drawn(rows, size), drawn(columns, size, seed=1)
    out = torch.full((rows + 1, columns), torch.nan)
    torch.ops.wideseek.linear(x, weight, out[:rows], threads)
    expected = x.double() @ weight.double().T
    torch.testing.assert_close(out[:rows].double(), expected, rtol=1e-5, atol=1e-5 * size**0.5)
    assert out[rows].isnan().all()
    torch.testing.assert_close(fast_linear(x, weight), out[:rows], rtol=1e-5, atol=1e-4)


def test_exact_linear_on_a_cpu_has_the_same_bits_for_any_number_of_rows() -> None:
    torch.set_num_threads(1)
    x, weight = drawn(150, 384), drawn(130, 384, seed=1)
    whole = exact_linear(x, weight)
    for part in (slice(0, 1), slice(149, 150), slice(60, 130), slice(3, 67)):
        assert torch.equal(exact_linear(x[part], weight), whole[part])


@pytest.mark.parametrize("linear", [exact_linear, fast_linear])
def test_bad_input_names_the_argument(linear: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"weight has shape \[3, 4\], expected \[\*, 5\]"):
        linear(drawn(2, 5), drawn(3, 4))
    with pytest.raises(ValueError, match=r"weight is torch\.float64"):
        linear(drawn(2, 5), drawn(3, 5).double())
    with pytest.raises(ValueError, match="x has shape"):
        linear(drawn(5), drawn(3, 5))
