"""Plain-PyTorch twins of the model's ops: the oracle of every kernel, and what a CPU tensor runs.

T tokens of all sequences side by side, H query heads, KV key/value heads (H a multiple of KV),
D head size. All are differentiable and treat every row by itself.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wideseek_kernels.kv_cache import FP8, FP8_MAX, as_bytes

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
    for x, cache in ((k, k_cache), (v, v_cache)):
        stored = quantised(x) if cache.dtype == FP8 else x
        as_bytes(cache)[pages, :, places] = as_bytes(stored)


def quantised(x: Tensor) -> Tensor:
    """x in fp8: rounded to nearest even, at most FP8_MAX either way; a NaN stays one."""
    # Some versions of torch make NaN of what is beyond.
    return x.clamp(-FP8_MAX, FP8_MAX).to(FP8)


def kv_copy(k_cache: Tensor, v_cache: Tensor, sources: Tensor, targets: Tensor) -> None:
    """Copy whole pages; see `wideseek_kernels.kv_copy`."""
    for cache in (as_bytes(k_cache), as_bytes(v_cache)):
        cache[targets] = cache[sources]


def kv_gather(k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Read keys and values from their slots; see `wideseek_kernels.kv_gather`."""
    page_size = k_cache.shape[2]
    pages, places = slots // page_size, slots % page_size
    k, v = (as_bytes(cache)[pages, :, places] for cache in (k_cache, v_cache))
    return k.view(k_cache.dtype), v.view(v_cache.dtype)


def norm_rotary(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Tensor, Tensor]:
    """rms_norm of each head of q and k, where there are weights for both, then apply_rotary."""
    if q_weight is not None and k_weight is not None:
        q, k = rms_norm(q, q_weight, eps), rms_norm(k, k_weight, eps)
    return apply_rotary(q, k, cos, sin)


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
    q, k = norm_rotary(q, k, q_weight, k_weight, eps, cos, sin)
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
