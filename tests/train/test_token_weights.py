"""Token weights: by hand, and unmoved by how they are packed, cut and dealt out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wideseek_train.advantage import mean_centered, share_outcome
from wideseek_train.loss import LossConfig, policy_loss
from wideseek_train.packing import pack, plan_micro_batches
from wideseek_train.sample import Sample, make_samples
from wideseek_train.selection import TrainedTurns, train_all
from wideseek_train.weights import equal_agents, equal_tokens, equal_turns, weight_by_role

from tests.train.rollouts import agent, group, rollout


def part(agent_id: str, *tokens: int) -> TrainedTurns:
    return TrainedTurns(agent_id=agent_id, turns=tuple(range(len(tokens))), tokens=tokens)


TEAM = [part("lead", 2, 6), part("sub-1", 4), part("sub-2")]
ALONE = [part("lead", 5)]


def test_weight_is_one_over_rollouts_agents_and_tokens_of_the_agent() -> None:
    # Two rollouts; the team has two trained agents with 8 and 4 tokens.
    assert equal_agents([TEAM, ALONE], 2) == [
        [(1 / 32, 1 / 32), (1 / 16,), ()],
        [(pytest.approx(1 / 10),)],
    ]


def test_equal_turns_by_hand() -> None:
    assert equal_turns([TEAM, ALONE], 2) == [
        [(1 / 16, 1 / 48), (1 / 16,), ()],
        [(pytest.approx(1 / 10),)],
    ]


def test_equal_tokens_by_hand() -> None:
    assert equal_tokens([TEAM, ALONE], 2) == [
        [(1 / 24, 1 / 24), (1 / 24,), ()],
        [(pytest.approx(1 / 10),)],
    ]


def test_branches_of_one_agent_share_its_weight() -> None:
    assert equal_agents([[part("lead", 2), part("lead", 6)]], 1) == [[(1 / 8,), (1 / 8,)]]


def test_filtered_rollouts_stay_in_the_denominator() -> None:
    assert equal_agents([ALONE], 4) == [[(1 / 20,)]]


@pytest.mark.parametrize("weigh", [equal_agents, equal_turns, equal_tokens])
@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.lists(st.integers(1, 50), max_size=4), min_size=1, max_size=4), max_size=4)
)
def test_weights_of_a_trained_rollout_sum_to_its_share(
    weigh: object, tokens: list[list[list[int]]]
) -> None:
    assert callable(weigh)
    rollouts = [[part(f"a{i}", *own) for i, own in enumerate(agents)] for agents in tokens]
    for agents, weights in zip(rollouts, weigh(rollouts, 8), strict=True):
        total = sum(
            weight * count
            for own, part_weights in zip(agents, weights, strict=True)
            for weight, count in zip(part_weights, own.tokens, strict=True)
        )
        assert total == pytest.approx(1 / 8 if any(own.turns for own in agents) else 0.0)


@pytest.mark.parametrize("weigh", [equal_agents, equal_turns, equal_tokens])
def test_what_cannot_be_weighed_is_refused_by_name(weigh: object) -> None:
    assert callable(weigh)
    with pytest.raises(ValueError, match="num_rollouts"):
        weigh([ALONE, ALONE], 1)
    with pytest.raises(ValueError, match="tokens of lead"):
        weigh([[part("lead", 3, 0)]], 1)


def samples_of(shape: list[list[list[int]]]) -> list[Sample]:
    """Samples of rollouts of agents of turns, with rewards 0, 1, 2 ..."""
    attempts = [
        rollout(*(agent("lead" if i == 0 else f"sub-{i}", *own) for i, own in enumerate(agents)))
        for agents in shape
    ]
    rewarded = group(*((float(i), attempt) for i, attempt in enumerate(attempts)))
    trained = [train_all(attempt) for attempt in attempts]
    return [
        sample
        for attempt, turns, advantages, weights in zip(
            attempts,
            trained,
            share_outcome(rewarded, mean_centered),
            equal_agents(trained, len(attempts)),
            strict=True,
        )
        for sample in make_samples(attempt, turns, advantages, weights)
    ]


SHAPES = st.lists(
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=3),
    min_size=2,
    max_size=4,
)


def bigram_gradient(samples: list[Sample], plan: list[list[tuple[int, ...]]]) -> Tensor:
    """Gradient of the loss of a step for a bigram model, summed over micro-batches and ranks."""
    table = torch.linspace(-1.0, 1.0, 16 * 16).view(16, 16).requires_grad_()
    total = torch.zeros(())
    for members in (members for rank in plan for members in rank):
        batch = pack([samples[index] for index in members])
        logprobs = table[batch.tokens[batch.predictors]].log_softmax(-1)
        loss, _ = policy_loss(
            LossConfig(),
            logprobs[torch.arange(len(batch.targets)), batch.targets],
            batch.engine_logprobs,
            batch.advantages,
            batch.weights,
            batch.sample_ids,
        )
        total = total + loss
    total.backward()
    assert table.grad is not None
    return table.grad


@settings(deadline=None, max_examples=6)
@given(SHAPES, st.integers(1, 4), st.integers(20, 60))
def test_weights_invariant_to_packing(
    shape: list[list[list[int]]], num_ranks: int, budget: int
) -> None:
    """Random packings, micro-batch sizes and rank counts give the gradient of one by one."""
    samples = samples_of(shape)
    one_by_one = [[(index,) for index in range(len(samples))]]
    plan = plan_micro_batches(
        [len(sample) for sample in samples], num_ranks=num_ranks, token_budget=budget
    )
    expected = bigram_gradient(samples, one_by_one)
    torch.testing.assert_close(bigram_gradient(samples, plan), expected, rtol=1e-5, atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(SHAPES)
def test_weights_invariant_to_which_rank_weighs_a_rollout(shape: list[list[list[int]]]) -> None:
    trained = [[part(f"a{i}", *own) for i, own in enumerate(agents)] for agents in shape]
    together = equal_agents(trained, len(trained))
    apart = [equal_agents([own], len(trained))[0] for own in trained]
    assert together == apart


def test_weight_by_role_adds_up() -> None:
    # Lead 1/2 of the first rollout and all of the second.
    shares = weight_by_role(samples_of([[[2, 6], [4]], [[5]]]))
    assert shares == {"lead": pytest.approx(0.75), "sub": pytest.approx(0.25)}
