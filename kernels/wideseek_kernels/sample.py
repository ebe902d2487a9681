"""Draws the next token of each row, with its log-probabilities.

A row's token depends on that row alone: its draw is a hash of (seed, position), not a state.
"""

import torch
from torch import Tensor

from wideseek_kernels import reference_sample
from wideseek_kernels.border import check, check_for_kernel, takes_csrc, takes_kernel


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample one token a row; filters apply in the order temperature, top-k, top-p, min-p.

    logits [N, V] fp32; temperature, top_p, min_p [N] fp32; top_k, seeds, positions [N] int64.
    temperature 0 takes the largest logit; top_k 0, top_p 1 and min_p 0 are off. A filter keeps or
    drops equal logits together: top-k keeps what is no smaller than the k-th largest, top-p the
    most likely tokens until they hold top_p of what top-k left, min-p what has at least min_p of
    the largest probability.
    Returns tokens [N] int64, their log-probability under the distribution drawn from [N] fp32 (0
    for temperature 0) and under softmax(logits) [N] fp32. Raises ValueError.
    """
    settings = (temperature, top_k, top_p, min_p, seeds, positions)
    _check(logits, *settings)
    if takes_kernel(logits):
        return _on_triton(logits, *settings)[:3]
    if takes_csrc(logits):
        return _on_cpu(logits, *settings)
    return reference_sample.sample(logits, *settings)


def sample_with_entropy(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`sample`, and the entropy of softmax(logits) in nats [N] fp32, which a GPU has for free."""
    settings = (temperature, top_k, top_p, min_p, seeds, positions)
    _check(logits, *settings)
    if takes_kernel(logits):
        return _on_triton(logits, *settings)
    sampled = _on_cpu if takes_csrc(logits) else reference_sample.sample
    return *sampled(logits, *settings), reference_sample.entropy(logits)


def _on_cpu(logits: Tensor, *settings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    temperature, top_k, top_p, min_p, seeds, positions = (x.contiguous() for x in settings)
    tokens, logprobs = torch.empty_like(seeds), torch.empty_like(temperature)
    plain = torch.empty_like(temperature)
    torch.ops.wideseek.sample(
        logits,
        temperature,
        top_k,
        top_p,
        min_p,
        seeds,
        positions,
        tokens,
        logprobs,
        plain,
        torch.get_num_threads(),
    )
    return tokens, logprobs, plain


def _on_triton(logits: Tensor, *settings: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    names = ("temperature", "top_k", "top_p", "min_p", "seeds", "positions")
    check_for_kernel(logits=logits, **dict(zip(names, settings, strict=True)))
    from wideseek_kernels.on_triton import sample as on_triton

    return on_triton.sample_with_entropy(logits, *settings)


def _check(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> None:
    check("logits", logits, (None, None), logits.device, torch.float32)
    for name, x in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
        check(name, x, (len(logits),), logits.device, torch.float32)
    for name, x in (("top_k", top_k), ("seeds", seeds), ("positions", positions)):
        check(name, x, (len(logits),), logits.device, torch.int64)
