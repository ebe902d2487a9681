"""Puts the keys and values of new tokens into their pages, alone or with qk-norm and rotation."""

import torch
from torch import Tensor

from wideseek_kernels import reference
from wideseek_kernels.border import (
    CSRC_CACHES,
    CSRC_DTYPES,
    FLOATS,
    KERNEL_DTYPES,
    check,
    check_for_kernel,
    takes_csrc,
    takes_kernel,
)
from wideseek_kernels.kv_cache import FP8, as_bytes


def kv_write(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Write token t of k and v into slot slots[t] of the caches, which are mutated.

    k, v [T, KV, D]; k_cache, v_cache [P, KV, page_size, D] of the same dtype or in fp8, which saturates;
    slots [T] int64, page * page_size + place in the page, no slot twice.
    """
    reference.kv_write(k, v, k_cache, v_cache, slots)


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
    """qk-norm, rotation and kv_write in one pass; returns the queries, mutates the caches.

    q [T, H, D], k and v [T, KV, D] of one dtype, each head contiguous (they may be parts of one
    projection's rows); q_weight, k_weight [D], or both None for no norm; cos, sin [T, D] in fp32 as
    in `apply_rotary`; k_cache, v_cache [P, KV, page_size, D] of the dtype of q or in fp8; slots [S] int64,
    S <= T: rows from S on are padding and written nowhere. -> q normed and rotated [T, H, D].
    Rounded where `rms_norm` and `apply_rotary` round, one after the other, and then to fp8, nearest
    even, beyond 448 to 448, a NaN staying one. Not differentiable.
    Raises ValueError, in C++ also for a slot out of range. A GPU's slots are not read on the host:
    one out of range is written nowhere, and stops the kernel under TRITON_DEBUG=1.
    """
    arguments = (q, k, v, q_weight, k_weight, eps, cos, sin, k_cache, v_cache, slots)
    _check(*arguments)
    if takes_kernel(q):
        for name, x in (("q", q), ("k", k), ("v", v)):
            if x.stride()[1:] != (q.shape[2], 1) or x.dtype not in KERNEL_DTYPES:
                raise ValueError(f"{name} is {x.dtype} with strides {x.stride()}: heads are apart")
        caches = as_bytes(k_cache), as_bytes(v_cache)
        check_for_kernel(cos=cos, sin=sin, k_cache=caches[0], v_cache=caches[1], slots=slots)
        if q_weight is not None and k_weight is not None:
            check_for_kernel(q_weight=q_weight, k_weight=k_weight)
        from wideseek_kernels.on_triton import kv_write as on_triton

        return on_triton.norm_rotary_kv_write(*arguments[:8], *caches, slots)
    floats = (k_cache, v_cache, cos, sin, q_weight, k_weight)
    if _fits_csrc(q, k, v, cos, sin) and takes_csrc(*floats, dtypes=CSRC_CACHES):
        return _on_cpu(*arguments)
    return reference.norm_rotary_kv_write(*arguments)


def _fits_csrc(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether the C++ kernel is written for such heads, and no gradient of them is wanted."""
    head_dim = q.shape[2]
    return (
        head_dim % 16 == 0
        and head_dim <= 256
        and q.dtype in CSRC_DTYPES
        and all(x.stride()[1:] == (head_dim, 1) for x in (q, k, v))
        and cos.dtype == sin.dtype == torch.float32
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)))
    )


def _on_cpu(
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
    if q_weight is not None and k_weight is not None:
        k_weight = k_weight.to(q_weight.dtype)
    out = torch.empty(q.shape, dtype=q.dtype)
    bad: int = torch.ops.wideseek.norm_rotary_kv_write(
        q,
        k,
        v,
        q_weight,
        k_weight,
        eps,
        cos,
        sin,
        k_cache,
        v_cache,
        slots.contiguous(),
        out,
        torch.get_num_threads(),
    )
    if bad >= 0:
        places = k_cache.shape[0] * k_cache.shape[2]
        raise ValueError(f"slots[{bad}] is {int(slots[bad])}, of {places} in k_cache")
    return out


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    _eps: float,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
) -> None:
    num_tokens, num_heads, head_dim = q.shape
    num_pages, num_kv, page_size, _ = k_cache.shape
    rows = (num_tokens, num_kv, head_dim)
    cache = (num_pages, num_kv, page_size, head_dim)
    if num_kv == 0 or num_heads % num_kv:
        raise ValueError(f"q has {num_heads} heads, expected a multiple of {num_kv} of k_cache")
    if len(slots) > num_tokens:
        raise ValueError(f"slots has length {len(slots)}, expected at most {num_tokens}")
    if (q_weight is None) != (k_weight is None):
        raise ValueError("q_weight and k_weight: one is None, the other is not")
    check("k", k, rows, q.device, q.dtype)
    check("v", v, rows, q.device, q.dtype)
    check("k_cache", k_cache, cache, q.device, q.dtype, FP8)
    check("v_cache", v_cache, cache, q.device, k_cache.dtype)
    check("cos", cos, (num_tokens, head_dim), q.device, *FLOATS)
    check("sin", sin, (num_tokens, head_dim), q.device, *FLOATS)
    check("slots", slots, (None,), q.device, torch.int64)
    if q_weight is not None and k_weight is not None:
        check("q_weight", q_weight, (head_dim,), q.device, *FLOATS)
        check("k_weight", k_weight, (head_dim,), q.device, *FLOATS)
