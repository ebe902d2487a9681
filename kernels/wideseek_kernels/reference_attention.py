"""Plain-PyTorch twin of `paged_attention`, with a plan of its own: gathers keys, calls torch's attention.

Exact where the BLAS lets it be: every sum runs over absolute key positions, and padding adds exact
zeros at its end; the constants below keep oneMKL from choosing another order.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wideseek_kernels.kv_cache import as_bytes


def row_tile(device: torch.device, dtype: torch.dtype) -> int:
    """Rows of a matrix product come in multiples of it; the odd ones out BLAS adds up differently.

    In fp32 oneMKL also has a kernel of its own for fewer than 16 rows.
    """
    return 16 if device.type == "cpu" and dtype == torch.float32 else 4


KEY_TILE = 64
"""Keys are padded to a multiple of it, so that no vector of scores has a scalar remainder."""

KEY_BLOCK = 512
"""Keys that one pass of torch's attention reads. oneMKL adds up a product over a pass of more than
HALVED_FROM and less than HALVED_TO keys in two halves, any other in equal tiles; those are padded
on."""

HALVED_FROM, HALVED_TO = 192, 384

QUERY_BLOCK = 256
"""Queries of a chunk that go at once; each such block reads only the keys it may see."""

GROUP_BYTES = 2 << 20
"""Keys that sequences decoding together may gather: what a core keeps in its cache is read again
several times faster."""


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences with one query each, padded to as many keys: rows begin to end of q.

    page_rows [B * KV * n] picks their pages from a cache seen as [P * KV, page_size * D];
    mask [B, 1, 1, L] is 0 on a key and -inf on padding.
    """

    begin: int
    end: int
    page_rows: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Chunk:
    """One sequence with several queries: rows begin to end of q; page_rows [KV * n] as in Group.

    blocks are (first row, end row, mask [1, 1, queries, L]) of q, queries padded to `row_tile`.
    """

    begin: int
    end: int
    page_rows: Tensor
    blocks: list[tuple[int, int, Tensor]]


@dataclass(frozen=True, slots=True)
class GatherPlan:
    """Who reads which pages in one step; the same for every layer. Covers the first rows of q."""

    num_rows: int
    groups: list[Group]
    chunks: list[Chunk]


def plan_attention(
    pages: list[npt.NDArray[np.int64]],
    kv_lens: list[int],
    q_lens: list[int],
    cache: Tensor,
    dtype: torch.dtype | None = None,
) -> GatherPlan:
    """See `wideseek_kernels.paged_attention`.

    Sequences of one query that follow each other are read together: put them in order of length.
    """
    planner = _Planner(cache, dtype or cache.dtype)
    groups: list[Group] = []
    chunks: list[Chunk] = []
    row = index = 0
    while index < len(pages):
        if q_lens[index] > 1:
            chunks.append(planner.chunk(row, pages[index], kv_lens[index], q_lens[index]))
            row += q_lens[index]
            index += 1
        else:
            end = planner.group_end(index, kv_lens, q_lens)
            groups.append(planner.group(row, pages[index:end], kv_lens[index:end]))
            row += end - index
            index = end
    return GatherPlan(row, groups, chunks)


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: GatherPlan) -> Tensor:
    """See `wideseek_kernels.paged_attention`."""
    num_heads, num_kv, head_dim = q.shape[1], k_cache.shape[1], q.shape[2]
    group_size = num_heads // num_kv
    out = torch.empty_like(q)
    out[plan.num_rows :] = 0
    tile = row_tile(q.device, q.dtype)
    for group in plan.groups:
        batch, *_, num_keys = group.mask.shape
        kv_shape = (batch, num_kv, num_keys, head_dim)
        k, v = (_picked(x, group.page_rows, q.dtype).view(kv_shape) for x in (k_cache, v_cache))
        rows = q[group.begin : group.end].view(batch, num_kv, group_size, head_dim)
        rows = F.pad(rows, (0, 0, 0, -group_size % tile))
        mask = group.mask.expand(-1, -1, rows.shape[2], -1)
        read = F.scaled_dot_product_attention(rows, k, v, attn_mask=mask)
        out[group.begin : group.end] = read[:, :, :group_size].reshape(batch, num_heads, head_dim)
    for chunk in plan.chunks:
        # Key heads stand as the batch and the query heads of each as its heads: nothing is copied.
        kv_shape = (num_kv, 1, -1, head_dim)
        k, v = (_picked(x, chunk.page_rows, q.dtype).view(kv_shape) for x in (k_cache, v_cache))
        k, v = (x.expand(-1, group_size, -1, -1) for x in (k, v))
        for begin, end, mask in chunk.blocks:
            rows = q[begin:end].view(-1, num_kv, group_size, head_dim).permute(1, 2, 0, 3)
            rows = F.pad(rows, (0, 0, 0, -(end - begin) % tile))
            num_keys = mask.shape[3]
            read = F.scaled_dot_product_attention(
                rows, k[:, :, :num_keys], v[:, :, :num_keys], attn_mask=mask
            )
            read = read[:, :, : end - begin].permute(2, 0, 1, 3)
            out[begin:end] = read.reshape(-1, num_heads, head_dim)
    return out


def log_sum_exp(q: Tensor, k_cache: Tensor, plan: GatherPlan) -> Tensor:
    """log(sum(exp(q kᵀ / sqrt(D)))) [T, H] in fp32 (fp64 for fp64), -inf beyond the plan's rows."""
    num_heads, num_kv, head_dim = q.shape[1], k_cache.shape[1], q.shape[2]
    dtype = torch.promote_types(q.dtype, torch.float32)
    lse = torch.full(q.shape[:2], -torch.inf, dtype=dtype, device=q.device)
    for group in plan.groups:
        batch = group.end - group.begin
        k = _picked(k_cache, group.page_rows, dtype).view(batch, num_kv, -1, head_dim)
        rows = q[group.begin : group.end].view(batch, num_kv, -1, head_dim).to(dtype)
        scores = rows @ k.transpose(2, 3) / head_dim**0.5 + group.mask.to(dtype)
        lse[group.begin : group.end] = scores.logsumexp(3).reshape(-1, num_heads)
    for chunk in plan.chunks:
        k = _picked(k_cache, chunk.page_rows, dtype).view(num_kv, 1, -1, head_dim)
        for begin, end, mask in chunk.blocks:
            rows = q[begin:end].view(end - begin, num_kv, -1, head_dim).permute(1, 2, 0, 3)
            scores = rows.to(dtype) @ k[:, :, : mask.shape[3]].transpose(2, 3) / head_dim**0.5
            scores += mask[:, :, : end - begin].to(dtype)
            lse[begin:end] = scores.logsumexp(3).permute(2, 0, 1).reshape(-1, num_heads)
    return lse


def _picked(cache: Tensor, page_rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of a cache seen as [P * KV, page_size * D], in the dtype that is computed in."""
    rows = as_bytes(cache).flatten(0, 1).flatten(1).index_select(0, page_rows)
    return rows.view(cache.dtype).to(dtype)


def padded_keys(kv_len: int, page_size: int) -> int:
    """Keys to read for kv_len of them: whole pages and tiles, no pass that would be halved."""
    unit = max(KEY_TILE, page_size)
    padded = -(-kv_len // unit) * unit
    while HALVED_FROM < padded % KEY_BLOCK < HALVED_TO:
        padded += unit
    return padded


class _Planner:
    """What the parts of a plan have in common: the shape and device of the cache, the dtype it is read in."""

    def __init__(self, cache: Tensor, dtype: torch.dtype) -> None:
        _, self.num_kv, self.page_size, head_dim = cache.shape
        self.dtype, self.device = dtype, cache.device
        self.key_bytes = self.num_kv * head_dim * dtype.itemsize

    def group_end(self, first: int, kv_lens: list[int], q_lens: list[int]) -> int:
        """The end of the sequences from `first` on that decode together."""
        longest = padded_keys(kv_lens[first], self.page_size)
        most = max(1, GROUP_BYTES // (longest * self.key_bytes))
        end = first + 1
        while (
            end < min(first + most, len(kv_lens))
            and q_lens[end] == 1
            and longest // 2 <= kv_lens[end] <= longest
        ):
            end += 1
        return end

    def group(self, row: int, pages: list[npt.NDArray[np.int64]], kv_lens: list[int]) -> Group:
        num_keys = max(padded_keys(kv_len, self.page_size) for kv_len in kv_lens)
        keys = torch.arange(num_keys, device=self.device)
        lens = torch.tensor(kv_lens, device=self.device)
        return Group(
            begin=row,
            end=row + len(pages),
            page_rows=self._page_rows(pages, num_keys),
            mask=self._mask(keys >= lens[:, None])[:, None, None],
        )

    def chunk(self, row: int, pages: npt.NDArray[np.int64], kv_len: int, q_len: int) -> Chunk:
        blocks = []
        tile = row_tile(self.device, self.dtype)
        for begin in range(0, q_len, QUERY_BLOCK):
            end = min(begin + QUERY_BLOCK, q_len)
            position = kv_len - q_len + begin
            num_keys = padded_keys(kv_len - q_len + end, self.page_size)
            num_queries = -(-(end - begin) // tile) * tile
            keys = torch.arange(num_keys, device=self.device)
            queries = torch.arange(position, position + num_queries, device=self.device)
            mask = self._mask(keys > queries[:, None])
            blocks.append((row + begin, row + end, mask[None, None]))
        page_rows = self._page_rows([pages], padded_keys(kv_len, self.page_size))
        return Chunk(row, row + q_len, page_rows, blocks)

    def _mask(self, hidden: Tensor) -> Tensor:
        zeros = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return zeros.masked_fill_(hidden, -torch.inf)

    def _page_rows(self, pages: list[npt.NDArray[np.int64]], num_keys: int) -> Tensor:
        """Rows of the flat cache, [sequence, key head, page]; padding reads page 0, masked."""
        table = np.zeros((len(pages), 1, num_keys // self.page_size), np.int64)
        for i, own in enumerate(pages):
            count = min(len(own), table.shape[2])
            table[i, 0, :count] = own[:count]
        rows = table * self.num_kv + np.arange(self.num_kv)[:, None]
        return torch.from_numpy(rows.reshape(-1)).to(self.device)
