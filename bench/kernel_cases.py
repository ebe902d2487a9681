"""What `bench/main.py kernels` times on a GPU: shapes of a 4B Qwen3, our op and whatever peers can be imported.

Bytes and FLOPs are those that the op cannot do without: each key read once for all who share it, each
causal pair of query and key once. Those of fp8 pages are counted as bf16's, whose half they are.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from wideseek_kernels.exact_linear import exact_linear
from wideseek_kernels.kv_cache import FP8
from wideseek_kernels.kv_copy import kv_copy
from wideseek_kernels.kv_write import norm_rotary_kv_write
from wideseek_kernels.paged_attention import paged_attention, plan_attention
from wideseek_kernels.rms_norm import add_rms_norm
from wideseek_kernels.sample import sample
from wideseek_kernels.swiglu import swiglu
from wideseek_kernels.token_logprob import token_logprob

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, FEED, VOCAB, PAGE = 32, 8, 128, 2560, 9728, 151936, 64
COLD_BYTES = 256 << 20
"""Over so many bytes of operands calls take turns: several times what an L2 cache holds."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """call(i) runs it on the i-th copy of the operands; hot: on the first one every time."""

    name: str
    call: Callable[[int], object]
    hot: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """ceiling: the figure of accounts for which this case says what the device can do."""

    name: str
    make: Callable[[], list[Contestant]]
    bytes: float
    flops: float
    sizes: dict[str, Any] = field(default_factory=dict)
    copies: int = 1
    calls: int = 4
    ceiling: str | None = None


def peer(name: str) -> ModuleType | None:
    """The module, where it is installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def cases(device: torch.device, shrink: int = 1, *, hopper: bool = False) -> Iterator[Case]:
    """All cases; ceilings first. shrink divides lengths and rows, to try them where they are not timed.

    hopper: with the attention in CUDA C++ for sequences of many queries.
    """
    yield from ceilings(device, shrink)
    yield from attention(device, shrink, hopper=hopper)
    yield from rows(device, shrink)


def drawn(device: torch.device, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, dtype=dtype, device=device)


def ceilings(device: torch.device, shrink: int) -> Iterator[Case]:
    numbers, size = (1 << 30) // shrink**2, 8192 // shrink

    def read() -> list[Contestant]:
        x = torch.ones(numbers // 4, device=device)
        return [Contestant("sum", lambda _: x.sum())]

    def multiply() -> list[Contestant]:
        a, b = (drawn(device, size, size) for _ in range(2))
        return [Contestant("torch", lambda _: a @ b)]

    yield Case("read", read, numbers, 0, ceiling="bytes_per_second")
    yield Case("gemm", multiply, 6 * size**2, 2 * size**3, ceiling="flops_per_second")


def attention(device: torch.device, shrink: int, *, hopper: bool = False) -> Iterator[Case]:
    """Name, of each sequence keys, queries and keys that all share."""
    for name, kv_lens, q_lens, shared in (
        ("decode 64 x 4k", [4096] * 64, [1] * 64, 0),
        ("decode 256 x 4k", [4096] * 256, [1] * 256, 0),
        ("decode 32k + 63 x 1k", [32768] + [1024] * 63, [1] * 64, 0),
        ("decode 64 x (16k shared + 2k)", [18432] * 64, [1] * 64, 16384),
        ("decode 80 x (2k shared + 2k)", [4096] * 80, [1] * 80, 2048),
        ("extend 512 at 16k", [16896], [512], 0),
        ("extend 64 x 128 at 8k", [8320] * 64, [128] * 64, 0),
        ("mixed 512 at 16k + 32 decodes at 16k", [16896] + [16384] * 32, [512] + [1] * 32, 0),
        ("prefill 4k", [4096], [4096], 0),
        ("prefill 16k", [16384], [16384], 0),
    ):
        yield attention_case(
            name,
            [max(PAGE, n // shrink) for n in kv_lens],
            [max(1, n // shrink) for n in q_lens],
            shared // shrink // PAGE,
            device,
            hopper=hopper,
        )


def attention_case(
    name: str,
    kv_lens: list[int],
    q_lens: list[int],
    shared: int,
    device: torch.device,
    *,
    hopper: bool = False,
) -> Case:
    counts = [-(-n // PAGE) - shared for n in kv_lens]
    keys = sum(n - shared * PAGE for n in kv_lens) + shared * PAGE
    pairs = sum(q * (n - q) + q * (q + 1) / 2 for n, q in zip(kv_lens, q_lens, strict=True))

    def make() -> list[Contestant]:
        order = np.random.default_rng(0).permutation(sum(counts) + shared)
        own = np.split(order[shared:], np.cumsum(counts)[:-1])
        pages = [np.concatenate([order[:shared], each]) for each in own]
        k, v = (drawn(device, len(order), KV_HEADS, PAGE, HEAD_DIM) for _ in range(2))
        q = drawn(device, sum(q_lens), HEADS, HEAD_DIM)
        plan = plan_attention(pages, kv_lens, q_lens, k)
        found = [Contestant("wideseek", lambda _: paged_attention(q, k, v, plan))]
        both = plan_attention(pages, kv_lens, q_lens, k, num_heads=HEADS)
        if hopper and both.wide is not None:
            found += [Contestant("wideseek, CUDA C++", lambda _: paged_attention(q, k, v, both))]
        if len(set(kv_lens)) == len(set(q_lens)) == 1:
            found += [*sdpa(q, k, v, pages, kv_lens[0], q_lens[0])]
        if max(q_lens) == 1:
            stored = k.to(FP8), v.to(FP8)
            halved = plan_attention(pages, kv_lens, q_lens, stored[0], q.dtype)
            found += [
                Contestant("wideseek, fp8 pages", lambda _: paged_attention(q, *stored, halved))
            ]
        return found + flashinfer(q, k, v, pages, kv_lens, q_lens)

    sizes = {"sequences": len(kv_lens), "queries": sum(q_lens), "keys": sum(kv_lens)}
    moved = 4 * keys * KV_HEADS * HEAD_DIM + 4 * sum(q_lens) * HEADS * HEAD_DIM
    return Case(name, make, moved, 4 * pairs * HEADS * HEAD_DIM, sizes)


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, pages: list[Any], kv_len: int, q_len: int
) -> Iterator[Contestant]:
    """torch's fused attention on keys gathered beforehand, which is not counted."""
    if q_len not in (1, kv_len):
        return
    at = torch.from_numpy(np.stack(pages)).to(q.device)
    dense = [x[at].transpose(1, 2).flatten(2, 3)[:, :, :kv_len].contiguous() for x in (k, v)]
    rows = q.view(len(pages), q_len, HEADS, HEAD_DIM).transpose(1, 2).contiguous()

    def attend(backend: SDPBackend) -> Callable[[int], object]:
        def call(_: int) -> object:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(
                    rows, *dense, is_causal=q_len > 1, enable_gqa=True
                )

        return call

    yield Contestant("SDPA cuDNN, gathered", attend(SDPBackend.CUDNN_ATTENTION))
    yield Contestant("SDPA flash, gathered", attend(SDPBackend.FLASH_ATTENTION))
    if q_len > 1:
        yield from varlen(q, dense)


def varlen(q: Tensor, dense: list[Tensor]) -> Iterator[Contestant]:
    """One sequence of queries, as a batch of one: torch's varlen_attn, flash-attn."""
    k, v = (x[0].transpose(0, 1).contiguous() for x in dense)
    ends = torch.tensor([0, len(q)], dtype=torch.int32, device=q.device)
    torch_varlen, flash = peer("torch.nn.attention.varlen"), peer("flash_attn")
    if torch_varlen is not None:
        k_all, v_all = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
        sizes = (ends, ends, len(q), len(q))
        yield Contestant(
            "torch varlen_attn, keys repeated",
            lambda _: torch_varlen.varlen_attn(q, k_all, v_all, *sizes, window_size=(-1, 0)),
        )
    if flash is not None:
        sizes = (ends, ends, len(q), len(q))
        yield Contestant(
            "flash-attn", lambda _: flash.flash_attn_varlen_func(q, k, v, *sizes, causal=True)
        )


def flashinfer(
    q: Tensor, k: Tensor, v: Tensor, pages: list[Any], kv_lens: list[int], q_lens: list[int]
) -> list[Contestant]:
    """Its decode kernel, and that of FlashAttention 3 on pages, which takes any step."""
    module = peer("flashinfer")
    if module is None:
        return []
    ints = {"dtype": torch.int32, "device": q.device}
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device=q.device)
    tables = (
        torch.tensor(np.cumsum([0, *map(len, pages)]), **ints),
        torch.tensor(np.concatenate(pages), **ints),
        torch.tensor([(n - 1) % PAGE + 1 for n in kv_lens], **ints),
    )
    heads = (HEADS, KV_HEADS, HEAD_DIM, PAGE)
    dtypes = {"q_data_type": q.dtype, "kv_data_type": k.dtype}

    @cache
    def any_step() -> Any:
        wrapper = module.BatchPrefillWithPagedKVCacheWrapper(workspace, "HND", backend="fa3")
        firsts = torch.tensor(np.cumsum([0, *q_lens]), **ints)
        wrapper.plan(firsts, *tables, *heads, causal=True, **dtypes)
        return wrapper

    @cache
    def decode() -> Any:
        wrapper = module.BatchDecodeWithPagedKVCacheWrapper(torch.empty_like(workspace), "HND")
        wrapper.plan(*tables, *heads, **dtypes)
        return wrapper

    # Planned by the first call: a peer that cannot be built here is one that did not run, and no more.
    found = [Contestant("flashinfer FA3", lambda _: any_step().run(q, (k, v)))]
    if max(q_lens) == 1:
        found += [Contestant("flashinfer decode", lambda _: decode().run(q, (k, v)))]
    return found


def rows(device: torch.device, shrink: int) -> Iterator[Case]:
    tokens, people = 8192 // shrink, max(1, 256 // shrink)
    yield norm_case(device, tokens)
    yield swiglu_case(device, tokens)
    for count in (max(1, 64 // shrink), max(1, 512 // shrink), tokens):
        for size, columns in ((HIDDEN, 2 * FEED), (FEED, HIDDEN)):
            yield linear_case(device, count, size, columns)
    for count in (people, tokens):
        yield write_case(device, count)
    for top_p, slope in ((1.0, 0.0), (0.95, 0.0), (0.95, 1.5)):
        yield sample_case(device, people, top_p, slope)
    yield logprob_case(device, tokens)
    yield copy_case(device, people)


def hot_and_cold(name: str, call: Callable[[int], object]) -> list[Contestant]:
    return [Contestant(f"{name}, cold", call), Contestant(f"{name}, hot", call, hot=True)]


def copies_of(size: float) -> int:
    return max(1, min(16, int(COLD_BYTES // size)))


def norm_case(device: torch.device, tokens: int) -> Case:
    size = 8 * tokens * HIDDEN
    copies = copies_of(size)

    def make() -> list[Contestant]:
        x, residual = (drawn(device, copies, tokens, HIDDEN) for _ in range(2))
        weight = drawn(device, HIDDEN)
        found = hot_and_cold(
            "wideseek", lambda i: add_rms_norm(x[i], residual[i], weight, 1e-6)
        ) + hot_and_cold("torch", lambda i: F.rms_norm(x[i] + residual[i], (HIDDEN,), weight, 1e-6))
        liger = peer("liger_kernel.ops.fused_add_rms_norm")
        if liger is not None:
            op = liger.LigerFusedAddRMSNormFunction
            found += hot_and_cold("liger", lambda i: op.apply(x[i], residual[i], weight, 1e-6))
        return found

    return Case("add_rms_norm", make, size, 0, {"tokens": tokens}, copies, 16)


def swiglu_case(device: torch.device, tokens: int) -> Case:
    size = 6 * tokens * FEED
    copies = copies_of(size)

    def make() -> list[Contestant]:
        gate, up = (drawn(device, copies, tokens, FEED) for _ in range(2))
        found = hot_and_cold("wideseek", lambda i: swiglu(gate[i], up[i]))
        found += hot_and_cold("torch", lambda i: F.silu(gate[i]) * up[i])
        liger = peer("liger_kernel.ops.swiglu")
        if liger is not None:
            op = liger.LigerSiLUMulFunction
            found += hot_and_cold("liger", lambda i: op.apply(gate[i], up[i]))
        return found

    return Case("swiglu", make, size, 0, {"tokens": tokens}, copies, 16)


def linear_case(device: torch.device, tokens: int, size: int, columns: int) -> Case:
    moved, flops = 2 * (tokens * (size + columns) + size * columns), 2 * tokens * size * columns
    copies = copies_of(moved)

    def make() -> list[Contestant]:
        x, weight = drawn(device, copies, tokens, size), drawn(device, copies, columns, size)
        found = [Contestant("wideseek", lambda i: exact_linear(x[i], weight[i]))]
        return [*found, Contestant("torch", lambda i: F.linear(x[i], weight[i]))]

    sizes = {"tokens": tokens, "size": size, "columns": columns}
    return Case("exact_linear", make, moved, flops, sizes, copies, 8)


def write_case(device: torch.device, tokens: int) -> Case:
    size = 2 * tokens * HEAD_DIM * (2 * HEADS + 4 * KV_HEADS) + 8 * tokens * HEAD_DIM
    copies = copies_of(size)

    def make() -> list[Contestant]:
        q = drawn(device, copies, tokens, HEADS, HEAD_DIM)
        k, v = (drawn(device, copies, tokens, KV_HEADS, HEAD_DIM) for _ in range(2))
        weight = drawn(device, HEAD_DIM)
        cos, sin = (drawn(device, tokens, HEAD_DIM, dtype=torch.float32) for _ in range(2))
        pages = -(-tokens // PAGE)
        caches = [drawn(device, copies, pages, KV_HEADS, PAGE, HEAD_DIM) for _ in range(2)]
        slots = torch.randperm(pages * PAGE, device=device)[:tokens]
        return hot_and_cold(
            "wideseek",
            lambda i: norm_rotary_kv_write(
                q[i], k[i], v[i], weight, weight, 1e-6, cos, sin, caches[0][i], caches[1][i], slots
            ),
        )

    return Case("norm_rotary_kv_write", make, size, 0, {"tokens": tokens}, copies, 16)


def sample_case(device: torch.device, people: int, top_p: float, slope: float) -> Case:
    """Normal logits of deviation 2.5, which are flat; with a slope those of Zipf's law with that exponent."""
    size = 4 * people * VOCAB
    copies = copies_of(size)

    def make() -> list[Contestant]:
        logits = drawn(device, copies, people, VOCAB, dtype=torch.float32) * 2.5
        if slope:
            ranks = logits.argsort(-1).argsort(-1)
            logits = -slope * (ranks + 1).float().log()
        ones, ids = torch.ones(people, device=device), torch.arange(people, device=device)
        settings = (ones, ids * 0, ones * top_p, ones * 0, ids, ids)
        found = hot_and_cold("wideseek", lambda i: sample(logits[i], *settings))
        module = peer("flashinfer")
        if module is not None:
            draw = module.sampling.top_p_sampling_from_probs
            found += hot_and_cold("flashinfer", lambda i: draw(logits[i].softmax(-1), top_p))
        return found

    name = f"sample, top_p {top_p}" + (f", logits of slope {slope}" if slope else "")
    return Case(name, make, size, 0, {"rows": people, "slope": slope}, copies, 8)


def logprob_case(device: torch.device, tokens: int) -> Case:
    def make() -> list[Contestant]:
        hidden, weight = drawn(device, tokens, HIDDEN), drawn(device, VOCAB, HIDDEN)
        ids = torch.arange(tokens, device=device)

        def whole(_: int) -> object:
            return -F.cross_entropy((hidden @ weight.T).float(), ids, reduction="none")

        return [
            Contestant("wideseek", lambda _: token_logprob(hidden, weight, ids)),
            Contestant("torch, all logits", whole),
        ]

    moved = 2 * HIDDEN * (tokens + VOCAB)
    return Case(
        "token_logprob", make, moved, 2 * tokens * HIDDEN * VOCAB, {"tokens": tokens}, calls=1
    )


def copy_case(device: torch.device, pages: int) -> Case:
    moved = 8 * pages * KV_HEADS * PAGE * HEAD_DIM

    def make() -> list[Contestant]:
        k, v = (drawn(device, 2 * pages, KV_HEADS, PAGE, HEAD_DIM) for _ in range(2))
        sources = torch.arange(pages, device=device)
        return [Contestant("wideseek", lambda _: kv_copy(k, v, sources, sources + pages))]

    return Case("kv_copy", make, moved, 0, {"pages": pages}, calls=8)
