"""Every Triton kernel compiles for the H200 without a GPU, at the sizes of a 4B model, and fits it.

Meta tensors stand for the real ones: an op computes its launches from shapes alone, so what is
compiled here is what a device would run.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="triton is in the dev extra, for Linux alone")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.driver import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402
from wideseek_kernels.launch_plan import LaunchPlan  # noqa: E402
from wideseek_kernels.on_triton import (  # noqa: E402
    exact_linear,
    kv_pages,
    kv_write,
    paged_attention,
    rms_norm,
    sample,
    swiglu,
    token_logprob,
)

SHARED_BYTES = 232_448
"""Of a program at most; a multiprocessor has 1024 more, and keeps 1024 for itself of each program."""

REGISTERS = 65_536
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
TOKENS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FEED, VOCAB = 8192, 2560, 32, 8, 128, 9728, 151936
PEOPLE = 256


class Hopper:
    """As much of a driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """What the compiler and cuobjdump say of a kernel."""

    def __init__(self, kernel: Any, folder: Path) -> None:
        cubin = folder / f"{kernel.metadata.name}.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        command = [TOOLS / "cuobjdump", "-res-usage", cubin]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        self.name: str = kernel.metadata.name
        self.shared: int = kernel.metadata.shared
        self.registers = int(re.search(r"REG:(\d+)", usage)[1])  # type: ignore[index]
        # Spilled registers lie on the stack.
        self.stack = int(re.search(r"STACK:(\d+)", usage)[1])  # type: ignore[index]
        self.local = int(re.search(r"LOCAL:(\d+)", usage)[1])  # type: ignore[index]
        waits = re.findall(r"cp\.async\.wait_group\s+(?:0x)?(\d+)", kernel.asm["ptx"])
        # Copies into shared memory that are still under way while what came before is computed on.
        self.under_way = max((int(count) for count in waits), default=0)
        self.threads: int = 32 * kernel.metadata.num_warps
        self.tensor_products: int = kernel.asm["ptx"].count("wgmma.mma_async")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Compiled]]:
    """Launches compile for an H200, run nothing and are kept here."""
    kernels: list[Compiled] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernels.append(Compiled(run(self, *args, grid=grid, warmup=True, **kwargs), tmp_path))

    monkeypatch.setattr(driver, "_active", Hopper())
    monkeypatch.setattr(JITFunction, "run", compile_only)
    yield kernels
    for module in (
        exact_linear,
        kv_pages,
        kv_write,
        paged_attention,
        rms_norm,
        sample,
        swiglu,
        token_logprob,
    ):
        for kernel in vars(module).values():
            if isinstance(kernel, JITFunction):
                kernel.device_caches.clear()  # compiled for no device of this machine


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16, grad: bool = False) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=grad)


def check(kernels: list[Compiled], *names: str) -> None:
    assert [kernel.name for kernel in kernels] == list(names)
    for kernel in kernels:
        print(f"{kernel.name}: {kernel.registers} registers, {kernel.shared} bytes shared")
        assert kernel.stack == 0 and kernel.local == 0, vars(kernel)
        assert kernel.shared <= SHARED_BYTES, vars(kernel)


def two_fit(kernel: Compiled) -> bool:
    """Whether a multiprocessor runs two programs at a time: one computes while the other waits."""
    held = -(-kernel.registers // 8) * 8 * kernel.threads
    return 2 * held <= REGISTERS and 2 * (kernel.shared + 1024) <= SHARED_BYTES + 1024


def test_rms_norm(compiled: list[Compiled]) -> None:
    x, weight = meta(TOKENS, HEADS, HEAD_DIM, grad=True), meta(HEAD_DIM, grad=True)
    rms_norm.rms_norm(x, weight, 1e-6).sum().backward()
    check(compiled, "rms_norm_kernel", "rms_norm_backward_kernel")


def test_add_rms_norm(compiled: list[Compiled]) -> None:
    x, residual = (meta(TOKENS, HIDDEN, grad=True) for _ in range(2))
    normed, summed = rms_norm.add_rms_norm(x, residual, meta(HIDDEN, grad=True), 1e-6)
    (normed.sum() + summed.sum()).backward()
    check(compiled, "rms_norm_kernel", "rms_norm_backward_kernel")


def test_swiglu(compiled: list[Compiled]) -> None:
    gate, up = (meta(TOKENS, FEED, grad=True) for _ in range(2))
    swiglu.swiglu(gate, up).sum().backward()
    check(compiled, "swiglu_kernel", "swiglu_backward_kernel")


# Caches in fp8 come as their bytes.
CACHES = [torch.bfloat16, torch.uint8]


@pytest.mark.parametrize("dtype", CACHES)
def test_norm_rotary_kv_write(compiled: list[Compiled], dtype: torch.dtype) -> None:
    cache = meta(1000, KV_HEADS, 64, HEAD_DIM, dtype=dtype)
    kv_write.norm_rotary_kv_write(
        meta(PEOPLE, HEADS, HEAD_DIM),
        meta(PEOPLE, KV_HEADS, HEAD_DIM),
        meta(PEOPLE, KV_HEADS, HEAD_DIM),
        meta(HEAD_DIM),
        meta(HEAD_DIM),
        1e-6,
        meta(PEOPLE, HEAD_DIM, dtype=torch.float32),
        meta(PEOPLE, HEAD_DIM, dtype=torch.float32),
        cache,
        cache,
        meta(PEOPLE, dtype=torch.int64),
    )
    check(compiled, "norm_rotary_kv_write_kernel")


def test_sample(compiled: list[Compiled]) -> None:
    floats = [meta(PEOPLE, dtype=torch.float32) for _ in range(3)]
    ints = [meta(PEOPLE, dtype=torch.int64) for _ in range(3)]
    sample.sample_with_entropy(
        meta(PEOPLE, VOCAB, dtype=torch.float32), floats[0], ints[0], *floats[1:], *ints[1:]
    )
    check(compiled, "split_kernel", "likely_kernel", "row_kernel")


def test_token_logprob(compiled: list[Compiled]) -> None:
    hidden, weight = meta(1024, HIDDEN, grad=True), meta(VOCAB, HIDDEN, grad=True)
    logprobs, entropies = token_logprob.token_logprob(hidden, weight, meta(1024, dtype=torch.int64))
    (logprobs.sum() + entropies.sum()).backward()
    check(compiled[:3], "part_kernel", "merge_kernel", "gradient_kernel")
    assert compiled[0].tensor_products > 0 and compiled[2].tensor_products > 0
    assert two_fit(compiled[0]) and compiled[0].under_way > 0


@pytest.mark.parametrize("rows", [64, TOKENS])
def test_exact_linear(compiled: list[Compiled], rows: int) -> None:
    exact_linear.exact_linear(meta(rows, HIDDEN), meta(HEADS * HEAD_DIM, HIDDEN))
    check(compiled, "product_kernel", *(["fold_kernel"] if rows == 64 else []))
    assert compiled[0].tensor_products > 0 and compiled[0].under_way > 0 and two_fit(compiled[0])


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_paged_attention(compiled: list[Compiled], head_dim: int, dtype: torch.dtype) -> None:
    cache = meta(1000, KV_HEADS, 64, head_dim, dtype=dtype)
    ints = {"dtype": torch.int64}
    tables = (meta(500, 5, **ints), meta(PEOPLE, 4, **ints), meta(99, **ints), meta(5000, **ints))
    plan = LaunchPlan(PEOPLE, 1000, *tables)
    q, lse = meta(PEOPLE, HEADS, head_dim), meta(PEOPLE, HEADS, dtype=torch.float32)
    paged_attention.paged_attention(q, cache, cache, plan, q, lse)
    check(compiled, "attention_kernel", "merge_kernel")
    assert compiled[0].tensor_products > 0 and two_fit(compiled[0])
    assert compiled[0].under_way == 2, "the next tile's keys and values"


@pytest.mark.parametrize("dtype", CACHES)
def test_kv_pages(compiled: list[Compiled], dtype: torch.dtype) -> None:
    cache = meta(1000, KV_HEADS, 64, HEAD_DIM, dtype=dtype)
    numbers = meta(PEOPLE, dtype=torch.int64)
    kv_pages.kv_copy(cache, cache, numbers, numbers)
    kv_pages.kv_gather(cache, cache, numbers)
    check(compiled, "kv_copy_kernel", "kv_gather_kernel")
