"""Root-mean-square norm in Triton, with and without a residual added first.

A program holds whole rows in registers. Traffic of M rows of N elements of b bytes, all bound by
memory (some 6 to 12 FLOPs an element): forward 2MNb, with a residual 4MNb; backward 3MNb and 4MNb.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096
"""Elements a program holds at a time, where a row is shorter than that."""

PROGRAMS = 528
"""Programs of the backward, four to a multiprocessor of an H200; each leaves one row of the
weight's gradient, so the order of that sum does not depend on the device."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `wideseek_kernels.rms_norm`."""
    return RMSNorm.apply(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `wideseek_kernels.rms_norm`."""
    return AddRMSNorm.apply(x, residual, weight, eps)


class RMSNorm(torch.autograd.Function):
    """x [..., N], weight [N], eps -> [..., N]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, scales = torch.empty_like(x), _scales_for(x)
        _forward(x, None, weight, eps, out, None, scales)
        ctx.save_for_backward(x, weight, scales)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_backward(grad.contiguous(), None, *ctx.saved_tensors), None


class AddRMSNorm(torch.autograd.Function):
    """x and residual [..., N], weight [N], eps -> rms_norm(x + residual), x + residual."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        out, summed, scales = torch.empty_like(x), torch.empty_like(x), _scales_for(x)
        _forward(x, residual, weight, eps, out, summed, scales)
        ctx.save_for_backward(summed, weight, scales)
        return out, summed

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, grad_summed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        dx, dweight = _backward(grad.contiguous(), grad_summed.contiguous(), *ctx.saved_tensors)
        return dx, dx, dweight, None


def _scales_for(x: Tensor) -> Tensor:
    return torch.empty(x.numel() // x.shape[-1], dtype=torch.float32, device=x.device)


def _tile(size: int) -> tuple[int, int]:
    """Rows and columns of a program's tile, powers of two."""
    columns = triton.next_power_of_2(size)
    return max(1, TILE // columns), columns


def _forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    out: Tensor,
    summed: Tensor | None,
    scales: Tensor,
) -> None:
    """Fills out, summed (with a residual) and scales, the 1 / rms of each row."""
    num_rows, size = len(scales), x.shape[-1]
    rows, columns = _tile(size)
    rms_norm_kernel[(triton.cdiv(num_rows, rows),)](
        x,
        residual,
        weight,
        out,
        summed,
        scales,
        num_rows,
        size,
        eps,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=8,
    )


def _backward(
    grad: Tensor, grad_summed: Tensor | None, x: Tensor, weight: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    num_rows, size = len(scales), x.shape[-1]
    rows, columns = _tile(size)
    programs = min(PROGRAMS, triton.cdiv(num_rows, rows))
    dx = torch.empty_like(x)
    dweights = torch.empty(programs, size, dtype=torch.float32, device=x.device)
    rms_norm_backward_kernel[(programs,)](
        grad,
        grad_summed,
        x,
        weight,
        scales,
        dx,
        dweights,
        num_rows,
        size,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=8,
    )
    return dx, dweights.sum(0).to(weight.dtype)


@triton.jit
def rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    summed_ptr,
    scales_ptr,
    num_rows,
    size,
    eps,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = (rows < num_rows)[:, None] & (columns < size)[None, :]
    at = rows[:, None] * size + columns[None, :]
    x = tl.load(x_ptr + at, inside, 0.0).to(tl.float32)
    if residual_ptr is not None:
        x += tl.load(residual_ptr + at, inside, 0.0).to(tl.float32)
        rounded = x.to(summed_ptr.dtype.element_ty)
        tl.store(summed_ptr + at, rounded, inside)
        x = rounded.to(tl.float32)
    scales = tl.rsqrt(tl.sum(x * x, 1) / size + eps)
    weight = tl.load(weight_ptr + columns, columns < size, 0.0).to(tl.float32)
    tl.store(out_ptr + at, x * scales[:, None] * weight[None, :], inside)
    tl.store(scales_ptr + rows, scales, rows < num_rows)


@triton.jit
def rms_norm_backward_kernel(
    grad_ptr,
    grad_summed_ptr,
    x_ptr,
    weight_ptr,
    scales_ptr,
    dx_ptr,
    dweights_ptr,
    num_rows,
    size,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """With n = x / rms: dweight = sum of grad * n, dx = (g - n * mean(g * n)) / rms for g = grad * weight."""
    program = tl.program_id(0)
    columns = tl.arange(0, COLUMNS)
    weight = tl.load(weight_ptr + columns, columns < size, 0.0).to(tl.float32)
    dweight = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(program * ROWS, num_rows, tl.num_programs(0) * ROWS):
        rows = tl.cast(first, tl.int64) + tl.arange(0, ROWS)
        inside = (rows < num_rows)[:, None] & (columns < size)[None, :]
        at = rows[:, None] * size + columns[None, :]
        grad = tl.load(grad_ptr + at, inside, 0.0).to(tl.float32)
        scales = tl.load(scales_ptr + rows, rows < num_rows, 0.0)[:, None]
        normed = tl.load(x_ptr + at, inside, 0.0).to(tl.float32) * scales
        dweight += grad * normed
        grad *= weight[None, :]
        dx = (grad - normed * (tl.sum(grad * normed, 1) / size)[:, None]) * scales
        if grad_summed_ptr is not None:
            dx += tl.load(grad_summed_ptr + at, inside, 0.0).to(tl.float32)
        tl.store(dx_ptr + at, dx, inside)
    at = program.to(tl.int64) * size + columns
    tl.store(dweights_ptr + at, tl.sum(dweight, 0), columns < size)
