"""silu(gate) * up in Triton. E elements of b bytes: forward moves 3Eb, backward 5Eb; bound by memory."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """See `wideseek_kernels.swiglu`."""
    return SwiGLU.apply(gate, up)


class SwiGLU(torch.autograd.Function):
    """gate and up of one shape -> the same shape."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        size = gate.shape[-1]
        out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        strides = (x.stride(-2) if x.dim() > 1 else size for x in (gate, up))
        grid = (out.numel() // size, triton.cdiv(size, TILE))
        swiglu_kernel[grid](gate, up, out, *strides, size, TILE=TILE, num_warps=4)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = (x.contiguous() for x in ctx.saved_tensors)
        dgate, dup, total = torch.empty_like(gate), torch.empty_like(up), gate.numel()
        swiglu_backward_kernel[(triton.cdiv(total, TILE),)](
            grad.contiguous(), gate, up, dgate, dup, total, TILE=TILE, num_warps=4
        )
        return dgate, dup


@triton.jit
def swiglu_kernel(gate_ptr, up_ptr, out_ptr, gate_stride, up_stride, size, TILE: tl.constexpr):
    """A program a row and TILE columns; rows of gate and of up may lie apart."""
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    gate = tl.load(gate_ptr + row * gate_stride + at, at < size, 0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + at, at < size, 0.0).to(tl.float32)
    tl.store(out_ptr + row * size + at, gate * tl.sigmoid(gate) * up, at < size)


@triton.jit
def swiglu_backward_kernel(
    grad_ptr, gate_ptr, up_ptr, dgate_ptr, dup_ptr, total, TILE: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    grad = tl.load(grad_ptr + at, at < total, 0.0).to(tl.float32)
    gate = tl.load(gate_ptr + at, at < total, 0.0).to(tl.float32)
    up = tl.load(up_ptr + at, at < total, 0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    tl.store(dup_ptr + at, grad * gate * sigmoid, at < total)
    tl.store(dgate_ptr + at, grad * up * sigmoid * (1 + gate * (1 - sigmoid)), at < total)
