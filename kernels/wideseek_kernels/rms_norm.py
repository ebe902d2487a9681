"""Root-mean-square norm."""

from torch import Tensor

from wideseek_kernels import reference


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last dimension.

    x [..., N], weight [N] -> [..., N] in the dtype of x; the mean is taken in fp32. Rows do not see
    each other. Source: Zhang and Sennrich 2019, arXiv 1910.07467.
    """
    return reference.rms_norm(x, weight, eps)
