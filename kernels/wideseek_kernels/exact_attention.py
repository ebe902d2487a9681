"""The trainer's attention with the engine's bits, on a CPU in fp32: its forward is that of the engine's own kernels.

Each packed sequence gets pages, as it would have in the engine, for as long as a layer takes. The backward pass goes through
the twins of norm and rotation, and through torch's fused attention from the output and its log-sum-exp.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wideseek_kernels import reference
from wideseek_kernels.border import takes_csrc
from wideseek_kernels.kv_write import norm_rotary_kv_write
from wideseek_kernels.packed_layout import PAGE, PackedLayout
from wideseek_kernels.paged_attention import HEAD_DIMS, paged_attention_with_lse
from wideseek_kernels.tree_attention import block_gradients


def takes_exact(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the engine's C++ kernels would take such heads, all of them fp32."""
    return (
        q.dtype == k.dtype == v.dtype == torch.float32
        and q.shape[2] in HEAD_DIMS
        and takes_csrc(q, k, v, differentiable=True)
    )


def exact_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    layout: PackedLayout,
) -> Tensor:
    """As `packed_attention.norm_rotary_packed_attention`; rows beyond the layout's come out 0."""
    out: Tensor = _ExactAttention.apply(  # type: ignore[no-untyped-call]
        q, k, v, q_weight, k_weight, cos, sin, eps, layout
    )
    return out


class _ExactAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        eps: float,
        layout: PackedLayout,
    ) -> Tensor:
        held = layout.pages
        k_cache = k.new_zeros(held.count, k.shape[1], PAGE, k.shape[2])
        v_cache = torch.zeros_like(k_cache)
        turned = norm_rotary_kv_write(
            q, k, v, q_weight, k_weight, eps, cos, sin, k_cache, v_cache, held.slots
        )
        read = reference.kv_gather(k_cache, v_cache, held.sources)
        reference.kv_write(*read, k_cache, v_cache, held.targets)
        out, lse = paged_attention_with_lse(turned, k_cache, v_cache, layout.plan(k_cache))
        ctx.save_for_backward(q, k, v, q_weight, k_weight, cos, sin, out, lse)
        ctx.eps, ctx.layout = eps, layout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, q_weight, k_weight, cos, sin, out, lse = ctx.saved_tensors
        q_, k_ = q.detach().requires_grad_(), k.detach().requires_grad_()
        weights = [None if x is None else x.detach().requires_grad_() for x in (q_weight, k_weight)]
        with torch.enable_grad():
            turned = reference.norm_rotary(q_, k_, weights[0], weights[1], ctx.eps, cos, sin)
        dq, dk, dv = block_gradients(
            grad, turned[0].detach(), turned[1].detach(), v, out, lse, ctx.layout.blocks
        )
        given = [x for x in (q_, k_, *weights) if x is not None]
        of_q, of_k, *of_weights = torch.autograd.grad(turned, given, (dq, dk))
        return (of_q, of_k, dv, *(of_weights or (None, None)), None, None, None, None)
