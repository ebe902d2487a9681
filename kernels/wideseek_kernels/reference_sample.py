"""Plain-PyTorch twin of `sample`: the oracle of its kernel, and what CPU tensors run."""

import torch
from torch import Tensor

LIKELY = 256
"""Tokens among which top-p is sought first; most distributions have it there, and need no sort."""


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One token a row; see `wideseek_kernels.sample`."""
    plain = torch.log_softmax(logits, -1)
    tokens = logits.argmax(-1)
    logprobs = torch.zeros_like(temperature)
    rows = temperature.nonzero()[:, 0]
    if len(rows):
        drawn = _filtered(logits[rows], temperature[rows], top_k[rows], top_p[rows], min_p[rows])
        log_probs = torch.log_softmax(drawn, -1)
        chosen = _draw(log_probs, uniform(seeds[rows], positions[rows]))
        tokens[rows] = chosen
        logprobs[rows] = log_probs.gather(-1, chosen[:, None])[:, 0]
    return tokens, logprobs, plain.gather(-1, tokens[:, None])[:, 0]


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats; [N, V] -> [N]."""
    log_probs = torch.log_softmax(logits, -1)
    # A token that cannot come has -inf here, which times 0 is NaN.
    return -(log_probs.exp() * log_probs.clamp_min(torch.finfo(logits.dtype).min)).sum(-1)


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """Numbers in [0, 1 - 2**-52], one for each (seed, position); int64 [N] -> fp64 [N].

    SplitMix64's finaliser over both; source: Steele, Lea and Flood 2014, figure 16.
    """
    golden = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as int64
    bits = _mix(_mix(seeds + golden) + positions * golden)
    return _shifted(bits, 12).double() * 2.0**-52


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    bits = (bits ^ _shifted(bits, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Logical shift to the right; int64's own keeps the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _filtered(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor
) -> Tensor:
    """Logits over temperature, -inf where a filter drops a token; only rows with filters sort."""
    # Less the largest first: a tiny temperature must not overflow.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature[:, None]
    rows = ((top_k > 0) & (top_k < logits.shape[1])).nonzero()[:, 0]
    if len(rows):
        scaled[rows] = _keep_top_k(scaled[rows], top_k[rows])
    rows = (top_p < 1).nonzero()[:, 0]
    if len(rows):
        scaled[rows] = _keep_top_p(scaled[rows], top_p[rows])
    rows = (min_p > 0).nonzero()[:, 0]
    if len(rows):
        # The largest is 0 and never dropped, so min_p of its probability is log(min_p).
        scaled[rows] = _drop_below(scaled[rows], min_p[rows, None].log())
    return scaled


def _keep_top_k(scaled: Tensor, top_k: Tensor) -> Tensor:
    largest = scaled.topk(int(top_k.max()), -1).values
    return _drop_below(scaled, largest.gather(-1, top_k[:, None] - 1))


def _keep_top_p(scaled: Tensor, top_p: Tensor) -> Tensor:
    # The largest is 0 in every row: nothing overflows.
    wanted = top_p * scaled.exp().sum(-1, dtype=torch.float64)
    likely = scaled.topk(min(LIKELY, scaled.shape[1]), -1).values
    threshold, reached = _where_mass_reaches(likely, wanted)
    rows = (~reached).nonzero()[:, 0]
    if len(rows):
        descending = scaled[rows].sort(-1, descending=True).values
        threshold[rows], _ = _where_mass_reaches(descending, wanted[rows])
    return _drop_below(scaled, threshold[:, None])


def _where_mass_reaches(descending: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The entry of each row at which the summed exp reaches `wanted`, and whether one does."""
    mass = descending.double().exp().cumsum(-1)
    place = torch.searchsorted(mass, wanted[:, None])
    reached = place[:, 0] < descending.shape[1]
    place.clamp_(max=descending.shape[1] - 1)
    return descending.gather(-1, place)[:, 0], reached


def _drop_below(scaled: Tensor, threshold: Tensor) -> Tensor:
    return scaled.masked_fill(scaled < threshold, -torch.inf)


def _draw(log_probs: Tensor, points: Tensor) -> Tensor:
    """The token of each row whose stretch of the summed probabilities holds the row's point."""
    mass = log_probs.double().exp_().cumsum(-1)
    places = torch.searchsorted(mass, (points * mass[:, -1])[:, None], right=True)[:, 0]
    return places.clamp_max(mass.shape[1] - 1)  # a row of NaN reaches none
