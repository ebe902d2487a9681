"""Plain-PyTorch twin of `wideseek_kernels.packed_attention`, differentiable by autograd alone."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_attention(q: Tensor, k: Tensor, v: Tensor, bounds: list[int]) -> Tensor:
    """Sequence i is rows bounds[i] to bounds[i + 1] and causal within itself."""
    lengths = [end - start for start, end in pairwise(bounds)]
    # Split, not sliced: the backward of each slice would fill a whole [T, H, D] with zeros.
    parts = (torch.split(x.transpose(0, 1)[None], lengths, dim=2) for x in (q, k, v))
    out = [_causal_attention(*part) for part in zip(*parts, strict=True)]
    return torch.cat([part[0].transpose(0, 1) for part in out])


def tree_attention(q: Tensor, k: Tensor, v: Tensor, bounds: list[int], shared: list[int]) -> Tensor:
    """As if nothing were shared: each sequence's own queries, over keys gathered along its path."""
    lengths = [end - start for start, end in pairwise(bounds)]
    path, paths = torch.empty(0, dtype=torch.int64), []
    for start, length, kept in zip(bounds, lengths, shared, strict=False):
        path = torch.cat((path[:kept], torch.arange(start, start + length)))
        paths.append(path)
    rows = torch.cat(paths).to(q.device)
    queries = torch.split(q.transpose(0, 1)[None], lengths, dim=2)
    keys, values = (
        torch.split(x[rows].transpose(0, 1)[None], [len(path) for path in paths], dim=2)
        for x in (k, v)
    )
    gqa = q.shape[1] != k.shape[1]
    out = [q[:0]]
    for own, key, value in zip(queries, keys, values, strict=True):
        if own.shape[2]:
            part = _last_rows_attention(own, key, value, gqa)
            out.append(part[0].transpose(0, 1))
    return torch.cat(out)


def _last_rows_attention(q: Tensor, k: Tensor, v: Tensor, gqa: bool) -> Tensor:
    """Causal attention of the last rows of a sequence: q [1, H, T, D], k and v [1, KV, S, D], S >= T -> [1, H, T, D].

    torch.nn.attention.bias has this mask too, but its import takes two seconds of each start.
    """
    length, whole = q.shape[2], k.shape[2]
    if length == whole:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    mask = torch.ones(length, whole, dtype=torch.bool, device=q.device).tril(whole - length)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=gqa)


def _causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One sequence: q [1, H, T, D], k and v [1, KV, T, D] -> [1, H, T, D]."""
    gqa, length = q.shape[1] != k.shape[1], q.shape[2]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or gqa or length > 800:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    # In bf16 a CPU's fused attention is two to three times slower than three plain products.
    mask = torch.full((length, length), -torch.inf, dtype=q.dtype).triu(1)
    scores = torch.baddbmm(mask, q[0], k[0].transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return (torch.softmax(scores, -1) @ v[0])[None]
