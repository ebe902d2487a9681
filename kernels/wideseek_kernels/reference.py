"""Plain-PyTorch twins of the model's ops: the oracle of every kernel, and what a CPU tensor runs.

T tokens of all sequences side by side, H query heads, KV key/value heads (H a multiple of KV),
D head size. All are differentiable and, `packed_attention` apart, treat every row by itself.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension; the mean square is taken in fp32."""
    return F.rms_norm(x, weight.shape, weight, eps)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise."""
    return F.silu(gate) * up


def apply_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate the pairs (i, i + D/2) of every head; see `wideseek_kernels.rotary`."""
    cos, sin = cos[:, None], sin[:, None]
    half = q.shape[-1] // 2
    # One roll and two fused passes: several times faster on a CPU than slicing and concatenating.
    q_rotated = torch.addcmul(q * cos, q.roll(half, -1), sin)
    k_rotated = torch.addcmul(k * cos, k.roll(half, -1), sin)
    return q_rotated.to(q.dtype), k_rotated.to(k.dtype)


def packed_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Causal attention inside each sequence; see `wideseek_kernels.packed_attention`."""
    bounds = cu_seqlens.tolist()
    assert bounds[0] == 0 and bounds[-1] == q.shape[0], (bounds, q.shape)
    lengths = [end - start for start, end in pairwise(bounds)]
    # Split, not sliced: the backward of each slice would fill a whole [T, H, D] with zeros.
    parts = (torch.split(x.transpose(0, 1)[None], lengths, dim=2) for x in (q, k, v))
    out = [
        F.scaled_dot_product_attention(
            q_part, k_part, v_part, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
        )
        for q_part, k_part, v_part in zip(*parts, strict=True)
    ]
    return torch.cat([part[0].transpose(0, 1) for part in out])
