"""Log-probability and entropy of each next token, without the logits of all tokens at once."""

import torch
from torch import Tensor

from wideseek_kernels import reference
from wideseek_kernels.border import check, check_for_kernel, takes_kernel


def token_logprob(hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """log softmax(hidden weightᵀ) at ids, and the entropy of that softmax in nats.

    hidden [T, C] and weight [V, C] of one dtype, ids [T] int64 in 0 to V - 1 -> log-probabilities
    and entropies, both [T], in fp32 (fp64 for fp64). Differentiable in hidden and weight; both ways
    only some rows of logits exist at a time and the backward computes them again. On a GPU an id
    out of range gives NaN. Raises ValueError.
    """
    check("hidden", hidden, (None, None), hidden.device)
    check("weight", weight, (None, hidden.shape[1]), hidden.device, hidden.dtype)
    check("ids", ids, (hidden.shape[0],), hidden.device, torch.int64)
    if takes_kernel(hidden):
        check_for_kernel(hidden=hidden, weight=weight, ids=ids)
        from wideseek_kernels.on_triton import token_logprob as on_triton

        return on_triton.token_logprob(hidden, weight, ids)
    return reference.token_logprob(hidden, weight, ids)
