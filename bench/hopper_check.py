"""First thing on a Hopper GPU: is the attention in CUDA C++ right, and how fast is it beside Triton and cuDNN?

    python bench/hopper_check.py [--seconds 60] [--correct-only]

From one tile of one head upwards, each case printed when it is done: what hangs or faults is the one after the last line.
Distances are relative, to the definition in fp64; bits are compared between whole and split items, and with Triton.
Exit codes: 0 right; 1 wrong; 2 no Hopper GPU, nvcc or C++ compiler.
"""

import argparse
import sys
import time
from statistics import median

import numpy as np
import torch
from kernel_bench import measured
from kernel_cases import HEAD_DIM, HEADS, KV_HEADS, PAGE, attention_case
from torch import Tensor
from wideseek_kernels.attention_sm90 import (
    ROWS,
    attention_sm90,
    refused,
    rows_a_token,
    takes_sm90,
)
from wideseek_kernels.launch_plan import plan_launch
from wideseek_kernels.paged_attention import paged_attention_with_lse, plan_attention

DEVICE = torch.device("cuda")
CASES: list[tuple[list[int], list[int], dict[str, int]]] = [
    ([64], [64], {"heads": 1, "kv_heads": 1}),
    ([64], [64], {"heads": 4, "kv_heads": 1}),
    ([64], [64], {"heads": 4, "kv_heads": 1, "head_dim": 64}),
    ([128], [128], {"heads": 4, "kv_heads": 1}),
    ([100], [100], {"heads": 4, "kv_heads": 1}),
    ([256], [32], {"heads": 4, "kv_heads": 1}),
    ([576], [32], {"heads": 4, "kv_heads": 1}),
    ([700, 300, 65], [700, 17, 1], {}),
    ([700, 300, 65], [90, 17, 1], {"page": 16}),
    ([700, 300, 65], [90, 17, 1], {"page": 128, "head_dim": 64}),
    ([3000, 2000, 900], [900, 1, 900], {}),
]
TIMED = [
    ("prefill 4k", [4096], [4096]),
    ("prefill 8k", [8192], [8192]),
    ("prefill 16k", [16384], [16384]),
    ("prefill 32k", [32768], [32768]),
    ("extend 512 at 16k", [16896], [512]),
    ("extend 64 x 128 at 8k", [8320] * 64, [128] * 64),
]


def dense(
    q: Tensor, k: Tensor, v: Tensor, pages: list[Tensor], lens: list[tuple[int, int]]
) -> Tensor:
    """The definition in fp64 on the GPU, sequence by sequence."""
    outs, row = [], 0
    for own, (kv_len, q_len) in zip(pages, lens, strict=True):
        keys, values = (x[own].transpose(1, 2).flatten(0, 1)[:kv_len].double() for x in (k, v))
        group = q.shape[1] // k.shape[1]
        keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", q[row : row + q_len].double(), keys)
        at = torch.arange(kv_len, device=q.device)
        hidden = at > at[kv_len - q_len :, None]
        scores = (scores / q.shape[2] ** 0.5).masked_fill(hidden, -torch.inf)
        outs.append(torch.einsum("hqk,khd->qhd", scores.softmax(2), values))
        row += q_len
    return torch.cat(outs)


def check(
    kv_lens: list[int],
    q_lens: list[int],
    dtype: torch.dtype,
    *,
    heads: int = 8,
    kv_heads: int = 2,
    head_dim: int = 128,
    page: int = 64,
) -> bool:
    """Prints a line; whether the results are near the definition, and the same bits however they are come by."""
    counts = [-(-n // page) for n in kv_lens]
    order = np.random.default_rng(0).permutation(sum(counts))
    pages = np.split(order, np.cumsum(counts)[:-1])
    shape = (len(order), kv_heads, page, head_dim)
    k, v = (torch.randn(shape, device=DEVICE).to(dtype) for _ in range(2))
    for own, kv_len in zip(pages, kv_lens, strict=True):
        if kv_len % page:
            k[own[-1], :, kv_len % page :] = v[own[-1], :, kv_len % page :] = torch.nan
    q = torch.randn(sum(q_lens), heads, head_dim, device=DEVICE).to(dtype)
    results = []
    for programs in (132 // kv_heads, 1, 64):
        plan = plan_launch(
            pages,
            kv_lens,
            q_lens,
            page_size=page,
            programs=programs,
            device=q.device,
            most_tokens=ROWS // rows_a_token(k, heads),
        )
        out, lse = torch.full_like(q, torch.nan), torch.full(q.shape[:2], torch.nan, device=DEVICE)
        attention_sm90(q, k, v, plan, out, lse)
        torch.cuda.synchronize()
        results.append((out, lse))
    found, *others = results
    triton = paged_attention_with_lse(q, k, v, plan_attention(pages, kv_lens, q_lens, k))
    expected = dense(
        q,
        k,
        v,
        [torch.from_numpy(p).to(DEVICE) for p in pages],
        list(zip(kv_lens, q_lens, strict=True)),
    )
    distance = float((found[0].double() - expected).norm() / expected.norm())
    same = all(torch.equal(a, b) for other in others for a, b in zip(found, other, strict=True))
    alike = min(float((a == b).double().mean()) for a, b in zip(found, triton, strict=True))
    right = distance < 4e-3 and same and (alike == 1 or refused(k, heads) is not None)
    name = (
        f"{kv_lens} keys, {q_lens} queries, {heads}/{kv_heads} heads of {head_dim}, pages of {page}"
    )
    print(
        f"{'right' if right else 'WRONG'}  {distance:.2e}  bits {'same' if same else 'DIFFER'}, "
        f"{alike:.4f} those of Triton  "
        f"{str(dtype).removeprefix('torch.')}  {name}",
        flush=True,
    )
    if not distance < 4e-3:
        print("       " + where(found[0], expected), flush=True)
    return right


def where(found: Tensor, expected: Tensor) -> str:
    """Which rows, heads and numbers of [T, H, D] are wrong: a fault of layout shows as a pattern."""
    near = (found.double() - expected).abs() <= 2e-2 * expected.abs().amax()
    wrong = ~near  # NaN too
    lines = [f"{int(wrong.sum())} of {wrong.numel()} wrong, {int(found.isnan().sum())} NaN"]
    for name, others in (("rows", (1, 2)), ("heads", (0, 2)), ("numbers", (0, 1))):
        shares = wrong.float().mean(others).tolist()
        bad = [f"{index}:{share:.2f}" for index, share in enumerate(shares) if share]
        lines.append(f"{name} {' '.join(bad[:16])}{' ...' if len(bad) > 16 else ''}")
    return "; ".join(lines)


def time_all(seconds: float) -> None:
    began = time.monotonic()
    print("case, contestant, microseconds, TFLOP/s; medians of rounds in turns", flush=True)
    for name, kv_lens, q_lens in TIMED:
        if time.monotonic() - began > seconds:
            print(name, "and what follows was not run: time is over")
            return
        case = attention_case(name, kv_lens, q_lens, 0, DEVICE, hopper=True)
        contestants = case.make()
        for contestant, times in zip(contestants, measured(contestants, case, 10), strict=True):
            if times:
                middle = median(times)
                print(
                    f"{name:24} {contestant.name:34} {middle * 1e6:9.1f} {case.flops / middle / 1e12:7.1f}",
                    flush=True,
                )
        torch.cuda.empty_cache()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/hopper_check.py", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="no timing begins later")
    parser.add_argument("--correct-only", action="store_true", help="time nothing")
    options = parser.parse_args()
    began = time.monotonic()
    if not torch.cuda.is_available() or not takes_sm90(DEVICE):
        print("error: no Hopper GPU, no nvcc, or no C++ compiler to plan with", file=sys.stderr)
        return 2
    print(f"built after {time.monotonic() - began:.1f} s", flush=True)
    torch.manual_seed(0)
    with torch.inference_mode():
        right = [
            check(kv_lens, q_lens, dtype, **settings)
            for kv_lens, q_lens, settings in CASES
            for dtype in (torch.bfloat16, torch.float16)
        ]
        heads = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "page": PAGE}
        right.append(check([4096], [300], torch.bfloat16, **heads))
        if all(right) and not options.correct_only:
            time_all(options.seconds)
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
