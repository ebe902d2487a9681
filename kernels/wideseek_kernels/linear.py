"""Products with weights: one for which the number of rows does not matter, and one made for few."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wideseek_kernels.border import check, check_for_kernel, takes_csrc, takes_kernel
from wideseek_kernels.reference_attention import row_tile

FEW_ROWS = 64
"""Up to so many oneMKL is slower on processors with AVX2: it lays weights anew for every product. Measured on two cores of
Zen 3; with AVX-512, where it has kernels of its own for few rows, not measured."""


def exact_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weightᵀ: x [T, C] and weight [N, C] of one dtype -> [T, N], each row with bits that depend on that row alone.

    On a GPU a kernel of a fixed order, where cuBLAS picks one by size; on a CPU a padded product, exact in fp32 on one
    thread. Not differentiable. Raises ValueError.
    """
    _check(x, weight)
    if takes_kernel(x) and weight.numel():
        check_for_kernel(x=x, weight=weight)
        from wideseek_kernels.on_triton import exact_linear as on_triton

        return on_triton.exact_linear(x, weight)
    padding = -len(x) % row_tile(x.device, x.dtype)
    return F.linear(F.pad(x, (0, 0, 0, padding)), weight)[: len(x)]


def fast_linear(x: Tensor, weight: Tensor) -> Tensor:
    """The same, however it is fastest: bits may depend on the number of rows.

    FEW_ROWS or fewer in fp32 on a CPU with AVX2 go to C++, which reads weights once. Raises ValueError.
    """
    _check(x, weight)
    if (
        len(x) <= FEW_ROWS
        and takes_csrc(x, weight, dtypes=(torch.float32,))
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    ):
        out = x.new_empty(len(x), len(weight))
        torch.ops.wideseek.linear(x, weight, out, torch.get_num_threads())
        return out
    return F.linear(x, weight)


def _check(x: Tensor, weight: Tensor) -> None:
    check("x", x, (None, None), x.device)
    check("weight", weight, (None, x.shape[1]), x.device, x.dtype)
