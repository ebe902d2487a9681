"""The C++ CPU kernels beside their twins and torch's own attention; one JSON into bench/results.

    python bench/kernels_cpu.py [--rounds 7] [--sequences 64] [--tokens 2048] [--threads N] [--output FILE]

Contestants run in turns, once a round, so that what else the machine does falls on all of them; a
ratio is the median over rounds of the quotient within the round. Keys and values of a step (0.13 to
0.27 GB a layer) are many times what a core's caches hold. Caches are made as an engine would make them,
in huge pages where there are any; what torch gathers lies where torch puts it.
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from wideseek_kernels import reference, reference_attention, reference_sample
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.kv_cache import new_kv_cache
from wideseek_kernels.kv_write import norm_rotary_kv_write
from wideseek_kernels.paged_attention import paged_attention, plan_attention
from wideseek_kernels.rms_norm import rms_norm
from wideseek_kernels.sample import sample
from wideseek_kernels.swiglu import swiglu
from wideseek_kernels.work_list import plan_work

RESULTS = Path(__file__).resolve().parent / "results"
PAGE_SIZE = 64

Contestants = dict[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocab: int


SHAPES = (
    Shape("mini", 4, 4, 64, 320, 512, 8512),
    Shape("qwen3-150m", 12, 4, 64, 768, 2048, 8512),
)


def take_turns(contestants: Contestants, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, one a round, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 4), "lower": round(low, 4), "upper": round(high, 4)}


def report(
    seconds: dict[str, list[float]], pairs: list[tuple[str, str]], **what: object
) -> dict[str, Any]:
    """Milliseconds of each contestant, and how many times the second of a pair takes the first's."""
    row: dict[str, Any] = {"what": what, "seconds": seconds}
    row["ms"] = {name: quartiles([1e3 * s for s in each]) for name, each in seconds.items()}
    row["ratio"] = {
        f"{slow} / {fast}": quartiles(
            [b / a for a, b in zip(seconds[fast], seconds[slow], strict=True)]
        )
        for fast, slow in pairs
    }
    medians = "  ".join(f"{name} {each['median']:.2f}" for name, each in row["ratio"].items())
    print(*what.values(), medians, flush=True)
    return row


def drawn_caches(count: int, shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values of so many pages."""
    size = (count, shape.kv_heads, PAGE_SIZE, shape.head_dim)
    k_cache, v_cache = (new_kv_cache(size, dtype, torch.device("cpu")) for _ in range(2))
    for pages in zip(k_cache.split(256), v_cache.split(256), strict=True):
        for some in pages:
            some.copy_(torch.randn(some.shape))
    return k_cache, v_cache


def decode(shape: Shape, dtype: torch.dtype, sequences: int, tokens: int, rounds: int) -> Any:
    """One decoding step of attention in one layer: alone, and with all keys in shared pages."""
    count = -(-tokens // PAGE_SIZE)
    order = np.random.default_rng(0).permutation(sequences * count)
    pages = list(order.reshape(sequences, count))
    k_cache, v_cache = drawn_caches(len(order), shape, dtype)
    q = torch.randn(sequences, shape.heads, shape.head_dim).to(dtype)
    lens, ones = [tokens] * sequences, [1] * sequences
    plan = plan_attention(pages, lens, ones, k_cache)
    shared = plan_attention([pages[0]] * sequences, lens, ones, k_cache)
    twin = reference_attention.plan_attention(pages, lens, ones, k_cache)

    def gather(cache: Tensor, own: np.ndarray) -> Tensor:
        rows = cache.index_select(0, torch.from_numpy(own)).transpose(0, 1)
        return rows.reshape(1, shape.kv_heads, -1, shape.head_dim)[:, :, :tokens]

    def attend(i: int, k: Tensor, v: Tensor) -> Tensor:
        query = q[i].view(1, shape.heads, 1, shape.head_dim)
        gqa = shape.heads != shape.kv_heads
        return F.scaled_dot_product_attention(query, k, v, enable_gqa=gqa)

    side_by_side = [(gather(k_cache, own), gather(v_cache, own)) for own in pages]
    seconds = take_turns(
        {
            "csrc": lambda: paged_attention(q, k_cache, v_cache, plan),
            "csrc, all shared": lambda: paged_attention(q, k_cache, v_cache, shared),
            "twin": lambda: reference_attention.paged_attention(q, k_cache, v_cache, twin),
            "SDPA a sequence": lambda: [attend(i, *kv) for i, kv in enumerate(side_by_side)],
            "gather + SDPA a sequence": lambda: [
                attend(i, gather(k_cache, own), gather(v_cache, own)) for i, own in enumerate(pages)
            ],
            "plan": lambda: plan_attention(pages, lens, ones, k_cache),
        },
        rounds,
    )
    pairs = [
        ("csrc", other) for other in ("twin", "SDPA a sequence", "gather + SDPA a sequence")
    ] + [("csrc", "csrc, all shared")]
    megabytes = (
        2 * len(order) * shape.kv_heads * PAGE_SIZE * shape.head_dim * q.element_size() / 1e6
    )
    flops = 4 * sequences * tokens * shape.heads * shape.head_dim
    return report(
        seconds,
        pairs,
        op="decode attention",
        shape=shape.name,
        dtype=str(dtype).removeprefix("torch."),
        sequences=sequences,
        tokens=tokens,
        kv_megabytes=round(megabytes),
        megaflops=round(flops / 1e6),
    )


def prefill(shape: Shape, dtype: torch.dtype, tokens: int, rounds: int) -> Any:
    """All queries of one sequence, against its twin and torch's causal attention."""
    count = -(-tokens // PAGE_SIZE)
    pages = [np.random.default_rng(0).permutation(count)]
    k_cache, v_cache = drawn_caches(count, shape, dtype)
    q = torch.randn(tokens, shape.heads, shape.head_dim).to(dtype)
    k, v = (torch.randn(1, shape.kv_heads, tokens, shape.head_dim).to(dtype) for _ in range(2))
    plan = plan_attention(pages, [tokens], [tokens], k_cache)
    twin = reference_attention.plan_attention(pages, [tokens], [tokens], k_cache)
    queries = q.transpose(0, 1)[None].contiguous()
    gqa = shape.heads != shape.kv_heads
    seconds = take_turns(
        {
            "csrc": lambda: paged_attention(q, k_cache, v_cache, plan),
            "twin": lambda: reference_attention.paged_attention(q, k_cache, v_cache, twin),
            "SDPA": lambda: F.scaled_dot_product_attention(
                queries, k, v, is_causal=True, enable_gqa=gqa
            ),
        },
        rounds,
    )
    name = str(dtype).removeprefix("torch.")
    pairs = [("csrc", "twin"), ("csrc", "SDPA")]
    return report(
        seconds, pairs, op="prefill attention", shape=shape.name, dtype=name, tokens=tokens
    )


def rowwise(shape: Shape, rows: int, rounds: int) -> list[Any]:
    """The other ops on so many rows in fp32, ten calls a turn."""
    x, weight = torch.randn(rows, shape.hidden), torch.randn(shape.hidden)
    gate, up = (torch.randn(rows, shape.intermediate) for _ in range(2))
    q = torch.randn(rows, shape.heads, shape.head_dim)
    k, v = (torch.randn(rows, shape.kv_heads, shape.head_dim) for _ in range(2))
    norm = torch.randn(shape.head_dim)
    cos, sin = (torch.randn(rows, shape.head_dim) for _ in range(2))
    caches = [torch.zeros(16, shape.kv_heads, PAGE_SIZE, shape.head_dim) for _ in range(2)]
    tokens = (q, k, v, norm, norm, 1e-6, cos, sin, *caches, torch.arange(rows))
    ones, ids = torch.ones(rows), torch.arange(rows)
    draws = (torch.randn(rows, shape.vocab) * 2.5, ones, ids * 0, ones * 0.95, ones * 0, ids, ids)
    ops: dict[str, tuple[Callable[..., object], Callable[..., object], tuple[Any, ...]]] = {
        "rms_norm": (rms_norm, reference.rms_norm, (x, weight, 1e-6)),
        "swiglu": (swiglu, reference.swiglu, (gate, up)),
        "norm_rotary_kv_write": (norm_rotary_kv_write, reference.norm_rotary_kv_write, tokens),
        "sample, top_p 0.95": (sample, reference_sample.sample, draws),
    }
    found = []
    for name, (op, twin, arguments) in ops.items():

        def ten(run: Callable[..., object], given: tuple[Any, ...] = arguments) -> None:
            for _ in range(10):
                run(*given)

        seconds = take_turns(
            {"csrc": lambda op=op, ten=ten: ten(op), "twin": lambda twin=twin, ten=ten: ten(twin)},
            rounds,
        )
        found.append(report(seconds, [("csrc", "twin")], op=name, shape=shape.name, rows=rows))
    return found


def machine() -> dict[str, object]:
    """Where and with what the figures were taken."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, cwd=RESULTS.parent)
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "csrc", "kernels"],
        capture_output=True,
        text=True,
        cwd=RESULTS.parent.parent,
    )
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": names[0] if names else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip() + ("+" if dirty.stdout else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def planning(rounds: int) -> Any:
    """The plan of 256 sequences of 16k tokens that decode, apart and with three quarters in common."""
    order = np.random.default_rng(0).permutation(256 * 256).reshape(256, 256)
    apart, lens, ones = list(order), [16384] * 256, [1] * 256
    shared = [np.concatenate([order[0, :192], own[192:]]) for own in order]
    cache = torch.empty(256 * 256, 1, PAGE_SIZE, 16)
    seconds = take_turns(
        {
            "plan, apart": lambda: plan_attention(apart, lens, ones, cache),
            "plan, shared": lambda: plan_attention(shared, lens, ones, cache),
        },
        5 * rounds,
    )
    return report(seconds, [], op="plan", sequences=256, tokens=16384)


def long_decode(shape: Shape, dtype: torch.dtype, rounds: int) -> Any:
    """One sequence of 32k tokens that decodes, with its keys split over the cores and not."""
    pages = [np.random.default_rng(0).permutation(512)]
    k_cache, v_cache = drawn_caches(512, shape, dtype)
    q = torch.randn(1, shape.heads, shape.head_dim).to(dtype)
    plan = plan_attention(pages, [32768], [1], k_cache)
    kwargs = {"page_size": PAGE_SIZE, "num_kv": shape.kv_heads}
    whole = replace(plan, parts=plan_work(pages, [32768], [1], num_threads=1, **kwargs))
    split = replace(plan, parts=plan_work(pages, [32768], [1], num_threads=8, **kwargs))
    seconds = take_turns(
        {
            "whole": lambda: paged_attention(q, k_cache, v_cache, whole),
            "split": lambda: paged_attention(q, k_cache, v_cache, split),
        },
        rounds,
    )
    name = str(dtype).removeprefix("torch.")
    return report(
        seconds, [("whole", "split")], op="long decode", shape=shape.name, dtype=name, tokens=32768
    )


def measure(rounds: int, sequences: int, tokens: int) -> list[Any]:
    """All rows, each with the seconds of every round; SystemExit where nothing is built."""
    if not cpu_kernels():
        raise SystemExit("nothing to measure: no C++ kernels")
    torch.manual_seed(0)
    rows = [planning(rounds)]
    with torch.inference_mode():
        for shape in SHAPES:
            for dtype in (torch.float32, torch.bfloat16):
                rows.append(decode(shape, dtype, sequences, tokens, rounds))
                rows.append(prefill(shape, dtype, tokens, rounds))
                rows.append(long_decode(shape, dtype, rounds))
            rows += rowwise(shape, sequences, rounds)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=None, help="default: bench/results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        {**row["what"], "ms": row["ms"], "ratio": row["ratio"]}
        for row in measure(options.rounds, options.sequences, options.tokens)
    ]
    taken = machine()
    name = f"kernels_cpu-{str(taken['date'])[:10]}-{taken['threads']}threads.json"
    path = options.output or RESULTS / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": taken, "rows": rows}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
