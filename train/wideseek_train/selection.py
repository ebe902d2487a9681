"""Which turns of a rollout are trained, and with what reward: the reference's rules on our records."""

from collections.abc import Sequence
from dataclasses import dataclass

from wideseek.grading.credit import CreditConfig, CreditTurn, credit_assignment
from wideseek.trajectory import End, Rollout, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedTurns:
    """The trained turns of one Trajectory by index, and how many tokens were sampled in each."""

    agent_id: str
    turns: tuple[int, ...]
    tokens: tuple[int, ...]


def train_turns(trajectory: Trajectory, turns: Sequence[int]) -> TrainedTurns:
    """The turns among `turns` in which anything was sampled; a turn without tokens teaches nothing."""
    counted = [(turn, count_sampled(trajectory, turn)) for turn in sorted(turns)]
    counted = [(turn, tokens) for turn, tokens in counted if tokens]
    return TrainedTurns(
        agent_id=trajectory.agent_id,
        turns=tuple(turn for turn, _ in counted),
        tokens=tuple(tokens for _, tokens in counted),
    )


def train_all(rollout: Rollout) -> list[TrainedTurns]:
    """Every sampled turn of every agent, one entry a Trajectory."""
    return [train_turns(t, range(len(t.turns))) for t in rollout.trajectories]


def select_turns(
    config: CreditConfig, rollout: Rollout, *, outcome: float, answer_format: bool
) -> tuple[list[TrainedTurns], float]:
    """The reference's choice (SPEC section 3): trained turns, one entry a Trajectory, and the reward.

    A good answer trains every agent that did not fail; a bad one only what went wrong, with reward
    0. Unlike there, turns are told apart by place, so that two equal failures both count.
    """
    # The lead stands first in a rollout and last here: its last turn is the one that may have ended naturally.
    order = [*range(1, len(rollout.trajectories)), 0]
    places = [(i, turn) for i in order for turn in range(len(rollout.trajectories[i].turns))]
    credit = credit_assignment(
        config,
        [_credit_turn(rollout.trajectories[i], turn, place=(i, turn)) for i, turn in places],
        outcome=outcome,
        natural_end=rollout.trajectories[0].end is End.ANSWERED,
        answer_format=answer_format,
    )
    chosen: list[list[int]] = [[] for _ in rollout.trajectories]
    for index in credit.train_turns:
        i, turn = places[index]
        chosen[i].append(turn)
    trained = [
        train_turns(trajectory, turns)
        for trajectory, turns in zip(rollout.trajectories, chosen, strict=True)
    ]
    return trained, credit.reward


def count_sampled(trajectory: Trajectory, turn: int) -> int:
    """Tokens sampled in a turn; 0 where the model kept its token ids to itself."""
    completion = trajectory.turns[turn].completion
    return len(completion.token_ids) if completion is not None else 0


def longest_turn(rollout: Rollout) -> int:
    """Sampled tokens of the longest turn of any agent, what `overlong_penalty` looks at."""
    return max(
        (count_sampled(t, turn) for t in rollout.trajectories for turn in range(len(t.turns))),
        default=0,
    )


def _credit_turn(trajectory: Trajectory, turn: int, place: tuple[int, int]) -> CreditTurn:
    last = turn == len(trajectory.turns) - 1
    calls = trajectory.turns[turn].calls
    return CreditTurn(
        role=trajectory.role,
        response_tokens=count_sampled(trajectory, turn),
        accesses=sum(call.name == "access" and call.error is None for call in calls),
        context_failed=trajectory.end in (End.CONTEXT_FULL, End.RUNAWAY),
        turn_limit_failed=trajectory.end is End.TURN_LIMIT,
        runaway=trajectory.end is End.RUNAWAY and last,
        content=place,
    )
