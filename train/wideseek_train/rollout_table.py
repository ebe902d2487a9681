"""A few rollouts of a step as rows a person can read: the table in Weights & Biases and rollouts.jsonl."""

from collections.abc import Sequence

from wideseek_train.graded import Graded, GradedGroup, Reward
from wideseek_train.selection import count_sampled

GROUPS = 2
"""Questions of a step that are shown, each with its best and its worst attempt."""
TEXT = 2000
"""Characters of an answer that are shown."""

Row = dict[str, str | float]


def sample_rollouts(groups: Sequence[GradedGroup]) -> list[Row]:
    """Rows of the first groups that teach something, or of the first at all; attempts without a reward have no row."""
    ordered = sorted(groups, key=lambda group: (not group.has_signal, group.question))
    rows = []
    for group in ordered[:GROUPS]:
        paid = [(a, a.reward) for a in group.attempts if isinstance(a.reward, Reward)]
        paid.sort(key=lambda pair: -pair[1].value)
        chosen = (paid[0], paid[-1]) if len(paid) > 1 else paid
        rows += [_row(group, attempt, reward) for attempt, reward in chosen]
    return rows


def _row(group: GradedGroup, attempt: Graded, reward: Reward) -> Row:
    trajectories = attempt.rollout.trajectories
    return {
        "step": attempt.step,
        "task": attempt.task,
        "attempt": attempt.attempt,
        "question": group.task.question,
        "answer": attempt.rollout.answer[:TEXT],
        "reward": reward.value,
        "item_f1": reward.item_f1,
        "row_f1": reward.row_f1,
        "overlong": reward.overlong,
        "stop_reason": attempt.rollout.stop_reason,
        "subagents": sum(trajectory.role == "sub" for trajectory in trajectories),
        "turns": sum(len(trajectory.turns) for trajectory in trajectories),
        "sampled_tokens": sum(
            count_sampled(t, turn) for t in trajectories for turn in range(len(t.turns))
        ),
        "seconds": round(attempt.ended - attempt.started, 3),
    }
