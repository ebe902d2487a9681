"""Attention over sequences packed side by side without padding: the trainer's forward."""

import torch.nn.functional as F
from torch import Tensor

from wideseek_kernels import reference_packed
from wideseek_kernels.border import FLOATS, check
from wideseek_kernels.exact_attention import exact_attention, takes_exact
from wideseek_kernels.flash_packed import flash_attention, takes_flash
from wideseek_kernels.packed_layout import PackedLayout
from wideseek_kernels.rms_norm import rms_norm
from wideseek_kernels.rotary import apply_rotary
from wideseek_kernels.tree_attention import tree_attention


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, shared: Tensor | None = None
) -> Tensor:
    """Causal softmax(q kᵀ / sqrt(D)) v inside each sequence, none across.

    q [T, H, D], k and v [T, KV, D], query head h reading key head h // (H / KV) -> [T, H, D].
    Rows cu_seqlens[i] to cu_seqlens[i + 1] are those of sequence i; cu_seqlens [S + 1], int32 or
    int64, from 0 to T. Differentiable in q, k, v.

    shared [S]: the tree mask. Sequence i begins with the first shared[i] tokens of sequence i - 1,
    which lie where they lay and are computed once, and its own rows follow them; zeros, or None:
    nothing is shared. In an order in which the longest common prefixes are between neighbours, such
    as the lexicographic one, every distinct prefix is laid out once. Rows then read what they would
    in whole sequences; sums are taken in another order. Both layouts are read on the host: leave
    them on the CPU, where that costs nothing. On a GPU bf16 and fp16 take flash attention, whose
    gradients do not come out to the bit twice; the twin does the rest. Raises ValueError.
    """
    layout = PackedLayout(cu_seqlens, shared)
    _check(q, k, v)
    if layout.rows != len(q):
        raise ValueError(f"cu_seqlens must ascend from 0 to {len(q)}, not {layout.bounds}")
    return _attend(q, k, v, layout)


def norm_rotary_packed_attention(
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
    """qk-norm, rotation and `packed_attention`, whose q, k and v it takes -> [T, H, D].

    q_weight, k_weight [D], or both None for no norm; cos, sin [T, D] in fp32 as in `apply_rotary`. Rows
    beyond the layout's are padding and come out 0. In fp32 on a CPU the result has the bits that
    `norm_rotary_kv_write` and `paged_attention` give in C++, however the sequences were served.
    Differentiable in q, k, v and the weights. Raises ValueError.
    """
    _check(q, k, v)
    q, k, v = (
        x.contiguous() for x in (q, k, v)
    )  # of weights that lie side by side they are parts of one product
    if (q_weight is None) != (k_weight is None):
        raise ValueError("q_weight and k_weight: one is None, the other is not")
    rows = layout.rows
    if rows > len(q):
        raise ValueError(f"cu_seqlens must end at {len(q)} at most, not {rows}")
    if takes_exact(q, k, v):
        return exact_attention(q, k, v, q_weight, k_weight, eps, cos, sin, layout)
    if q_weight is not None and k_weight is not None:
        q, k = rms_norm(q, q_weight, eps), rms_norm(k, k_weight, eps)
    q, k = apply_rotary(q, k, cos, sin)
    if rows == len(q):
        return _attend(q, k, v, layout)
    out = _attend(q[:rows], k[:rows], v[:rows], layout)
    return F.pad(out, (0, 0, 0, 0, 0, len(q) - rows))


def _attend(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout) -> Tensor:
    if takes_flash(q, k, v):
        return flash_attention(q, k, v, layout.bounds, layout.shared)
    if not any(layout.shared):
        return reference_packed.packed_attention(q, k, v, layout.bounds)
    check("k", k, tuple(k.shape), q.device, q.dtype)
    check("v", v, tuple(v.shape), q.device, q.dtype)
    if q.device.type == "cpu":
        return tree_attention(q, k, v, layout.blocks)
    return reference_packed.tree_attention(q, k, v, layout.bounds, layout.shared)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    check("q", q, (None, None, None), q.device, *FLOATS)
    check("k", k, (q.shape[0], None, q.shape[2]), q.device, *FLOATS)
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"q has {q.shape[1]} heads, expected a multiple of {k.shape[1]}")
    check("v", v, tuple(k.shape), q.device, *FLOATS)
