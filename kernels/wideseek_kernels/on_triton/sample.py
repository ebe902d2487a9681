"""Sampling in Triton: one pass over the logits, no sort.

`split_kernel` reads a row in splits: their softmax sums. `likely_kernel` reads those rows again in which
a filter must look for its threshold, for the LIKELY largest logits of each split; it is a kernel of its own,
for what it holds in registers would slow down the first. `row_kernel` puts the splits of a row together, finds the
threshold among the likely ones by bisection on the bits of fp32 numbers, which needs no more than
31 steps to be exact, and draws. A filter that keeps more than the likely ones hold is found in the
row itself, 31 times more slowly.

N rows of V logits move 4NV bytes, with filters twice, bound by memory; row_kernel adds 4 * LIKELY / SPLIT
of that, and one split a row. Splits depend on V alone and every sum has one order, so a row's bits do not depend
on the batch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 4096
"""Logits that a program of split_kernel or likely_kernel holds."""

LIKELY = 128
"""The largest of a split that are put aside."""

INFINITE = tl.constexpr(0x7F800000)
"""The bits of fp32 infinity: more than those of any number."""

PEAK, MASS, SLOPE, SCALED, MISSED = (tl.constexpr(i) for i in range(5))
"""What is known of a split, relative to its largest logit m (PEAK): the sum of e = exp(x - m), that
of e * (x - m), that of exp((x - m) / temperature), and the largest logit not put aside."""


def sample_with_entropy(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `wideseek_kernels.sample`."""
    num_rows, vocab = logits.shape
    split = min(SPLIT, triton.next_power_of_2(vocab))
    num_splits = triton.cdiv(vocab, split)
    facts = logits.new_empty(num_rows, num_splits, 5)
    likely = logits.new_empty(num_rows, num_splits, min(LIKELY, split))
    split_kernel[(num_splits, num_rows)](
        logits, temperature, facts, vocab, SPLIT=split, num_warps=8
    )
    likely_kernel[(num_splits, num_rows)](
        logits,
        temperature,
        top_k,
        top_p,
        min_p,
        facts,
        likely,
        vocab,
        SPLIT=split,
        LIKELY=likely.shape[2],
        num_warps=8,
    )
    tokens = torch.empty_like(seeds)
    results = logits.new_empty(3, num_rows)
    row_kernel[(num_rows,)](
        logits,
        temperature,
        top_k,
        top_p,
        min_p,
        seeds,
        positions,
        facts,
        likely,
        tokens,
        results,
        vocab,
        num_splits,
        SPLITS=triton.next_power_of_2(num_splits),
        SPLIT=split,
        LIKELY=likely.shape[2],
        num_warps=16,
    )
    return tokens, results[0], results[1], results[2]


@triton.jit
def split_kernel(logits_ptr, temperature_ptr, facts_ptr, vocab, SPLIT: tl.constexpr):
    split, num_splits, row = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    logits = _load_split(logits_ptr + row.to(tl.int64) * vocab, split, vocab, SPLIT)
    peak = tl.max(logits, 0)
    # A split may hold nothing but -inf; its differences must not be NaN.
    below = logits - tl.where(peak == float("-inf"), 0.0, peak)
    terms = tl.exp(below)
    temperature = tl.load(temperature_ptr + row)
    scaled = tl.exp(below / tl.where(temperature == 0, 1.0, temperature))
    facts_ptr += (row.to(tl.int64) * num_splits + split) * 5
    tl.store(facts_ptr + PEAK, peak)
    tl.store(facts_ptr + MASS, tl.sum(terms, 0))
    tl.store(facts_ptr + SLOPE, tl.sum(terms * tl.maximum(below, -1e30), 0))  # 0 * -inf is NaN
    tl.store(facts_ptr + SCALED, tl.sum(scaled, 0))


@triton.jit
def likely_kernel(
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    facts_ptr,
    likely_ptr,
    vocab,
    SPLIT: tl.constexpr,
    LIKELY: tl.constexpr,
):
    """Puts a split's largest logits aside, in rows with a filter, and adds the largest of the others to its facts."""
    split, num_splits, row = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    if not _filters(temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, row, vocab):
        return
    logits = _load_split(logits_ptr + row.to(tl.int64) * vocab, split, vocab, SPLIT)
    peak = tl.max(logits, 0)
    below = logits - tl.where(peak == float("-inf"), 0.0, peak)
    # The largest bound that no more than LIKELY distances from the peak keep to.
    distances = (-below).to(tl.int32, bitcast=True)
    within, beyond = -1, INFINITE
    for _ in range(24):  # to a part in 2**16: near enough to LIKELY
        middle = within + (beyond - within) // 2
        fits = tl.sum((distances <= middle).to(tl.int32), 0) <= LIKELY
        within, beyond = tl.where(fits, middle, within), tl.where(fits, beyond, middle)
    aside = distances <= within
    places = tl.cumsum(aside.to(tl.int32), 0) - 1
    likely_ptr += (row.to(tl.int64) * num_splits + split) * LIKELY
    tl.store(likely_ptr + places, logits, aside)
    places = tl.arange(0, LIKELY)
    tl.store(likely_ptr + places, float("-inf"), places >= tl.sum(aside.to(tl.int32), 0))
    missed = tl.max(tl.where(aside, float("-inf"), logits), 0)
    tl.store(facts_ptr + (row.to(tl.int64) * num_splits + split) * 5 + MISSED, missed)


@triton.jit
def row_kernel(
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seeds_ptr,
    positions_ptr,
    facts_ptr,
    likely_ptr,
    tokens_ptr,
    results_ptr,
    vocab,
    num_splits,
    SPLITS: tl.constexpr,
    SPLIT: tl.constexpr,
    LIKELY: tl.constexpr,
):
    row, num_rows = tl.program_id(0), tl.num_programs(0)
    splits = tl.arange(0, SPLITS)
    there = splits < num_splits
    facts = facts_ptr + (row.to(tl.int64) * num_splits + splits) * 5
    peaks = tl.load(facts + PEAK, there, float("-inf"))
    peak = tl.max(peaks, 0)
    below = peaks - peak
    terms = tl.exp(below) * tl.load(facts + MASS, there, 0.0)
    slopes = tl.exp(below) * tl.load(facts + SLOPE, there, 0.0)
    mass = tl.sum(terms, 0)
    slope = tl.sum(slopes + terms * tl.maximum(below, -1e30), 0)

    temperature = tl.load(temperature_ptr + row)
    greedy = temperature == 0
    temperature = tl.where(greedy, 1.0, temperature)
    masses = (tl.load(facts + SCALED, there, 0.0) * tl.exp(below / temperature)).to(tl.float64)
    bound = INFINITE
    if _filters(temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, row, vocab):
        missed = tl.max(tl.load(facts + MISSED, there, float("-inf")), 0)
        top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
        min_p = tl.load(min_p_ptr + row)
        logits_row = logits_ptr + row.to(tl.int64) * vocab
        likely_row = likely_ptr + row.to(tl.int64) * num_splits * LIKELY
        bound, masses = _filtered(
            logits_row, likely_row, missed, peak, temperature, masses, top_k, top_p, min_p,
            vocab, num_splits, SPLITS, SPLIT, LIKELY
        )  # fmt: skip

    total = tl.sum(masses, 0)
    point = _uniform(tl.load(seeds_ptr + row), tl.load(positions_ptr + row)) * total
    split = tl.where(greedy, _first(peaks == peak, SPLITS), _reached(masses, point, SPLITS))
    point -= tl.sum(tl.where(splits < split, masses, 0.0), 0)
    share = point / tl.sum(tl.where(splits == split, masses, 0.0), 0)
    logits = _load_split(logits_ptr + row.to(tl.int64) * vocab, split, vocab, SPLIT)
    distances, weights = _scaled(logits, peak, temperature)
    weights = tl.where(distances <= bound, weights, 0.0).to(tl.float64)
    place = _reached(weights, share * tl.sum(weights, 0), SPLIT)
    place = tl.where(greedy, _first(logits == peak, SPLIT), place)
    chosen = tl.sum(tl.where(tl.arange(0, SPLIT) == place, logits, 0.0), 0) - peak
    logprob = tl.where(greedy, 0.0, chosen / temperature - tl.log(total.to(tl.float32)))
    tl.store(tokens_ptr + row, split.to(tl.int64) * SPLIT + place)
    tl.store(results_ptr + row, logprob)
    tl.store(results_ptr + num_rows + row, chosen - tl.log(mass))
    tl.store(results_ptr + 2 * num_rows + row, tl.log(mass) - slope / mass)


@triton.jit
def _filters(temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, row, vocab):
    """Whether a filter is on in a row that draws."""
    top_k = tl.load(top_k_ptr + row)
    some = ((top_k > 0) & (top_k < vocab)) | (tl.load(top_p_ptr + row) < 1)
    return (some | (tl.load(min_p_ptr + row) > 0)) & (tl.load(temperature_ptr + row) != 0)


@triton.jit
def _load_split(logits_row, split, vocab, SPLIT: tl.constexpr):
    at = split * SPLIT + tl.arange(0, SPLIT)
    return tl.load(logits_row + at, at < vocab, float("-inf"))


@triton.jit
def _first(hit, SIZE: tl.constexpr):
    """The first place that is true."""
    return tl.min(tl.where(hit, tl.arange(0, SIZE), SIZE), 0)


@triton.jit
def _reached(weights, point, SIZE: tl.constexpr):
    """The first place with a weight at which the summed weights pass point."""
    # Rounding may put the point behind them all: then the last one.
    last = tl.max(tl.where(weights > 0, tl.arange(0, SIZE), 0), 0)
    return tl.minimum(_first((weights > 0) & (tl.cumsum(weights, 0) > point), SIZE), last)


@triton.jit
def _scaled(logits, peak, temperature):
    """(peak - logit) / temperature as bits that order like it, and exp of its negative."""
    below = (logits - peak) / temperature
    return tl.where(below == 0, 0.0, -below).to(tl.int32, bitcast=True), tl.exp(below)


@triton.jit
def _filtered(
    logits_row,
    likely_row,
    missed,
    peak,
    temperature,
    masses,
    top_k,
    top_p,
    min_p,
    vocab,
    num_splits,
    SPLITS: tl.constexpr,
    SPLIT: tl.constexpr,
    LIKELY: tl.constexpr,
):
    """The distance (as bits) up to which a row keeps its tokens, and each split's mass within."""
    splits = tl.arange(0, SPLITS)[:, None]
    at = splits * LIKELY + tl.arange(0, LIKELY)[None, :]
    likely = tl.load(likely_row + at, splits < num_splits, float("-inf"))
    distances, weights = _scaled(likely, peak, temperature)
    # Up to this distance the likely are all there are.
    seen = (peak - missed) / temperature
    seen = tl.where(seen == 0, 0.0, seen).to(tl.int32, bitcast=True) - 1

    bound = INFINITE
    wanted = tl.sum(masses, 0)
    if (top_k > 0) & (top_k < vocab):
        bound = _least(
            logits_row, distances, weights, seen, peak, temperature, bound,
            top_k.to(tl.float64), vocab, True, SPLITS, SPLIT
        )  # fmt: skip
        wanted = tl.sum(
            _held(
                logits_row, distances, weights, bound <= seen, bound, peak, temperature,
                vocab, False, SPLITS, SPLIT
            )
        )  # fmt: skip
    if top_p < 1:
        bound = _least(
            logits_row, distances, weights, seen, peak, temperature, bound,
            wanted * top_p, vocab, False, SPLITS, SPLIT
        )  # fmt: skip
    if min_p > 0:
        # The largest has distance 0 and is never dropped, so min_p of it lies at -log(min_p).
        lowest = tl.maximum(-tl.log(min_p), 0.0)
        lowest = tl.where(lowest == 0, 0.0, lowest).to(tl.int32, bitcast=True)
        bound = tl.minimum(bound, lowest)
    return bound, _held(
        logits_row, distances, weights, bound <= seen, bound, peak, temperature,
        vocab, False, SPLITS, SPLIT
    )  # fmt: skip


@triton.jit
def _least(
    logits_row,
    distances,
    weights,
    seen,
    peak,
    temperature,
    bound,
    wanted,
    vocab,
    COUNT: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """The least distance within which a row has `wanted` tokens, or mass; it has it within bound."""
    # What the likely do not know lies beyond the answer if they hold enough by themselves.
    enough = tl.sum(_likely_held(distances, weights, seen, COUNT), 0) >= wanted
    within = -1
    for _ in range(31):
        middle = within + (bound - within) // 2
        held = _held(
            logits_row, distances, weights, enough, middle, peak, temperature,
            vocab, COUNT, SPLITS, SPLIT
        )  # fmt: skip
        reached = tl.sum(held, 0) >= wanted
        within, bound = tl.where(reached, within, middle), tl.where(reached, middle, bound)
    return tl.maximum(bound, 0)  # who wants nothing gets the largest


@triton.jit
def _likely_held(distances, weights, bound, COUNT: tl.constexpr):
    terms = tl.full(weights.shape, 1.0, tl.float32) if COUNT else weights
    return tl.sum(tl.where(distances <= bound, terms, 0.0).to(tl.float64), 1)


@triton.jit
def _held(
    logits_row,
    distances,
    weights,
    likely,
    bound,
    peak,
    temperature,
    vocab,
    COUNT: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Mass, or number, of each split's tokens within bound, of the likely alone or of the row."""
    if likely:
        sums = _likely_held(distances, weights, bound, COUNT)
    else:
        splits = tl.arange(0, SPLITS)
        sums = tl.zeros([SPLITS], tl.float64)
        for split in range(tl.cdiv(vocab, SPLIT)):
            logits = _load_split(logits_row, split, vocab, SPLIT)
            far, terms = _scaled(logits, peak, temperature)
            if COUNT:
                terms = tl.full([SPLIT], 1.0, tl.float32)
            held = tl.sum(tl.where(far <= bound, terms, 0.0).to(tl.float64), 0)
            sums = tl.where(splits == split, held, sums)
    return sums


@triton.jit
def _uniform(seed, position):
    """SplitMix64's finaliser over both, as in the twin; in [0, 1 - 2**-52], fp64."""
    golden = tl.full([], 0x9E3779B97F4A7C15, tl.uint64)
    bits = _mix(_mix(seed.to(tl.uint64) + golden) + position.to(tl.uint64) * golden)
    return (bits >> 12).to(tl.float64) * 2.220446049250313e-16  # 2**-52


@triton.jit
def _mix(bits):
    bits = (bits ^ (bits >> 30)) * tl.full([], 0xBF58476D1CE4E5B9, tl.uint64)
    bits = (bits ^ (bits >> 27)) * tl.full([], 0x94D049BB133111EB, tl.uint64)
    return bits ^ (bits >> 31)
