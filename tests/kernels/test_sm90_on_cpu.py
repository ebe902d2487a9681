"""The Hopper kernel itself, compiled for a CPU: threads take turns by chance, copies and products end as late as they may.

What stands in for the hardware is hopper_on_cpu/hopper.cuh: barriers and their phases, copies in boxes, swizzled shared
memory, descriptors, products on registers as the PTX ISA has them. It tells of whoever waits for ever, reads what is not
there yet or not fenced, or arrives too often. It knows nothing of memory order, of registers, or of time.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from wideseek_kernels import cpu_build
from wideseek_kernels.cuda_build import AttentionSm90
from wideseek_kernels.launch_plan import LaunchPlan

from tests.kernels.paged_step import PagedStep, items_sm90, off, same

pytestmark = pytest.mark.skipif(not cpu_build.cpu_kernels(), reason="no C++ compiler")
STAND_IN = Path(__file__).parent / "hopper_on_cpu"
FLAGS = ["-std=c++20", "-O2", "-march=native", "-ffp-contract=off", "-fPIC", "-shared"]


@functools.cache
def library() -> ctypes.CDLL:
    """Our sources beside the stand-in for hopper.cuh: `#include` finds that one there."""
    with tempfile.TemporaryDirectory() as folder:
        for path in [*cpu_build.SOURCE.glob("*_sm90.cuh"), *STAND_IN.iterdir()]:
            shutil.copy(path, folder)
        command = [cpu_build._compiler(), *FLAGS, f"{folder}/run.cpp", "-o", f"{folder}/run.so"]
        subprocess.run(command, check=True)
        found = ctypes.CDLL(f"{folder}/run.so")
    found.run_on_cpu.restype = ctypes.c_char_p
    return found


def run(
    step: PagedStep, plan: LaunchPlan, *, blocks: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor]:
    q, k, v = step.q, step.k_cache, step.v_cache
    heads, head_dim = q.shape[1:]
    out = torch.full_like(q, torch.nan)
    lse = torch.full(q.shape[:2], torch.nan)
    partials = torch.full((plan.num_partials, heads, head_dim), torch.nan)
    states = torch.full((plan.num_partials, heads, 2), torch.nan)
    given = AttentionSm90(
        *(x.data_ptr() for x in (q, k, v, out, lse, partials, states)),
        *(x.data_ptr() for x in (plan.items, plan.tokens, plan.merges, plan.pages)),
        None,
        *(len(plan.items), len(plan.merges), plan.most_tokens),
        *(heads, k.shape[1], k.shape[0], k.shape[2], head_dim),
        *(0, True),
    )
    broken = library().run_on_cpu(ctypes.byref(given), blocks, seed)
    assert broken is None, broken
    return out, lse


def step_of(kv_lens: list[int], q_lens: list[int], *args: list[int], **settings: int) -> PagedStep:
    return PagedStep(kv_lens, q_lens, *args, dtype=torch.bfloat16, **settings)  # type: ignore[arg-type]


def right(step: PagedStep, found: tuple[Tensor, Tensor]) -> None:
    for expected in (step.dense(), step.twin()):
        assert off(found[0], expected[0]) < 4e-3
        assert (found[1] - expected[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page_size"),
    [(4, 1, 128, 64), (6, 2, 64, 16), (8, 1, 128, 8), (2, 2, 64, 128)],
)
def test_decode_extend_and_prefill_in_one_step(
    heads: int, kv_heads: int, head_dim: int, page_size: int
) -> None:
    step = step_of(
        [300, 99, 1],
        [3, 40, 1],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        page_size=page_size,
    )
    plan = items_sm90(step)
    found = run(step, plan)
    right(step, found)
    same(found, run(step, plan, blocks=1, seed=3))


def test_a_ring_goes_round_and_splitting_changes_no_bit() -> None:
    step = step_of([2300, 600], [1, 33], heads=2, kv_heads=1, head_dim=128)
    whole, split = items_sm90(step, 1), items_sm90(step, 64)
    assert whole.num_partials == 0 < split.num_partials
    found = run(step, whole, blocks=1)
    right(step, found)
    same(found, run(step, split, blocks=3))


def test_sharing_changes_no_bit() -> None:
    step = step_of([1100, 1030], [2, 1], [0, 1024], heads=4, kv_heads=1)
    plan = items_sm90(step)
    assert plan.num_partials > 0
    together = run(step, plan)
    right(step, together)
    step.pages, step.kv_lens, step.q_lens = step.pages[1:], [1030], [1]
    step.q = step.q[2:].contiguous()
    same(run(step, items_sm90(step)), (together[0][2:], together[1][2:]))


def test_padding_of_a_captured_step_does_nothing() -> None:
    step = step_of([70, 200], [3, 70], kv_heads=1)
    plan = items_sm90(step)
    zeros = torch.zeros(5, 5, dtype=torch.int64)
    padded = replace(plan, items=torch.cat((plan.items, zeros)))
    same(run(step, plan), run(step, padded, blocks=3))
