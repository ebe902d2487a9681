"""What every op does at its border: checks its tensors and picks Triton, C++ or the twin."""

import os

import torch
from torch import Tensor

from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.kv_cache import FP8

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton reads it too, and then runs its kernels as Python on the CPU."""

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels load and store; they compute in fp32."""

CSRC_DTYPES = (torch.float32, torch.bfloat16)
"""What the C++ kernels load and store; they compute in fp32."""

CSRC_CACHES = (*CSRC_DTYPES, FP8)
"""What they take as caches of keys and values."""

FLOATS = (*KERNEL_DTYPES, torch.float64)


def takes_kernel(x: Tensor) -> bool:
    """Whether x goes to the Triton kernel: it lies on a CUDA device, or Triton is interpreted.

    An empty tensor does not: there is nothing to launch.
    """
    return (x.is_cuda or INTERPRETED) and x.numel() > 0


def takes_csrc(
    x: Tensor,
    *others: Tensor | None,
    differentiable: bool = False,
    dtypes: tuple[torch.dtype, ...] = CSRC_DTYPES,
) -> bool:
    """Whether x goes to the C++ kernel: on the CPU, the kernels are built, and no gradient is wanted.

    x and the others, the op's further floats, must be of these dtypes, and side by side in memory. differentiable: the op
    has gradients of its own, of fp32 only.
    """
    if INTERPRETED or x.device.type != "cpu" or x.numel() == 0:
        return False
    with_grad = torch.is_grad_enabled()
    for each in (x, *others):
        if each is not None and (
            each.dtype not in dtypes
            or not each.is_contiguous()
            or (
                with_grad
                and each.requires_grad
                and not (differentiable and each.dtype == torch.float32)
            )
        ):
            return False
    return cpu_kernels()


def check(
    name: str,
    x: Tensor,
    shape: tuple[int | None, ...],
    device: torch.device,
    *dtypes: torch.dtype,
) -> None:
    """ValueError naming x unless it has this shape (None: any), device and one of the dtypes."""
    fits = x.dim() == len(shape) and all(
        wanted is None or wanted == size for wanted, size in zip(shape, x.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("*" if wanted is None else str(wanted) for wanted in shape)
        raise ValueError(f"{name} has shape {list(x.shape)}, expected [{expected}]")
    if x.device != device:
        raise ValueError(f"{name} is on {x.device}, expected {device}")
    if dtypes and x.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise ValueError(f"{name} is {x.dtype}, expected {expected}")


def check_for_kernel(**tensors: Tensor) -> None:
    """ValueError naming the first of the tensors that a kernel cannot read: strided, or fp64."""
    for name, x in tensors.items():
        if not x.is_contiguous():
            raise ValueError(f"{name} is not contiguous: strides {x.stride()} of {list(x.shape)}")
        if x.is_floating_point() and x.dtype not in KERNEL_DTYPES:
            raise ValueError(f"{name} is {x.dtype}, which no kernel computes in")
