"""How much better than its group an agent did: one number an agent, shared by all its tokens.

Three estimators turn the rewards of one population into advantages; three ways of sharing say who
is compared with whom. All of it is arithmetic on a handful of floats, so it is plain Python.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from wideseek.trajectory import Role, RolloutGroup

Estimator = Callable[[Sequence[float]], list[float]]
AgentAdvantages = list[list[float]]
"""For every rollout of a group one advantage a Trajectory, in the rollout's order."""


def group_normalized(rewards: Sequence[float]) -> list[float]:
    """(r - mean) / (sample standard deviation + 1e-6), GRPO (arXiv 2402.03300).

    NaN for a single reward, whose spread is unknown; the sharing functions below never ask for it.
    """
    centred = mean_centered(rewards)
    if len(rewards) < 2:
        return [math.nan for _ in rewards]
    deviation = math.sqrt(math.fsum(c * c for c in centred) / (len(rewards) - 1))
    return [c / (deviation + 1e-6) for c in centred]


def mean_centered(rewards: Sequence[float]) -> list[float]:
    """r - mean, without the division that favours easy and hard questions (arXiv 2503.20783)."""
    mean = math.fsum(rewards) / max(1, len(rewards))
    return [reward - mean for reward in rewards]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """r minus the mean of the others, RLOO (arXiv 2402.14740); 0 for a single reward."""
    others = max(1, len(rewards) - 1)
    return [centred * len(rewards) / others for centred in mean_centered(rewards)]


def has_signal(rewards: Sequence[float]) -> bool:
    """Whether rewards differ, so that their group teaches anything; a group of one never does."""
    return len(rewards) > 1 and max(rewards) - min(rewards) > 1e-6


def groups_to_draw(*, wanted: int, with_signal: int, drawn: int, most: int) -> int:
    """How many more groups a step asks for: up to `wanted` with a signal, never above `most` drawn.

    Where the bound ends it the step trains on what there is; the denominator of the weights stays.
    """
    return max(0, min(wanted - with_signal, most - drawn))


def share_outcome(group: RolloutGroup, estimator: Estimator = group_normalized) -> AgentAdvantages:
    """Rollouts against rollouts: every agent of a rollout gets the rollout's advantage.

    All 0 without a signal. ValueError unless there is one reward a rollout.
    """
    _check_rewards(group)
    advantages = _estimate(group.rewards, estimator)
    return [
        [advantage] * len(rollout.trajectories)
        for rollout, advantage in zip(group.rollouts, advantages, strict=True)
    ]


def share_by_role(group: RolloutGroup, estimator: Estimator = group_normalized) -> AgentAdvantages:
    """Leads against leads, subagents against subagents, each with its rollout's reward.

    Keeps a rollout of many subagents from setting the baseline of the leads (Dr.MAS, arXiv
    2602.08847). All 0 in a role without a signal. ValueError unless there is one reward a rollout.
    """
    _check_rewards(group)
    rewards = [
        [reward] * len(rollout.trajectories)
        for rollout, reward in zip(group.rollouts, group.rewards, strict=True)
    ]
    return _estimate_by_role(group, rewards, estimator)


def leave_one_subagent_out(
    group: RolloutGroup,
    rewards_without: Sequence[Mapping[str, float]],
    estimator: Estimator = group_normalized,
) -> AgentAdvantages:
    """A subagent is paid what its rollout would lose without it, the lead the whole outcome.

    rewards_without[i][agent id] is the reward of rollout i with that subagent's contribution taken
    out (`provenance.rewards_without`); then roles are compared as in `share_by_role` (difference
    rewards, Wolpert and Tumer 2001). ValueError where a subagent's is missing.
    """
    _check_rewards(group)
    rewards = []
    for rollout, reward, without in zip(
        group.rollouts, group.rewards, rewards_without, strict=True
    ):
        subs = {t.agent_id for t in rollout.trajectories if t.role == "sub"}
        if missing := subs - without.keys():
            raise ValueError(f"rewards_without lacks {', '.join(sorted(missing))}")
        rewards.append(
            [
                reward - without[t.agent_id] if t.role == "sub" else reward
                for t in rollout.trajectories
            ]
        )
    return _estimate_by_role(group, rewards, estimator)


def pay_for_cells(
    group: RolloutGroup,
    right_shares: Sequence[Mapping[str, float] | None],
    estimator: Estimator = group_normalized,
) -> AgentAdvantages:
    """A subagent is paid the share of its cells that are right, the lead the whole outcome.

    right_shares[i][agent id] is that share in the table of rollout i, 0 for one that supplied
    nothing (`provenance.count_cells`); None where there is no table, which says nothing of
    subagents: their advantage is 0. Unlike what its absence would cost, a share does not depend on how many subagents
    there were. Roles are compared as in `share_by_role`. ValueError where a subagent's is missing.
    """
    _check_rewards(group)
    rewards: list[list[float | None]] = []
    for rollout, reward, shares in zip(group.rollouts, group.rewards, right_shares, strict=True):
        subs = {t.agent_id for t in rollout.trajectories if t.role == "sub"}
        if shares is not None and (missing := subs - shares.keys()):
            raise ValueError(f"right_shares lacks {', '.join(sorted(missing))}")
        rewards.append(
            [
                reward if t.role != "sub" else None if shares is None else shares[t.agent_id]
                for t in rollout.trajectories
            ]
        )
    return _estimate_by_role(group, rewards, estimator)


def _estimate_by_role(
    group: RolloutGroup, rewards: Sequence[Sequence[float | None]], estimator: Estimator
) -> AgentAdvantages:
    """Each role is a population of its own, one reward an agent; without one an agent's advantage is 0."""
    paid: dict[Role, dict[tuple[int, int], float]] = {}
    for i, rollout in enumerate(group.rollouts):
        for j, trajectory in enumerate(rollout.trajectories):
            reward = rewards[i][j]
            if reward is not None:
                paid.setdefault(trajectory.role, {})[i, j] = reward
    advantages = [[0.0] * len(own) for own in rewards]
    for population in paid.values():
        estimates = _estimate(list(population.values()), estimator)
        for (i, j), estimate in zip(population, estimates, strict=True):
            advantages[i][j] = estimate
    return advantages


def _estimate(rewards: Sequence[float], estimator: Estimator) -> list[float]:
    return estimator(rewards) if has_signal(rewards) else [0.0] * len(rewards)


def _check_rewards(group: RolloutGroup) -> None:
    if len(group.rewards) != len(group.rollouts):
        raise ValueError(
            f"rewards must hold one number a rollout, not {len(group.rewards)} "
            f"for {len(group.rollouts)}"
        )
    if not all(map(math.isfinite, group.rewards)):
        raise ValueError(f"rewards must be finite, not {list(group.rewards)}")
