"""Tree packing: what samples share is computed once, and nothing else about the step changes."""

from functools import cache
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wideseek_train.loss import LossConfig, policy_loss
from wideseek_train.packing import MicroBatch, pack, pack_tree, plan_micro_batches, plan_tree
from wideseek_train.sample import Sample
from wideseek_train.trainer import token_logprobs
from wideseek_train.trie import Trie

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import DecoderLayer, Qwen3

Prefix = tuple[int, ...]
# Few tokens, so that sequences begin alike, end inside one another, or are equal.
SEQUENCES = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), min_size=1, max_size=8
)
RANKS, BUDGETS = st.integers(1, 4), st.integers(12, 60)


def sample_of(tokens: Prefix, seed: int) -> Sample:
    """Some of the tokens are trained, with old log-probabilities and advantages of this sample alone."""
    generator = torch.Generator().manual_seed(seed)
    trained = torch.rand(len(tokens), generator=generator) < 0.7
    trained[0] = False
    logprobs, advantages, weights = torch.rand((3, len(tokens)), generator=generator)
    return Sample(
        role="lead",
        token_ids=torch.tensor(tokens),
        trained=trained,
        engine_logprobs=(-0.5 - 5.0 * logprobs) * trained,
        advantages=(2.0 * advantages - 1.0) * trained,
        weights=(0.01 + weights) * trained,
    )


def samples_of(sequences: list[Prefix]) -> list[Sample]:
    return [sample_of(tokens, seed) for seed, tokens in enumerate(sequences)]


def trie_of(sequences: list[Prefix]) -> Trie:
    return Trie.of([torch.tensor(tokens) for tokens in sequences])


def prefixes(sequences: list[Prefix]) -> set[Prefix]:
    return {tokens[:end] for tokens in sequences for end in range(1, len(tokens) + 1)}


def cost(trie: Trie) -> float:
    return trie.num_tokens + 0.01 * trie.num_pairs


@settings(deadline=None, max_examples=40)
@given(SEQUENCES)
def test_every_trajectory_is_read_back_and_every_distinct_prefix_is_computed_once(
    sequences: list[Prefix],
) -> None:
    batch, trie = pack_tree(samples_of(sequences)), trie_of(sequences)
    distinct = prefixes(sequences)
    assert len(batch.tokens) == trie.num_tokens == len(distinct)
    assert trie.num_pairs == sum(len(prefix) for prefix in distinct)
    for index, rows in trie.rows().items():
        assert batch.tokens[rows].tolist() == list(sequences[index])
        assert batch.positions[rows].tolist() == list(range(len(rows)))
    assert sorted(trie.rows()) == list(range(len(sequences)))


@settings(deadline=None, max_examples=40)
@given(SEQUENCES)
def test_the_loss_sees_the_same_entries_as_in_flat_packing(sequences: list[Prefix]) -> None:
    flat, tree = pack(samples_of(sequences)), pack_tree(samples_of(sequences))
    for name in ("targets", "sample_ids", "engine_logprobs", "advantages", "weights"):
        assert torch.equal(getattr(tree, name), getattr(flat, name)), name
    for name in ("tokens", "positions"):
        ours, theirs = (getattr(batch, name)[batch.predictors] for batch in (tree, flat))
        assert torch.equal(ours, theirs), name


def test_tree_layout_by_hand() -> None:
    sequences = [(1, 2, 3, 4), (7,), (1, 2), (1, 2, 3, 5, 6), (1, 2, 3, 4)]
    batch = pack_tree(samples_of(sequences))
    assert batch.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert batch.positions.tolist() == [0, 1, 2, 3, 3, 4, 0]
    assert batch.cu_seqlens.tolist() == [0, 2, 4, 4, 6, 7]
    assert batch.shared.tolist() == [0, 2, 4, 3, 0]


@cache
def qwen3(kv_heads: int, recompute: bool = False) -> Qwen3:
    model = Qwen3(
        ModelConfig(
            architecture="Qwen3ForCausalLM",
            vocab_size=8,
            hidden_size=16,
            intermediate_size=24,
            num_layers=2,
            num_heads=4,
            num_kv_heads=kv_heads,
            head_dim=8,
            max_position_embeddings=512,
        )
    )
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim == 2 else 1.0)  # attention that chooses
    for layer in model.model.layers:
        assert isinstance(layer, DecoderLayer)
        layer.recompute = recompute
    return model


def loss_and_gradients(model: Qwen3, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logprobs, _ = token_logprobs(model, batch)
    loss, _ = policy_loss(
        LossConfig(),
        logprobs,
        batch.engine_logprobs,
        batch.advantages,
        batch.weights,
        batch.sample_ids,
    )
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def gradient_of(batch: MicroBatch) -> Tensor:
    return torch.cat([g.flatten() for g in loss_and_gradients(qwen3(2), batch)[1].values()])


def assert_tree_equals_flat(model: Qwen3, samples: list[Sample]) -> None:
    flat_loss, flat = loss_and_gradients(model, pack(samples))
    tree_loss, tree = loss_and_gradients(model, pack_tree(samples))
    torch.testing.assert_close(tree_loss, flat_loss, rtol=1e-5, atol=1e-6)
    assert len(tree) == len(flat) == len(list(model.parameters()))
    for name, expected in flat.items():
        apart = (tree[name] - expected).norm()
        assert apart <= 1e-5 * expected.norm() + 1e-6, f"{name} is {apart:.1e} apart"


@settings(deadline=None, max_examples=12)
@given(SEQUENCES, st.sampled_from([1, 2, 4]), st.booleans())
def test_tree_equals_flat(sequences: list[Prefix], kv_heads: int, recompute: bool) -> None:
    """The loss and the gradient of every parameter, on random tries."""
    assert_tree_equals_flat(qwen3(kv_heads, recompute), samples_of(sequences))


def test_tree_equals_flat_on_a_group_with_a_long_prompt() -> None:
    """Leads that share a question, subagents that share a system prompt, turns that part one by one."""
    draw = torch.Generator().manual_seed(0)

    def said(count: int) -> Prefix:
        return tuple(torch.randint(8, (count,), generator=draw).tolist())

    system, question = said(70), said(33)
    lead = system + question + said(20)
    sequences = [lead[: 103 + 2 * i] + said(30) for i in range(8)]
    sequences += [system[:50] + said(40) for _ in range(8)] + [said(9), lead, lead]
    samples = samples_of(sequences)
    assert 2 * len(pack_tree(samples).tokens) < len(pack(samples).tokens)
    assert_tree_equals_flat(qwen3(2), samples)


def test_a_shared_sampled_token_counts_once_for_each_trajectory() -> None:
    """Three sampled the same tokens with other odds and advantages: three gradients through one row."""
    samples = samples_of([(1, 2, 3, 4, 5)] * 3)
    batch = pack_tree(samples)
    assert len(batch.tokens) == 5 and len(batch.targets) == sum(
        int(s.trained.sum()) for s in samples
    )
    together, *alone = (gradient_of(passes) for passes in (batch, *(pack([s]) for s in samples)))
    torch.testing.assert_close(together, sum(alone), rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(SEQUENCES, BUDGETS)
def test_bundles_cut_the_trie_where_it_is_thinnest(sequences: list[Prefix], limit: int) -> None:
    trie = trie_of(sequences)
    bundles = trie.bundles(limit)
    assert [i for bundle in bundles for i in bundle.indices] == list(trie.indices)
    for bundle in bundles:
        own = [sequences[i] for i in bundle.indices]
        assert bundle == Trie(
            bundle.indices, *(getattr(trie_of(own), n) for n in ("lengths", "shared"))
        )
        assert len(own) == 1 or bundle.num_tokens <= limit
        assert all(depth > 0 for depth in bundle.shared[1:])
    if trie.num_tokens > limit and len(sequences) > 1:
        starts = {bundle.indices[0] for bundle in bundles[1:]}
        cuts = [d for i, d in zip(trie.indices, trie.shared, strict=True) if i in starts]
        assert min(trie.shared[1:]) in cuts


@settings(deadline=None, max_examples=40)
@given(SEQUENCES, RANKS, BUDGETS)
def test_tree_plan_holds_every_sample_once_and_keeps_budgets_and_equal_counts(
    sequences: list[Prefix], ranks: int, budget: int
) -> None:
    plan = plan_tree(trie_of(sequences), num_ranks=ranks, token_budget=budget, cost=cost)
    assert len(plan) == ranks and len({len(rank) for rank in plan}) == 1 and plan[0]
    dealt = [members for rank in plan for members in rank]
    assert sorted(i for members in dealt for i in members) == list(range(len(sequences)))
    for members in dealt:
        assert len(prefixes([sequences[i] for i in members])) <= budget
    again = plan_tree(trie_of(list(sequences)), num_ranks=ranks, token_budget=budget, cost=cost)
    assert plan == again


@settings(deadline=None, max_examples=40)
@given(SEQUENCES, RANKS, BUDGETS)
def test_tree_plan_is_never_slower_than_the_flat_one(
    sequences: list[Prefix], ranks: int, budget: int
) -> None:
    trie = trie_of(sequences)
    lengths = [len(tokens) for tokens in sequences]
    alone = [cost(Trie.flat([length])) for length in lengths]
    flat = plan_micro_batches(lengths, num_ranks=ranks, token_budget=budget, costs=alone)
    tree = plan_tree(trie, num_ranks=ranks, token_budget=budget, cost=cost)

    def seconds(plan: list[list[tuple[int, ...]]], of: bool) -> float:
        rounds = zip(*plan, strict=True)
        return sum(max(one_pass(members, of) for members in together) for together in rounds)

    def one_pass(members: tuple[int, ...], shares: bool) -> float:
        if shares:
            return cost(trie_of([sequences[i] for i in members])) if members else 0.0
        return sum(alone[i] for i in members)

    assert seconds(tree, True) <= seconds(flat, False) + 1e-9


def test_siblings_are_computed_together_and_groups_apart() -> None:
    """Two groups of four with a prefix of 40 and 10 tokens of their own each, on one rank and on two."""
    sequences = [(g,) * 40 + (2 + i,) * 10 for i in range(4) for g in range(2)]
    trie = trie_of(sequences)
    groups = [(0, 2, 4, 6), (1, 3, 5, 7)]
    for ranks, budget in ((2, 200), (2, 80), (1, 80)):
        plan = plan_tree(trie, num_ranks=ranks, token_budget=budget, cost=cost)
        dealt = [members for rank in plan for members in rank if members]
        assert sorted(dealt) == groups, (ranks, budget)
    four = plan_tree(trie, num_ranks=4, token_budget=200, cost=cost)
    assert sorted(len(set(members)) for rank in four for members in rank) == [2, 2, 2, 2]
    assert all(members[0] % 2 == members[1] % 2 for rank in four for members in rank)


def test_plan_of_nothing_and_of_one() -> None:
    assert plan_tree(trie_of([]), num_ranks=2, token_budget=9, cost=cost) == [[()], [()]]
    assert plan_tree(trie_of([(1, 2)]), num_ranks=1, token_budget=9, cost=cost) == [[(0,)]]


@settings(deadline=None, max_examples=4)
@given(SEQUENCES, RANKS, BUDGETS)
def test_weights_invariant_to_tree_packing(
    sequences: list[Prefix], ranks: int, budget: int
) -> None:
    """Gradients summed over the passes of any plan are those of one sample after the other."""
    samples = samples_of(sequences)
    plan = plan_tree(trie_of(sequences), num_ranks=ranks, token_budget=budget, cost=cost)
    dealt = [[samples[i] for i in members] for rank in plan for members in rank]
    planned = torch.stack([gradient_of(pack_tree(members)) for members in dealt]).sum(0)
    alone = torch.stack([gradient_of(pack([sample])) for sample in samples]).sum(0)
    assert (planned - alone).norm() <= 1e-5 * alone.norm() + 1e-6


def test_trie_order_puts_equal_beginnings_side_by_side_whatever_the_ids() -> None:
    """Ids past one byte, whose bytes do not sort like the numbers."""
    sequences = [(70000, 1), (256, 1), (1, 256), (70000, 2), (256, 2), (1, 255)]
    trie = trie_of(sequences)
    assert trie.num_tokens == len(prefixes(sequences)) == 9
    beginnings = [sequences[i][0] for i in trie.indices]
    assert sum(a != b for a, b in pairwise(beginnings)) == 2
