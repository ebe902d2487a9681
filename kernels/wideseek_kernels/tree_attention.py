"""Attention of a prefix tree's rows on a CPU: nothing is copied or masked, all blocks are whole.

Rows lie in depth-first order, so those that read a run of keys are themselves a run. Each such block
is one call of torch's fused attention; a row's blocks are merged by their log-sum-exps. With the
merged output and log-sum-exp the fused backward of a block gives that block's part of the gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that read all of some keys before them or, causal, themselves."""

    queries: slice
    keys: slice
    causal: bool


def plan_blocks(bounds: Sequence[int], shared: Sequence[int]) -> list[Block]:
    """Every row with every row on its path in exactly one block; each row's causal one comes first.

    At most three blocks a sequence. Arguments as in `packed_attention`.
    """
    own, read = [], []
    path: list[tuple[int, slice, int]] = []  # depth of a run of keys, the run, its first reader

    def cut(depth: int, end: int) -> None:
        """Rows from `end` on read no more than the first `depth` tokens of the path."""
        while path and path[-1][0] + path[-1][1].stop - path[-1][1].start > depth:
            at, keys, first = path.pop()
            if first < end:
                read.append(Block(slice(first, end), keys, False))
            if at < depth:
                path.append((at, slice(keys.start, keys.start + depth - at), end))

    for (start, end), depth in zip(pairwise(bounds), shared, strict=True):
        cut(depth, start)
        if start < end:
            own.append(Block(slice(start, end), slice(start, end), True))
            path.append((depth, slice(start, end), end))
    cut(0, bounds[-1])
    return own + read


def tree_attention(q: Tensor, k: Tensor, v: Tensor, blocks: list[Block]) -> Tensor:
    """q [T, H, D], k and v [T, KV, D] of one dtype on the CPU, blocks as planned -> [T, H, D]."""
    inputs = (x.contiguous() for x in (q, k, v))
    out: Tensor = _TreeAttention.apply(*inputs, blocks)  # type: ignore[no-untyped-call]
    return out


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: list[Block]) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        out, lse = torch.empty(q.shape, dtype=wide), torch.empty(q.shape[:2], dtype=wide)
        q_, k_, v_ = _views(q, k, v)
        out_, lse_ = _queries(out, k), _queries(lse[..., None], k)[..., 0]
        for block in blocks:
            rows, keys = block.queries, block.keys
            o, own = _fused(q_[:, :, rows], k_[:, :, keys], v_[:, :, keys], 0.0, block.causal)
            if block.causal:
                out_[:, :, rows], lse_[:, :, rows] = o, own
                continue
            before = lse_[:, :, rows]
            merged = torch.logaddexp(before, own)
            out_[:, :, rows].mul_((before - merged).exp_()[..., None])
            out_[:, :, rows].addcmul_(o.to(wide), (own - merged).exp_()[..., None])
            before.copy_(merged)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.blocks = blocks
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, lse = ctx.saved_tensors
        return (*block_gradients(grad, q, k, v, out, lse, ctx.blocks), None)


def block_gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, blocks: list[Block]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, from that of the output, the output [T, H, D] and its log-sum-exp [T, H]."""
    dq, dk, dv = (torch.zeros(x.shape, dtype=lse.dtype) for x in (q, k, v))
    q_, k_, v_ = _views(q, k, v)
    out_, grad_, dq_ = (_queries(x, k) for x in (out, grad.contiguous(), dq))
    lse_ = _queries(lse[..., None], k)[..., 0]
    for block in blocks:
        rows, keys = block.queries, block.keys
        of_q, of_k, of_v = _fused_backward(
            grad_[:, :, rows],
            q_[:, :, rows],
            k_[:, :, keys],
            v_[:, :, keys],
            out_[:, :, rows],
            lse_[:, :, rows],
            0.0,
            block.causal,
        )
        dq_[:, :, rows] += of_q
        for total, part in ((dk, of_k), (dv, of_v)):
            total[keys] += part.sum(1, dtype=lse.dtype).transpose(0, 1)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _views(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each [KV, H / KV, T, D] without a copy: a key head stands beside every query head that reads it."""
    q_ = _queries(q, k)
    k_, v_ = (x.transpose(0, 1)[:, None].expand(-1, q_.shape[1], -1, -1) for x in (k, v))
    return q_, k_, v_


def _queries(x: Tensor, k: Tensor) -> Tensor:
    """[T, H, D] -> [KV, H / KV, T, D], the same memory."""
    return x.view(len(x), k.shape[1], -1, x.shape[2]).permute(1, 2, 0, 3)
