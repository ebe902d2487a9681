"""Paged attention in Triton: decode, extension, chunked prefill and shared prefixes in one launch.

One program an item of the plan and a key head: up to TOKENS queries times the query heads of the key
head, packed as rows, against tiles of 64 keys. A row's softmax is summed up chunk by chunk of absolute
key positions, and chunks are folded in their order, here or in merge_kernel: the same bits however a
step is cut. Each item reads its keys and values once, 2 D b bytes a key head and key of b bytes an
element (fp8: 1; they come as bytes, and become fp16, or fp32 where q is) against 4 D FLOPs a row:
decoding is bound by memory, prefill by the tensor cores. Partials add 2 (D + 2) 4 bytes a row and
chunk that another item reads.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from wideseek_kernels.launch_plan import CHUNK_TILES, TOKENS, LaunchPlan
from wideseek_kernels.work_list import TILE

LEEWAY = tl.constexpr(8.0)
"""What scores are measured from changes within a chunk only for one larger by so many powers of two, as in
csrc/layout_sm90.cuh, where that spares work. Here it is for the same bits."""


class Launch(NamedTuple):
    """How an item is run: the queries it has room for, warps, and tiles of keys: one computed on, the others under way.

    A warp for every 16 rows: then a row's softmax stays in a warp, and its two sums in registers. With four
    warps and three stages of 128 16-bit numbers a key, two programs just fit a multiprocessor.
    """

    tokens: int
    num_warps: int
    num_stages: int


def launch_for(group: int, itemsize: int) -> Launch:
    """Of group query heads a key head. Never of the step: a row's bits may depend on it."""
    warps = min(8, max(4, TOKENS * triton.next_power_of_2(group) // 16))
    return Launch(TOKENS, warps, 3 if itemsize == 2 else 2)


def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: LaunchPlan,
    out: Tensor,
    lse: Tensor,
    launch: Launch | None = None,
) -> None:
    """Writes the rows of the plan into out [T, H, D] and lse [T, H]; see `wideseek_kernels.paged_attention`."""
    num_heads, head_dim = q.shape[1:]
    num_kv, page_size = k_cache.shape[1:3]
    partials = q.new_empty(plan.num_partials, num_heads, head_dim, dtype=torch.float32)
    states = q.new_empty(plan.num_partials, num_heads, 2, dtype=torch.float32)
    group = num_heads // num_kv
    launch = launch or launch_for(group, q.element_size())
    if plan.most_tokens > launch.tokens:
        raise ValueError(f"plan has items of {plan.most_tokens} queries, expected {launch.tokens}")
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
            TOKENS=launch.tokens,
            TILE=TILE,
            CHUNK_TILES=CHUNK_TILES,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
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
    if tile_from == tile_to:
        return  # one of those with which a graph fills its table
    q, limits, most, least = _queries(
        q_ptr, k_cache_ptr, item_ptr, tokens_ptr, head, KV_HEADS, GROUP, GROUP_TILE, ROWS, HEAD_DIM
    )
    folded, high, sums = _nothing(ROWS, HEAD_DIM)
    acc, top, total = folded, high, sums
    page = tl.load(pages_ptr + tile_from * TILE // PAGE_SIZE)  # ahead: keys wait for it
    for tile in tl.range(tile_from, tile_to):
        if (tile % CHUNK_TILES == 0) & (tile > tile_from):
            if tile_from == 0:
                folded, high, sums = _fold(folded, high, sums, acc, top, total)
            else:
                _keep(
                    partials_ptr, states_ptr, item_ptr, tokens_ptr, head, tile // CHUNK_TILES - 1,
                    acc, top, total, KV_HEADS, GROUP, GROUP_TILE, TILE * CHUNK_TILES
                )  # fmt: skip
            acc, top, total = _nothing(ROWS, HEAD_DIM)
        keys = tile * TILE + tl.arange(0, TILE)
        k, v = _read(
            k_cache_ptr, v_cache_ptr, pages_ptr, page, tile, keys, keys < most,
            head, KV_HEADS, PAGE_SIZE, HEAD_DIM, TILE, q.dtype
        )  # fmt: skip
        page = tl.load(pages_ptr + (tile + 1) * TILE // PAGE_SIZE, tile + 1 < tile_to, 0)
        hides = (tile + 1) * TILE > least
        acc, top, total = _advance(acc, top, total, q, k, v, keys, limits, hides, scale)
    chunk = (tile_to - 1) // CHUNK_TILES
    if tile_from == 0:
        acc, top, total = _fold(folded, high, sums, acc, top, total)
        chunk = -1
        _give_whole(
            out_ptr, lse_ptr, item_ptr, tokens_ptr, head, acc, top, total, KV_HEADS, GROUP, GROUP_TILE
        )  # fmt: skip
    _keep(
        partials_ptr, states_ptr, item_ptr, tokens_ptr, head, chunk,
        acc, top, total, KV_HEADS, GROUP, GROUP_TILE, TILE * CHUNK_TILES
    )  # fmt: skip


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
def _advance(acc, top, total, q, k, v, keys, limits, masked, scale):
    """Takes the rows over one tile of keys; those beyond a row's limit weigh 0. Unmasked: there are none."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if masked:
        scores = tl.where(keys[None, :] < limits[:, None], scores, float("-inf"))
    high = tl.max(scores, 1) * scale
    new_top = tl.where(high > top + LEEWAY, high, top)
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(tl.fma(scores, tl.full(scores.shape, scale, tl.float32), -base[:, None]))
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
def _rows(
    item_ptr, tokens_ptr, head, GROUP: tl.constexpr, GROUP_TILE: tl.constexpr, ROWS: tl.constexpr
):
    """Of each row of an item: its token's entry in the table, whether there is one, its query head."""
    rows = tl.arange(0, ROWS)
    token = tl.load(item_ptr) + rows // GROUP_TILE
    inside = (token < tl.load(item_ptr + 1)) & (rows % GROUP_TILE < GROUP)
    return tokens_ptr + token * 4, inside, head * GROUP + rows % GROUP_TILE


@triton.jit
def _queries(
    q_ptr,
    k_cache_ptr,
    item_ptr,
    tokens_ptr,
    head,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_TILE: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    """The queries of an item as they meet its keys, the keys that each sees, and the most and the fewest of them."""
    facts_ptr, inside, q_head = _rows(item_ptr, tokens_ptr, head, GROUP, GROUP_TILE, ROWS)
    row = tl.load(facts_ptr, inside, 0) * (KV_HEADS * GROUP) + q_head
    at = row[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)
    limits = tl.load(facts_ptr + 1, inside, 0).to(tl.int32)
    least = tl.min(tl.where(inside, limits, 1 << 30), 0)
    q = tl.load(q_ptr + at, inside[:, None], 0.0)
    if k_cache_ptr.dtype.element_ty == tl.uint8 and q.dtype == tl.bfloat16:
        q = q.to(tl.float16)  # e4m3 becomes fp16 in one instruction, bf16 in several
    return q, limits, tl.max(limits, 0), least


@triton.jit
def _read(
    k_cache_ptr,
    v_cache_ptr,
    pages_ptr,
    page,
    tile,
    keys,
    seen,
    head,
    KV_HEADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The keys and values of a tile, 0 where not seen; page: the one in which it begins."""
    dims = tl.arange(0, HEAD_DIM)
    if PAGE_SIZE % TILE == 0:
        cell = (page * KV_HEADS + head) * PAGE_SIZE + tile % (PAGE_SIZE // TILE) * TILE
        at = tl.arange(0, TILE)[:, None] * HEAD_DIM + dims
        k_cache_ptr += cell * HEAD_DIM
        v_cache_ptr += cell * HEAD_DIM
    else:
        cells = tl.load(pages_ptr + keys // PAGE_SIZE, seen, 0) * KV_HEADS + head
        at = (cells * PAGE_SIZE + keys % PAGE_SIZE)[:, None] * HEAD_DIM + dims
    k, v = tl.load(k_cache_ptr + at, seen[:, None], 0), tl.load(v_cache_ptr + at, seen[:, None], 0)
    if k.dtype == tl.uint8:  # e4m3: the same numbers in more bytes, as many as the queries have
        k = k.to(tl.float8e4nv, bitcast=True).to(DTYPE)
        v = v.to(tl.float8e4nv, bitcast=True).to(DTYPE)
    return k, v


@triton.jit
def _keep(
    partials_ptr,
    states_ptr,
    item_ptr,
    tokens_ptr,
    head,
    chunk,
    acc,
    top,
    total,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Stores what a chunk came to, -1 being what was folded. Reads where to anew: no registers are held for it."""
    facts_ptr, inside, q_head = _rows(item_ptr, tokens_ptr, head, GROUP, GROUP_TILE, acc.shape[0])
    first = tl.load(facts_ptr + 2, inside, -1)
    limits = tl.load(facts_ptr + 1, inside, 0)
    later = tl.where(chunk < 0, 0, chunk + 1 - tl.load(facts_ptr + 3, inside, 0))
    kept = inside & (first >= 0) & (limits > chunk * CHUNK)
    slot = (first + later) * (KV_HEADS * GROUP) + q_head
    # By eights, as the tensor cores leave them: that changes hands inside a warp, without shared memory.
    values = tl.reshape(acc, [acc.shape[0], acc.shape[1] // 8, 8])
    eights = tl.arange(0, acc.shape[1] // 8)[None, :, None] * 8
    at = (slot * acc.shape[1])[:, None, None] + eights + tl.arange(0, 8)[None, None, :]
    tl.store(partials_ptr + at, values, kept[:, None, None])
    tl.store(states_ptr + slot * 2, top, kept)
    tl.store(states_ptr + slot * 2 + 1, total, kept)


@triton.jit
def _give_whole(
    out_ptr,
    lse_ptr,
    item_ptr,
    tokens_ptr,
    head,
    acc,
    top,
    total,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_TILE: tl.constexpr,
):
    """The results of the queries of which nobody keeps partials."""
    facts_ptr, inside, q_head = _rows(item_ptr, tokens_ptr, head, GROUP, GROUP_TILE, acc.shape[0])
    done = inside & (tl.load(facts_ptr + 2, inside, 0) < 0)
    row = tl.load(facts_ptr, done, 0) * (KV_HEADS * GROUP) + q_head
    dims = tl.arange(0, acc.shape[1])
    _give(out_ptr, lse_ptr, row, done, acc, top, total, dims, acc.shape[1])


@triton.jit
def _give(out_ptr, lse_ptr, row_at, done, acc, top, total, dims, HEAD_DIM: tl.constexpr):
    total = tl.where(done & (total > 0), total, 1.0)  # a row without keys comes out 0
    values = acc * tl.div_rn(tl.full(total.shape, 1.0, tl.float32), total)[:, None]
    tl.store(out_ptr + row_at[:, None] * HEAD_DIM + dims, values, done[:, None])
    tl.store(lse_ptr + row_at, (top + tl.log2(total)) * 0.6931471805599453, done)
