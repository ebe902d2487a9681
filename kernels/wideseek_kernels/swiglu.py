"""Gate of the feed-forward layer."""

from torch import Tensor

from wideseek_kernels import reference


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise; both [..., N], the result in their dtype.

    Source: Shazeer 2020, arXiv 2002.05202, section 2.
    """
    return reference.swiglu(gate, up)
