"""Samples and micro-batches: nothing lost or doubled, budgets kept, nobody waits, nobody hangs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wideseek_train.loss import LossConfig, policy_loss
from wideseek_train.packing import pack, plan_micro_batches
from wideseek_train.sample import Sample, make_sample, make_samples
from wideseek_train.selection import TrainedTurns, train_all

from tests.train.rollouts import agent, completion, rollout
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import PackedAttention, Qwen3
from wideseek.trajectory import Trajectory

LENGTHS = st.lists(st.integers(1, 100), max_size=40)


def two_turns() -> Trajectory:
    """Prompt 1 2, said 10 10 10, tool 9, said 11 11."""
    plain = agent("lead", 3, 2)
    first = replace(plain.turns[0], completion=completion([10, 10, 10], [-0.1, -0.2, -0.3]))
    return replace(plain, turns=(first, plain.turns[1]))


def lead_sample() -> Sample:
    trained = TrainedTurns(agent_id="lead", turns=(0, 1), tokens=(3, 2))
    return make_sample(two_turns(), trained, [0.5, -1.0], [0.1, 0.2])


def test_trajectory_is_one_sequence_with_advantage_and_weight_on_sampled_tokens_only() -> None:
    sample = lead_sample()
    assert sample.token_ids.tolist() == [1, 2, 10, 10, 10, 9, 11, 11]
    assert sample.trained.tolist() == [False, False, True, True, True, False, True, True]
    assert sample.advantages.tolist() == [0, 0, 0.5, 0.5, 0.5, 0, -1.0, -1.0]
    assert sample.weights.tolist() == pytest.approx([0, 0, 0.1, 0.1, 0.1, 0, 0.2, 0.2])
    assert sample.engine_logprobs.tolist() == pytest.approx([0, 0, -0.1, -0.2, -0.3, 0, -1, -1])


def test_turn_that_is_not_trained_is_only_context() -> None:
    trained = TrainedTurns(agent_id="lead", turns=(1,), tokens=(2,))
    sample = make_sample(two_turns(), trained, [1.0], [0.5])
    assert sample.trained.tolist() == [False] * 6 + [True, True]
    assert sample.weights.tolist() == [0.0] * 6 + [0.5, 0.5]
    assert sample.engine_logprobs[2].item() == pytest.approx(-0.1)


def test_miscounted_turn_and_empty_prompt_are_refused() -> None:
    trained = TrainedTurns(agent_id="lead", turns=(0,), tokens=(4,))
    with pytest.raises(ValueError, match="turn 0 of lead has 3 sampled tokens, not 4"):
        make_sample(two_turns(), trained, [1.0], [1.0])
    with pytest.raises(ValueError, match="prompt_token_ids"):
        make_sample(replace(two_turns(), prompt_token_ids=()), trained, [1.0], [1.0])


def test_agents_without_anything_to_train_make_no_sample() -> None:
    attempt = rollout(agent("lead", 2), agent("sub-1", 0))
    samples = make_samples(attempt, train_all(attempt), [1.0, 1.0], [(0.5,), ()])
    assert [sample.role for sample in samples] == ["lead"]


def test_pack_lays_samples_side_by_side() -> None:
    short = agent("sub-1", 1)
    trained = TrainedTurns(agent_id="sub-1", turns=(0,), tokens=(1,))
    batch = pack([lead_sample(), make_sample(short, trained, [2.0], [0.25])])
    assert batch.tokens.tolist() == [1, 2, 10, 10, 10, 9, 11, 11, 1, 2, 10]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2]
    assert batch.cu_seqlens.tolist() == [0, 8, 11]
    assert batch.predictors.tolist() == [1, 2, 3, 5, 6, 9]
    assert batch.targets.tolist() == [10, 10, 10, 11, 11, 10]
    assert batch.sample_ids.tolist() == [0, 0, 0, 0, 0, 1]
    assert batch.advantages.tolist() == [0.5, 0.5, 0.5, -1.0, -1.0, 2.0]
    assert batch.weights.tolist() == pytest.approx([0.1, 0.1, 0.1, 0.2, 0.2, 0.25])


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 8), st.integers(100, 300))
def test_plan_holds_every_sample_exactly_once(lengths: list[int], ranks: int, budget: int) -> None:
    plan = plan_micro_batches(lengths, num_ranks=ranks, token_budget=budget)
    dealt = [index for rank in plan for members in rank for index in members]
    assert sorted(dealt) == list(range(len(lengths)))


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 8), st.integers(100, 300))
def test_plan_keeps_budgets_and_equal_counts(lengths: list[int], ranks: int, budget: int) -> None:
    plan = plan_micro_batches(lengths, num_ranks=ranks, token_budget=budget)
    assert len(plan) == ranks
    assert len({len(rank) for rank in plan}) == 1 and plan[0]
    for members in (members for rank in plan for members in rank):
        assert sum(lengths[index] for index in members) <= budget


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 8), st.integers(100, 300))
def test_plan_is_a_pure_function_of_lengths(lengths: list[int], ranks: int, budget: int) -> None:
    first, second = (
        plan_micro_batches(list(lengths), num_ranks=ranks, token_budget=budget) for _ in range(2)
    )
    assert first == second


def test_plan_by_hand() -> None:
    # 16 tokens need a round of two micro-batches of 10: 6 + 2, 5 + 3.
    assert plan_micro_batches([6, 5, 3, 2], num_ranks=2, token_budget=10) == [[(0, 3)], [(1, 2)]]
    assert plan_micro_batches([6, 5, 3, 2], num_ranks=1, token_budget=10) == [[(0, 3), (1, 2)]]


def test_plan_takes_another_round_where_the_budget_would_break() -> None:
    assert plan_micro_batches([6, 6, 6], num_ranks=1, token_budget=10) == [[(0,), (1,), (2,)]]


def test_plan_runs_alike_micro_batches_at_the_same_time() -> None:
    # Filled with 7, 6, 5 + 4 and 5 + 4: the two of 9 run first, then 6 beside 7.
    plan = plan_micro_batches([7, 6, 5, 5, 4, 4], num_ranks=2, token_budget=10)
    assert plan == [[(2, 4), (1,)], [(3, 5), (0,)]]


def test_plan_levels_cost_not_tokens() -> None:
    plan = plan_micro_batches([6, 3, 3, 2], num_ranks=2, token_budget=20, costs=[36, 9, 9, 4])
    assert plan == [[(0,)], [(1, 2, 3)]]


def test_micro_batch_without_room_for_one_sample_still_takes_a_shorter_one() -> None:
    # 25 + 9 is cheaper than 36, but 5 + 3 + 3 tokens are too many; the 1 fits there.
    lengths = [6, 5, 3, 3, 1]
    costs = [n * n for n in lengths]
    plan = plan_micro_batches(lengths, num_ranks=2, token_budget=10, costs=costs)
    assert plan == [[(0, 3)], [(1, 2, 4)]]


@pytest.mark.parametrize(
    ("lengths", "ranks", "budget", "told"),
    [([5, 11], 1, 10, "token_budget 10"), ([0], 1, 10, "lengths"), ([1], 0, 10, "num_ranks")],
)
def test_plan_refuses_by_name(lengths: list[int], ranks: int, budget: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        plan_micro_batches(lengths, num_ranks=ranks, token_budget=budget)


def tiny_qwen3() -> Qwen3:
    model = Qwen3(
        ModelConfig(
            architecture="Qwen3ForCausalLM",
            vocab_size=16,
            hidden_size=16,
            intermediate_size=24,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            max_position_embeddings=64,
            rope_theta=1e4,
            tied_head=False,
        )
    )
    model.init_weights(0)
    return model


def add_gradients(model: Qwen3, samples: list[Sample]) -> None:
    """Backward pass of one micro-batch."""
    batch = pack(samples)
    hidden = model(batch.tokens, batch.positions, PackedAttention(batch.cu_seqlens))
    logprobs = model.logits(hidden[batch.predictors]).log_softmax(-1)
    loss, _ = policy_loss(
        LossConfig(),
        logprobs.gather(1, batch.targets[:, None])[:, 0],
        batch.engine_logprobs,
        batch.advantages,
        batch.weights,
        batch.sample_ids,
    )
    loss.backward()


def test_rank_without_data_runs_an_attached_pass_of_weight_zero() -> None:
    model = tiny_qwen3()
    add_gradients(model, [])
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_two_ranks_equal_one_rank_on_a_model() -> None:
    """Three samples on one rank, or on two ranks one of which runs an empty pass at the end."""
    samples = []
    for number in range(3):
        trajectory = agent(f"sub-{number}", 3 + number, 2)
        trained = TrainedTurns(agent_id="", turns=(0, 1), tokens=(3 + number, 2))
        samples.append(make_sample(trajectory, trained, [1.0 - number] * 2, [0.1, 0.2]))
    gradients = []
    for plan in ([[(0, 1, 2)]], [[(0, 2), ()], [(1,), ()]]):
        model = tiny_qwen3()
        for members in (members for rank in plan for members in rank):
            add_gradients(model, [samples[index] for index in members])
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)
