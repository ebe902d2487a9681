"""Gradients of kernels that have none: those of their twins, computed again in the backward pass.

What the trainer computes forward then has the bits of what the engine computed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def with_twin_gradient(
    kernel: Callable[..., Tensor], twin: Callable[..., Tensor], *inputs: Tensor
) -> Tensor:
    """kernel(*inputs), differentiable in all inputs as twin(*inputs) is."""
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
        return kernel(*inputs)
    out: Tensor = _TwinGradient.apply(kernel, twin, *inputs)  # type: ignore[no-untyped-call]
    return out


class _TwinGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernel: Callable[..., Tensor],
        twin: Callable[..., Tensor],
        *inputs: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.twin = twin
        return kernel(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        inputs = [
            x.detach().requires_grad_(want)
            for x, want in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        with torch.enable_grad():
            out = ctx.twin(*inputs)
        gradients = iter(torch.autograd.grad(out, [x for x in inputs if x.requires_grad], grad))
        return (None, None, *(next(gradients) if want else None for want in wanted))
