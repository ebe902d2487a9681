"""Gate of the feed-forward layer."""

import torch
from torch import Tensor

from wideseek_kernels import reference
from wideseek_kernels.border import check, check_for_kernel, takes_csrc, takes_kernel
from wideseek_kernels.twin_gradient import with_twin_gradient


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise; both [..., N] of one dtype, the result too.

    In a kernel computed in fp32 and rounded once. Rows [T, N] may be parts of one product's. Differentiable. Raises
    ValueError.
    Source: Shazeer 2020, arXiv 2002.05202, section 2.
    """
    check("up", up, tuple(gate.shape), gate.device, gate.dtype)
    if takes_csrc(gate, up, differentiable=True):
        return with_twin_gradient(_on_cpu, reference.swiglu, gate, up)
    if takes_kernel(gate):
        a_row = [x[0] if x.dim() == 2 else x for x in (gate, up)]  # how far rows lie apart is free
        check_for_kernel(gate=a_row[0], up=a_row[1])
        from wideseek_kernels.on_triton import swiglu as on_triton

        return on_triton.swiglu(gate, up)
    return reference.swiglu(gate, up)


def _on_cpu(gate: Tensor, up: Tensor) -> Tensor:
    out = torch.empty_like(gate)
    torch.ops.wideseek.swiglu(gate, up, out, torch.get_num_threads())
    return out
