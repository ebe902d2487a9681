"""In fp32 on a CPU the trainer's log-probabilities are the engine's to the bit, so that a first ratio is exactly 1."""

from collections.abc import Callable, Sequence

import pytest
import torch
from wideseek_kernels.cpu_build import cpu_kernels
from wideseek_train.batch import make_batch
from wideseek_train.loss import LossConfig
from wideseek_train.packing import MicroBatch, pack, pack_tree
from wideseek_train.sample import Sample
from wideseek_train.trainer import Trainer, TrainerConfig, token_logprobs

from tests.train.start import lone_rank
from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Completion, Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3

pytestmark = pytest.mark.skipif(not cpu_kernels(), reason="no C++ compiler")

VOCAB = 515
"""Sizes at which BLAS adds up a few rows otherwise than many."""


def start(*, qk_norm: bool) -> Qwen3:
    model = Qwen3(
        ModelConfig(
            architecture="Qwen3ForCausalLM" if qk_norm else "Qwen2ForCausalLM",
            vocab_size=VOCAB,
            hidden_size=320,
            intermediate_size=416,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=64,
            max_position_embeddings=1024,
            tied_head=qk_norm,
        )
    )
    model.init_weights(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


def drawn(seed: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (count,), generator=generator).tolist()


def sample_of(turns: Sequence[tuple[list[int], Completion]], advantage: float) -> Sample:
    """What was read and said, turn by turn."""
    ids: list[int] = []
    trained: list[bool] = []
    logprobs: list[float] = []
    for read, said in turns:
        ids += [*read, *said.token_ids]
        trained += [False] * len(read) + [True] * len(said.token_ids)
        logprobs += [0.0] * len(read) + [*said.logprobs]
    mask = torch.tensor(trained)
    return Sample(
        role="sub",
        token_ids=torch.tensor(ids),
        trained=mask,
        engine_logprobs=torch.tensor(logprobs),
        advantages=mask * advantage,
        weights=mask / mask.sum(),
    )


def play(model: Qwen3) -> list[Sample]:
    """Four siblings that share a prompt and go on for a second turn, and one that shares nothing."""
    prompt, other = drawn(0, 53), drawn(1, 9)
    with Engine(
        model, EngineConfig(page_size=8, num_pages=400, max_num_seqs=16, max_batch_tokens=48)
    ) as engine:
        lengths = (1, 17, 30, 30)
        first = engine.generate_batch(
            [(prompt, Sampling(max_tokens=n, seed=seed)) for seed, n in enumerate(lengths)]
        )
        read = drawn(2, 21)
        second = engine.generate_batch(
            [([*prompt, *said.token_ids, *read], Sampling(max_tokens=12, seed=9)) for said in first]
        )
        alone = engine.generate_batch([(other, Sampling(max_tokens=40, seed=5))])[0]
    pairs = zip(first, second, strict=True)
    samples = [
        sample_of([(prompt, one), (read, two)], (-1.0) ** k) for k, (one, two) in enumerate(pairs)
    ]
    return [*samples, sample_of([(other, alone)], 1.0)]


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("layout", [pack, pack_tree])
def test_engine_and_trainer_logprobs_agree_bitwise(
    layout: Callable[[Sequence[Sample]], MicroBatch], qk_norm: bool
) -> None:
    """However the samples are packed, and with their gradients wanted."""
    model = start(qk_norm=qk_norm)
    samples = play(model)
    for packed in (samples, samples[:1], samples[1:3], samples[4:], samples[::-1]):
        micro = layout(packed)
        logprobs, entropies = token_logprobs(model, micro)
        assert logprobs.requires_grad
        assert torch.equal(logprobs.detach(), micro.engine_logprobs)
        assert entropies.min() > 0.1 and logprobs.min() < -3


def test_the_first_step_on_a_rollout_has_no_mismatch() -> None:
    """Through FSDP and recomputation, which the trainer has and a plain forward does not."""
    samples = dict(enumerate([sample] for sample in play(start(qk_norm=True))))
    with lone_rank():
        trainer = Trainer(start(qk_norm=True), TrainerConfig(), LossConfig(), steps=2)
        report = trainer.step(make_batch(samples, token_budget=300, hidden_size=320))
        assert report.mismatch.max == report.mismatch.mean == 0.0
        assert report.ratio == 1.0 and report.grad_norm > 0.01
