"""Paged attention in C++: right, and the same to the bit however a step is cut, shared and placed."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.kv_cache import FP8
from wideseek_kernels.kv_write import kv_write
from wideseek_kernels.paged_attention import (
    paged_attention,
    paged_attention_with_lse,
    plan_attention,
)
from wideseek_kernels.reference import quantised
from wideseek_kernels.reference_attention import GatherPlan
from wideseek_kernels.work_list import WorkList, plan_work

pytestmark = pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler")

F32, BF16 = torch.float32, torch.bfloat16
every_storage = pytest.mark.parametrize(
    ("dtype", "cache"), [(F32, F32), (BF16, BF16), (F32, FP8), (BF16, FP8)]
)


class Context:
    """One sequence of random q, k and v, the last two in scattered pages of a cache full of NaN.

    Of a cache in fp8 they are numbers it holds as they are.
    """

    def __init__(
        self,
        length: int,
        *,
        page_size: int = 64,
        heads: int = 4,
        kv_heads: int = 2,
        head_dim: int = 32,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        cache: torch.dtype | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        self.length, self.page_size = length, page_size
        self.q = normal(length, heads, head_dim)
        self.k, self.v = (normal(length, kv_heads, head_dim) for _ in range(2))
        if cache == FP8:
            self.k, self.v = (quantised(x).to(dtype) for x in (self.k, self.v))
        num_pages = -(-length // page_size)
        shape = (num_pages + 3, kv_heads, page_size, head_dim)
        self.k_cache, self.v_cache = (
            torch.full(shape, torch.nan).to(cache or dtype) for _ in range(2)
        )
        order = torch.randperm(num_pages + 3, generator=generator)
        self.pages: npt.NDArray[np.int64] = order[:num_pages].numpy()
        self.write(self.k, self.v)

    def write(self, k: Tensor, v: Tensor) -> None:
        places = np.arange(len(k))
        slots = self.pages[places // self.page_size] * self.page_size + places % self.page_size
        kv_write(k, v, self.k_cache, self.v_cache, torch.from_numpy(slots))

    def attend(self, first: int, end: int) -> Tensor:
        """The result of queries first to end, alone in a step."""
        plan = plan_attention([self.pages], [end], [end - first], self.k_cache, self.q.dtype)
        assert isinstance(plan.parts, WorkList)
        return paged_attention(self.q[first:end], self.k_cache, self.v_cache, plan)

    def dense(self) -> Tensor:
        """The definition, in fp64."""
        heads, kv_heads = self.q.shape[1], self.k.shape[1]
        q, k, v = (x.double().transpose(0, 1) for x in (self.q, self.k, self.v))
        k, v = (x.repeat_interleave(heads // kv_heads, 0) for x in (k, v))
        scores = q @ k.transpose(1, 2) / self.q.shape[2] ** 0.5
        future = torch.ones(self.length, self.length, dtype=torch.bool).triu(1)
        return (scores.masked_fill(future, -torch.inf).softmax(-1) @ v).transpose(0, 1)


class Batch:
    """The last counts[i] queries of contexts side by side in one cache, alone in their pages."""

    def __init__(self, contexts: list[Context], counts: list[int]) -> None:
        offsets = np.cumsum([0] + [len(c.k_cache) for c in contexts])
        self.contexts, self.counts = contexts, counts
        self.k_cache = torch.cat([c.k_cache for c in contexts])
        self.v_cache = torch.cat([c.v_cache for c in contexts])
        self.pages = [c.pages + offset for c, offset in zip(contexts, offsets, strict=False)]
        self.lengths = [c.length for c in contexts]
        self.q = torch.cat([c.q[c.length - n :] for c, n in zip(contexts, counts, strict=True)])

    def attend(self, pages: list[npt.NDArray[np.int64]]) -> tuple[Tensor, WorkList]:
        plan = plan_attention(pages, self.lengths, self.counts, self.k_cache, self.q.dtype)
        assert isinstance(plan.parts, WorkList)
        return paged_attention(self.q, self.k_cache, self.v_cache, plan), plan.parts

    def alone(self) -> Tensor:
        pairs = zip(self.contexts, self.counts, strict=True)
        return torch.cat([c.attend(c.length - n, c.length) for c, n in pairs])


def tiles_read(work: WorkList) -> int:
    return int((work.segments[:, 3] - work.segments[:, 2]).sum())


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (8, 1), (5, 1), (12, 4)])
@pytest.mark.parametrize("length", [1, 19, 63, 64, 65, 99, 300, 989, 1024, 1025, 2100])
def test_it_is_causal_attention_over_the_pages(length: int, heads: int, kv_heads: int) -> None:
    context = Context(length, heads=heads, kv_heads=kv_heads)
    torch.testing.assert_close(
        context.attend(0, length).double(), context.dense(), atol=2e-6, rtol=1e-5
    )


@pytest.mark.parametrize("head_dim", [16, 32, 64, 128])
@pytest.mark.parametrize("page_size", [1, 16, 64, 128])
def test_every_head_and_page_size_is_as_close_as_torch(head_dim: int, page_size: int) -> None:
    context = Context(200, head_dim=head_dim, page_size=page_size)
    exact = context.dense()
    q, k, v = (x.transpose(0, 1)[None] for x in (context.q, context.k, context.v))
    peer = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=True
    )
    off = (context.attend(0, 200) - exact).norm() / exact.norm()
    assert off <= 1.25 * (peer[0].transpose(0, 1) - exact).norm() / exact.norm()


@pytest.mark.parametrize("head_dim", [16, 32, 64, 128])
@pytest.mark.parametrize("page_size", [16, 64])
def test_fp8_has_the_bits_of_its_numbers_in_fp32(head_dim: int, page_size: int) -> None:
    """One row, some and many, which read it in their own ways."""
    stored, plain = (
        Context(300, page_size=page_size, head_dim=head_dim, cache=cache) for cache in (FP8, F32)
    )
    plain.write(stored.k, stored.v)
    for first in (299, 297, 100):
        assert torch.equal(stored.attend(first, 300), plain.attend(first, 300))
    torch.testing.assert_close(stored.attend(0, 300).double(), stored.dense(), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("cache", [BF16, FP8])
@pytest.mark.parametrize("head_dim", [16, 64])
def test_bfloat16_is_rounded_once(head_dim: int, cache: torch.dtype) -> None:
    """Storage is bf16 or fp8, sums are fp32: what is off is the last rounding."""
    context = Context(300, dtype=torch.bfloat16, head_dim=head_dim, cache=cache)
    decoded = [context.attend(i, i + 1) for i in (0, 63, 64, 299)]
    whole = context.attend(0, 300)
    assert whole.dtype == torch.bfloat16
    torch.testing.assert_close(whole.double(), context.dense(), atol=1e-5, rtol=2**-8)
    assert torch.equal(torch.cat(decoded), whole[[0, 63, 64, 299]])


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 130])
@pytest.mark.parametrize("heads", [2, 4, 6])  # 1, 2 and 3 rows of a decoding token go at once
@every_storage
def test_chunks_and_decode_give_the_same_bits_as_one_pass(
    chunk: int, heads: int, dtype: torch.dtype, cache: torch.dtype
) -> None:
    context = Context(1100, dtype=dtype, heads=heads, cache=cache)
    whole = context.attend(0, 1100)
    for first, end in ((0, 200), (900, 1100)):  # the last of them over the end of a chunk of keys
        parts = [context.attend(lo, min(lo + chunk, end)) for lo in range(first, end, chunk)]
        assert torch.equal(torch.cat(parts), whole[first:end])


@pytest.mark.parametrize("cache", [F32, FP8])
@pytest.mark.parametrize("page_size", [1, 16, 128, 512])
def test_page_size_and_placement_do_not_change_a_bit(page_size: int, cache: torch.dtype) -> None:
    one, other = Context(700, cache=cache), Context(700, page_size=page_size, seed=5, cache=cache)
    other.q = one.q
    other.write(one.k, one.v)
    assert torch.equal(one.attend(0, 700), other.attend(0, 700))
    assert torch.equal(one.attend(699, 700), other.attend(699, 700))


@every_storage
def test_batch_mates_do_not_change_a_bit(dtype: torch.dtype, cache: torch.dtype) -> None:
    lengths, counts = [700, 420, 300, 40, 3, 650, 70, 64], [1, 1, 1, 1, 1, 600, 5, 64]
    contexts = [
        Context(length, seed=i, dtype=dtype, cache=cache) for i, length in enumerate(lengths)
    ]
    batch = Batch(contexts, counts)
    together, _ = batch.attend(batch.pages)
    assert torch.equal(together, batch.alone())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """More threads make smaller units, which share less."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page_size", [16, 64, 128])
@pytest.mark.parametrize("heads", [2, 6])
@every_storage
def test_sharing_changes_no_bit(
    page_size: int, heads: int, dtype: torch.dtype, cache: torch.dtype
) -> None:
    """A tree: all begin alike, some go on alike, each ends in pages of its own."""
    lengths, counts = [700, 520, 700, 330, 260, 650, 257], [1, 1, 1, 3, 1, 130, 1]
    contexts = [
        Context(length, seed=i, page_size=page_size, heads=heads, dtype=dtype, cache=cache)
        for i, length in enumerate(lengths)
    ]
    for context in contexts[1:]:
        common = 256 if context.length < 500 else 512
        context.k[:common], context.v[:common] = contexts[0].k[:common], contexts[0].v[:common]
        context.write(context.k, context.v)
    batch = Batch(contexts, counts)
    apart, all_of_them = batch.attend(batch.pages)
    shared = [own.copy() for own in batch.pages]
    for own, context in zip(shared, contexts, strict=True):
        common = (256 if context.length < 500 else 512) // page_size
        own[:common] = shared[0][:common]
    together, once = batch.attend(shared)
    assert tiles_read(once) < tiles_read(all_of_them) / 2
    assert torch.equal(together, apart)
    assert torch.equal(together, batch.alone())


def test_threads_change_who_works_and_no_bit() -> None:
    contexts = [Context(300 + 9 * i, seed=i) for i in range(20)]
    batch = Batch(contexts, [1 + i % 3 * 40 for i in range(20)])
    plan = plan_attention(batch.pages, batch.lengths, batch.counts, batch.k_cache)
    results, threads = [], torch.get_num_threads()
    for num_threads in (1, 3):
        work = plan_work(
            batch.pages,
            batch.lengths,
            batch.counts,
            page_size=64,
            num_kv=2,
            num_threads=num_threads,
        )
        torch.set_num_threads(num_threads)
        results.append(
            paged_attention(batch.q, batch.k_cache, batch.v_cache, replace(plan, parts=work))
        )
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@every_storage
def test_splitting_long_sequences_changes_no_bit(dtype: torch.dtype, cache: torch.dtype) -> None:
    """What is a multiple of a chunk of keys, one less or more, and queries that see fewer chunks."""
    lengths, counts = [2048, 3073, 1023, 4000, 20], [1, 70, 3, 1, 20]
    contexts = [
        Context(length, seed=i, dtype=dtype, heads=6, cache=cache)
        for i, length in enumerate(lengths)
    ]
    batch = Batch(contexts, counts)
    whole = plan_attention(batch.pages, batch.lengths, batch.counts, batch.k_cache, dtype)
    caches = (batch.k_cache, batch.v_cache)
    results = []
    for num_threads in (1, 4, 16):
        work = plan_work(
            batch.pages,
            batch.lengths,
            batch.counts,
            page_size=64,
            num_kv=2,
            num_threads=num_threads,
        )
        assert (len(work.parts) > len(work.units)) == (num_threads > 1)
        plan = replace(whole, parts=work)
        results.append(
            torch.cat([x.flatten() for x in paged_attention_with_lse(batch.q, *caches, plan)])
        )
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize(("head_dim", "planned"), [(32, WorkList), (48, GatherPlan)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_sum_exp_is_that_of_the_scores(
    dtype: torch.dtype, head_dim: int, planned: type
) -> None:
    context = Context(1100, dtype=dtype, head_dim=head_dim)
    caches = (context.k_cache.nan_to_num(), context.v_cache.nan_to_num())
    q = torch.cat((context.q[-1:], context.q, context.q[:1]))
    plan = plan_attention([context.pages] * 2, [1100, 1100], [1, 1100], context.k_cache)
    assert isinstance(plan.parts, planned)
    out, lse = paged_attention_with_lse(q, *caches, plan)
    assert lse.dtype == torch.float32
    scores = torch.einsum(
        "qhd,khd->hqk", context.q.double(), context.k.double().repeat_interleave(2, 1)
    )
    future = torch.ones(1100, 1100, dtype=torch.bool).triu(1)
    exact = (scores / head_dim**0.5).masked_fill(future, -torch.inf).logsumexp(2).T
    expected = torch.cat((exact[-1:], exact))
    torch.testing.assert_close(lse[:1101].double(), expected, atol=1e-5, rtol=1e-5)
    assert lse[1101].eq(-torch.inf).all()
    assert torch.equal(out, paged_attention(q, *caches, plan))


def test_what_wants_a_gradient_is_refused() -> None:
    cache = torch.zeros(4, 2, 64, 32)
    plan = plan_attention([np.array([3, 1])], [100], [2], cache)
    good = {"q": torch.ones(2, 4, 32), "k_cache": cache, "v_cache": cache, "plan": plan}
    for name in ("q", "k_cache", "v_cache"):
        wanting = good | {name: good[name].clone().requires_grad_()}  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=rf"^{name} requires grad"):
            paged_attention(**wanting)  # type: ignore[arg-type]
        with torch.no_grad():
            paged_attention(**wanting)  # type: ignore[arg-type]


@every_storage
def test_a_nan_is_seen_by_later_queries_only(dtype: torch.dtype, cache: torch.dtype) -> None:
    context = Context(200, dtype=dtype, cache=cache)
    clean = context.attend(100, 200)
    context.v[150] = torch.nan
    context.write(context.k, context.v)
    dirty = context.attend(100, 200)
    assert torch.equal(dirty[:50], clean[:50])
    assert dirty[50:].isnan().all()


def test_rows_beyond_the_plan_are_zero() -> None:
    context = Context(10)
    plan = plan_attention([context.pages], [10], [3], context.k_cache)
    q = torch.cat((context.q[7:], torch.full((1, 4, 32), torch.nan)))
    out = paged_attention(q, context.k_cache, context.v_cache, plan)
    assert torch.equal(out[3], torch.zeros(4, 32)) and torch.equal(out[:3], context.attend(7, 10))


def test_an_empty_step_is_a_plan_too() -> None:
    cache = torch.zeros(2, 2, 64, 32)
    plan = plan_attention([], [], [], cache)
    assert paged_attention(torch.ones(4, 4, 32), cache, cache, plan).eq(0).all()


@pytest.mark.parametrize(
    ("head_dim", "dtype"), [(48, torch.float32), (32, torch.float64), (32, torch.float16)]
)
def test_what_is_not_compiled_goes_to_the_twin(head_dim: int, dtype: torch.dtype) -> None:
    cache = torch.zeros(2, 2, 64, head_dim, dtype=dtype)
    plan = plan_attention([np.array([1])], [5], [1], cache)
    assert isinstance(plan.parts, GatherPlan)
    out = paged_attention(torch.ones(1, 4, head_dim, dtype=dtype), cache, cache, plan)
    assert out.eq(0).all()


def test_bad_arguments_of_a_plan_are_named() -> None:
    cache, pages = torch.zeros(4, 2, 64, 32), np.array([3, 1])

    def refused(match: str, *arguments: object) -> None:
        with pytest.raises(ValueError, match=match):
            plan_attention(*arguments)  # type: ignore[arg-type]

    refused(r"^pages has -1 to 3, of 4", [np.array([3, -1])], [100], [1], cache)
    refused(r"^pages has 3 to 4, of 4", [np.array([3, 4])], [100], [1], cache)
    refused(r"^pages\[0\] has length 2, expected 3 for 129 keys", [pages], [129], [1], cache)
    refused(r"^q_lens\[0\] is 0, expected 1 to kv_lens\[0\], 100", [pages], [100], [0], cache)
    refused(r"^q_lens\[0\] is 101", [pages], [100], [101], cache)
    refused(r"^kv_lens has length 2, expected 1", [pages], [100, 100], [1], cache)
    refused(r"^q_lens has length 0, expected 1", [pages], [100], [], cache)
    refused(r"^cache has shape", [pages], [100], [1], cache[0])
    refused(r"^dtype is torch.bfloat16, which does not", [pages], [100], [1], cache, BF16)
    refused(r"^dtype is torch.float8_e4m3fn, which", [pages], [100], [1], cache.to(FP8))
    # A page that no key lies in is not looked at.
    plan_attention([np.array([3, 99])], [64], [1], cache)


def test_bad_tensors_are_named() -> None:
    cache = torch.zeros(4, 2, 64, 32)
    plan = plan_attention([np.array([3, 1])], [100], [2], cache)
    good = {"q": torch.ones(2, 4, 32), "k_cache": cache, "v_cache": cache, "plan": plan}
    paged_attention(**good)
    strided = torch.zeros(4, 64, 2, 32).transpose(1, 2)
    for name, bad in (
        ("q", torch.ones(2, 4, 16)),
        ("q", torch.ones(2, 3, 32)),
        ("q", torch.ones(1, 4, 32)),
        ("q", torch.ones(2, 4, 32, dtype=torch.int64)),
        ("q", torch.ones(2, 4, 64)[..., ::2]),
        ("k_cache", cache.bfloat16()),
        ("k_cache", cache[:3]),
        ("k_cache", strided),
        ("v_cache", cache.to("meta")),
        ("v_cache", torch.zeros(4, 2, 32, 32)),
        ("v_cache", strided),
    ):
        with pytest.raises(ValueError, match=rf"^{name}\b"):
            paged_attention(**good | {name: bad})
