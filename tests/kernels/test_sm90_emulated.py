"""The Hopper attention's algorithm in numpy against the twin and the definition, and to the bit however a step is cut.

What is emulated is in sm90_emulated.py: shared memory, descriptors, registers, masks, chunks, partials and their merge, from
the layout that the kernel is compiled with. Free places, pages and results are NaN until something is written there.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from wideseek_kernels.attention_sm90 import refused
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.launch_plan import LaunchPlan, plan_launch

from tests.kernels.paged_step import PagedStep, items_sm90, off
from tests.kernels.sm90_emulated import Emulated

pytestmark = pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler")


def emulated(step: PagedStep, plan: LaunchPlan) -> tuple[Tensor, Tensor]:
    done = Emulated(step.q.numpy(), step.k_cache.numpy(), step.v_cache.numpy(), plan)
    return torch.from_numpy(done.out), torch.from_numpy(done.lse)


def right(step: PagedStep, found: tuple[Tensor, Tensor]) -> None:
    for expected in (step.dense(), step.twin()):
        assert off(found[0], expected[0]) < 6e-4  # weights and results in fp16
        assert (found[1] - expected[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page_size"),
    [(4, 1, 64, 64), (2, 2, 128, 64), (6, 2, 64, 16), (8, 1, 128, 8), (4, 2, 64, 128)],
)
def test_decode_extend_and_prefill_in_one_step(
    heads: int, kv_heads: int, head_dim: int, page_size: int
) -> None:
    step = PagedStep(
        [300, 99, 19, 1, 512],
        [1, 40, 19, 1, 2],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        page_size=page_size,
    )
    right(step, emulated(step, items_sm90(step)))


def test_items_of_the_triton_kernel_are_read_as_well() -> None:
    step = PagedStep([200, 70], [30, 1])
    plan = plan_launch(
        step.pages,
        step.kv_lens,
        step.q_lens,
        page_size=64,
        programs=4,
        device=torch.device("cpu"),
    )
    right(step, emulated(step, plan))


def test_padding_of_a_captured_step_does_nothing() -> None:
    step = PagedStep([70], [3])
    plan = items_sm90(step)
    padded = replace(plan, items=torch.cat((plan.items, torch.zeros(2, 5, dtype=torch.int64))))
    for one, other in zip(emulated(step, plan), emulated(step, padded), strict=True):
        assert torch.equal(one, other)


def test_splitting_changes_no_bit() -> None:
    step = PagedStep([1100, 300, 513], [1, 17, 3], kv_heads=1)
    whole, split = items_sm90(step, 1), items_sm90(step, 64)
    assert whole.num_partials == 0 < split.num_partials
    found = emulated(step, split)
    right(step, found)
    for one, other in zip(emulated(step, whole), found, strict=True):
        assert torch.equal(one, other)


def test_sharing_batch_mates_chunks_and_places_change_no_bit() -> None:
    shared = [0, 512, 512, 256, 0]
    kv_lens, q_lens = [600, 700, 520, 300, 130], [1, 20, 1, 1, 2]
    step = PagedStep(kv_lens, q_lens, shared, kv_heads=1)
    assert items_sm90(step).num_partials > 0
    together = emulated(step, items_sm90(step))
    right(step, together)
    row = 0
    for i, (kv_len, q_len) in enumerate(zip(kv_lens, q_lens, strict=True)):
        for first in range(kv_len - q_len, kv_len, 7):
            end = min(first + 7, kv_len)
            alone = PagedStep(kv_lens, q_lens, shared, kv_heads=1, placed=1)
            alone.pages, alone.kv_lens, alone.q_lens = [alone.pages[i]], [end], [end - first]
            alone.q = step.q[row : row + end - first]
            for one, other in zip(emulated(alone, items_sm90(alone)), together, strict=True):
                assert torch.equal(one, other[row : row + end - first])
            row += end - first


def test_items_hold_128_rows_and_are_as_many_as_multiprocessors() -> None:
    for heads, tokens in ((8, 128), (32, 32), (24, 32), (64, 16)):
        step = PagedStep([16896], [512], heads=heads, kv_heads=8)
        plan = items_sm90(step)
        assert plan.most_tokens == tokens
        assert int((plan.items[:, 1] - plan.items[:, 0]).max()) == tokens
    # An extension that fills the device is not split: each chunk apart would be written and read again.
    plan = items_sm90(PagedStep([16896], [512], heads=32, kv_heads=8))
    assert len(plan.items) == 16 and plan.num_partials == 0


@pytest.mark.parametrize(
    ("shape", "dtype", "heads", "told"),
    [
        ((4, 2, 64, 64), torch.float32, 8, "16-bit floats"),
        ((4, 2, 64, 32), torch.float16, 8, "head_dim 32"),
        ((4, 2, 48, 64), torch.float16, 8, "pages of 48"),
        ((4, 2, 4, 64), torch.float16, 8, "pages of 4"),
        ((4, 2, 64, 64), torch.float16, 9, "num_heads is 9"),
        ((4, 1, 64, 64), torch.float16, 256, "num_heads is 256"),
        ((4, 2, 64, 64), torch.float16, 4, "the Triton kernel has other bits"),
    ],
)
def test_what_the_kernel_is_not_for_is_refused_with_a_reason(
    shape: tuple[int, ...], dtype: torch.dtype, heads: int, told: str
) -> None:
    found = refused(torch.zeros(shape, dtype=dtype), heads)
    assert found is not None and told in found
    assert refused(torch.zeros(4, 2, 16, 128, dtype=torch.bfloat16), 8) is None


def test_rows_of_a_plan_may_be_any() -> None:
    """As where some sequences of a step go to one kernel and some to the other."""
    step = PagedStep([300, 70], [3, 2], kv_heads=1)
    whole = emulated(step, items_sm90(step))
    rows = np.array([4, 2, 0, 1, 3])
    plan = items_sm90(step, rows=rows)
    step.q = step.q[np.argsort(rows)]
    for one, other in zip(emulated(step, plan), whole, strict=True):
        assert torch.equal(one[rows], other)
