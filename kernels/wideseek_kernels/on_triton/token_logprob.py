"""Log-probability and entropy from hidden states and output matrix in Triton.

T tokens, C hidden, V vocabulary. Forward 2TCV FLOPs, bound by the tensor cores; backward 6TCV: the
logits again, then two plain matrix products from a slice of their gradient. Beside its operands the
forward writes and reads 12 bytes a token and COLUMNS of the vocabulary.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 128, 128
"""Tokens and vocabulary entries of a tile of logits. Not tuned to T: a token's bits must not
depend on how many others there are."""

GRADIENT_BYTES = 1 << 28
"""Of logit gradients that exist at a time."""

BAND = 16
"""Tiles of tokens that go through the vocabulary together: programs that run at the same time form a
square of tiles, and what they read stays in the L2 cache."""


def token_logprob(hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """See `wideseek_kernels.token_logprob`."""
    return TokenLogprob.apply(hidden, weight, ids)


class TokenLogprob(torch.autograd.Function):
    """hidden [T, C], weight [V, C], ids [T] -> log-probabilities and entropies [T] in fp32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        (num_rows, size), vocab = hidden.shape, len(weight)
        num_parts = triton.cdiv(vocab, COLUMNS)
        parts = hidden.new_empty(3, num_parts, num_rows, dtype=torch.float32)
        chosen = hidden.new_full((num_rows,), torch.nan, dtype=torch.float32)
        tiles = triton.cdiv(num_rows, ROWS)
        part_kernel[(tiles * num_parts,)](
            hidden,
            weight,
            ids,
            parts,
            chosen,
            num_rows,
            vocab,
            size,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            DEPTH=_depth(hidden),
            BAND=BAND,
            num_warps=8,
            num_stages=3,
            # Two programs on a multiprocessor: one multiplies while the other sums up.
            maxnreg=128 if hidden.element_size() == 2 else None,
        )
        logprobs, entropies, sums = (torch.empty_like(chosen) for _ in range(3))
        merge_kernel[(tiles,)](
            parts, chosen, logprobs, entropies, sums, num_rows, num_parts, ROWS=ROWS, num_warps=4
        )
        ctx.save_for_backward(hidden, weight, ids, entropies, sums)
        return logprobs, entropies

    @staticmethod
    def backward(
        ctx: Any, grad_logprob: Tensor, grad_entropy: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        hidden, weight, ids, entropies, sums = ctx.saved_tensors
        dhidden = torch.empty_like(hidden)
        dweight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        vocab, size = weight.shape
        tokens = max(ROWS, GRADIENT_BYTES // (vocab * hidden.element_size()) // ROWS * ROWS)
        columns = (ids, grad_logprob.contiguous(), grad_entropy.contiguous(), entropies, sums)
        for first in range(0, len(hidden), tokens):
            some = slice(first, first + tokens)
            part = hidden[some]
            dlogits = part.new_empty(len(part), vocab)
            gradient_kernel[(triton.cdiv(len(part), ROWS) * triton.cdiv(vocab, COLUMNS),)](
                part,
                weight,
                *(column[some] for column in columns),
                dlogits,
                len(part),
                vocab,
                size,
                ROWS=ROWS,
                COLUMNS=COLUMNS,
                DEPTH=_depth(hidden),
                BAND=BAND,
                num_warps=8,
                num_stages=3,
            )
            torch.mm(dlogits, weight, out=dhidden[some])
            dweight += dlogits.T @ part
        return dhidden, dweight.to(weight.dtype), None


def _depth(hidden: Tensor) -> int:
    """Hidden entries that a step of the product takes: 128 bytes a row."""
    return 128 // hidden.element_size()


@triton.jit
def place_of_tile(num_rows, num_parts, ROWS: tl.constexpr, BAND: tl.constexpr):
    """The tile of tokens and the part of the vocabulary of this program."""
    tile_from = tl.program_id(0) // (num_parts * BAND) * BAND
    height = tl.minimum(tl.cdiv(num_rows, ROWS) - tile_from, BAND)
    within = tl.program_id(0) % (num_parts * BAND)
    return tile_from + within % height, within // height


@triton.jit
def _logits(
    hidden_ptr,
    weight_ptr,
    rows,
    columns,
    num_rows,
    vocab,
    size,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A tile of hidden weightᵀ in fp32; -inf in columns beyond the vocabulary."""
    # Rows and columns beyond the end read the last one, so that only the depth needs a mask.
    hidden_rows = hidden_ptr + tl.minimum(rows, num_rows - 1).to(tl.int64)[:, None] * size
    weight_rows = weight_ptr + tl.minimum(columns, vocab - 1).to(tl.int64)[None, :] * size
    logits = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, size, DEPTH):
        depth = first + tl.arange(0, DEPTH)
        left = tl.load(hidden_rows + depth[None, :], (depth < size)[None, :], 0.0)
        right = tl.load(weight_rows + depth[:, None], (depth < size)[:, None], 0.0)
        logits = tl.dot(left, right, logits, input_precision="ieee")
    return tl.where((columns < vocab)[None, :], logits, float("-inf"))


@triton.jit
def part_kernel(
    hidden_ptr,
    weight_ptr,
    ids_ptr,
    parts_ptr,
    chosen_ptr,
    num_rows,
    vocab,
    size,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    BAND: tl.constexpr,
):
    """Of COLUMNS of the vocabulary: the largest logit m, the sum of e = exp(logit - m), and that of
    e * (logit - m), into parts [3, parts, T]; and the logits of the ids that lie in it."""
    num_parts = tl.cdiv(vocab, COLUMNS)
    tile, part = place_of_tile(num_rows, num_parts, ROWS, BAND)
    rows = tile * ROWS + tl.arange(0, ROWS)
    columns = part * COLUMNS + tl.arange(0, COLUMNS)
    logits = _logits(
        hidden_ptr, weight_ptr, rows, columns, num_rows, vocab, size, ROWS, COLUMNS, DEPTH
    )
    inside = rows < num_rows
    ids = tl.load(ids_ptr + rows, inside, -1)
    hit = columns[None, :] == ids[:, None]
    here = (ids >= part * COLUMNS) & (ids < tl.minimum((part + 1) * COLUMNS, vocab))
    tl.store(chosen_ptr + rows, tl.sum(tl.where(hit, logits, 0.0), 1), here)
    peak = tl.max(logits, 1)
    above = logits - peak[:, None]
    terms = tl.exp(above)
    at = tl.cast(part, tl.int64) * num_rows + rows
    step = tl.cast(num_parts, tl.int64) * num_rows
    tl.store(parts_ptr + at, peak, inside)
    tl.store(parts_ptr + step + at, tl.sum(terms, 1), inside)
    slope = tl.sum(terms * tl.maximum(above, -1e30), 1)  # 0 * -inf is NaN
    tl.store(parts_ptr + 2 * step + at, slope, inside)


@triton.jit
def merge_kernel(
    parts_ptr,
    chosen_ptr,
    logprobs_ptr,
    entropies_ptr,
    sums_ptr,
    num_rows,
    num_parts,
    ROWS: tl.constexpr,
):
    """Puts the parts together in the order of the vocabulary. Moves 12 bytes a token and part."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < num_rows
    step = tl.cast(num_parts, tl.int64) * num_rows
    peak = tl.full([ROWS], -1e30, tl.float32)  # not -inf: no difference of it may be NaN
    mass = tl.zeros([ROWS], tl.float32)
    slope = tl.zeros([ROWS], tl.float32)
    for part in range(num_parts):
        at = parts_ptr + tl.cast(part, tl.int64) * num_rows + rows
        part_peak = tl.load(at, inside, 0.0)
        part_mass = tl.load(at + step, inside, 1.0)
        part_slope = tl.load(at + 2 * step, inside, 0.0)
        old, peak = peak, tl.maximum(peak, part_peak)
        shrink, part_shrink = tl.exp(old - peak), tl.exp(part_peak - peak)
        slope = shrink * (slope + mass * (old - peak))
        slope += part_shrink * (part_slope + part_mass * (part_peak - peak))
        mass = shrink * mass + part_shrink * part_mass
    log_mass = tl.log(mass)
    chosen = tl.load(chosen_ptr + rows, inside, 0.0)
    # Never above 0, though the logit's own rounding may put it there.
    above = chosen - (peak + log_mass)
    tl.store(logprobs_ptr + rows, tl.where(above > 0, 0.0, above), inside)
    tl.store(entropies_ptr + rows, log_mass - slope / mass, inside)
    tl.store(sums_ptr + rows, peak + log_mass, inside)


@triton.jit
def gradient_kernel(
    hidden_ptr,
    weight_ptr,
    ids_ptr,
    grad_logprob_ptr,
    grad_entropy_ptr,
    entropies_ptr,
    sums_ptr,
    dlogits_ptr,
    num_rows,
    vocab,
    size,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    BAND: tl.constexpr,
):
    """dlogits = g ([column is id] - p) - h p (log p + entropy), for the gradients g of the
    log-probability and h of the entropy. Writes TV elements."""
    tile, part = place_of_tile(num_rows, tl.cdiv(vocab, COLUMNS), ROWS, BAND)
    rows = tile * ROWS + tl.arange(0, ROWS)
    columns = part * COLUMNS + tl.arange(0, COLUMNS)
    inside = rows < num_rows
    logits = _logits(
        hidden_ptr, weight_ptr, rows, columns, num_rows, vocab, size, ROWS, COLUMNS, DEPTH
    )
    ids = tl.load(ids_ptr + rows, inside, -1)
    grad_logprob = tl.load(grad_logprob_ptr + rows, inside, 0.0)[:, None]
    grad_entropy = tl.load(grad_entropy_ptr + rows, inside, 0.0)[:, None]
    entropies = tl.load(entropies_ptr + rows, inside, 0.0)[:, None]
    log_p = logits - tl.load(sums_ptr + rows, inside, 0.0)[:, None]
    hit = tl.where(columns[None, :] == ids[:, None], 1.0, 0.0)
    p = tl.exp(log_p)
    log_p = tl.maximum(log_p, -1e30)  # 0 * -inf is NaN
    dlogits = grad_logprob * (hit - p) - grad_entropy * p * (log_p + entropies)
    at = rows.to(tl.int64)[:, None] * vocab + columns[None, :]
    tl.store(dlogits_ptr + at, dlogits, inside[:, None] & (columns < vocab)[None, :])
