"""The Batch of one optimizer step: every rank's samples put together, then dealt out in micro-batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
import torch.distributed as dist
from torch import Tensor

from wideseek.trajectory import Role
from wideseek_train.packing import plan_tree
from wideseek_train.sample import Sample
from wideseek_train.trie import Trie

ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One rank's micro-batches by role, equally many on every rank; one without samples is an empty pass.

    Roles have their own, so that each one's part of the gradient is seen by itself; they share no prompt anyway.
    num_samples and num_tokens count over all ranks.
    """

    micro_batches: Mapping[Role, tuple[tuple[Sample, ...], ...]]
    num_samples: int
    num_tokens: int


def make_batch(
    own: Mapping[int, Sequence[Sample]], *, token_budget: int, hidden_size: int
) -> Batch:
    """The step's Batch from this rank's samples by question; a collective call where there are ranks.

    Samples are ordered by question and dealt out by their tokens alone, so it does not matter who rolled them out.
    token_budget: what a micro-batch may compute, prefixes shared within it counted once. ValueError for a sample of more.
    """
    samples = gather_samples(own)
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)

    def cost(trie: Trie) -> float:
        # Multiply-adds of attention against those of the matrices of a layer.
        return trie.num_tokens + trie.num_pairs / (6.0 * hidden_size)

    micro_batches: dict[Role, tuple[tuple[Sample, ...], ...]] = {}
    for role in ROLES:
        own_role = [sample for sample in samples if sample.role == role]
        if own_role:
            trie = Trie.of([sample.token_ids for sample in own_role])
            plan = plan_tree(trie, num_ranks=ranks, token_budget=token_budget, cost=cost)
            dealt = plan[rank]
            micro_batches[role] = tuple(tuple(own_role[i] for i in members) for members in dealt)
    return Batch(
        micro_batches=micro_batches,
        num_samples=len(samples),
        num_tokens=sum(len(sample) for sample in samples),
    )


def gather_samples(own: Mapping[int, Sequence[Sample]]) -> list[Sample]:
    """All ranks' samples in question order, as flat tensors through the CPU backend: 21 bytes a token."""
    pairs = [(question, sample) for question, group in own.items() for sample in group]
    if dist.is_initialized() and dist.get_world_size() > 1:
        pairs = _exchange(pairs)
    return [sample for _, sample in sorted(pairs, key=lambda pair: pair[0])]


def _exchange(pairs: list[tuple[int, Sample]]) -> list[tuple[int, Sample]]:
    heads = torch.tensor(
        [(question, ROLES.index(s.role), len(s)) for question, s in pairs], dtype=torch.int64
    ).reshape(-1, 3)
    samples = [sample for _, sample in pairs]
    ids = _cat([s.token_ids for s in samples], torch.int64)
    trained = _cat([s.trained for s in samples], torch.bool)
    floats = _cat(
        [torch.stack((s.engine_logprobs, s.advantages, s.weights), dim=1) for s in samples],
        torch.float32,
    ).reshape(-1, 3)
    gathered = []
    columns = (_gather(heads), _gather(ids), _gather(trained), _gather(floats))
    for own_heads, own_ids, own_trained, own_floats in zip(*columns, strict=True):
        lengths = own_heads[:, 2].tolist()
        parts = (torch.split(column, lengths) for column in (own_ids, own_trained, own_floats))
        for (question, role, _), part_ids, part_trained, part_floats in zip(
            own_heads.tolist(), *parts, strict=True
        ):
            logprobs, advantages, weights = part_floats.unbind(1)
            sample = Sample(
                role=ROLES[role],
                token_ids=part_ids,
                trained=part_trained,
                engine_logprobs=logprobs,
                advantages=advantages,
                weights=weights,
            )
            gathered.append((question, sample))
    return gathered


def _cat(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=dtype)


def _gather(own: Tensor) -> list[Tensor]:
    """Tensors of all ranks that differ in their first dimension only."""
    ranks = dist.get_world_size()
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks)]
    dist.all_gather(counts, torch.tensor([len(own)]))
    longest = max(int(count) for count in counts)
    padded = own.new_zeros((longest, *own.shape[1:]))
    padded[: len(own)] = own
    received = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(received, padded)
    return [part[: int(count)] for part, count in zip(received, counts, strict=True)]
