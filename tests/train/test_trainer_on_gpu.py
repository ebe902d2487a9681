"""The trainer on a CUDA device: attention against fp64, a step against the CPU's, and an engine with the same weights."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from wideseek_kernels.packed_attention import packed_attention
from wideseek_train.batch import make_batch
from wideseek_train.checkpoint import load_checkpoint, save_checkpoint
from wideseek_train.loss import LossConfig
from wideseek_train.ranks import Ranks, join
from wideseek_train.sample import Sample
from wideseek_train.trainer import EPSILON, StepReport, Trainer, TrainerConfig
from wideseek_train.weight_sync import weight_sync

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # What a driver or NCCL warns of is no failure.
    pytest.mark.filterwarnings("default"),
]
SHAPE = ModelConfig(
    architecture="Qwen3ForCausalLM",
    vocab_size=500,
    hidden_size=256,
    intermediate_size=384,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    max_position_embeddings=512,
)
LENGTHS = (40, 131, 9, 64, 200, 77)
PROMPT = torch.arange(100, 133)
"""What every sample begins with, the shortest with a part of it."""

LAYOUTS = {
    "flat": ([0, 1, 130, 131, 400], [0, 0, 0, 0]),
    "tree": ([0, 90, 150, 150, 151, 280, 300], [0, 70, 130, 129, 40, 0]),
    "single rows": ([0, 1, 2, 3], [0, 1, 0]),
}


@pytest.fixture
def one_rank() -> Iterator[None]:
    join(Ranks(dist.HashStore(), 0, 1), 120.0)
    yield
    dist.destroy_process_group()


def visible(bounds: list[int], shared: list[int]) -> Tensor:
    """[T, T]: who reads whom; each sequence's own rows read its path so far."""
    mask = torch.zeros(bounds[-1], bounds[-1], dtype=torch.bool)
    path: list[int] = []
    for (start, end), depth in zip(pairwise(bounds), shared, strict=True):
        path = path[:depth]
        for row in range(start, end):
            path.append(row)
            mask[row, path] = True
    return mask


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """[T, H, D] by torch's attention over the whole mask, every key head written out for its query heads."""
    group = q.shape[1] // k.shape[1]
    heads = (x.transpose(0, 1)[None] for x in (q, *(y.repeat_interleave(group, 1) for y in (k, v))))
    return F.scaled_dot_product_attention(*heads, attn_mask=mask)[0].transpose(0, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kv_heads", [2, 8])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_packed_attention_errs_as_torch_does(head_dim: int, kv_heads: int, layout: str) -> None:
    """Output and gradients in bf16 against fp64; at most twice as far from it as torch's attention in bf16."""
    bounds, shared = LAYOUTS[layout]
    mask, generator = visible(bounds, shared), torch.Generator().manual_seed(0)
    drawn = [
        torch.randn(bounds[-1], heads, head_dim, generator=generator).bfloat16()
        for heads in (8, kv_heads, kv_heads, 8)
    ]
    found: dict[str, list[Tensor]] = {}
    for name, device, dtype in (
        ("exact", "cpu", torch.float64),
        ("torch", DEVICE, torch.bfloat16),
        ("ours", DEVICE, torch.bfloat16),
    ):
        q, k, v, grad = (x.to(device, dtype) for x in drawn)
        inputs = [x.requires_grad_() for x in (q, k, v)]
        if name == "ours":
            out = packed_attention(*inputs, torch.tensor(bounds), torch.tensor(shared))
        else:
            out = masked_attention(*inputs, mask.to(device))
        found[name] = [
            x.double().cpu() for x in (out.detach(), *torch.autograd.grad(out, inputs, grad))
        ]
    for name, exact, torchs, ours in zip(("out", "dq", "dk", "dv"), *found.values(), strict=True):
        apart, allowed = (ours - exact).norm(), 2 * (torchs - exact).norm()
        assert apart <= allowed + 4e-3 * exact.norm() + 1e-3, f"{name}: {apart:.2e}, {allowed:.2e}"


def start(seed: int = 0) -> Qwen3:
    model = Qwen3(SHAPE)
    model.init_weights(seed)
    return model


def trainer(device: str, **changes: float) -> Trainer:
    """Gradients as they are, so that the first moment is a tenth of them."""
    values: dict[str, float] = {"learning_rate": 1e-3, "clip_norm": 1e9, "token_budget": 600}
    config = TrainerConfig(**(values | changes))  # type: ignore[arg-type]
    return Trainer(start().to(device), config, LossConfig(), steps=4)


def samples() -> dict[int, list[Sample]]:
    return {index: [sample_of(length, index)] for index, length in enumerate(LENGTHS)}


def sample_of(length: int, index: int) -> Sample:
    trained = torch.arange(length) >= max(1, length // 3)
    own = torch.randint(500, (length,), generator=torch.Generator().manual_seed(index))
    return Sample(
        role="sub" if index % 3 else "lead",
        token_ids=torch.cat((PROMPT, own))[:length],
        trained=trained,
        engine_logprobs=trained * -6.2,
        advantages=trained * (1.0 if index % 2 else -0.5),
        weights=trained * (1.0 / (len(LENGTHS) * int(trained.sum()))),
    )


def step(of: Trainer, own: dict[int, list[Sample]]) -> StepReport:
    return of.step(make_batch(own, token_budget=600, hidden_size=SHAPE.hidden_size))


def held(of: Trainer, what: str) -> dict[str, Tensor]:
    return {name: tensor.to_local().cpu() for name, tensor in of.state()[what].items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("offload", [False, True])
def test_a_step_is_that_of_a_cpu(one_rank: None, offload: bool, recompute: bool) -> None:
    """Within what bf16 leaves; and AdamW does with the gradient what its paper says."""
    ours = trainer(DEVICE, recompute=recompute, offload=offload)
    report = step(ours, samples())
    theirs = trainer("cpu")
    expected = step(theirs, samples())
    assert report.tokens == expected.tokens and not report.skipped
    assert report.loss == pytest.approx(expected.loss, abs=1e-3)
    assert report.entropy == pytest.approx(expected.entropy, abs=1e-2)
    assert report.grad_norm == pytest.approx(expected.grad_norm, rel=2e-2)
    gradients, exact = held(ours, "exp_avg"), held(theirs, "exp_avg")
    for name, gradient in gradients.items():
        apart = (gradient - exact[name]).norm() / exact[name].norm()
        assert apart < 0.1, f"{name} is {apart:.1e} apart"
    before, rate = dict(start().named_parameters()), 1e-3
    for name, weight in held(ours, "weights").items():
        gradient = gradients[name] * 10
        old = before[name].detach()
        decay = 0.01 if old.ndim == 2 and "embed" not in name else 0.0
        moved = old * (1 - rate * decay) - rate * gradient / (gradient.abs() + EPSILON)
        torch.testing.assert_close(weight, moved, rtol=1e-4, atol=1e-6)


def test_an_engine_has_the_weights_and_says_what_the_trainer_says(one_rank: None) -> None:
    """After sleep and two steps, and its own samples have ratio 1 in the trainer within what bf16 leaves."""
    ours = trainer(DEVICE, learning_rate=3e-3)
    config = EngineConfig(num_pages=64, max_num_seqs=8, max_batch_tokens=128)
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    with Engine(start(1).to(DEVICE, dtype), config) as engine:
        weight_sync(ours, engine)
        for _ in range(2):
            own = sampled_by(engine)
            engine.sleep(drop_weights=True)
            report = step(ours, own)
            assert report.tokens == 8 * 60 and not report.skipped
            assert report.mismatch.mean < 0.02 and report.mismatch.max < 0.3
            assert report.ratio == pytest.approx(1.0, abs=2e-2)
            weight_sync(ours, engine)
            masters = held(ours, "weights")
            for name, weight in engine.model.named_parameters():
                assert torch.equal(weight.cpu(), masters[name].to(dtype)), name
        assert not torch.equal(masters["model.norm.weight"], torch.ones(SHAPE.hidden_size))


def sampled_by(engine: Engine) -> dict[int, list[Sample]]:
    prompts = [
        (list(range(1, 20 + 9 * n)), Sampling(seed=n, max_tokens=60, temperature=0.9))
        for n in range(8)
    ]
    own = {}
    for n, done in enumerate(engine.generate_batch(prompts)):
        prompt = prompts[n][0]
        trained = torch.arange(len(prompt) + len(done.token_ids)) >= len(prompt)
        own[n] = [
            Sample(
                role="single",
                token_ids=torch.tensor([*prompt, *done.token_ids]),
                trained=trained,
                engine_logprobs=torch.tensor([0.0] * len(prompt) + list(done.plain_logprobs)),
                advantages=trained * (1.0 if n % 2 else -1.0),
                weights=trained * 0.01,
            )
        ]
    return own


def test_a_checkpoint_is_read_back_to_the_bit(one_rank: None, tmp_path: Path) -> None:
    ours, other = trainer(DEVICE), trainer(DEVICE)
    step(ours, samples())
    saved = save_checkpoint(ours, tmp_path, {}, best_f1=0.5)
    assert load_checkpoint(other, saved, {}).best_f1 == 0.5
    for what in ("weights", "exp_avg", "exp_avg_sq"):
        read = held(other, what)
        for name, tensor in held(ours, what).items():
            assert torch.equal(tensor, read[name]), name
    assert {float(count) for count in other.state()["step"].values()} == {1.0}
    whole = ours.whole_model()
    assert whole is not None
    for name, weight in held(ours, "weights").items():
        assert torch.equal(weight, whole.get_parameter(name)), name
