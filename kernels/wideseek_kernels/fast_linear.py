"""A product with weights, however it is fastest for the number of rows."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wideseek_kernels.border import check, takes_csrc

FEW_ROWS = 64
"""Up to so many csrc/linear.cpp is ahead of oneMKL on AVX2, which lays weights anew for every product. Measured on Zen 3
with two threads; with AVX-512, where oneMKL has kernels of its own for few rows, not measured."""


def fast_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weightᵀ: x [T, C] and weight [N, C] of one dtype -> [T, N]; its bits may depend on T.

    FEW_ROWS or fewer in fp32 on a CPU with AVX2 go to C++ where no gradient is wanted, all else to torch. Raises ValueError.
    """
    check("x", x, (None, None), x.device)
    check("weight", weight, (None, x.shape[1]), x.device, x.dtype)
    if (
        len(x) <= FEW_ROWS
        and takes_csrc(x, weight, dtypes=(torch.float32,))
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    ):
        out = x.new_empty(len(x), len(weight))
        torch.ops.wideseek.linear(x, weight, out, torch.get_num_threads())
        return out
    return F.linear(x, weight)
