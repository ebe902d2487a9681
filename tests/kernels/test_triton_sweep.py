"""`bench/kernel_sweep.py`: its wider items hold what the plan's did, and on a CUDA device give the same bits."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.launch_plan import plan_launch
from wideseek_kernels.paged_attention import paged_attention_with_lse, plan_attention

pytest.importorskip("triton", reason="triton is in the dev extra, for Linux alone")
pytestmark = [pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler to plan with")]
BENCH = Path(__file__).resolve().parents[2] / "bench"
CPU = torch.device("cpu")


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("kernel_sweep")


def test_each_trial_is_one_setting_and_counts_what_it_moves(sweep: Any) -> None:
    trials = list(sweep.trials(CPU, sweep.SMALL))
    names = [(trial.case, trial.setting) for trial in trials]
    assert len(set(names)) == len(names) > 40
    assert all(trial.bytes > 0 for trial in trials)


def test_paired_items_hold_the_same_queries_and_tiles(sweep: Any) -> None:
    pages, lens = [np.arange(5), np.arange(7, 9)], [300, 100]
    plan = plan_launch(pages, lens, lens, page_size=64, programs=1, device=CPU)
    paired = sweep.paired(plan)
    assert len(paired.items) == (-(-300 // 16) + 1) // 2 + (-(-100 // 16) + 1) // 2
    most = {token: item[4] for item in plan.items.tolist() for token in range(*item[:2])}
    held: list[int] = []
    for begin, end, page, tile_from, tile_to in paired.items.tolist():
        assert 0 < end - begin <= 32 and tile_from == 0
        assert page == (0 if begin < 300 else 5)
        assert tile_to == max(most[token] for token in range(begin, end))
        held += range(begin, end)
    assert sorted(held) == list(range(400))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("head_dim", [64, 128])
def test_no_setting_changes_a_bit(sweep: Any, head_dim: int) -> None:
    torch.manual_seed(0)
    k, v = (torch.randn(20, 2, 64, head_dim, device="cuda").bfloat16() for _ in range(2))
    q = torch.randn(900, 8, head_dim, device="cuda").bfloat16()
    pages, lens = [np.arange(15)[::-1].copy()], [900]
    plan = plan_attention(pages, lens, lens, k)
    whole = plan_launch(pages, lens, lens, page_size=64, programs=1, device=k.device)
    expected = paged_attention_with_lse(q, k, v, replace(plan, parts=whole))
    for launch in {*sweep.DECODING, *sweep.PREFILLING}:
        if launch.num_warps * 16 > launch.tokens * 4:
            continue  # two warps share a row's softmax: another order of its sums
        parts = whole if launch.tokens == 16 else sweep.paired(whole)
        actual = torch.full_like(q, torch.nan), torch.full(q.shape[:2], torch.nan, device=q.device)
        sweep.paged_attention(q, k, v, parts, *actual, launch)
        for one, other in zip(actual, expected, strict=True):
            assert torch.equal(one, other), launch
