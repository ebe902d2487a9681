"""One Trajectory as one training sequence: flat tensors with advantage and weight a token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wideseek.trajectory import Role, Rollout, Trajectory
from wideseek_train.selection import TrainedTurns


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Tensors of one length [T], on the CPU.

    token_ids int64; trained bool, True where the loss looks; engine_logprobs fp32, what the engine
    gave to each sampled token (plain softmax, so that the trainer's are comparable), 0 elsewhere;
    advantages and weights fp32, 0 where not trained.
    """

    role: Role
    token_ids: Tensor
    trained: Tensor
    engine_logprobs: Tensor
    advantages: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.token_ids)


def make_samples(
    rollout: Rollout,
    trained: Sequence[TrainedTurns],
    advantages: Sequence[float],
    weights: Sequence[Sequence[float]],
) -> list[Sample]:
    """The Trajectories of a rollout with anything to train; arguments hold one entry a Trajectory.

    `advantages` as from `share_outcome`, `weights` (one a trained turn) as from `equal_agents`.
    """
    return [
        make_sample(trajectory, part, [advantage] * len(part.turns), own)
        for trajectory, part, advantage, own in zip(
            rollout.trajectories, trained, advantages, weights, strict=True
        )
        if part.turns
    ]


def make_sample(
    trajectory: Trajectory,
    trained: TrainedTurns,
    advantages: Sequence[float],
    weights: Sequence[float],
) -> Sample:
    """`trajectory` with the advantage and token weight of each trained turn.

    ValueError for a prompt without tokens, or a trained turn that is not the one that was counted.
    """
    if not trajectory.prompt_token_ids:
        raise ValueError(f"prompt_token_ids of {trajectory.agent_id} must not be empty")
    token_ids = list(trajectory.prompt_token_ids)
    logprobs, spans = [0.0] * len(token_ids), []
    for turn in trajectory.turns:
        start = len(token_ids)
        if turn.completion is not None:
            token_ids += turn.completion.token_ids
            logprobs += turn.completion.plain_logprobs
        spans.append(slice(start, len(token_ids)))
        token_ids += turn.tool_token_ids
        logprobs += [0.0] * len(turn.tool_token_ids)
    sample = Sample(
        role=trajectory.role,
        token_ids=torch.tensor(token_ids, dtype=torch.int64),
        trained=torch.zeros(len(token_ids), dtype=torch.bool),
        engine_logprobs=torch.tensor(logprobs, dtype=torch.float32),
        advantages=torch.zeros(len(token_ids)),
        weights=torch.zeros(len(token_ids)),
    )
    for turn_index, tokens, advantage, weight in zip(
        trained.turns, trained.tokens, advantages, weights, strict=True
    ):
        span = spans[turn_index]
        if span.stop - span.start != tokens:
            raise ValueError(
                f"turn {turn_index} of {trajectory.agent_id} has {span.stop - span.start} sampled "
                f"tokens, not {tokens}"
            )
        sample.trained[span] = True
        sample.advantages[span] = advantage
        sample.weights[span] = weight
    return sample
