"""The Hopper attention on a Hopper GPU: right, and the same to the bit however a step is cut. What is allocated is NaN."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from wideseek_kernels.attention_sm90 import takes_sm90
from wideseek_kernels.paged_attention import paged_attention_with_lse, plan_attention

from tests.kernels.paged_step import PagedStep, off, plan_sm90, same

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        torch.cuda.is_available() and not takes_sm90(torch.device("cuda")),
        reason="needs a Hopper GPU, nvcc and a C++ compiler",
    ),
]
DTYPES = [torch.bfloat16, torch.float16]
TOLERANCES = {torch.bfloat16: 4e-3, torch.float16: 6e-4}


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("error")  # with which torch fills what it allocates with NaN
    yield
    torch.set_deterministic_debug_mode("default")


def on_gpu(kv_lens: list[int], q_lens: list[int], *args: Any, **kwargs: Any) -> PagedStep:
    return PagedStep(kv_lens, q_lens, *args, device="cuda", **kwargs)


def attend(step: PagedStep, programs: int | None = None) -> tuple[Tensor, Tensor]:
    return paged_attention_with_lse(step.q, step.k_cache, step.v_cache, plan_sm90(step, programs))


def right(step: PagedStep, found: tuple[Tensor, Tensor]) -> None:
    for expected in (step.dense(), step.twin()):
        assert off(found[0], expected[0]) < TOLERANCES[step.q.dtype]
        assert (found[1].cpu() - expected[1]).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_one_whole_tile_of_one_head(head_dim: int, dtype: torch.dtype) -> None:
    """The least that can go wrong: where this fails, so does everything below."""
    step = on_gpu([64], [64], heads=1, kv_heads=1, head_dim=head_dim, dtype=dtype)
    right(step, attend(step))


@pytest.mark.parametrize("length", [1, 63, 65, 128, 200, 256, 257, 512, 1100])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_prefill_of_every_length(head_dim: int, length: int) -> None:
    step = on_gpu([length], [length], head_dim=head_dim, dtype=torch.bfloat16)
    right(step, attend(step))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (2, 2), (6, 2), (32, 8), (16, 1)])
def test_decode_extend_and_prefill_in_one_launch(
    heads: int, kv_heads: int, dtype: torch.dtype
) -> None:
    step = on_gpu(
        [300, 99, 19, 1, 512, 2000],
        [1, 40, 19, 1, 2, 333],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128,
        dtype=dtype,
    )
    right(step, attend(step))


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("page_size", [8, 16, 32, 64, 128, 192])
def test_every_head_and_page_size(page_size: int, head_dim: int) -> None:
    step = on_gpu([290, 70, 515], [33, 1, 200], page_size=page_size, head_dim=head_dim)
    right(step, attend(step))


def test_more_work_than_multiprocessors_and_rings() -> None:
    step = on_gpu([900 + 64 * i for i in range(12)], [400] * 12, heads=32, kv_heads=8, head_dim=128)
    found = attend(step)
    right(step, found)
    for _ in range(3):
        same(found, attend(step))


def test_rows_beyond_the_plan_are_zero_and_an_empty_step_is_a_plan() -> None:
    step = on_gpu([70], [2])
    step.q = torch.cat((step.q, torch.full_like(step.q[:1], torch.nan)))
    out, lse = attend(step)
    assert out[2].eq(0).all() and lse[2].eq(-torch.inf).all() and not out[:2].isnan().any()
    step.pages, step.kv_lens, step.q_lens = [], [], []
    assert attend(step)[0].eq(0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_splitting_changes_no_bit(dtype: torch.dtype) -> None:
    step = on_gpu([1100, 300, 513, 3000], [1, 17, 3, 300], head_dim=128, dtype=dtype)
    whole = attend(step, 1)
    right(step, whole)
    for programs in (4, 64):
        same(whole, attend(step, programs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sharing_batch_mates_chunks_and_places_change_no_bit(dtype: torch.dtype) -> None:
    shared = [0, 512, 512, 256, 0]
    kv_lens, q_lens = [600, 700, 520, 300, 130], [1, 20, 1, 1, 2]
    step = on_gpu(kv_lens, q_lens, shared, head_dim=128, dtype=dtype)
    together = attend(step)
    right(step, together)
    row = 0
    for i, (kv_len, q_len) in enumerate(zip(kv_lens, q_lens, strict=True)):
        for first in range(kv_len - q_len, kv_len, 7):
            end = min(first + 7, kv_len)
            alone = on_gpu(kv_lens, q_lens, shared, head_dim=128, dtype=dtype, placed=1)
            alone.pages, alone.kv_lens, alone.q_lens = [alone.pages[i]], [end], [end - first]
            alone.q = step.q[row : row + end - first]
            same(
                attend(alone),
                (together[0][row : row + end - first], together[1][row : row + end - first]),
            )
            row += end - first


def test_chunked_prefill_has_the_bits_of_one_pass() -> None:
    step = on_gpu([1500], [1500], head_dim=128, heads=8, dtype=torch.bfloat16)
    whole, queries = attend(step), step.q
    for first, end in ((0, 1), (1, 100), (100, 777), (777, 1500)):
        step.q, step.kv_lens, step.q_lens = queries[first:end].contiguous(), [end], [end - first]
        same(attend(step), (whole[0][first:end], whole[1][first:end]))


def test_a_captured_launch_reads_what_its_tables_hold_then() -> None:
    step = on_gpu([700, 300], [90, 1], head_dim=128, dtype=torch.bfloat16)
    plan, queries = plan_sm90(step), step.q.clone()
    eager = paged_attention_with_lse(step.q, step.k_cache, step.v_cache, plan)
    torch.set_deterministic_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = paged_attention_with_lse(step.q, step.k_cache, step.v_cache, plan)
    step.q.zero_()
    graph.replay()
    assert not torch.equal(captured[0], eager[0])
    step.q.copy_(queries)
    graph.replay()
    same(captured, eager)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 8), (8, 1), (6, 2)])
def test_it_has_the_bits_of_the_triton_kernel(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> None:
    """So a step may be shared out between them, and what one computes the other may go on with."""
    settings: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    step = on_gpu([2100, 700, 65, 3000], [600, 1, 65, 7], dtype=dtype, **settings)
    step.q *= 6  # sharp and flat rows, and largest scores that come late
    plan = plan_attention(step.pages, step.kv_lens, step.q_lens, step.k_cache)
    other = paged_attention_with_lse(step.q, step.k_cache, step.v_cache, plan)
    found = attend(step)
    assert off(found[0], other[0]) < TOLERANCES[dtype]
    same(found, other)


def test_a_step_is_shared_out_by_the_queries_of_its_sequences() -> None:
    """Those with as many as an item holds go to CUDA C++, in between the others, and no bit tells which did."""
    step = on_gpu([700, 90, 300, 2000], [1, 90, 31, 333], heads=32, kv_heads=8, head_dim=128)
    arguments = step.pages, step.kv_lens, step.q_lens, step.k_cache
    both, one = plan_attention(*arguments, num_heads=32), plan_attention(*arguments)
    assert both.wide is not None and one.wide is None
    rows = [set(plan.tokens[:, 0].tolist()) for plan in (both.parts, both.wide)]  # type: ignore[union-attr]
    assert rows == [{0, *range(91, 122)}, {*range(1, 91), *range(122, 455)}]
    found = paged_attention_with_lse(step.q, step.k_cache, step.v_cache, both)
    right(step, found)
    same(found, paged_attention_with_lse(step.q, step.k_cache, step.v_cache, one))


def test_plans_and_tensors_that_do_not_fit_are_named() -> None:
    step = on_gpu([70], [2])
    plan = plan_sm90(step)
    assert plan.wide is not None
    wide = replace(plan, wide=replace(plan.wide, most_tokens=1000))
    with pytest.raises(RuntimeError, match="more than 128 rows"):
        paged_attention_with_lse(step.q, step.k_cache, step.v_cache, wide)
    with pytest.raises(ValueError, match="q has 1 rows"):
        paged_attention_with_lse(step.q[:1], step.k_cache, step.v_cache, plan)
    with pytest.raises(ValueError, match="q has 2 heads, expected 4"):
        paged_attention_with_lse(step.q[:, :2].contiguous(), step.k_cache, step.v_cache, plan)
