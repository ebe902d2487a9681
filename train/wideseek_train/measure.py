"""The registered numbers of a step, from what every rank collected and did. Every `measure_` is a collective call."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from wideseek.trajectory import End, Trajectory
from wideseek_train.batch import ROLES
from wideseek_train.graded import Graded, GradedGroup, Reward
from wideseek_train.sample import Sample
from wideseek_train.selection import count_sampled
from wideseek_train.trainer import StepReport
from wideseek_train.weight_sync import SyncReport
from wideseek_train.weights import weight_by_role

Sums = dict[str, float]

_NAMES = (
    *(
        "groups",
        "signal",
        "scored",
        "failed",
        "reward",
        "item_f1",
        "row_f1",
        "answered",
        "overlong",
    ),
    *("create_sub_agents", "search", "access", "tool_calls", "tool_failures"),
    *(f"{n}/{role}" for n in ("agents", "turns", "tokens", "ended", "weight") for role in ROLES),
)


def sum_over_ranks(sums: Mapping[str, float]) -> Sums:
    """The same names on every rank, added up."""
    added = torch.tensor(list(sums.values()), dtype=torch.float64)
    dist.all_reduce(added)
    return dict(zip(sums, added.tolist(), strict=True))


def max_over_ranks(value: float) -> float:
    largest = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.item()


def measure_rollouts(
    groups: Sequence[GradedGroup], samples: Mapping[int, Sequence[Sample]]
) -> dict[str, float]:
    """What the rollouts of a step were like."""
    sums: Sums = dict.fromkeys(_NAMES, 0.0)
    sums["groups"], sums["signal"] = len(groups), sum(group.has_signal for group in groups)
    attempts = [attempt for group in groups for attempt in group.attempts]
    for attempt in attempts:
        _add_attempt(sums, attempt)
    trained = [sample for own in samples.values() for sample in own]
    for role, weight in weight_by_role(trained).items():
        sums[f"weight/{role}"] = weight
    trajectories = (t for attempt in attempts for t in attempt.rollout.trajectories)
    longest = max((max(_turn_lengths(t), default=0) for t in trajectories), default=0)
    return _means(sum_over_ranks(sums)) | {"response_length/max": max_over_ranks(longest)}


def measure_evaluation(attempts: Sequence[Graded]) -> dict[str, float]:
    """Mean scores of held-out questions; an attempt without a score counts nowhere."""
    rewards = [a.reward for a in attempts if isinstance(a.reward, Reward)]
    sums = sum_over_ranks(
        {
            "scored": len(rewards),
            "item_f1": sum(reward.item_f1 for reward in rewards),
            "row_f1": sum(reward.row_f1 for reward in rewards),
        }
    )
    scored = max(1.0, sums["scored"])
    return {
        "val-core/worlds/item_f1/mean@1": sums["item_f1"] / scored,
        "val-core/worlds/row_f1/mean@1": sums["row_f1"] / scored,
    }


def measure_step(report: StepReport, synced: SyncReport, num_samples: int) -> dict[str, float]:
    """A step and its weight sync."""
    return {
        "actor/pg_loss": report.policy_loss,
        "actor/kl_loss": report.kl_loss,
        "actor/entropy": report.entropy,
        "actor/ratio": report.ratio,
        "actor/pg_clipfrac": report.clip_fraction,
        "actor/ppo_kl": report.approx_kl,
        "actor/grad_norm": report.grad_norm,
        "actor/lr": report.learning_rate,
        "actor/skipped": float(report.skipped),
        "actor/tokens": report.tokens,
        "actor/samples": num_samples,
        "actor/micro_batches": report.micro_batches,
        "mismatch/mean": report.mismatch.mean,
        "mismatch/p99_9": report.mismatch.p99_9,
        "mismatch/max": report.mismatch.max,
        "mismatch/kl": report.mismatch.kl,
        "perf/sync_gb_per_s": max_over_ranks(synced.gigabytes_per_second),
    }


def failed_share(measured: Mapping[str, float]) -> float:
    """Share of a step's rollouts that got no reward."""
    failed = measured["rollouts/failed"]
    return failed / max(1.0, failed + measured["rollouts/scored"])


def _turn_lengths(trajectory: Trajectory) -> list[int]:
    return [count_sampled(trajectory, turn) for turn in range(len(trajectory.turns))]


def _add_attempt(sums: Sums, attempt: Graded) -> None:
    if isinstance(attempt.reward, Reward):
        sums["scored"] += 1
        sums["reward"] += attempt.reward.value
        for name in ("item_f1", "row_f1", "answered", "overlong"):
            sums[name] += getattr(attempt.reward, name)
    else:
        sums["failed"] += 1
    for name, number in attempt.tools.items():
        sums["tool_calls"] += number
        sums["tool_failures"] += 0 if name.endswith(".ok") else number
    for trajectory in attempt.rollout.trajectories:
        role, lengths = trajectory.role, _turn_lengths(trajectory)
        sums[f"agents/{role}"] += 1
        sums[f"turns/{role}"] += len(lengths)
        sums[f"tokens/{role}"] += sum(lengths)
        sums[f"ended/{role}"] += trajectory.end is End.ANSWERED
        for call in (call for turn in trajectory.turns for call in turn.calls if not call.error):
            sums[call.name] += 1


def _means(sums: Sums) -> dict[str, float]:
    scored, rollouts = max(1.0, sums["scored"]), max(1.0, sums["scored"] + sums["failed"])
    turns = max(1.0, sum(sums[f"turns/{role}"] for role in ROLES))
    values = {
        "critic/rewards/mean": sums["reward"] / scored,
        "critic/score/mean": sums["item_f1"] / scored,
        "critic/score/row_f1": sums["row_f1"] / scored,
        "critic/groups/with_signal": sums["signal"],
        "critic/groups/drawn": sums["groups"],
        "rollouts/scored": sums["scored"],
        "rollouts/failed": sums["failed"],
        "rollouts/answered": sums["answered"] / scored,
        "rollouts/overlong": sums["overlong"] / scored,
        "response_length/mean": sum(sums[f"tokens/{role}"] for role in ROLES) / turns,
        "wideseek_r1/traj/mean/subtask": sums["create_sub_agents"] / rollouts,
        "wideseek_r1/traj/mean/search": sums["search"] / rollouts,
        "wideseek_r1/traj/mean/access": sums["access"] / rollouts,
        "wideseek_r1/avg_num_subagents_per_traj": sums["agents/sub"] / rollouts,
        "tools/failed": sums["tool_failures"] / max(1.0, sums["tool_calls"]),
    }
    for role in ROLES:
        if agents := sums[f"agents/{role}"]:
            values[f"weight/{role}"] = sums[f"weight/{role}"]
            values[f"num_turns/{role}"] = sums[f"turns/{role}"] / agents
            values[f"tokens/{role}"] = sums[f"tokens/{role}"] / agents
            values[f"ended/{role}"] = sums[f"ended/{role}"] / agents
    return values
