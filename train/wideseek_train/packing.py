"""Samples into micro-batches: who computes what is planned globally, from the tokens alone.

Every rank plans for the same samples and gets the same plan, in which all ranks run equally many
micro-batches, so that no collective of the forward or backward pass waits for a rank that is done.
Samples that begin alike go together, since `pack_tree` lays a shared prefix out once. Weights are
on the tokens already: neither plan nor layout can change the loss.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wideseek_train.sample import Sample
from wideseek_train.trie import Trie

Plan = list[list[tuple[int, ...]]]
"""plan[rank][k]: indices of the samples in the rank's k-th micro-batch; may be empty."""


def plan_micro_batches(
    lengths: Sequence[int],
    *,
    num_ranks: int,
    token_budget: int,
    costs: Sequence[float] | None = None,
) -> Plan:
    """Every sample once, at most `token_budget` tokens a micro-batch, equally many on each rank.

    As few micro-batches as the greedy rule finds: the dearest sample first, each into the cheapest
    micro-batch with room. Those that run at the same time on different ranks cost about the same.
    costs: of each sample in any unit, or its tokens; attention makes long samples dearer.
    ValueError for a sample longer than the budget, a length below 1 or no rank.
    """
    costs = lengths if costs is None else costs
    if num_ranks < 1:
        raise ValueError(f"num_ranks must be at least 1, not {num_ranks}")
    if lengths and not 1 <= min(lengths) <= max(lengths) <= token_budget:
        raise ValueError(
            f"lengths must be 1 to token_budget {token_budget}, not {min(lengths)} to {max(lengths)}"
        )
    order = sorted(range(len(lengths)), key=lambda i: (-costs[i], i))
    rounds = max(1, -(-sum(lengths) // (token_budget * num_ranks)))
    while (filled := _fill(order, lengths, num_ranks * rounds, token_budget, costs)) is None:
        rounds += 1
    loads = [sum(costs[i] for i in samples) for samples in filled]
    by_load = sorted(range(len(filled)), key=lambda slot: (-loads[slot], slot))
    plan: Plan = [[] for _ in range(num_ranks)]
    for k in range(rounds):
        dealt = by_load[k * num_ranks : (k + 1) * num_ranks]
        # The dearest of a round goes to the first rank, then to the last: sums stay level, too.
        for rank, slot in enumerate(dealt if k % 2 == 0 else reversed(dealt)):
            plan[rank].append(tuple(sorted(filled[slot])))
    return plan


def plan_tree(
    trie: Trie, *, num_ranks: int, token_budget: int, cost: Callable[[Trie], float]
) -> Plan:
    """A plan of the same kind for samples that share prefixes; a micro-batch's tokens are those of its trie.

    Large bundles of siblings compute a prefix once, small ones are dealt out evenly: of bundles of up to the whole
    budget, 3/4 of that and so on, down to single samples, it takes those of which the slowest ranks are done first.
    `cost` of a trie in any unit. Errors as above.
    """
    limits, longest = [token_budget], max(trie.lengths, default=1)
    while limits[-1] > longest:
        limits.append(limits[-1] * 3 // 4)
    best: Plan = []
    least = math.inf
    for limit in (*limits, 0):
        bundles = trie.bundles(limit)
        costs = [cost(bundle) for bundle in bundles]
        tokens = [bundle.num_tokens for bundle in bundles]
        plan = plan_micro_batches(
            tokens, num_ranks=num_ranks, token_budget=token_budget, costs=costs
        )
        time = sum(
            max(sum(costs[i] for i in dealt) for dealt in together)
            for together in zip(*plan, strict=True)
        )
        if time < least:
            least = time
            best = [
                [tuple(sorted(i for b in dealt for i in bundles[b].indices)) for dealt in rank]
                for rank in plan
            ]
    return best


def _fill(
    order: Sequence[int],
    lengths: Sequence[int],
    slots: int,
    token_budget: int,
    costs: Sequence[float],
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
        heapq.heapreplace(cheapest, (load + costs[index], slot))
        for entry in passed:
            heapq.heappush(cheapest, entry)
    return filled


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Samples without padding, as a flat run of rows for the model.

    For the model: tokens and positions [T], and the layout of `packed_attention`, cu_seqlens
    [S + 1] and shared [S], on the CPU; all int64. For the loss, one entry a trained token of each
    sample, in the order of the samples: predictors [N], the row whose hidden state predicts it, the
    same one for samples that share it; targets [N], its id; sample_ids [N] in [0, S);
    engine_logprobs, advantages and weights [N], fp32.
    """

    tokens: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    shared: Tensor
    predictors: Tensor
    targets: Tensor
    sample_ids: Tensor
    engine_logprobs: Tensor
    advantages: Tensor
    weights: Tensor


def pack(samples: Sequence[Sample], device: torch.device | str = "cpu") -> MicroBatch:
    """The micro-batch of `samples` side by side; of none, a pass over two tokens with weight 0.

    The empty pass goes through the whole model and its loss, so that a rank without data takes part
    in every collective with gradients of exactly 0.
    """
    samples = samples or [_EMPTY_PASS]
    return _lay_out(samples, Trie.flat([len(sample) for sample in samples]), device)


def pack_tree(samples: Sequence[Sample], device: torch.device | str = "cpu") -> MicroBatch:
    """As `pack`, with every distinct prefix laid out, and so computed, once.

    Only what the model sees is shared: a sampled token enters the loss once for each sample that
    has it, with that sample's own advantage, weight and old log-probability.
    """
    samples = samples or [_EMPTY_PASS]
    return _lay_out(samples, Trie.of([sample.token_ids for sample in samples]), device)


def _lay_out(samples: Sequence[Sample], trie: Trie, device: torch.device | str) -> MicroBatch:
    """Rows in the order of the trie, loss entries in that of the samples."""
    own = list(zip(trie.indices, trie.lengths, trie.shared, strict=True))
    rows = trie.rows()
    at = [sample.trained.nonzero()[:, 0] for sample in samples]

    def chosen(name: str) -> Tensor:
        parts = [getattr(sample, name)[t] for sample, t in zip(samples, at, strict=True)]
        return torch.cat(parts).to(device)

    counts = torch.tensor([length - depth for _, length, depth in own])
    return MicroBatch(
        tokens=torch.cat([samples[i].token_ids[depth:] for i, _, depth in own]).to(device),
        positions=torch.cat([torch.arange(depth, length) for _, length, depth in own]).to(device),
        cu_seqlens=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        shared=torch.tensor(trie.shared),
        predictors=torch.cat([rows[i][t - 1] for i, t in enumerate(at)]).to(device),
        targets=chosen("token_ids"),
        sample_ids=torch.cat([torch.full_like(t, i) for i, t in enumerate(at)]).to(device),
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
