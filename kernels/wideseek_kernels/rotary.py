"""Rotary position embedding."""

from torch import Tensor

from wideseek_kernels import reference


def apply_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate the pairs (i, i + D/2) of every head by the angle of the token's position.

    q [T, H, D], k [T, KV, D] -> new tensors of the same shapes and dtypes. cos, sin [T, D] in fp32:
    both halves of a cos row are equal, the first half of a sin row is negated, so that
    out = x * cos + roll(x, D/2) * sin; that sum is taken in fp32.
    Source: Su et al. 2021, arXiv 2104.09864, section 3.4, in Hugging Face's half-split layout.
    """
    return reference.apply_rotary(q, k, cos, sin)
