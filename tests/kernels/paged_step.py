"""A step of attention over scattered pages, for the tests of the Triton and the Hopper kernel: free places are NaN."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from wideseek_kernels import reference_attention
from wideseek_kernels.attention_sm90 import ROWS, rows_a_token
from wideseek_kernels.kv_cache import FP8
from wideseek_kernels.launch_plan import LaunchPlan, plan_launch
from wideseek_kernels.paged_attention import AttentionPlan, plan_attention
from wideseek_kernels.reference import quantised


class PagedStep:
    """Sequences of random keys whose first shared[i] tokens are those of the first one, in its pages.

    cache: the dtype of the caches, that of q by default. In fp8 keys and values are numbers that it holds as they are.
    """

    def __init__(
        self,
        kv_lens: list[int],
        q_lens: list[int],
        shared: list[int] | None = None,
        *,
        heads: int = 4,
        kv_heads: int = 2,
        head_dim: int = 64,
        page_size: int = 64,
        dtype: torch.dtype = torch.float16,
        cache: torch.dtype | None = None,
        placed: int = 0,
        device: str = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        self.kv_lens, self.q_lens = kv_lens, q_lens
        counts = [-(-n // page_size) for n in kv_lens]
        places = torch.Generator().manual_seed(placed)
        order = torch.randperm(sum(counts) + 3, generator=places).numpy()
        shape = (len(order), kv_heads, page_size, head_dim)
        k_cache, v_cache = (torch.full(shape, torch.nan, dtype=dtype) for _ in range(2))
        self.pages: list[npt.NDArray[np.int64]] = []
        self.keys, self.values = [], []
        for i, length in enumerate(kv_lens):
            own = order[sum(counts[:i]) : sum(counts[: i + 1])]
            k, v = (normal(length, kv_heads, head_dim) for _ in range(2))
            if cache == FP8:
                k, v = (quantised(x).to(dtype) for x in (k, v))
            common = shared[i] if shared else 0
            if i and common:
                own[: common // page_size] = self.pages[0][: common // page_size]
                k[:common], v[:common] = self.keys[0][:common], self.values[0][:common]
            self.pages.append(own)
            self.keys.append(k)
            self.values.append(v)
            at = torch.arange(length)
            page, slot = torch.from_numpy(own)[at // page_size], at % page_size
            k_cache[page, :, slot], v_cache[page, :, slot] = k, v
        self.k_cache, self.v_cache = (x.to(device, cache or dtype) for x in (k_cache, v_cache))
        self.q = normal(sum(q_lens), heads, head_dim).to(device)

    def dense(self) -> tuple[Tensor, Tensor]:
        """The definition in fp64, on the CPU: results and log-sum-exps."""
        outs, sums = [], []
        for i, (kv_len, q_len) in enumerate(zip(self.kv_lens, self.q_lens, strict=True)):
            row = sum(self.q_lens[:i])
            q = self.q[row : row + q_len].double().cpu()
            group = q.shape[1] // self.keys[i].shape[1]
            k, v = (x[i].double().repeat_interleave(group, 1) for x in (self.keys, self.values))
            scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[2] ** 0.5
            future = torch.arange(kv_len) > torch.arange(kv_len - q_len, kv_len)[:, None]
            scores = scores.masked_fill(future, -torch.inf)
            outs.append(torch.einsum("hqk,khd->qhd", scores.softmax(2), v))
            sums.append(scores.logsumexp(2).T)
        return torch.cat(outs), torch.cat(sums)

    def twin(self) -> tuple[Tensor, Tensor]:
        """What the plain-PyTorch twin gives in fp32 on the CPU."""
        q, k, v = (x.cpu().float().nan_to_num() for x in (self.q, self.k_cache, self.v_cache))
        plan = reference_attention.plan_attention(self.pages, self.kv_lens, self.q_lens, k)
        out = reference_attention.paged_attention(q, k, v, plan)
        return out, reference_attention.log_sum_exp(q, k, plan)


def off(actual: Tensor, expected: Tensor) -> float:
    """The distance of two tensors over the size of the second; nan where the first has one."""
    wanted = expected.double().cpu()
    return float((actual.double().cpu() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    """Both results and log-sum-exps, to the bit."""
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def items_sm90(
    step: PagedStep, programs: int | None = None, rows: npt.NDArray[np.int64] | None = None
) -> LaunchPlan:
    """All of a step in items of the Hopper kernel, for as many programs as asked for, or a GPU's; rows: of q."""
    return plan_launch(
        step.pages,
        step.kv_lens,
        step.q_lens,
        page_size=step.k_cache.shape[2],
        programs=programs or 132 // step.k_cache.shape[1],
        device=step.q.device,
        most_tokens=ROWS // rows_a_token(step.k_cache, step.q.shape[1]),
        rows=rows,
    )


def plan_sm90(step: PagedStep, programs: int | None = None) -> AttentionPlan:
    """A plan that leaves nothing to the Triton kernel."""
    plan = plan_attention([], [], [], step.k_cache)
    wide = items_sm90(step, programs)
    return replace(plan, num_rows=wide.num_rows, wide=wide, num_heads=step.q.shape[1])
