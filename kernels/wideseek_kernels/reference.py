"""Plain-PyTorch twins of the model's ops: the oracle of every kernel, and what a CPU tensor runs.

T tokens of all sequences side by side, H query heads, KV key/value heads (H a multiple of KV),
D head size. All are differentiable and, `packed_attention` apart, treat every row by itself.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGIT_ROWS = 256
"""Rows of logits that `token_logprob` holds at a time."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension; the mean square is taken in fp32."""
    return F.rms_norm(x, weight.shape, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """rms_norm(x + residual), and x + residual."""
    summed = x + residual
    return rms_norm(summed, weight, eps), summed


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


def kv_write(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Write keys and values into their slots; see `wideseek_kernels.kv_write`."""
    page_size = k_cache.shape[2]
    pages, places = slots // page_size, slots % page_size
    k_cache[pages, :, places] = k
    v_cache[pages, :, places] = v


def norm_rotary_kv_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
) -> Tensor:
    """The three steps one after the other; see `wideseek_kernels.kv_write`."""
    if q_weight is not None and k_weight is not None:
        q, k = rms_norm(q, q_weight, eps), rms_norm(k, k_weight, eps)
    q, k = apply_rotary(q, k, cos, sin)
    kv_write(k[: len(slots)], v[: len(slots)], k_cache, v_cache, slots)
    return q


def token_logprob(hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each id, and entropy; see `wideseek_kernels.token_logprob`."""
    parts = [
        checkpoint(_token_logprob, rows, weight, part, use_reentrant=False)
        for rows, part in zip(*(torch.split(x, LOGIT_ROWS) for x in (hidden, ids)), strict=True)
    ]
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _token_logprob(hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    logits = F.linear(hidden, weight)
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return log_probs.gather(-1, ids[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)


def packed_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Causal attention inside each sequence; see `wideseek_kernels.packed_attention`."""
    bounds = cu_seqlens.tolist()
    assert bounds[0] == 0 and bounds[-1] == q.shape[0], (bounds, q.shape)
    lengths = [end - start for start, end in pairwise(bounds)]
    # Split, not sliced: the backward of each slice would fill a whole [T, H, D] with zeros.
    parts = (torch.split(x.transpose(0, 1)[None], lengths, dim=2) for x in (q, k, v))
    out = [_causal_attention(*part) for part in zip(*parts, strict=True)]
    return torch.cat([part[0].transpose(0, 1) for part in out])


def _causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One sequence: q [1, H, T, D], k and v [1, KV, T, D] -> [1, H, T, D]."""
    gqa, length = q.shape[1] != k.shape[1], q.shape[2]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or gqa or length > 1024:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    # In bf16 a CPU's fused attention is two to three times slower than three plain products.
    mask = torch.full((length, length), -torch.inf, dtype=q.dtype).triu(1)
    scores = torch.baddbmm(mask, q[0], k[0].transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return (torch.softmax(scores, -1) @ v[0])[None]
