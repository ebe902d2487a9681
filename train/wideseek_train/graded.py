"""Rollouts with what they earned, and the groups they are compared in."""

from dataclasses import dataclass, field, replace
from typing import Literal

from wideseek.grading.answer import Table, extract_final_answer
from wideseek.grading.credit import CreditConfig, overlong_penalty
from wideseek.grading.failure import Failure
from wideseek.grading.qa import score_answer, tagged_answer
from wideseek.grading.table import score_boxed, score_table
from wideseek.trajectory import End, Rollout, RolloutGroup
from wideseek_train.advantage import (
    AgentAdvantages,
    Estimator,
    group_normalized,
    has_signal,
    leave_one_out,
    leave_one_subagent_out,
    mean_centered,
    pay_for_cells,
    share_by_role,
    share_outcome,
)
from wideseek_train.provenance import count_cells, find_suppliers, rewards_without, right_cells
from wideseek_train.sample import Sample, make_samples
from wideseek_train.selection import TrainedTurns, longest_turn, select_turns, train_all
from wideseek_train.tasks import TrainTask
from wideseek_train.weights import equal_agents

Baseline = Literal["normalized", "centered", "leave_one_out"]
Share = Literal["outcome", "role", "subagent", "cells"]
Turns = Literal["all", "reference"]
Frozen = Literal["none", "lead", "sub"]

ESTIMATORS: dict[Baseline, Estimator] = {
    "normalized": group_normalized,
    "centered": mean_centered,
    "leave_one_out": leave_one_out,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """What a rollout earned, and its parts; answered tells whether the root gave an answer of the right form.

    value is item_f1 - overlong where all turns are trained, else what the reference's rules pay.
    """

    value: float
    item_f1: float
    row_f1: float
    overlong: float
    answered: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Unscored:
    """Why a rollout has no reward; the fault is never the policy's."""

    kind: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """Attempt number `attempt` at question number `question` of an optimizer step.

    tools counts the ends of tool calls, as "search.ok"; started and ended are Unix times.
    """

    step: int
    question: int
    attempt: int
    task: str
    rollout: Rollout
    reward: Reward | Unscored
    tools: dict[str, int] = field(default_factory=dict)
    started: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GradedGroup:
    """All attempts at one question, in their order."""

    question: int
    task: TrainTask
    attempts: tuple[Graded, ...]

    @property
    def scored(self) -> RolloutGroup:
        """The attempts that have a reward: one that failed for no fault of the policy leaves the baseline."""
        pairs = [(a.rollout, a.reward.value) for a in self.attempts if isinstance(a.reward, Reward)]
        return RolloutGroup(
            question=self.task.question,
            rollouts=tuple(rollout for rollout, _ in pairs),
            rewards=tuple(reward for _, reward in pairs),
        )

    @property
    def has_signal(self) -> bool:
        """Whether the group teaches anything."""
        return has_signal(self.scored.rewards)


def grade(
    task: TrainTask, rollout: Rollout, credit: CreditConfig, turns: Turns = "all"
) -> Reward | Unscored:
    """Item F1 of the root's answer by the exact judge, less the penalty for an overlong turn.

    An agent that ran out of room, turns or time has earned 0; one whose model failed, or that was never asked, nothing.
    """
    root = rollout.trajectories[0]
    if not root.turns:
        return Unscored(kind=root.end.value, detail=f"{task.id} ended before its first turn")
    for trajectory in rollout.trajectories:
        if trajectory.end in (End.MODEL_FAILED, End.CANCELLED):
            return Unscored(kind=trajectory.end.value, detail=f"{trajectory.agent_id} of {task.id}")
    answer = rollout.answer if root.end is End.ANSWERED else ""
    answered, score = grade_answer(task, answer)
    if isinstance(score, Failure):
        return Unscored(kind=score.kind.value, detail=score.detail)
    item_f1, row_f1 = score
    overlong = overlong_penalty(credit, longest_turn(rollout))
    value = item_f1 - overlong
    if turns == "reference":
        value = select_turns(credit, rollout, outcome=item_f1, answer_format=answered)[1]
    return Reward(
        value=value,
        item_f1=item_f1,
        row_f1=row_f1,
        overlong=overlong,
        answered=answered,
    )


def grade_answer(task: TrainTask, text: str) -> tuple[bool, tuple[float, float] | Failure]:
    """Whether a text holds an answer of the task's kind, and its item F1 and row F1.

    A phrase earns 1 or 0: in question-answering sets as an exact match counts it, boxed or in an answer tag.
    """
    if task.kind == "table":
        table = extract_final_answer(text, "table")
        score = score_table(table, task.gold, task.key, task.aliases)
        answered = table is not None
    else:
        phrase = extract_final_answer(text, "boxed")
        if task.kind == "qa":
            phrase = tagged_answer(text) if phrase is None else phrase
            matched = score_answer(phrase, task.answers)
            if isinstance(matched, Failure):
                return phrase is not None, matched
            return phrase is not None, (float(matched.em), float(matched.em))
        score = score_boxed(phrase, task.answers)
        answered = phrase is not None
    return answered, score if isinstance(score, Failure) else (score.item_f1, score.row_f1)


def assign_advantages(
    groups: list[GradedGroup],
    *,
    baseline: Baseline,
    share: Share,
    num_rollouts: int,
    credit: CreditConfig,
    turns: Turns = "all",
    frozen: Frozen = "none",
) -> dict[int, list[Sample]]:
    """Training samples by question, of the groups that teach anything, advantage and weight on every trained token.

    turns, credit: as given to `grade`. num_rollouts: how many rollouts the step was planned to hold over all ranks;
    groups dropped leave it as it is. frozen: a role that another model played, which has no turn to train.
    """
    samples: dict[int, list[Sample]] = {}
    for group in groups:
        if not group.has_signal:
            continue
        scored = group.scored
        trained = [
            _choose_turns(attempt.rollout, attempt.reward, credit, turns, frozen)
            for attempt in group.attempts
            if isinstance(attempt.reward, Reward)
        ]
        shared = _share(group, scored, ESTIMATORS[baseline], share)
        weights = equal_agents(trained, num_rollouts)
        samples[group.question] = [
            sample
            for parts in zip(scored.rollouts, trained, shared, weights, strict=True)
            for sample in make_samples(*parts)
        ]
    return samples


def _choose_turns(
    rollout: Rollout, reward: Reward, credit: CreditConfig, turns: Turns, frozen: Frozen
) -> list[TrainedTurns]:
    if turns == "all":
        chosen = train_all(rollout)
    else:
        chosen, _ = select_turns(
            credit, rollout, outcome=reward.item_f1, answer_format=reward.answered
        )
    return [
        replace(part, turns=(), tokens=()) if trajectory.role == frozen else part
        for trajectory, part in zip(rollout.trajectories, chosen, strict=True)
    ]


def _share(
    group: GradedGroup, scored: RolloutGroup, estimator: Estimator, share: Share
) -> AgentAdvantages:
    if share == "outcome":
        return share_outcome(scored, estimator)
    if share == "role":
        return share_by_role(scored, estimator)
    if share == "cells":
        shares = [_right_shares(group.task, rollout) for rollout in scored.rollouts]
        return pay_for_cells(scored, shares, estimator)
    without = [
        _rewards_without(group.task, rollout, reward)
        for rollout, reward in zip(scored.rollouts, scored.rewards, strict=True)
    ]
    return leave_one_subagent_out(scored, without, estimator)


def _right_shares(task: TrainTask, rollout: Rollout) -> dict[str, float] | None:
    """By subagent, how many of the cells that it supplied are right, of all it supplied; None without a table."""
    table = _final_table(task, rollout)
    if table is None:
        return None
    verdicts = right_cells(table, task.gold, task.key, task.aliases)
    counts = count_cells(find_suppliers(table, rollout), verdicts)
    shares = {t.agent_id: 0.0 for t in rollout.trajectories if t.role == "sub"}
    return shares | {
        agent_id: own.right / (own.right + own.wrong) for agent_id, own in counts.items()
    }


def _final_table(task: TrainTask, rollout: Rollout) -> Table | None:
    """The table that the root answered with; None for another kind of task, or of end."""
    if task.kind != "table" or rollout.trajectories[0].end is not End.ANSWERED:
        return None
    return extract_final_answer(rollout.answer, "table")


def _rewards_without(task: TrainTask, rollout: Rollout, reward: float) -> dict[str, float]:
    """By subagent, the reward without its cells; without a table nobody's absence changes it."""
    table = _final_table(task, rollout)
    if table is None:
        return {t.agent_id: reward for t in rollout.trajectories if t.role == "sub"}

    def item_f1(kept: Table) -> float:
        score = score_table(kept, task.gold, task.key, task.aliases)
        return 0.0 if isinstance(score, Failure) else score.item_f1

    lost = item_f1(table) - reward  # what the penalties took stays taken
    suppliers = find_suppliers(table, rollout)
    without = rewards_without(table, suppliers, rollout, item_f1)
    return {agent_id: value - lost for agent_id, value in without.items()}
