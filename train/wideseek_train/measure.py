"""The registered numbers of a step, from what every rank collected and did. Every `measure_` is a collective call."""

import faulthandler
import resource
import time
from collections.abc import Mapping, Sequence

import torch

from wideseek.engine.stats import EngineStats
from wideseek.trajectory import End, Trajectory
from wideseek_train.batch import ROLES
from wideseek_train.graded import Graded, GradedGroup, Reward
from wideseek_train.ranks import max_over_ranks, sum_over_ranks
from wideseek_train.sample import Sample
from wideseek_train.selection import count_sampled
from wideseek_train.trainer import StepReport
from wideseek_train.weight_sync import SyncReport
from wideseek_train.weights import weight_by_role

Sums = dict[str, float]

SCORED, ITEM_F1 = "val-core/worlds/scored", "val-core/worlds/item_f1/mean@1"
STDERR = 2  # as a number, for a test runner's stand-in has none
STRETCH = 32
"""A turn says something again where so many tokens in a row stood in it before."""

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
    *("create_sub_agents", "search", "access", "repeating"),
    *(
        f"{name}/{role}"
        for name in (
            *("agents", "turns", "tokens", "ended", "weight", "credit"),
            *("paid_agents", "reward", "tool_calls", "tool_failures"),
        )
        for role in ROLES
    ),
)


_ENGINE_COUNTS = (
    *("generated_tokens", "prefill_tokens_computed", "prefix_hit_tokens"),
    *("draft_tokens", "accepted_tokens", "preemptions"),
)


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
    for sample in trained:
        sums[f"credit/{sample.role}"] += float((sample.weights * sample.advantages.abs()).sum())
    trajectories = (t for attempt in attempts for t in attempt.rollout.trajectories)
    longest = max((max(_turn_lengths(t), default=0) for t in trajectories), default=0)
    return _means(sum_over_ranks(sums)) | {"response_length/max": max_over_ranks(longest)}


def measure_engine(before: EngineStats, after: EngineStats, seconds: float) -> dict[str, float]:
    """What the engines did between two looks at them, `seconds` apart; rates only where there was something to share."""
    sums = sum_over_ranks(
        {name: getattr(after, name) - getattr(before, name) for name in _ENGINE_COUNTS}
    )
    values = {
        "engine/generated_tokens": sums["generated_tokens"],
        "engine/throughput": sums["generated_tokens"] / max_over_ranks(seconds),
        "engine/prefill_tokens": sums["prefill_tokens_computed"],
        "engine/preemptions": sums["preemptions"],
        "engine/inter_token_p99": max_over_ranks(after.times.inter_token.p99),
    }
    if prefill := sums["prefix_hit_tokens"] + sums["prefill_tokens_computed"]:
        values["engine/prefix_hit_rate"] = sums["prefix_hit_tokens"] / prefill
    if sums["draft_tokens"]:
        values["engine/acceptance"] = sums["accepted_tokens"] / sums["draft_tokens"]
    return values


def measure_evaluation(attempts: Sequence[Graded]) -> dict[str, float]:
    """Mean scores of held-out questions and how many have one; without any there is no mean."""
    rewards = [a.reward for a in attempts if isinstance(a.reward, Reward)]
    sums = sum_over_ranks(
        {
            "scored": len(rewards),
            "item_f1": sum(reward.item_f1 for reward in rewards),
            "row_f1": sum(reward.row_f1 for reward in rewards),
        }
    )
    values = {SCORED: sums["scored"]}
    if sums["scored"]:
        values[ITEM_F1] = sums["item_f1"] / sums["scored"]
        values["val-core/worlds/row_f1/mean@1"] = sums["row_f1"] / sums["scored"]
    return values


def measure_step(report: StepReport, synced: SyncReport, num_samples: int) -> dict[str, float]:
    """A step and its weight sync; one that trained no token has no means over tokens and no gradient."""
    values = {
        "actor/lr": report.learning_rate,
        "actor/skipped": float(report.skipped),
        "actor/tokens": report.tokens,
        "actor/computed_tokens": report.computed_tokens,
        "actor/samples": num_samples,
        "actor/micro_batches": report.micro_batches,
        "perf/sync_gb_per_s": max_over_ranks(synced.gigabytes_per_second),
    }
    if report.tokens:
        values |= {
            "actor/pg_loss": report.policy_loss,
            "actor/kl_loss": report.kl_loss,
            "actor/entropy": report.entropy,
            "actor/ratio": report.ratio,
            "actor/pg_clipfrac": report.clip_fraction,
            "actor/ppo_kl": report.approx_kl,
            "actor/grad_norm": report.grad_norm,
            **{f"actor/grad_norm/{role}": norm for role, norm in report.grad_norms.items()},
            "mismatch/mean": report.mismatch.mean,
            "mismatch/p99_9": report.mismatch.p99_9,
            "mismatch/max": report.mismatch.max,
            "mismatch/kl": report.mismatch.kl,
        }
    return values


def peak_memory_gb() -> float:
    """Most memory this rank has held, in GiB: of its GPU where it has one, else of its process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Stopwatch:
    """Seconds of the phases of a step, by their registered names, and its deadline.

    A process that has not called `stop` after deadline_seconds prints the stacks of its threads and exits with 1.
    """

    def __init__(self, deadline_seconds: float) -> None:
        faulthandler.dump_traceback_later(deadline_seconds, exit=True, file=STDERR)
        self._began = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """The phase that now ends took all the time since the one before."""
        now = time.monotonic()
        self.seconds[f"timing_s/{phase}"] = now - self._last
        self.seconds["timing_s/step"] = now - self._began
        self._last = now

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()


def failed_share(measured: Mapping[str, float]) -> float:
    """Share of a step's rollouts that got no reward."""
    failed = measured["rollouts/failed"]
    return failed / max(1.0, failed + measured["rollouts/scored"])


def repeats_itself(token_ids: Sequence[int]) -> bool:
    """Whether more than half of a turn is stretches of STRETCH tokens that it has said before."""
    stretches = [tuple(token_ids[i : i + STRETCH]) for i in range(len(token_ids) - STRETCH + 1)]
    return len(stretches) > STRETCH and len(set(stretches)) < len(stretches) / 2


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
        role, _, _ = name.partition(".")
        sums[f"tool_calls/{role}"] += number
        sums[f"tool_failures/{role}"] += 0 if name.endswith(".ok") else number
    for trajectory in attempt.rollout.trajectories:
        role, lengths = trajectory.role, _turn_lengths(trajectory)
        sums[f"agents/{role}"] += 1
        sums[f"turns/{role}"] += len(lengths)
        sums[f"tokens/{role}"] += sum(lengths)
        sums[f"ended/{role}"] += trajectory.end is End.ANSWERED
        if isinstance(attempt.reward, Reward):
            sums[f"paid_agents/{role}"] += 1
            sums[f"reward/{role}"] += attempt.reward.value
        sums["repeating"] += sum(
            repeats_itself(turn.completion.token_ids)
            for turn in trajectory.turns
            if turn.completion
        )
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
        "rollouts/repeating": sums["repeating"] / turns,
        "response_length/mean": sum(sums[f"tokens/{role}"] for role in ROLES) / turns,
        "wideseek_r1/traj/mean/subtask": sums["create_sub_agents"] / rollouts,
        "wideseek_r1/traj/mean/search": sums["search"] / rollouts,
        "wideseek_r1/traj/mean/access": sums["access"] / rollouts,
        "wideseek_r1/avg_num_subagents_per_traj": sums["agents/sub"] / rollouts,
    }
    for role in ROLES:
        if agents := sums[f"agents/{role}"]:
            values[f"weight/{role}"] = sums[f"weight/{role}"]
            values[f"credit/{role}"] = sums[f"credit/{role}"]
            values[f"num_turns/{role}"] = sums[f"turns/{role}"] / agents
            values[f"tokens/{role}"] = sums[f"tokens/{role}"] / agents
            values[f"ended/{role}"] = sums[f"ended/{role}"] / agents
        if paid := sums[f"paid_agents/{role}"]:
            values[f"critic/rewards/{role}"] = sums[f"reward/{role}"] / paid
        if calls := sums[f"tool_calls/{role}"]:
            values[f"tools/failed/{role}"] = sums[f"tool_failures/{role}"] / calls
    return values
