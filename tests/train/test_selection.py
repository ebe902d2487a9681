"""Which turns are trained: the reference's rules on whole rollouts, told apart by place."""

import pytest
from wideseek_train.selection import (
    TrainedTurns,
    longest_turn,
    select_turns,
    train_all,
    train_turns,
)

from tests.train.rollouts import agent, rollout
from wideseek.grading.credit import CreditConfig, overlong_penalty
from wideseek.trajectory import End, ToolCall

SHAPED = CreditConfig(
    format_reward=0.1,
    call_search_reward=0.05,
    length_limit=3000,
    max_length_limit=5000,
    length_penalty=0.1,
)
ACCESS = ToolCall(name="access", arguments={"url": "u"})


def chosen(trained: list[TrainedTurns]) -> dict[str, tuple[int, ...]]:
    return {part.agent_id: part.turns for part in trained}


def test_good_answer_trains_all_agents_but_failed_subagents() -> None:
    attempt = rollout(
        agent("lead", 4, 4), agent("sub-1", 3, end=End.TURN_LIMIT), agent("sub-2", 2, 5)
    )
    trained, reward = select_turns(SHAPED, attempt, outcome=0.8, answer_format=True)
    assert chosen(trained) == {"lead": (0, 1), "sub-1": (), "sub-2": (0, 1)}
    assert [part.tokens for part in trained] == [(4, 4), (), (2, 5)]
    assert reward == pytest.approx(0.9)


def test_access_that_was_run_pays_and_length_costs() -> None:
    attempt = rollout(agent("lead", 4), agent("sub-1", 4000, calls=[ACCESS]))
    _, reward = select_turns(SHAPED, attempt, outcome=0.8, answer_format=True)
    assert reward == pytest.approx(0.8 + 0.1 + 0.05 - 0.05)
    refused = ToolCall(name="access", arguments={}, error="no url")
    attempt = rollout(agent("lead", 4), agent("sub-1", 5, calls=[refused]))
    _, reward = select_turns(SHAPED, attempt, outcome=0.8, answer_format=True)
    assert reward == pytest.approx(0.9)


def test_failed_lead_is_trained_alone_with_reward_zero() -> None:
    attempt = rollout(agent("lead", 4, 4, end=End.CONTEXT_FULL), agent("sub-1", 3))
    trained, reward = select_turns(SHAPED, attempt, outcome=0.8, answer_format=True)
    assert (chosen(trained), reward) == ({"lead": (0, 1), "sub-1": ()}, 0.0)


def test_natural_end_without_an_answer_trains_the_leads_last_turn_and_failures() -> None:
    attempt = rollout(
        agent("lead", 4, 4), agent("sub-1", 3, 3, end=End.TURN_LIMIT), agent("sub-2", 3)
    )
    trained, reward = select_turns(SHAPED, attempt, outcome=0.8, answer_format=False)
    assert (chosen(trained), reward) == ({"lead": (1,), "sub-1": (0, 1), "sub-2": ()}, 0.0)


def test_runaway_turn_stands_for_all_failures() -> None:
    attempt = rollout(
        agent("lead", 4),
        agent("sub-1", 3, 9000, end=End.RUNAWAY),
        agent("sub-2", 3, end=End.TURN_LIMIT),
    )
    trained, _ = select_turns(SHAPED, attempt, outcome=0.0, answer_format=False)
    assert chosen(trained) == {"lead": (0,), "sub-1": (1,), "sub-2": ()}


def test_equal_failures_are_both_trained() -> None:
    twins = [agent(f"sub-{k}", 3, end=End.TURN_LIMIT) for k in (1, 2)]
    attempt = rollout(agent("lead", 4, end=End.CANCELLED), *twins)
    trained, _ = select_turns(SHAPED, attempt, outcome=0.0, answer_format=False)
    assert chosen(trained) == {"lead": (), "sub-1": (0,), "sub-2": (0,)}


def test_turn_without_sampled_tokens_is_never_trained() -> None:
    attempt = rollout(agent("lead", 4, 0, 2), agent("sub-1", 0))
    assert train_all(attempt) == [
        TrainedTurns(agent_id="lead", turns=(0, 2), tokens=(4, 2)),
        TrainedTurns(agent_id="sub-1", turns=(), tokens=()),
    ]
    assert train_turns(attempt.trajectories[0], [2, 1]).turns == (2,)


def test_overlong_penalty_grows_from_the_lower_to_the_upper_limit() -> None:
    lengths = [0, 3000, 3500, 5000, 9000]
    penalties = [overlong_penalty(SHAPED, length) for length in lengths]
    assert penalties == pytest.approx([0.0, 0.0, 0.025, 0.1, 0.1])
    assert longest_turn(rollout(agent("lead", 4, 7), agent("sub-1", 6))) == 7
