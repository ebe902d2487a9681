"""The twin of paged attention and the KV writes it reads: right, however a step is cut."""

import numpy as np
import pytest
import torch
from torch import Tensor
from wideseek_kernels.kv_write import kv_write
from wideseek_kernels.reference import quantised
from wideseek_kernels.reference_attention import (
    KEY_BLOCK,
    log_sum_exp,
    padded_keys,
    paged_attention,
    plan_attention,
)


class Context:
    """One sequence of random q, k and v, the last two in scattered pages of a cache."""

    def __init__(
        self,
        length: int,
        *,
        page_size: int = 64,
        heads: int = 4,
        kv_heads: int = 2,
        head_dim: int = 16,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        self.length = length
        self.q = normal(length, heads, head_dim)
        self.k, self.v = (normal(length, kv_heads, head_dim) for _ in range(2))
        num_pages = -(-length // page_size)
        # Pages of others around it, full of noise: what is not its own must not count.
        shape = (num_pages + 3, kv_heads, page_size, head_dim)
        self.k_cache, self.v_cache = normal(*shape), normal(*shape)
        self.pages = torch.randperm(num_pages + 3, generator=generator)[:num_pages].numpy()
        positions = np.arange(length)
        slots = torch.from_numpy(
            self.pages[positions // page_size] * page_size + positions % page_size
        )
        kv_write(self.k, self.v, self.k_cache, self.v_cache, slots)

    def attend(self, first: int, end: int) -> Tensor:
        """The result of queries first to end, alone in a step."""
        plan = plan_attention([self.pages], [end], [end - first], self.k_cache)
        return paged_attention(self.q[first:end], self.k_cache, self.v_cache, plan)

    def dense(self) -> Tensor:
        """The definition, in fp64."""
        heads, kv_heads = self.q.shape[1], self.k.shape[1]
        q, k, v = (x.double().transpose(0, 1) for x in (self.q, self.k, self.v))
        k, v = (x.repeat_interleave(heads // kv_heads, 0) for x in (k, v))
        scores = q @ k.transpose(1, 2) / self.q.shape[2] ** 0.5
        future = torch.ones(self.length, self.length, dtype=torch.bool).triu(1)
        return (scores.masked_fill(future, -torch.inf).softmax(-1) @ v).transpose(0, 1)


def blas_adds_in_tiles() -> bool:
    """Whether a product's sum keeps its order when zeros follow it and other rows stand by."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(8, 1000, generator=generator), torch.randn(1000, 32)
    for length in (100, 180, 400, 600):
        short = left[:4, :length] @ right[:length]
        padded = torch.zeros(8, 1024)
        padded[:, :length] = left[:, :length]
        if not torch.equal(short, (padded @ torch.cat((right, right[:24])))[:4]):
            return False
    return True


same_bits = pytest.mark.skipif(
    not blas_adds_in_tiles(), reason="this BLAS adds in an order of its own: bits may differ"
)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (8, 1), (5, 1), (12, 2)])
@pytest.mark.parametrize("length", [1, 3, 65, 300, 700])
def test_it_is_causal_attention_over_the_pages(length: int, heads: int, kv_heads: int) -> None:
    context = Context(length, heads=heads, kv_heads=kv_heads)
    torch.testing.assert_close(
        context.attend(0, length).double(), context.dense(), atol=2e-6, rtol=1e-5
    )


def test_bfloat16_is_as_close_as_its_digits_allow() -> None:
    context = Context(300, dtype=torch.bfloat16)
    out = context.attend(0, 300)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), context.dense(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_fp8_has_the_bits_of_its_numbers_in_the_dtype_of_the_queries(dtype: torch.dtype) -> None:
    context = Context(300, dtype=dtype)
    stored = [quantised(x) for x in (context.k_cache, context.v_cache)]
    for q_len in (1, 200):
        step = ([context.pages], [300], [q_len])
        q = context.q[-q_len:]
        results = []
        for caches in (stored, [x.to(dtype) for x in stored]):
            plan = plan_attention(*step, caches[0], dtype)
            results.append((paged_attention(q, *caches, plan), log_sum_exp(q, caches[0], plan)))
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@same_bits
@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 300, 513])
def test_chunks_and_decode_give_the_same_bits_as_one_pass(chunk: int) -> None:
    context = Context(900)
    whole = context.attend(0, 900)
    parts = [context.attend(lo, min(lo + chunk, 900)) for lo in range(0, 900, chunk)]
    assert torch.equal(torch.cat(parts), whole)


@same_bits
@pytest.mark.parametrize("page_size", [1, 16, 128, 512])
def test_page_size_does_not_change_a_bit(page_size: int) -> None:
    one, other = Context(700), Context(700, page_size=page_size)
    other.q.copy_(one.q)
    positions = np.arange(700)
    slots = torch.from_numpy(
        other.pages[positions // page_size] * page_size + positions % page_size
    )
    kv_write(one.k, one.v, other.k_cache, other.v_cache, slots)
    assert torch.equal(one.attend(0, 700), other.attend(0, 700))
    assert torch.equal(one.attend(699, 700), other.attend(699, 700))


@same_bits
def test_batch_mates_do_not_change_a_bit() -> None:
    lengths, counts = [700, 420, 300, 40, 3, 650, 70], [1, 1, 1, 1, 1, 600, 5]
    contexts = [Context(length, seed=i) for i, length in enumerate(lengths)]
    offsets = np.cumsum([0] + [len(c.k_cache) for c in contexts])
    k_cache = torch.cat([c.k_cache for c in contexts])
    v_cache = torch.cat([c.v_cache for c in contexts])
    pages = [c.pages + offset for c, offset in zip(contexts, offsets, strict=False)]
    q = torch.cat([c.q[c.length - n :] for c, n in zip(contexts, counts, strict=True)])
    plan = plan_attention(pages, lengths, counts, k_cache)
    assert len(plan.groups) < 5, "sequences of like length are read together"
    together = paged_attention(q, k_cache, v_cache, plan)
    alone = [c.attend(c.length - n, c.length) for c, n in zip(contexts, counts, strict=True)]
    assert torch.equal(together, torch.cat(alone))


def test_rows_beyond_the_plan_are_zero() -> None:
    context = Context(10)
    plan = plan_attention([context.pages], [10], [3], context.k_cache)
    q = torch.cat((context.q[7:], torch.full((1, 4, 16), torch.nan)))
    out = paged_attention(q, context.k_cache, context.v_cache, plan)
    assert torch.equal(out[3], torch.zeros(4, 16)) and torch.equal(out[:3], context.attend(7, 10))


@pytest.mark.parametrize("page_size", [1, 64, 128, 256, 512])
def test_keys_are_padded_to_whole_pages_and_never_to_a_halved_pass(page_size: int) -> None:
    for kv_len in range(1, 1400):
        padded = padded_keys(kv_len, page_size)
        assert kv_len <= padded < kv_len + max(192, 2 * page_size)
        assert padded % page_size == 0 and padded % 64 == 0
        assert not 192 < padded % KEY_BLOCK < 384


def test_kv_write_touches_only_its_slots() -> None:
    k_cache, v_cache = torch.zeros(3, 2, 4, 8), torch.zeros(3, 2, 4, 8)
    k, v = torch.randn(2, 2, 8), torch.randn(2, 2, 8)
    kv_write(k, v, k_cache, v_cache, torch.tensor([9, 2]))
    assert torch.equal(k_cache[2, :, 1], k[0]) and torch.equal(k_cache[0, :, 2], k[1])
    assert torch.equal(v_cache[2, :, 1], v[0]) and torch.equal(v_cache[0, :, 2], v[1])
    assert (k_cache != 0).any(-1).sum() == (v_cache != 0).any(-1).sum() == 4
