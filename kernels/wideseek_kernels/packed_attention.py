"""Attention over sequences packed side by side without padding: the trainer's forward."""

from torch import Tensor

from wideseek_kernels import reference


def packed_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Causal softmax(q kᵀ / sqrt(D)) v inside each sequence, none across.

    q [T, H, D], k and v [T, KV, D], query head h reading key head h // (H / KV) -> [T, H, D].
    Sequence i is rows cu_seqlens[i] to cu_seqlens[i + 1]; cu_seqlens [S + 1], int32 or int64, from
    0 to T. Differentiable in q, k, v.
    """
    return reference.packed_attention(q, k, v, cu_seqlens)
