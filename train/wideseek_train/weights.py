"""How much every trained token counts, fixed before anything is packed.

The loss is the plain sum of weight times token loss, so micro-batches, packing and ranks cannot
change it. `num_rollouts` is how many rollouts the optimizer step is planned to hold over all ranks:
groups that were filtered out leave the denominator as it is. No other number crosses a rollout,
which is why each rank can weigh its own.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from wideseek_train.sample import Sample
from wideseek_train.selection import TrainedTurns

TurnWeights = list[list[tuple[float, ...]]]
"""For every rollout, for every Trajectory of it, the weight of a token in each trained turn."""
Weighting = Callable[[Sequence[Sequence[TrainedTurns]], int], TurnWeights]


def equal_agents(rollouts: Sequence[Sequence[TrainedTurns]], num_rollouts: int) -> TurnWeights:
    """1 / (rollouts · agents of the rollout · tokens of the agent), the dual level of WideSeek-R1.

    Agents and tokens are the trained ones; Trajectories with one agent id are branches of one
    agent. ValueError for a trained turn without tokens, or more rollouts than `num_rollouts`.
    """
    _check(rollouts, num_rollouts)
    weights = []
    for rollout in rollouts:
        tokens = _sum_by_agent(rollout, lambda part: sum(part.tokens))
        share = 1.0 / (num_rollouts * max(1, len(tokens)))
        weights.append(
            [tuple(share / tokens[part.agent_id] for _ in part.turns) for part in rollout]
        )
    return weights


def equal_turns(rollouts: Sequence[Sequence[TrainedTurns]], num_rollouts: int) -> TurnWeights:
    """1 / (rollouts · agents of the rollout · turns of the agent · tokens of the turn).

    The reference's scales without "turn_level": a short turn's tokens count more. Errors as above.
    """
    _check(rollouts, num_rollouts)
    weights = []
    for rollout in rollouts:
        turns = _sum_by_agent(rollout, lambda part: len(part.turns))
        share = 1.0 / (num_rollouts * max(1, len(turns)))
        weights.append(
            [
                tuple(share / turns[part.agent_id] / tokens for tokens in part.tokens)
                for part in rollout
            ]
        )
    return weights


def equal_tokens(rollouts: Sequence[Sequence[TrainedTurns]], num_rollouts: int) -> TurnWeights:
    """1 / (rollouts · tokens of the rollout): agents who say more count more. Errors as above."""
    _check(rollouts, num_rollouts)
    weights = []
    for rollout in rollouts:
        tokens = sum(sum(part.tokens) for part in rollout)
        weights.append(
            [tuple(1.0 / (num_rollouts * tokens) for _ in part.turns) for part in rollout]
        )
    return weights


def weight_by_role(samples: Sequence[Sample]) -> dict[str, float]:
    """Sum of the token weights each role got; over a full step of trained rollouts they add to 1."""
    weights: dict[str, float] = {}
    for sample in samples:
        own = float(sample.weights.double().sum())
        weights[sample.role] = weights.get(sample.role, 0.0) + own
    return weights


def _sum_by_agent(
    rollout: Sequence[TrainedTurns], measure: Callable[[TrainedTurns], int]
) -> Counter[str]:
    """Sums over the branches of each agent that has any trained turn."""
    sums: Counter[str] = Counter()
    for part in rollout:
        if part.turns:
            sums[part.agent_id] += measure(part)
    return sums


def _check(rollouts: Sequence[Sequence[TrainedTurns]], num_rollouts: int) -> None:
    if num_rollouts < max(1, len(rollouts)):
        raise ValueError(
            f"num_rollouts must be at least {max(1, len(rollouts))}, not {num_rollouts}"
        )
    for rollout in rollouts:
        for part in rollout:
            if len(part.tokens) != len(part.turns) or min(part.tokens, default=1) < 1:
                raise ValueError(
                    f"tokens of {part.agent_id} must be at least 1 in each trained turn, "
                    f"not {part.tokens} for turns {part.turns}"
                )
