"""qk-norm, rotation and the writing of keys and values in one Triton kernel.

One program a token. T tokens of b bytes an element move T (2H + 4KV) D b and 8TD for the tables, or
T (2H + 2KV) D b + 2 T KV D and these into caches in fp8, which come as their bytes; bound by memory,
and below some thousand tokens by the launch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


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
    """See `wideseek_kernels.kv_write`. A slot out of the caches' range is written nowhere."""
    num_tokens, num_heads, head_dim = q.shape
    num_pages, num_kv, page_size, _ = k_cache.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    norm_rotary_kv_write_kernel[(num_tokens,)](
        q,
        k,
        v,
        q_weight,
        k_weight,
        cos,
        sin,
        k_cache,
        v_cache,
        slots,
        out,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        len(slots),
        num_pages * page_size,
        eps,
        PAGE_SIZE=page_size,
        HEADS=num_heads,
        KV_HEADS=num_kv,
        HEAD_DIM=head_dim,
        HEAD_TILE=triton.next_power_of_2(num_heads),
        KV_TILE=triton.next_power_of_2(num_kv),
        HALF_TILE=triton.next_power_of_2(head_dim // 2),
        num_warps=4,
    )
    return out


@triton.jit
def norm_rotary_kv_write_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    q_weight_ptr,
    k_weight_ptr,
    cos_ptr,
    sin_ptr,
    k_cache_ptr,
    v_cache_ptr,
    slots_ptr,
    out_ptr,
    q_stride,
    k_stride,
    v_stride,
    num_slots,
    capacity,
    eps,
    PAGE_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    KV_TILE: tl.constexpr,
    HALF_TILE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    HALF: tl.constexpr = HEAD_DIM // 2
    dims = tl.arange(0, HALF_TILE)[None, :]
    cos_ptr, sin_ptr = cos_ptr + token * HEAD_DIM, sin_ptr + token * HEAD_DIM
    heads = tl.arange(0, HEAD_TILE)[:, None]
    left, right = _turned(
        q_ptr + token * q_stride, q_weight_ptr, cos_ptr, sin_ptr, heads, dims, eps, HEADS, HALF
    )
    at = token * HEADS * HEAD_DIM + heads * HEAD_DIM + dims
    inside = (heads < HEADS) & (dims < HALF)
    tl.store(out_ptr + at, left, inside)
    tl.store(out_ptr + at + HALF, right, inside)

    if token < num_slots:
        slot = tl.load(slots_ptr + token)
        known = (slot >= 0) & (slot < capacity)
        tl.device_assert(known, "slots: a slot beyond the caches")
        kv_heads = tl.arange(0, KV_TILE)[:, None]
        kv_inside = (kv_heads < KV_HEADS) & (dims < HALF)
        page, place = slot // PAGE_SIZE, slot % PAGE_SIZE
        kv_at = ((page * KV_HEADS + kv_heads) * PAGE_SIZE + place) * HEAD_DIM + dims
        k_ptr += token * k_stride
        k_left, k_right = _turned(
            k_ptr, k_weight_ptr, cos_ptr, sin_ptr, kv_heads, dims, eps, KV_HEADS, HALF
        )
        value_ptr = v_ptr + token * v_stride + kv_heads * HEAD_DIM + dims
        v_left = tl.load(value_ptr, kv_inside, 0.0)
        v_right = tl.load(value_ptr + HALF, kv_inside, 0.0)
        if k_cache_ptr.dtype.element_ty == tl.uint8:
            dtype: tl.constexpr = k_ptr.dtype.element_ty
            k_left, k_right = _quantised(k_left.to(dtype)), _quantised(k_right.to(dtype))
            v_left, v_right = _quantised(v_left), _quantised(v_right)
        tl.store(k_cache_ptr + kv_at, k_left, kv_inside & known)
        tl.store(k_cache_ptr + kv_at + HALF, k_right, kv_inside & known)
        tl.store(v_cache_ptr + kv_at, v_left, kv_inside & known)
        tl.store(v_cache_ptr + kv_at + HALF, v_right, kv_inside & known)


@triton.jit
def _quantised(x):
    """The bytes of `reference.quantised`. By hand, for Triton's interpreter loses carries, small numbers and NaN."""
    x = x.to(tl.float32)
    size = tl.minimum(tl.abs(x), 448.0)
    bits = size.to(tl.uint32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    steps = (size + 16384.0).to(tl.uint32, bitcast=True) & 0xF  # of 2^-9, the last digit of the sum
    rounded = tl.where(x == x, tl.where(size < 0.015625, steps, normal), 0x7F)
    return (rounded | (x.to(tl.uint32, bitcast=True) >> 24) & 0x80).to(tl.uint8)


@triton.jit
def _turned(
    x_ptr, weight_ptr, cos_ptr, sin_ptr, heads, dims, eps, HEADS: tl.constexpr, HALF: tl.constexpr
):
    """Both halves [heads, D/2] of a token's heads, normed and rotated, in fp32."""
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    inside = (heads < HEADS) & (dims < HALF)
    at = heads * (2 * HALF) + dims
    left = tl.load(x_ptr + at, inside, 0.0).to(tl.float32)
    right = tl.load(x_ptr + at + HALF, inside, 0.0).to(tl.float32)
    if weight_ptr is not None:
        mean = (tl.sum(left * left, 1) + tl.sum(right * right, 1)) / (2 * HALF)
        scales = tl.rsqrt(mean + eps)[:, None]
        left *= scales * tl.load(weight_ptr + dims, dims < HALF, 0.0).to(tl.float32)
        right *= scales * tl.load(weight_ptr + HALF + dims, dims < HALF, 0.0).to(tl.float32)
        # Rounded as rms_norm rounds, so that the trainer's three steps give the same bits.
        left, right = left.to(dtype).to(tl.float32), right.to(dtype).to(tl.float32)
    cos_left = tl.load(cos_ptr + dims, dims < HALF, 0.0)
    cos_right = tl.load(cos_ptr + HALF + dims, dims < HALF, 0.0)
    sin_left = tl.load(sin_ptr + dims, dims < HALF, 0.0)
    sin_right = tl.load(sin_ptr + HALF + dims, dims < HALF, 0.0)
    return left * cos_left + right * sin_left, right * cos_right + left * sin_right
