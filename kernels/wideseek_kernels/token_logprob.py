"""Log-probability and entropy of each next token, without the logits of all tokens at once."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from wideseek_kernels import reference
from wideseek_kernels.border import check, check_for_kernel, takes_csrc, takes_kernel
from wideseek_kernels.reference import LOGIT_ROWS


def token_logprob(hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """log softmax(hidden weightᵀ) at ids, and the entropy of that softmax in nats.

    hidden [T, C] and weight [V, C] of one dtype, ids [T] int64 in 0 to V - 1 -> log-probabilities
    and entropies, both [T], in fp32 (fp64 for fp64). Differentiable in hidden and weight; both ways
    only some rows of logits exist at a time and the backward computes them again. In C++ the
    log-probabilities are to the bit those that `sample` gives, where T is a multiple of
    `paged_attention.row_tile`. On a GPU an id out of range gives NaN. Raises ValueError.
    """
    check("hidden", hidden, (None, None), hidden.device)
    check("weight", weight, (None, hidden.shape[1]), hidden.device, hidden.dtype)
    check("ids", ids, (hidden.shape[0],), hidden.device, torch.int64)
    if takes_kernel(hidden):
        check_for_kernel(hidden=hidden, weight=weight, ids=ids)
        from wideseek_kernels.on_triton import token_logprob as on_triton

        return on_triton.token_logprob(hidden, weight, ids)
    # Under autocast forward and backward would multiply in different dtypes.
    if takes_csrc(hidden, weight, differentiable=True) and not torch.is_autocast_enabled("cpu"):
        least, most = (int(x) for x in ids.aminmax())
        if not 0 <= least <= most < len(weight):
            raise ValueError(f"ids has {least} to {most}, of {len(weight)} tokens")
        logprobs, entropies = _OnCpu.apply(hidden, weight, ids)  # type: ignore[no-untyped-call]
        return logprobs, entropies
    return reference.token_logprob(hidden, weight, ids)


class _OnCpu(torch.autograd.Function):
    """LOGIT_ROWS rows of logits at a time, forward and again backward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        logprobs, entropies = (torch.empty(len(ids)) for _ in range(2))
        parts = (
            torch.split(x, LOGIT_ROWS) for x in (hidden, ids.contiguous(), logprobs, entropies)
        )
        for rows, chosen, logprob, entropy in zip(*parts, strict=True):
            logits = F.linear(rows, weight).float()
            torch.ops.wideseek.score(logits, chosen, logprob, entropy, torch.get_num_threads())
        ctx.save_for_backward(hidden, weight, ids, logprobs, entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_logprobs: Tensor, of_entropies: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        hidden, weight, *rest = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        columns = (torch.split(x, LOGIT_ROWS) for x in (hidden, *rest, of_logprobs, of_entropies))
        for begin, (rows, ids, logprobs, entropies, of_logprob, of_entropy) in zip(
            range(0, len(hidden), LOGIT_ROWS), zip(*columns, strict=True), strict=True
        ):
            logits = F.linear(rows, weight)
            # log Z, from what is known of one token.
            chosen = logits.gather(1, ids[:, None])
            logs = logits.sub_(chosen - logprobs[:, None])
            # d entropy / d logit = -p (log p + entropy); d logprob / d logit = [it] - p.
            slopes = (logs + entropies[:, None]).mul_(of_entropy[:, None]).add_(of_logprob[:, None])
            slopes = slopes.mul_(logs.exp_()).neg_()
            slopes.scatter_add_(1, ids[:, None], of_logprob[:, None])
            if of_hidden is not None:
                torch.mm(slopes, weight, out=of_hidden[begin : begin + LOGIT_ROWS])
            if of_weight is not None:
                of_weight.addmm_(slopes.T, rows)
        return of_hidden, of_weight, None
