"""Triton's paged attention against the definition in fp64, and the same to the bit however a step is cut.

On a CUDA device, or on the CPU in Triton's interpreter: test_triton_interpreted.py sees to that. Free
pages and what the kernels allocate are full of NaN.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.kv_cache import FP8
from wideseek_kernels.launch_plan import LaunchPlan, plan_launch
from wideseek_kernels.paged_attention import paged_attention_with_lse, plan_attention

from tests.kernels.paged_step import PagedStep

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler to plan with")]
if not INTERPRETED:
    pytestmark += [
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ]

# The interpreter adds up bf16 wrongly.
DTYPES = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])
every_storage = pytest.mark.parametrize(
    ("dtype", "cache"), [(dtype, cache) for dtype in DTYPES for cache in (dtype, FP8)]
)
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("error")  # with which torch fills what it allocates with NaN
    yield
    torch.set_deterministic_debug_mode("default")


class Step(PagedStep):
    """A step on the tests' device, in fp32 unless told otherwise."""

    def __init__(
        self,
        kv_lens: list[int],
        q_lens: list[int],
        shared: list[int] | None = None,
        *,
        head_dim: int = 32,
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> None:
        settings |= {"head_dim": head_dim, "dtype": dtype, "device": DEVICE}
        super().__init__(kv_lens, q_lens, shared, **settings)

    def attend(self, programs: int = 4) -> tuple[Tensor, Tensor]:
        plan = plan_attention(self.pages, self.kv_lens, self.q_lens, self.k_cache, self.q.dtype)
        assert isinstance(plan.parts, LaunchPlan)
        parts = plan_launch(
            self.pages,
            self.kv_lens,
            self.q_lens,
            page_size=self.k_cache.shape[2],
            programs=programs,
            device=self.q.device,
        )
        return paged_attention_with_lse(
            self.q, self.k_cache, self.v_cache, replace(plan, parts=parts)
        )

    def alone(self, i: int, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Queries first to end of sequence i, with nothing beside them."""
        row = sum(self.q_lens[:i]) - (self.kv_lens[i] - self.q_lens[i])
        step = ([self.pages[i]], [end], [end - first])
        plan = plan_attention(*step, self.k_cache, self.q.dtype)
        return paged_attention_with_lse(
            self.q[row + first : row + end], self.k_cache, self.v_cache, plan
        )


def close(
    actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], dtype: torch.dtype
) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(
            one.double().cpu(), other, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype]
        )


@every_storage
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (2, 2), (6, 2)])
def test_decode_extend_and_prefill_in_one_launch(
    heads: int, kv_heads: int, dtype: torch.dtype, cache: torch.dtype
) -> None:
    shape = {"heads": heads, "kv_heads": kv_heads}
    step = Step([300, 99, 19, 1, 512], [1, 40, 19, 1, 2], **shape, dtype=dtype, cache=cache)
    close(step.attend(), step.dense(), dtype)


def test_fp8_has_the_bits_of_its_numbers() -> None:
    """In fp32. Tensor cores sum fp16 in an order that goes by the bytes that were loaded, and bf16 is taken as fp16."""
    step = Step([300, 70], [3, 1], cache=FP8)
    stored = step.attend()
    step.k_cache, step.v_cache = step.k_cache.float(), step.v_cache.float()
    assert all(torch.equal(*pair) for pair in zip(stored, step.attend(), strict=True))


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("page_size", [16, 64, 128])
def test_every_head_and_page_size(page_size: int, head_dim: int) -> None:
    step = Step([290, 70], [3, 1], page_size=page_size, head_dim=head_dim)
    close(step.attend(), step.dense(), torch.float32)


def test_rows_beyond_the_plan_are_zero() -> None:
    step = Step([70], [2])
    step.q = torch.cat((step.q, torch.full_like(step.q[:1], torch.nan)))
    out, lse = step.attend()
    assert out[2].eq(0).all() and lse[2].eq(-torch.inf).all()
    assert not out[:2].isnan().any()


def test_an_empty_step_is_a_plan_too() -> None:
    step = Step([70], [2])
    step.pages, step.kv_lens, step.q_lens = [], [], []
    assert step.attend()[0].eq(0).all()


@every_storage
def test_splitting_changes_no_bit(dtype: torch.dtype, cache: torch.dtype) -> None:
    step = Step([1100, 300, 513], [1, 17, 3], dtype=dtype, cache=cache)
    whole, split = step.attend(programs=1), step.attend(programs=64)
    assert all(torch.equal(one, other) for one, other in zip(whole, split, strict=True))
    close(split, step.dense(), dtype)


@every_storage
def test_sharing_batch_mates_and_chunks_change_no_bit(
    dtype: torch.dtype, cache: torch.dtype
) -> None:
    shared = [0, 512, 512, 256, 0]
    step = Step([600, 700, 520, 300, 130], [1, 20, 1, 1, 2], shared, dtype=dtype, cache=cache)
    together = step.attend()
    plan = plan_attention(step.pages, step.kv_lens, step.q_lens, step.k_cache, dtype).parts
    assert isinstance(plan, LaunchPlan) and plan.num_partials > 0
    close(together, step.dense(), dtype)
    row = 0
    for i, (kv_len, q_len) in enumerate(zip(step.kv_lens, step.q_lens, strict=True)):
        for first in range(kv_len - q_len, kv_len, 7):
            end = min(first + 7, kv_len)
            for one, other in zip(step.alone(i, first, end), together, strict=True):
                assert torch.equal(one, other[row : row + end - first])
            row += end - first
