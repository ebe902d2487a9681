"""Paged attention in Triton: decode, extension, chunked prefill and shared prefixes in one launch.

One program an item of the plan and a key head: up to TOKENS queries times the query heads of the key
head, packed as rows, against tiles of 64 keys. A row's softmax is summed up chunk by chunk of absolute
key positions, and chunks are folded in their order, here or in merge_kernel: the same bits however a
step is cut. Each item reads its keys and values once, 4 D b bytes a key head and key of b bytes an
element against 4 D FLOPs a row: decoding is bound by memory, prefill by the tensor cores. Partials add
2 (D + 2) 4 bytes a row and chunk that another item reads.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from wideseek_kernels.launch_plan import CHUNK_TILES, TOKENS, LaunchPlan
from wideseek_kernels.work_list import TILE


def paged_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: LaunchPlan
) -> tuple[Tensor, Tensor]:
    """See `wideseek_kernels.paged_attention.paged_attention_with_lse`."""
    num_heads, head_dim = q.shape[1:]
    num_kv, page_size = k_cache.shape[1:3]
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)
    out[plan.num_rows :] = 0
    lse[plan.num_rows :] = -torch.inf
    partials = q.new_empty(plan.num_partials, num_heads, head_dim, dtype=torch.float32)
    states = q.new_empty(plan.num_partials, num_heads, 2, dtype=torch.float32)
    group = num_heads // num_kv
    if len(plan.items):
        attention_kernel[(len(plan.items), num_kv)](
            q,
            k_cache,
            v_cache,
            out,
            lse,
            partials,
            states,
            plan.items,
            plan.tokens,
            plan.pages,
            1 / math.sqrt(head_dim) * math.log2(math.e),
            KV_HEADS=num_kv,
            GROUP=group,
            GROUP_TILE=triton.next_power_of_2(group),
            PAGE_SIZE=page_size,
            HEAD_DIM=head_dim,
            TOKENS=TOKENS,
            TILE=TILE,
            CHUNK_TILES=CHUNK_TILES,
            num_warps=4 if head_dim <= 64 else 8,  # two sums of [rows, head_dim] stay in registers
            num_stages=3,
        )
    if len(plan.merges):
        merge_kernel[(len(plan.merges), num_heads)](
            partials,
            states,
            out,
            lse,
            plan.tokens,
            plan.merges,
            HEADS=num_heads,
            HEAD_DIM=head_dim,
            CHUNK=TILE * CHUNK_TILES,
            num_warps=1,
        )
    return out, lse


@triton.jit
def attention_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    out_ptr,
    lse_ptr,
    partials_ptr,
    states_ptr,
    items_ptr,
    tokens_ptr,
    pages_ptr,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_TILE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK_TILES: tl.constexpr,
):
    ROWS: tl.constexpr = TOKENS * GROUP_TILE
    item_ptr, head = items_ptr + tl.program_id(0) * 5, tl.program_id(1)
    pages_ptr += tl.load(item_ptr + 2)
    tile_from, tile_to = tl.load(item_ptr + 3).to(tl.int32), tl.load(item_ptr + 4).to(tl.int32)
    rows, dims = tl.arange(0, ROWS), tl.arange(0, HEAD_DIM)
    token = tl.load(item_ptr) + rows // GROUP_TILE
    inside = (token < tl.load(item_ptr + 1)) & (rows % GROUP_TILE < GROUP)
    q_head = head * GROUP + rows % GROUP_TILE
    row = tl.load(tokens_ptr + token * 4, inside, 0) * (KV_HEADS * GROUP) + q_head
    limits = tl.load(tokens_ptr + token * 4 + 1, inside, 0).to(tl.int32)
    most = tl.max(limits, 0)
    first = tl.load(tokens_ptr + token * 4 + 2, inside, -1)
    slot0 = first + 1 - tl.load(tokens_ptr + token * 4 + 3, inside, 0)  # slot0 + c is of chunk c
    q = tl.load(q_ptr + row[:, None] * HEAD_DIM + dims, inside[:, None], 0.0)

    folded, high, sums = _nothing(ROWS, HEAD_DIM)
    acc, top, total = _nothing(ROWS, HEAD_DIM)
    for tile in tl.range(tile_from, tile_to):
        if (tile % CHUNK_TILES == 0) & (tile > tile_from):
            if tile_from == 0:
                folded, high, sums = _fold(folded, high, sums, acc, top, total)
            else:
                kept = inside & (limits > (tile - CHUNK_TILES) * TILE)
                slot = (slot0 + tile // CHUNK_TILES - 1) * (KV_HEADS * GROUP) + q_head
                _keep(partials_ptr, states_ptr, slot, kept, acc, top, total, dims, HEAD_DIM)
            acc, top, total = _nothing(ROWS, HEAD_DIM)
        keys, seen = tile * TILE + tl.arange(0, TILE), tile * TILE + tl.arange(0, TILE) < most
        cells = _cells(pages_ptr, tile, keys, seen, head, KV_HEADS, PAGE_SIZE, TILE)
        k = tl.load(k_cache_ptr + cells[:, None] * HEAD_DIM + dims, seen[:, None], 0.0)
        v = tl.load(v_cache_ptr + cells[:, None] * HEAD_DIM + dims, seen[:, None], 0.0)
        acc, top, total = _advance(acc, top, total, q, k, v, keys, limits, scale)

    if tile_from == 0:
        acc, top, total = _fold(folded, high, sums, acc, top, total)
        _give(out_ptr, lse_ptr, row, inside & (first < 0), acc, top, total, dims, HEAD_DIM)
        slot, kept = first, inside & (first >= 0)
    else:
        chunk = (tile_to - 1) // CHUNK_TILES
        slot, kept = slot0 + chunk, inside & (limits > chunk * CHUNK_TILES * TILE)
    slot = slot * (KV_HEADS * GROUP) + q_head
    _keep(partials_ptr, states_ptr, slot, kept, acc, top, total, dims, HEAD_DIM)


@triton.jit
def merge_kernel(
    partials_ptr,
    states_ptr,
    out_ptr,
    lse_ptr,
    tokens_ptr,
    merges_ptr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Folds the partials of one token and head in the order of keys."""
    token_ptr, head = tokens_ptr + tl.load(merges_ptr + tl.program_id(0)) * 4, tl.program_id(1)
    limit, first = tl.load(token_ptr + 1), tl.load(token_ptr + 2)
    count = (tl.cdiv(limit, CHUNK) - tl.load(token_ptr + 3) + 1).to(tl.int32)
    rows, dims = tl.arange(0, 1), tl.arange(0, HEAD_DIM)
    whole, top, total = _nothing(1, HEAD_DIM)
    for part in tl.range(0, count):
        slot = (first + part) * HEADS + head + rows
        later = tl.load(partials_ptr + slot[:, None] * HEAD_DIM + dims)
        later_top, later_total = tl.load(states_ptr + slot * 2), tl.load(states_ptr + slot * 2 + 1)
        whole, top, total = _fold(whole, top, total, later, later_top, later_total)
    row_at = tl.load(token_ptr) * HEADS + head + rows
    _give(out_ptr, lse_ptr, row_at, rows == 0, whole, top, total, dims, HEAD_DIM)


@triton.jit
def _nothing(ROWS: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Values, largest score and sum of weights of no keys."""
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    return acc, tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)


@triton.jit
def _advance(acc, top, total, q, k, v, keys, limits, scale):
    """Takes the rows over one tile of keys; those beyond a row's limit weigh 0."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    scores = tl.where(keys[None, :] < limits[:, None], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(scores - base[:, None])
    again = tl.exp2(top - base)
    total = tl.fma(total, again, tl.sum(weights, 1))
    acc = tl.dot(weights.to(v.dtype), v, acc * again[:, None], input_precision="ieee")
    return acc, new_top, total


@triton.jit
def _fold(acc, top, total, later, later_top, later_total):
    """Joins what later keys gave. Fused by hand: two kernels must not round in two ways."""
    new_top = tl.maximum(top, later_top)
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    scale, later_scale = tl.exp2(top - base), tl.exp2(later_top - base)
    acc = tl.fma(acc, tl.broadcast_to(scale[:, None], acc.shape), later * later_scale[:, None])
    return acc, new_top, tl.fma(total, scale, later_total * later_scale)


@triton.jit
def _keep(partials_ptr, states_ptr, slot, kept, acc, top, total, dims, HEAD_DIM: tl.constexpr):
    tl.store(partials_ptr + slot[:, None] * HEAD_DIM + dims, acc, kept[:, None])
    tl.store(states_ptr + slot * 2, top, kept)
    tl.store(states_ptr + slot * 2 + 1, total, kept)


@triton.jit
def _give(out_ptr, lse_ptr, row_at, done, acc, top, total, dims, HEAD_DIM: tl.constexpr):
    total = tl.where(done, total, 1.0)
    tl.store(out_ptr + row_at[:, None] * HEAD_DIM + dims, acc / total[:, None], done[:, None])
    tl.store(lse_ptr + row_at, (top + tl.log2(total)) * 0.6931471805599453, done)


@triton.jit
def _cells(
    pages_ptr,
    tile,
    keys,
    seen,
    head,
    KV_HEADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Where the keys of a tile lie, counted in rows of the cache."""
    if PAGE_SIZE % TILE == 0:
        page = tl.load(pages_ptr + tile // (PAGE_SIZE // TILE))
        place = tile % (PAGE_SIZE // TILE) * TILE
        return (page * KV_HEADS + head) * PAGE_SIZE + place + tl.arange(0, TILE)
    page = tl.load(pages_ptr + keys // PAGE_SIZE, seen, 0)
    return (page * KV_HEADS + head) * PAGE_SIZE + keys % PAGE_SIZE
