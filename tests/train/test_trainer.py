"""The trainer: what it makes of a batch does not depend on packing, ranks or recomputation, and agrees with the engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from wideseek_train.batch import make_batch
from wideseek_train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from wideseek_train.loss import LossConfig
from wideseek_train.sample import Sample
from wideseek_train.trainer import StepReport, Trainer, TrainerConfig, make_mesh, rate_at
from wideseek_train.weight_sync import weight_sync

from tests.ranks import run_two_ranks
from tests.train.start import lone_rank
from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import PackedAttention, Qwen3

SHAPE = ModelConfig(
    architecture="Qwen3ForCausalLM",
    vocab_size=67,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_position_embeddings=128,
)
LENGTHS = (9, 31, 4, 17, 40, 12)
PROMPT = torch.arange(30, 38)
"""What every sample begins with, the shortest with a part of it, whose tokens it was trained on."""


def start(seed: int = 0) -> Qwen3:
    model = Qwen3(SHAPE)
    model.init_weights(seed)
    return model


def trainer(loss: LossConfig | None = None, **changes: float) -> Trainer:
    """Gradients as they are, so that the first moment is a tenth of them."""
    values: dict[str, float] = {"learning_rate": 1e-3, "clip_norm": 1e9, "token_budget": 64}
    config = TrainerConfig(**(values | changes))  # type: ignore[arg-type]
    return Trainer(start(), config, loss or LossConfig(), steps=4)


def make_sample(length: int, index: int) -> Sample:
    generator = torch.Generator().manual_seed(index)
    trained = torch.arange(length) >= length // 3
    trained[0] = False
    advantage = 1.0 if index % 2 else -0.5
    own = torch.randint(0, SHAPE.vocab_size, (length,), generator=generator)
    return Sample(
        role="sub" if index % 3 else "lead",
        token_ids=torch.cat((PROMPT, own))[:length],
        trained=trained,
        engine_logprobs=trained * -4.2,
        advantages=trained * advantage,
        weights=trained * (1.0 / (len(LENGTHS) * int(trained.sum()))),
    )


def samples_of(questions: range) -> dict[int, list[Sample]]:
    return {q: [make_sample(LENGTHS[q], q)] for q in questions}


def step(of: Trainer, own: dict[int, list[Sample]], budget: int = 64) -> StepReport:
    return of.step(make_batch(own, token_budget=budget, hidden_size=SHAPE.hidden_size))


def gradients(of: Trainer) -> dict[str, Tensor]:
    return {n: m.full_tensor() * 10 for n, m in of.state()["exp_avg"].items()}  # type: ignore[attr-defined]


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, expected in theirs.items():
        apart = (ours[name] - expected).norm() / expected.norm().clamp(min=1e-12)
        assert apart < 1e-5, f"{name} is {apart:.1e} apart"


@pytest.fixture
def one_rank() -> Iterator[None]:
    with lone_rank():
        yield


@pytest.mark.parametrize("budget", [40, 50, 64])
def test_gradients_are_invariant_to_packing(one_rank: None, budget: int) -> None:
    alone, packed = trainer(), trainer()
    one = step(alone, samples_of(range(6)), budget=1000)
    other = step(packed, samples_of(range(6)), budget=budget)
    assert one.micro_batches == 2 < other.micro_batches  # leads and subagents are computed apart
    assert one.computed_tokens == (9 + 17 - 8) + (31 + 4 + 40 + 12 - 8 - 4 - 8)
    assert one.computed_tokens < other.computed_tokens <= sum(LENGTHS)
    assert one.grad_norm > 0.01
    assert other.loss == pytest.approx(one.loss, rel=1e-5, abs=1e-7)
    assert_same_gradients(gradients(packed), gradients(alone))


def test_gradients_are_those_of_a_plain_model(one_rank: None) -> None:
    """Against autograd on an unsharded model, sample by sample, the loss written out at ratio = p / p_old."""
    ours = trainer(token_budget=100)
    report = step(ours, samples_of(range(6)), budget=100)
    assert report.computed_tokens < sum(LENGTHS)
    model, loss = start(), torch.zeros(())
    for index, length in enumerate(LENGTHS):
        sample = make_sample(length, index)
        positions, bounds = torch.arange(length), torch.tensor([0, length])
        hidden = model(sample.token_ids, positions, PackedAttention(bounds))
        logprobs = model.logits(hidden).log_softmax(-1)[:-1].gather(1, sample.token_ids[1:, None])
        ratio = (logprobs[:, 0] - sample.engine_logprobs[1:]).exp()
        clipped = ratio.clamp(0.8, 1.28)
        token_loss = torch.maximum(-sample.advantages[1:] * ratio, -sample.advantages[1:] * clipped)
        loss = loss + (sample.weights[1:] * token_loss).sum()
    loss.backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert_same_gradients(gradients(ours), expected)


def test_gradient_norm_of_a_role_is_that_of_its_samples_alone(one_rank: None) -> None:
    """And the two gradients add up to the whole one."""
    both, found = trainer(), {}
    report = step(both, samples_of(range(6)))
    for role, questions in (("lead", (0, 3)), ("sub", (1, 2, 4, 5))):
        alone = trainer()
        own = step(alone, {q: [make_sample(LENGTHS[q], q)] for q in questions})
        assert own.grad_norms == {role: pytest.approx(own.grad_norm)}
        assert report.grad_norms[role] == pytest.approx(own.grad_norm, rel=1e-5)
        found[role] = gradients(alone)
    assert sorted(report.grad_norms) == ["lead", "sub"]
    assert_same_gradients(
        gradients(both), {n: g + found["sub"][n] for n, g in found["lead"].items()}
    )


def test_offload_without_an_accelerator_is_refused(one_rank: None) -> None:
    config = TrainerConfig(offload=True)
    with pytest.raises(ValueError, match="offload True needs an accelerator"):
        Trainer(start(), config, LossConfig(), steps=1)


def test_recomputation_changes_no_gradient(one_rank: None) -> None:
    kept, again = trainer(recompute=False), trainer(recompute=True)
    step(kept, samples_of(range(6)))
    step(again, samples_of(range(6)))
    for name, expected in gradients(kept).items():
        assert torch.equal(gradients(again)[name], expected), name


def test_the_kl_term_pulls_to_the_reference(one_rank: None) -> None:
    config = TrainerConfig(learning_rate=1e-3, clip_norm=1e9, token_budget=64)
    loss = LossConfig(kl_coefficient=0.5)
    with_other = Trainer(start(), config, loss, steps=4, reference=start(1))
    with_itself = Trainer(start(), config, loss, steps=4, reference=start(0))
    assert step(with_other, samples_of(range(6))).kl_loss > 1e-3
    assert step(with_itself, samples_of(range(6))).kl_loss == pytest.approx(0.0, abs=1e-9)
    assert_same_gradients(gradients(with_itself), _plain_gradients())
    with pytest.raises(ValueError, match="kl_coefficient"):
        Trainer(start(), config, loss, steps=4)


def _plain_gradients() -> dict[str, Tensor]:
    plain = trainer()
    step(plain, samples_of(range(6)))
    return gradients(plain)


def test_lr0_drifts_by_nothing(one_rank: None) -> None:
    still = trainer(learning_rate=0.0, weight_decay=0.5)
    for _ in range(20):
        assert step(still, samples_of(range(6))).grad_norm > 0.01
    for (name, ours), theirs in zip(
        still.whole_model().named_parameters(), start().parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_step_without_signal_moves_nothing(one_rank: None) -> None:
    ours = trainer(weight_decay=0.5)
    step(ours, samples_of(range(6)))
    before = ours.whole_model().state_dict()
    report = step(ours, {})
    assert report.tokens == 0 and ours.steps_done == 2
    assert all(torch.equal(t, before[n]) for n, t in ours.whole_model().state_dict().items())


def test_a_gradient_that_is_not_finite_moves_nothing(one_rank: None) -> None:
    ours = trainer()
    poisoned = make_sample(9, 0)
    poisoned.advantages[5] = torch.inf
    assert step(ours, {0: [poisoned]}).skipped
    for mine, theirs in zip(ours.whole_model().parameters(), start().parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert not step(ours, samples_of(range(6))).skipped


def test_engine_and_trainer_logprobs_agree(one_rank: None) -> None:
    """After a step, too: so the engine holds the trainer's weights."""
    ours = trainer()
    with Engine(start(), EngineConfig(num_pages=16, max_num_seqs=8, max_batch_tokens=32)) as engine:
        for _ in range(2):
            report = step(ours, sampled_by(engine))
            assert report.tokens > 100
            assert report.mismatch.max < 2e-5
            assert report.ratio == pytest.approx(1.0, abs=1e-5)
            engine.sleep(drop_weights=True)
            synced = weight_sync(ours, engine)
            assert synced.num_bytes == 4 * sum(p.numel() for p in start().parameters())
        assert not torch.equal(
            engine.model.model.embed_tokens.weight, start().model.embed_tokens.weight
        )


def sampled_by(engine: Engine) -> dict[int, list[Sample]]:
    """Samples whose log-probabilities are what the engine says."""
    prompts = [(list(range(1, 4 + n)), Sampling(seed=n, max_tokens=20)) for n in range(8)]
    samples = {}
    for n, done in enumerate(engine.generate_batch(prompts)):
        prompt = prompts[n][0]
        trained = torch.arange(len(prompt) + len(done.token_ids)) >= len(prompt)
        samples[n] = [
            Sample(
                role="lead",
                token_ids=torch.tensor([*prompt, *done.token_ids]),
                trained=trained,
                engine_logprobs=torch.tensor([0.0] * len(prompt) + list(done.plain_logprobs)),
                advantages=trained * (1.0 if n % 2 else -1.0),
                weights=trained * 0.01,
            )
        ]
    return samples


def test_rates_rise_then_fall_to_the_final_share() -> None:
    config = TrainerConfig(learning_rate=1.0, warmup_steps=3, final_share=0.2)
    rates = [rate_at(config, step, 13) for step in range(13)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx(0.92) and rates[12] == pytest.approx(0.28)
    constant = TrainerConfig(learning_rate=1.0)
    assert {rate_at(constant, step, 13) for step in range(13)} == {1.0}


SCENARIOS = {
    "shared": (range(0, 3), range(3, 6)),
    "one rank has nothing": (range(0, 6), range(0)),
    "one sample for two ranks": (range(4, 5), range(0)),
}


def run_rank(rank: int, folder: Path) -> None:
    """One of two ranks through every scenario, sharded and replicated; rank 0 writes what came out."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("cpu:gloo", store=store, rank=rank, world_size=2)
    for name, shares in SCENARIOS.items():
        for shard_ranks in (1, 0):
            ours = trainer(shard_ranks=shard_ranks)
            report = step(ours, samples_of(shares[rank]))
            found = gradients(ours) | {
                "loss": torch.tensor(report.loss),
                "tokens": torch.tensor(report.tokens),
                "micro_batches": torch.tensor(report.micro_batches),
            }
            if rank == 0:
                save_file(found, folder / f"{name}-{shard_ranks}.safetensors")
    save_checkpoint(ours, folder, {}, best_f1=0.5)
    whole = ours.whole_model()
    if whole is not None:
        save_file(whole.state_dict(), folder / "whole.safetensors")
    with pytest.raises(ValueError, match="shard_ranks 3"):
        make_mesh("cpu", 3)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_two_ranks(run_rank, folder, 240)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("shard_ranks", [0, 1])
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_ranks_equal_one_rank(
    two_ranks: Path, one_rank: None, name: str, shard_ranks: int
) -> None:
    """Also with a rank that has no data, which must not hang either."""
    found = load_file(two_ranks / f"{name}-{shard_ranks}.safetensors")
    ours = trainer()
    own = samples_of(SCENARIOS[name][0]) | samples_of(SCENARIOS[name][1])
    report = step(ours, own)
    assert found["tokens"].item() == report.tokens
    assert found["loss"].item() == pytest.approx(report.loss, rel=1e-5)
    assert_same_gradients({n: t for n, t in found.items() if "." in n}, gradients(ours))


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_is_read_by_one(two_ranks: Path, one_rank: None) -> None:
    """Weights and moments to the bit; what the trainer does next depends on nothing else."""
    ours = trainer()
    checkpoint = latest_checkpoint(two_ranks)
    assert checkpoint is not None
    assert load_checkpoint(ours, checkpoint, {}).best_f1 == 0.5
    assert ours.steps_done == 1
    expected = load_file(two_ranks / "whole.safetensors")
    for name, tensor in ours.whole_model().state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    moments = load_file(two_ranks / f"{list(SCENARIOS)[-1]}-0.safetensors")
    for name, tensor in gradients(ours).items():
        assert torch.equal(tensor, moments[name]), name
    with pytest.raises(ValueError, match="other"):
        load_checkpoint(ours, checkpoint, {"other": 1})
