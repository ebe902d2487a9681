"""Advantages by hand: three estimators, three ways of sharing, and which groups teach anything."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wideseek_train.advantage import (
    group_normalized,
    groups_to_draw,
    has_signal,
    leave_one_out,
    leave_one_subagent_out,
    mean_centered,
    pay_for_cells,
    share_by_role,
    share_outcome,
)

from tests.train.rollouts import agent, group, rollout

LEAD, SUB_1, SUB_2, SUB_3 = (agent(name, 1) for name in ("lead", "sub-1", "sub-2", "sub-3"))


def test_group_normalized_by_hand() -> None:
    # mean 2, sample variance (4 + 0 + 4) / 2 = 4
    assert group_normalized([0.0, 2.0, 4.0]) == pytest.approx([-1.0, 0.0, 1.0], rel=1e-6)
    assert math.isnan(group_normalized([0.7])[0])


def test_mean_centered_by_hand() -> None:
    assert mean_centered([0.0, 1.0, 5.0]) == [-2.0, -1.0, 3.0]


def test_leave_one_out_compares_with_the_mean_of_the_others() -> None:
    assert leave_one_out([0.0, 1.0, 5.0]) == pytest.approx([0 - 3.0, 1 - 2.5, 5 - 0.5])
    assert leave_one_out([0.7]) == [0.0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16), st.floats(-5, 5))
def test_estimators_sum_to_zero_and_ignore_a_shift_of_all_rewards(
    rewards: list[float], shift: float
) -> None:
    for estimator in (mean_centered, leave_one_out):
        assert sum(estimator(rewards)) == pytest.approx(0.0, abs=1e-9)
        shifted = estimator([reward + shift for reward in rewards])
        assert shifted == pytest.approx(estimator(rewards), abs=1e-9)


def test_every_agent_of_a_rollout_gets_its_advantage() -> None:
    attempts = group((1.0, rollout(LEAD, SUB_1, SUB_2)), (0.0, rollout(LEAD)))
    assert share_outcome(attempts, mean_centered) == [[0.5, 0.5, 0.5], [-0.5]]


def test_shared_outcome_counts_a_rollout_once_whatever_its_agents() -> None:
    wide = group((1.0, rollout(LEAD, SUB_1, SUB_2, SUB_3)), (0.0, rollout(LEAD, SUB_1)))
    assert share_outcome(wide)[0][0] == pytest.approx(group_normalized([1.0, 0.0])[0])


def test_statistics_per_role_by_hand() -> None:
    attempts = group((1.0, rollout(LEAD, SUB_1, SUB_2, SUB_3)), (0.0, rollout(LEAD, SUB_1)))
    # Leads: rewards 1, 0. Subagents: 1, 1, 1, 0 with mean 0.75.
    assert share_by_role(attempts, mean_centered) == [[0.5, 0.25, 0.25, 0.25], [-0.5, -0.75]]


def test_role_without_a_signal_gets_zero() -> None:
    attempts = group((1.0, rollout(LEAD, SUB_1)), (0.0, rollout(LEAD)))
    assert share_by_role(attempts) == [
        [pytest.approx(group_normalized([1.0, 0.0])[0]), 0.0],
        [pytest.approx(group_normalized([1.0, 0.0])[1])],
    ]


def test_leave_one_subagent_out_pays_what_the_rollout_would_lose() -> None:
    attempts = group((1.0, rollout(LEAD, SUB_1, SUB_2)), (0.5, rollout(LEAD, SUB_1)))
    without = [{"sub-1": 0.25, "sub-2": 1.0}, {"sub-1": 0.5}]
    # Subagents are worth 0.75, 0 and 0: mean 0.25. Leads keep 1 and 0.5.
    assert leave_one_subagent_out(attempts, without, mean_centered) == [
        [0.25, 0.5, -0.25],
        [-0.25, -0.25],
    ]


def test_leave_one_subagent_out_wants_every_subagent() -> None:
    attempts = group((1.0, rollout(LEAD, SUB_1, SUB_2)), (0.5, rollout(LEAD)))
    with pytest.raises(ValueError, match="sub-2"):
        leave_one_subagent_out(attempts, [{"sub-1": 0.0}, {}])


def test_a_right_cell_pays_the_same_in_a_large_and_a_small_team() -> None:
    """What counts is how much of its own is right; a rollout without a table says nothing of its subagents."""
    attempts = group(
        (1.0, rollout(LEAD, SUB_1, SUB_2, SUB_3)),
        (0.4, rollout(LEAD, SUB_1, SUB_2)),
        (0.0, rollout(LEAD, SUB_1)),
    )
    shares = [{"sub-1": 1.0, "sub-2": 1.0, "sub-3": 1.0}, {"sub-1": 1.0, "sub-2": 0.0}, None]
    mean = 7 / 15
    wide, small, none = pay_for_cells(attempts, shares, mean_centered)
    assert wide == pytest.approx([1.0 - mean, 0.2, 0.2, 0.2])
    assert small == pytest.approx([0.4 - mean, 0.2, -0.8])
    assert none == pytest.approx([0.0 - mean, 0.0])
    by_absence = [{"sub-1": 0.8, "sub-2": 0.8, "sub-3": 0.8}, {"sub-1": 0.0, "sub-2": 0.4}]
    without = leave_one_subagent_out(attempts, [*by_absence, {"sub-1": 0.0}], mean_centered)
    assert without[0][1] < without[1][1], "which the absence of one does not tell"


def test_pay_for_cells_wants_every_subagent() -> None:
    attempts = group((1.0, rollout(LEAD, SUB_1, SUB_2)), (0.5, rollout(LEAD)))
    with pytest.raises(ValueError, match="sub-2"):
        pay_for_cells(attempts, [{"sub-1": 0.0}, {}])


@pytest.mark.parametrize("share", [share_outcome, share_by_role])
def test_equal_rewards_and_groups_of_one_teach_nothing(share: object) -> None:
    assert callable(share)
    assert share(group((0.3, rollout(LEAD, SUB_1)), (0.3, rollout(LEAD)))) == [[0.0, 0.0], [0.0]]
    assert share(group((0.3, rollout(LEAD)))) == [[0.0]]


def test_has_signal() -> None:
    assert has_signal([0.0, 0.0, 0.1])
    assert not has_signal([0.1, 0.1])
    assert not has_signal([0.1])
    assert not has_signal([])


def test_refill_is_bounded() -> None:
    assert groups_to_draw(wanted=8, with_signal=5, drawn=8, most=16) == 3
    assert groups_to_draw(wanted=8, with_signal=5, drawn=15, most=16) == 1
    assert groups_to_draw(wanted=8, with_signal=5, drawn=16, most=16) == 0
    assert groups_to_draw(wanted=8, with_signal=9, drawn=10, most=16) == 0


def test_rewards_must_be_one_finite_number_a_rollout() -> None:
    with pytest.raises(ValueError, match="rewards"):
        share_outcome(group((math.nan, rollout(LEAD)), (0.5, rollout(LEAD))))
    unrewarded = type(group())(question="q", rollouts=(rollout(LEAD),), rewards=())
    with pytest.raises(ValueError, match="rewards"):
        share_by_role(unrewarded)
