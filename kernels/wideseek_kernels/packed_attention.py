"""Attention over sequences packed side by side without padding: the trainer's forward."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from wideseek_kernels import reference_packed
from wideseek_kernels.border import FLOATS, check
from wideseek_kernels.exact_attention import exact_attention, takes_exact
from wideseek_kernels.flash_packed import flash_attention, takes_flash
from wideseek_kernels.rms_norm import rms_norm
from wideseek_kernels.rotary import apply_rotary
from wideseek_kernels.tree_attention import plan_blocks, tree_attention

INTS = (torch.int32, torch.int64)


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
    check("q", q, (None, None, None), q.device, *FLOATS)
    check("k", k, (q.shape[0], None, q.shape[2]), q.device, *FLOATS)
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"q has {q.shape[1]} heads, expected a multiple of {k.shape[1]}")
    check("v", v, tuple(k.shape), q.device, *FLOATS)
    bounds = _read_bounds(cu_seqlens, q.shape[0])
    kept = [0] * (len(bounds) - 1) if shared is None else _read_shared(shared, bounds)
    if takes_flash(q, k, v):
        return flash_attention(q, k, v, bounds, kept)
    if not any(kept):
        return reference_packed.packed_attention(q, k, v, bounds)
    check("k", k, tuple(k.shape), q.device, q.dtype)
    check("v", v, tuple(v.shape), q.device, q.dtype)
    if q.device.type == "cpu":
        return tree_attention(q, k, v, plan_blocks(bounds, kept))
    return reference_packed.tree_attention(q, k, v, bounds, kept)


def norm_rotary_packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    cu_seqlens: Tensor,
    shared: Tensor | None = None,
) -> Tensor:
    """qk-norm, rotation and `packed_attention`, whose q, k, v, cu_seqlens and shared it takes -> [T, H, D].

    q_weight, k_weight [D], or both None for no norm; cos, sin [T, D] in fp32 as in `apply_rotary`. Rows from
    cu_seqlens[-1] on are padding. In fp32 on a CPU the result has the bits that
    `norm_rotary_kv_write` and `paged_attention` give in C++, however the sequences were served.
    Differentiable in q, k, v and the weights. Raises ValueError.
    """
    check("q", q, (None, None, None), q.device, *FLOATS)
    bounds = _read_bounds(cu_seqlens, len(q), padded=True)
    kept = [0] * (len(bounds) - 1) if shared is None else _read_shared(shared, bounds)
    if takes_exact(q, k, v):
        return exact_attention(q, k, v, q_weight, k_weight, eps, cos, sin, (bounds, kept))
    if q_weight is not None and k_weight is not None:
        q, k = rms_norm(q, q_weight, eps), rms_norm(k, k_weight, eps)
    q, k = apply_rotary(q, k, cos, sin)
    rows = bounds[-1]
    out = packed_attention(q[:rows], k[:rows], v[:rows], cu_seqlens, shared)
    return F.pad(out, (0, 0, 0, 0, 0, len(q) - rows)) if rows < len(q) else out


def _read_bounds(cu_seqlens: Tensor, rows: int, *, padded: bool = False) -> list[int]:
    check("cu_seqlens", cu_seqlens, (None,), cu_seqlens.device, *INTS)
    bounds: list[int] = cu_seqlens.tolist()
    if (
        len(bounds) < 2
        or bounds[0] != 0
        or sorted(bounds) != bounds
        or bounds[-1] > rows
        or (bounds[-1] < rows and not padded)
    ):
        raise ValueError(f"cu_seqlens must ascend from 0 to {rows}, not {bounds}")
    return bounds


def _read_shared(shared: Tensor, bounds: list[int]) -> list[int]:
    check("shared", shared, (len(bounds) - 1,), shared.device, *INTS)
    kept: list[int] = shared.tolist()
    own = [end - start for start, end in pairwise(bounds)]
    before = [0, *(depth + rows for depth, rows in zip(kept, own, strict=True))]
    for i, (depth, most) in enumerate(zip(kept, before, strict=False)):
        if not 0 <= depth <= most:
            raise ValueError(f"shared[{i}] must be 0 to {most}, the length before, not {depth}")
    return kept
