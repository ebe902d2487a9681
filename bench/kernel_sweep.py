"""Times settings of the Triton kernels on one GPU: `python bench/kernel_sweep.py [--output FILE] [--only NAME]`.

All kernels are compiled first, side by side; then each setting is some replays of a CUDA graph, as in kernel_bench.
Shares are of what the device was seen to do in the same run: bytes of a copy, FLOPs of a matrix product.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import triton
from kernel_bench import timed
from kernel_cases import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, PAGE, VOCAB, Case, Contestant, drawn
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_kernels.launch_plan import LaunchPlan, plan_launch
from wideseek_kernels.on_triton.paged_attention import Launch, paged_attention
from wideseek_kernels.on_triton.rms_norm import rms_norm_kernel
from wideseek_kernels.on_triton.sample import LIKELY, SPLIT, likely_kernel, row_kernel, split_kernel
from wideseek_kernels.on_triton.token_logprob import COLUMNS, ROWS, part_kernel

THREADS, ROUNDS = 12, 10
SMALL = 64
"""What lengths and rows are divided by where a setting is only compiled: no kernel is compiled for a size."""

DECODING = [
    Launch(16, 4, 2),
    Launch(16, 4, 3),
    Launch(16, 4, 4),
    Launch(16, 4, 5),
    Launch(16, 8, 3),
]
PREFILLING = [
    Launch(16, 4, 2),
    Launch(16, 4, 3),
    Launch(16, 8, 3),
    Launch(32, 8, 2),
    Launch(32, 8, 3),
]


@dataclass(frozen=True, slots=True)
class Trial:
    """A setting of a case: call() runs it once, which needs so many bytes moved and FLOPs done."""

    case: str
    setting: str
    call: Callable[[], object]
    bytes: float
    flops: float = 0


def trials(device: torch.device, shrink: int = 1) -> Iterator[Trial]:
    """All trials, those that say what the device can do first. Operands live while a case's trials do."""
    yield from bounds(device, shrink)
    for name, kv_lens, q_lens, shared, launches in (
        ("decode 64 x 4k", [4096] * 64, [1] * 64, 0, DECODING),
        ("decode 64 x (16k shared + 2k)", [18432] * 64, [1] * 64, 16384, DECODING),
        ("prefill 8k", [8192], [8192], 0, PREFILLING),
    ):
        yield from attention(
            name,
            [max(PAGE, n // shrink) for n in kv_lens],
            [max(1, n // shrink) for n in q_lens],
            shared // shrink // PAGE,
            launches,
            device,
        )
    yield from norm(device, 8192 // shrink)
    for top_p in (1.0, 0.95):
        yield from sampling(device, max(16, 256 // shrink), top_p)
    yield from logprob(device, 8192 // shrink)


def bounds(device: torch.device, shrink: int) -> Iterator[Trial]:
    source = torch.ones((1 << 28) // shrink**2, device=device)
    target = torch.empty_like(source)
    yield Trial("copy", "torch", lambda: target.copy_(source), 8 * len(source))
    size = 8192 // shrink
    a, b = (drawn(device, size, size) for _ in range(2))
    yield Trial("gemm", "torch", lambda: a @ b, 6 * size**2, 2 * size**3)


def attention(
    name: str,
    kv_lens: list[int],
    q_lens: list[int],
    shared: int,
    launches: list[Launch],
    device: torch.device,
) -> Iterator[Trial]:
    """One plan for each number of items that are to run at a time on a multiprocessor."""
    counts = [-(-n // PAGE) - shared for n in kv_lens]
    order = np.random.default_rng(0).permutation(sum(counts) + shared)
    own = np.split(order[shared:], np.cumsum(counts)[:-1])
    pages = [np.concatenate([order[:shared], each]) for each in own]
    k, v = (drawn(device, len(order), KV_HEADS, PAGE, HEAD_DIM) for _ in range(2))
    q, out = (drawn(device, sum(q_lens), HEADS, HEAD_DIM) for _ in range(2))
    lse = drawn(device, sum(q_lens), HEADS, dtype=torch.float32)
    moved = 4 * len(order) * PAGE * KV_HEADS * HEAD_DIM + 4 * sum(q_lens) * HEADS * HEAD_DIM
    pairs = sum(n * (kv - n) + n * (n + 1) / 2 for n, kv in zip(q_lens, kv_lens, strict=True))
    for items in (2,) if max(q_lens) > 1 else (2, 1, 4):
        programs = max(1, items * multiprocessors(device) // KV_HEADS)
        plan = plan_launch(pages, kv_lens, q_lens, page_size=PAGE, programs=programs, device=device)
        for launch in launches if items == 2 else launches[:3]:
            setting = (
                f"{launch.tokens} queries, {launch.num_warps} warps, {launch.num_stages} stages"
            )
            chosen = plan if launch.tokens == 16 else paired(plan)
            yield Trial(
                name,
                f"{setting}, {items} items an SM",
                partial(paged_attention, q, k, v, chosen, out, lse, launch),
                moved,
                4 * pairs * HEADS * HEAD_DIM,
            )


def multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def paired(plan: LaunchPlan) -> LaunchPlan:
    """Items that begin at the first key and whose queries follow each other, two by two: for twice the queries."""
    items: list[list[int]] = []
    open_for_more = False
    for item in sorted(plan.items.tolist()):
        begin, end, page, tile_from, tile_to = item
        last = items[-1] if items else item
        if open_for_more and last[1:4] == [begin, page, 0] and tile_from == 0:
            items[-1] = [last[0], end, page, 0, max(last[4], tile_to)]
            open_for_more = False
        else:
            items.append(item)
            open_for_more = True
    items.sort(key=lambda item: item[3] - item[4])
    return replace(plan, items=torch.tensor(items, device=plan.items.device).view(-1, 5))


def norm(device: torch.device, tokens: int) -> Iterator[Trial]:
    x, residual, out, summed = (drawn(device, tokens, HIDDEN) for _ in range(4))
    weight, scales = drawn(device, HIDDEN), torch.empty(tokens, device=device)
    columns = triton.next_power_of_2(HIDDEN)
    for rows, warps in ((1, 2), (1, 4), (1, 8), (1, 16), (2, 8)):
        yield Trial(
            "add_rms_norm",
            f"{rows} rows, {warps} warps",
            partial(
                rms_norm_kernel[(triton.cdiv(tokens, rows),)],
                *(x, residual, weight, out, summed, scales, tokens, HIDDEN, 1e-6),
                ROWS=rows,
                COLUMNS=columns,
                num_warps=warps,
            ),
            8 * tokens * HIDDEN,
        )


def sampling(device: torch.device, people: int, top_p: float) -> Iterator[Trial]:
    """Each kernel by itself, in their order: one reads what those before it left."""
    logits = drawn(device, people, VOCAB, dtype=torch.float32) * 2.5
    ones, ids = torch.ones(people, device=device), torch.arange(people, device=device)
    settings = (ones, ids * 0, ones * top_p, ones * 0)
    splits = triton.cdiv(VOCAB, SPLIT)
    facts = torch.empty(people, splits, 5, device=device)
    likely = torch.empty(people, splits, LIKELY, device=device)
    tokens, results = torch.empty_like(ids), torch.empty(3, people, device=device)
    for warps in (4, 8, 16):
        yield Trial(
            f"split_kernel, top_p {top_p}",
            f"{warps} warps",
            partial(
                split_kernel[(splits, people)],
                *(logits, ones, facts, VOCAB),
                SPLIT=SPLIT,
                num_warps=warps,
            ),
            4 * people * VOCAB,
        )
    for warps, registers in ((4, None), (8, None), (16, None), (8, 64)) if top_p < 1 else ():
        yield Trial(
            f"likely_kernel, top_p {top_p}",
            f"{warps} warps, {registers or 'all'} registers",
            partial(
                likely_kernel[(splits, people)],
                *(logits, *settings, facts, likely, VOCAB),
                SPLIT=SPLIT,
                LIKELY=LIKELY,
                num_warps=warps,
                maxnreg=registers,
            ),
            4 * people * VOCAB,
        )
    for warps in (4, 8, 16):
        yield Trial(
            f"row_kernel, top_p {top_p}",
            f"{warps} warps",
            partial(
                row_kernel[(people,)],
                *(logits, *settings, ids, ids, facts, likely, tokens, results, VOCAB, splits),
                SPLITS=triton.next_power_of_2(splits),
                SPLIT=SPLIT,
                LIKELY=LIKELY,
                num_warps=warps,
            ),
            4 * people * (splits * (5 + LIKELY * (top_p < 1)) + SPLIT),
        )


def logprob(device: torch.device, tokens: int) -> Iterator[Trial]:
    hidden, weight = drawn(device, tokens, HIDDEN), drawn(device, VOCAB, HIDDEN)
    ids, chosen = torch.arange(tokens, device=device), torch.empty(tokens, device=device)
    num_parts = triton.cdiv(VOCAB, COLUMNS)
    parts = torch.empty(3, num_parts, tokens, device=device)
    for band, stages, registers in (
        *((16, 3, 128), (16, 3, None), (16, 4, None)),
        *((8, 3, 128), (1 << 20, 3, 128)),
    ):
        yield Trial(
            "part_kernel",
            f"band {band}, {stages} stages, {registers or 'all'} registers",
            partial(
                part_kernel[(triton.cdiv(tokens, ROWS) * num_parts,)],
                *(hidden, weight, ids, parts, chosen, tokens, VOCAB, HIDDEN),
                ROWS=ROWS,
                COLUMNS=COLUMNS,
                DEPTH=64,
                BAND=band,
                num_warps=8,
                num_stages=stages,
                maxnreg=registers,
            ),
            2 * HIDDEN * (tokens + VOCAB),
            2 * tokens * HIDDEN * VOCAB,
        )


def compile_all(device: torch.device) -> None:
    """Runs every trial once with few rows, many at a time: what they compile lies in Triton's cache then."""

    def attempt(trial: Trial) -> None:
        try:
            trial.call()
        except (RuntimeError, ValueError, triton.runtime.errors.TritonError) as error:
            print(trial.case, trial.setting, "was not compiled:", repr(error)[:200], flush=True)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(attempt, trials(device, SMALL)))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


def measured(trial: Trial, most: dict[str, float]) -> dict[str, Any]:
    """A line of the table; most: bytes and FLOPs a second that the device was seen to do."""
    case = Case(trial.case, list, trial.bytes, trial.flops, calls=1 if trial.flops > 1e12 else 4)
    times = timed(Contestant(trial.setting, lambda _: trial.call()), case, ROUNDS)
    row: dict[str, Any] = {"case": trial.case, "setting": trial.setting}
    if not times:
        return row | {"microseconds": None}
    seconds = median(times)
    speeds = {"bytes": trial.bytes / seconds, "flops": trial.flops / seconds}
    if trial.case in ("copy", "gemm"):
        most |= {"copy": {"bytes": speeds["bytes"]}, "gemm": {"flops": speeds["flops"]}}[trial.case]
    share = max((speeds[name] / most[name] for name in most), default=0.0)
    return row | {
        "microseconds": round(seconds * 1e6, 2),
        "gigabytes_per_second": round(speeds["bytes"] / 1e9),
        "teraflops": round(speeds["flops"] / 1e12, 1),
        "share_of_bound": round(share, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/kernel_sweep.py", description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON; default: none")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--seconds", type=float, default=50, help="no trial begins later")
    options = parser.parse_args()
    if not torch.cuda.is_available() or not cpu_kernels():
        print("error: no CUDA device, or no C++ compiler to plan with", file=sys.stderr)
        return 2
    began, device = time.monotonic(), torch.device("cuda")
    compile_all(device)
    print(f"compiled after {time.monotonic() - began:.1f} s", flush=True)
    print("case, setting, microseconds, GB/s, TFLOP/s, share of the bound", flush=True)
    rows: list[dict[str, Any]] = []
    most: dict[str, float] = {}
    for trial in trials(device):
        if options.only not in trial.case and trial.case not in ("copy", "gemm"):
            continue
        if time.monotonic() - began > options.seconds:
            print(trial.case, "and what follows was not run: time is over", flush=True)
            break
        rows.append(measured(trial, most))
        print("  ".join(f"{value!s:>10}" for value in rows[-1].values()), flush=True)
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
            options.output.write_text(json.dumps(found | {"rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
