"""Samples into micro-batches: who computes what is planned globally, from the lengths alone.

Every rank calls `plan_micro_batches` on the same lengths and gets the same plan, in which all ranks
run equally many micro-batches, so that no collective of the forward or backward pass waits for a
rank that is done. Weights are on the tokens already: no plan can change the loss.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wideseek_train.sample import Sample

Plan = list[list[tuple[int, ...]]]
"""plan[rank][k]: indices of the samples in the rank's k-th micro-batch; may be empty."""


def plan_micro_batches(
    lengths: Sequence[int],
    *,
    num_ranks: int,
    token_budget: int,
    cost: Callable[[int], float] = float,
) -> Plan:
    """Every sample once, at most `token_budget` tokens a micro-batch, equally many on each rank.

    As few micro-batches as the greedy rule finds: the dearest sample first, each into the cheapest
    micro-batch with room. Those that run at the same time on different ranks cost about the same.
    `cost` of a length in any unit; attention makes long samples dearer than their tokens.
    ValueError for a sample longer than the budget, a length below 1 or no rank.
    """
    if num_ranks < 1:
        raise ValueError(f"num_ranks must be at least 1, not {num_ranks}")
    if lengths and not 1 <= min(lengths) <= max(lengths) <= token_budget:
        raise ValueError(
            f"lengths must be 1 to token_budget {token_budget}, not {min(lengths)} to {max(lengths)}"
        )
    order = sorted(range(len(lengths)), key=lambda i: (-cost(lengths[i]), i))
    rounds = max(1, -(-sum(lengths) // (token_budget * num_ranks)))
    while (filled := _fill(order, lengths, num_ranks * rounds, token_budget, cost)) is None:
        rounds += 1
    loads = [sum(cost(lengths[i]) for i in samples) for samples in filled]
    by_load = sorted(range(len(filled)), key=lambda slot: (-loads[slot], slot))
    plan: Plan = [[] for _ in range(num_ranks)]
    for k in range(rounds):
        dealt = by_load[k * num_ranks : (k + 1) * num_ranks]
        # The dearest of a round goes to the first rank, then to the last: sums stay level, too.
        for rank, slot in enumerate(dealt if k % 2 == 0 else reversed(dealt)):
            plan[rank].append(tuple(sorted(filled[slot])))
    return plan


def _fill(
    order: Sequence[int],
    lengths: Sequence[int],
    slots: int,
    token_budget: int,
    cost: Callable[[int], float],
) -> list[list[int]] | None:
    """Samples of each slot, or None if one finds no slot with room."""
    filled: list[list[int]] = [[] for _ in range(slots)]
    tokens = [0] * slots
    cheapest = [(0.0, slot) for slot in range(slots)]  # a heap
    for index in order:
        passed = []
        while cheapest and tokens[cheapest[0][1]] + lengths[index] > token_budget:
            passed.append(heapq.heappop(cheapest))
        if not cheapest:
            return None
        load, slot = cheapest[0]
        filled[slot].append(index)
        tokens[slot] += lengths[index]
        heapq.heapreplace(cheapest, (load + cost(lengths[index]), slot))
        for entry in passed:
            heapq.heappush(cheapest, entry)
    return filled


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Samples side by side, without padding.

    For the model: tokens and positions [T], cu_seqlens [S + 1], int64; sample i is rows
    cu_seqlens[i] to cu_seqlens[i + 1]. For the loss, one entry a trained token: predictors [N], the
    row whose hidden state predicts it; targets [N], its id; sample_ids [N] in [0, S);
    engine_logprobs, advantages and weights [N], fp32.
    """

    tokens: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    predictors: Tensor
    targets: Tensor
    sample_ids: Tensor
    engine_logprobs: Tensor
    advantages: Tensor
    weights: Tensor


def pack(samples: Sequence[Sample], device: torch.device | str = "cpu") -> MicroBatch:
    """The micro-batch of `samples`; of none, a pass over two tokens with weight 0.

    The empty pass goes through the whole model and its loss, so that a rank without data takes part
    in every collective with gradients of exactly 0.
    """
    samples = samples or [_EMPTY_PASS]
    trained = torch.cat([sample.trained for sample in samples])
    lengths = torch.tensor([len(sample) for sample in samples])
    tokens = torch.cat([sample.token_ids for sample in samples])
    targets = trained.nonzero()[:, 0]
    sample_of = torch.repeat_interleave(torch.arange(len(samples)), lengths)

    def chosen(name: str) -> Tensor:
        return torch.cat([getattr(sample, name) for sample in samples])[targets].to(device)

    return MicroBatch(
        tokens=tokens.to(device),
        positions=torch.cat([torch.arange(len(sample)) for sample in samples]).to(device),
        cu_seqlens=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(device),
        predictors=(targets - 1).to(device),
        targets=tokens[targets].to(device),
        sample_ids=sample_of[targets].to(device),
        engine_logprobs=chosen("engine_logprobs"),
        advantages=chosen("advantages"),
        weights=chosen("weights"),
    )


_EMPTY_PASS = Sample(
    role="lead",
    token_ids=torch.zeros(2, dtype=torch.int64),
    trained=torch.tensor([False, True]),
    engine_logprobs=torch.zeros(2),
    advantages=torch.zeros(2),
    weights=torch.zeros(2),
)
