"""Root-mean-square norm, alone and after the addition of a residual."""

from functools import partial

import torch
from torch import Tensor

from wideseek_kernels import reference
from wideseek_kernels.border import FLOATS, check, check_for_kernel, takes_csrc, takes_kernel
from wideseek_kernels.twin_gradient import with_twin_gradient


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last dimension.

    x [..., N], weight [N] of any dtype -> [..., N] in the dtype of x; the mean is taken in fp32 and
    in a kernel the result is rounded once. Rows do not see each other. Differentiable in x and weight.
    Raises ValueError. Source: Zhang and Sennrich 2019, arXiv 1910.07467.
    """
    check("weight", weight, tuple(x.shape[-1:]), x.device, *FLOATS)
    if takes_csrc(x, weight, differentiable=True):
        return with_twin_gradient(
            partial(_on_cpu, eps=eps), partial(reference.rms_norm, eps=eps), x, weight
        )
    if takes_kernel(x):
        check_for_kernel(x=x, weight=weight)
        from wideseek_kernels.on_triton import rms_norm as on_triton

        return on_triton.rms_norm(x, weight, eps)
    return reference.rms_norm(x, weight, eps)


def _on_cpu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty_like(x)
    torch.ops.wideseek.rms_norm(x, None, weight, eps, out, None, torch.get_num_threads())
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """rms_norm(x + residual) and x + residual, the next residual, in one pass.

    x, residual [..., N] of one dtype, weight [N] -> two tensors [..., N] of that dtype. The sum is
    rounded before it is normed, so the bits are those of the two steps. Differentiable in x,
    residual and weight. Raises ValueError.
    """
    check("residual", residual, tuple(x.shape), x.device, x.dtype)
    check("weight", weight, tuple(x.shape[-1:]), x.device, *FLOATS)
    if takes_csrc(x, residual, weight):
        out, summed = torch.empty_like(x), torch.empty_like(x)
        threads = torch.get_num_threads()
        torch.ops.wideseek.rms_norm(x, residual, weight, eps, out, summed, threads)
        return out, summed
    if takes_kernel(x):
        check_for_kernel(x=x, residual=residual, weight=weight)
        from wideseek_kernels.on_triton import rms_norm as on_triton

        return on_triton.add_rms_norm(x, residual, weight, eps)
    return reference.add_rms_norm(x, residual, weight, eps)
