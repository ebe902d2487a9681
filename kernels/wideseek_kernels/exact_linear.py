"""A product with weights for which the number of rows does not matter."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wideseek_kernels.border import check, check_for_kernel, takes_kernel
from wideseek_kernels.reference_attention import row_tile


def exact_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weightᵀ: x [T, C] and weight [N, C] of one dtype -> [T, N], each row with bits that depend on that row alone.

    On a GPU a kernel of a fixed order, where cuBLAS picks one by size; on a CPU a padded product, exact in fp32 on one
    thread. The kernel has no gradient. Raises ValueError.
    """
    check("x", x, (None, None), x.device)
    check("weight", weight, (None, x.shape[1]), x.device, x.dtype)
    if takes_kernel(x) and weight.numel():
        check_for_kernel(x=x, weight=weight)
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            raise ValueError("x or weight requires a gradient, which exact_linear has not")
        from wideseek_kernels.on_triton import exact_linear as on_triton

        return on_triton.exact_linear(x, weight)
    padding = -len(x) % row_tile(x.device, x.dtype)
    return F.linear(F.pad(x, (0, 0, 0, padding)), weight)[: len(x)]
