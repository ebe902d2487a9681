"""What a CUDA graph's tables hold from step to step: the step's, and nothing of the one before. On a CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.launch_plan import LaunchPlan, plan_launch

from wideseek.engine.step_graphs import Tables, _clear, _fill, _tables
from wideseek.engine.step_inputs import StepInputs

CPU = torch.device("cpu")
SIZE = 16


def step(kv_lens: list[int], q_lens: list[int], seed: int) -> tuple[StepInputs, LaunchPlan]:
    rng = np.random.default_rng(seed)
    rows = sum(q_lens)
    pages = [rng.integers(1, 99, -(-n // 64)) for n in kv_lens]
    tokens, positions, slots = (rng.integers(1, 999, n) for n in (rows + 3, rows + 3, rows))
    inputs = StepInputs(
        tokens=tokens,
        positions=positions,
        slots=slots,
        copies=np.empty((0, 2), np.int64),
        pages=pages,
        kv_lens=kv_lens,
        q_lens=q_lens,
    )
    return inputs, plan_launch(pages, kv_lens, q_lens, page_size=64, programs=30, device=CPU)


def check(tables: Tables, inputs: StepInputs, plan: LaunchPlan) -> None:
    count = len(inputs.slots)
    assert tables.tokens[:count].tolist() == inputs.tokens[:count].tolist()
    assert tables.positions[:count].tolist() == inputs.positions[:count].tolist()
    assert tables.slots.tolist() == [*inputs.slots.tolist(), *[-1] * (SIZE - count)]
    static = tables.plan
    for name in ("items", "tokens", "pages", "merges"):
        told = getattr(plan, name)
        assert torch.equal(getattr(static, name)[: len(told)], told), name
    assert static.items[len(plan.items) :].eq(0).all()
    assert static.merges[len(plan.merges) :].eq(SIZE - 1).all()
    # The row left over sees no key and folds the one partial of nothing.
    assert static.tokens[-1].tolist() == [SIZE - 1, 0, 0, 1]


@pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler")
def test_tables_hold_this_step_and_nothing_of_the_last() -> None:
    long = step([3000, 700, 65], [9, 1, 1], seed=0)
    assert len(long[1].merges) > 1
    plan = long[1]
    room = replace(
        plan,
        items=plan.items.new_empty(63, 5),
        tokens=plan.tokens.new_empty(SIZE, 4),
        merges=plan.merges.new_empty(SIZE),
        pages=plan.pages.new_empty(999),
    )
    tables = _tables(SIZE, room, CPU)
    _clear(tables)
    for each in (long, step([130], [2], seed=1), step([2000] * 15, [1] * 15, seed=2), long):
        _fill(tables, *each)
        check(tables, *each)
    aligned = (tables.tokens, tables.slots, tables.plan.items, tables.plan.merges)
    assert all(table.storage_offset() % 2 == 0 for table in aligned)
