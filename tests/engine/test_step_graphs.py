"""Steps replayed as CUDA graphs say what steps without them say."""

from collections.abc import Iterator

import pytest
import torch

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.engine.model_runner import ModelRunner
from wideseek.engine.step_graphs import SIZES
from wideseek.generation import Completion, Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHAPE = ModelConfig(
    architecture="Qwen3ForCausalLM",
    vocab_size=512,
    hidden_size=256,
    intermediate_size=384,
    num_layers=3,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    max_position_embeddings=4096,
)


def network(seed: int, device: str = "cuda") -> Qwen3:
    model = Qwen3(SHAPE)
    model.init_weights(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4.0)  # at the usual scale a random model repeats one token
    return model.to(device)


@pytest.fixture
def jobs() -> Iterator[list[tuple[list[int], Sampling]]]:
    generator = torch.Generator().manual_seed(5)

    def tokens(count: int) -> list[int]:
        drawn: list[int] = torch.randint(0, 512, (count,), generator=generator).tolist()
        return drawn

    shared = tokens(300)
    yield [
        (
            (shared if i % 2 else []) + tokens(1 + 37 * i % 400),
            Sampling(max_tokens=8 + 5 * i % 40, seed=i, temperature=float(i % 3 > 0)),
        )
        for i in range(24)
    ]


def weights(model: Qwen3) -> list[tuple[str, torch.Tensor]]:
    return [(name, parameter.detach()) for name, parameter in model.named_parameters()]


def run(model: Qwen3, jobs: list[tuple[list[int], Sampling]]) -> list[Completion]:
    with Engine(model, EngineConfig(num_pages=400, page_size=64)) as engine:
        return engine.generate_batch(jobs)


def close(ours: list[Completion], theirs: list[Completion]) -> None:
    """Products of another number of rows may add up otherwise: almost all tokens, and their log-probabilities."""
    same = [a.token_ids == b.token_ids for a, b in zip(ours, theirs, strict=True)]
    assert sum(same) >= len(same) - 2
    for a, b, is_same in zip(ours, theirs, same, strict=True):
        if is_same:
            torch.testing.assert_close(
                torch.tensor(a.plain_logprobs), torch.tensor(b.plain_logprobs), atol=0.02, rtol=0
            )


def test_graphs_change_no_token(
    jobs: list[tuple[list[int], Sampling]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(0)
    with_graphs = run(model, jobs)
    assert [c.token_ids for c in run(model, jobs)] == [c.token_ids for c in with_graphs]
    monkeypatch.setattr(ModelRunner, "_new_graphs", lambda self: None)
    close(with_graphs, run(model, jobs))
    close(with_graphs, run(network(0, "cpu"), jobs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exact_engine_says_the_same_to_the_bit_alone_and_together(
    jobs: list[tuple[list[int], Sampling]], dtype: torch.dtype
) -> None:
    """Graphs of other sizes, chunks of prompts and a cache included."""
    model = network(0).to(dtype)
    with Engine(model, EngineConfig(num_pages=400, page_size=64, exact=True)) as engine:
        together = engine.generate_batch(jobs)
    config = EngineConfig(
        num_pages=400, page_size=64, exact=True, max_batch_tokens=130, enable_prefix_cache=False
    )
    with Engine(model, config) as engine:
        alone = [engine.generate_batch([job])[0] for job in jobs]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.token_ids == theirs.token_ids and ours.logprobs == theirs.logprobs


def test_graphs_read_new_weights_and_survive_sleep(
    jobs: list[tuple[list[int], Sampling]],
) -> None:
    other = network(1)
    cold = run(other, jobs)
    with Engine(network(0), EngineConfig(num_pages=400, page_size=64)) as engine:
        engine.generate_batch(jobs)
        engine.update_weights(weights(other))
        close(engine.generate_batch(jobs), cold)
        engine.sleep(drop_weights=True)
        engine.wake(weights(other))
        close(engine.generate_batch(jobs), cold)


def test_a_graph_grows_with_its_tables() -> None:
    """Contexts longer than what the first graph of a size had room for."""
    generator = torch.Generator().manual_seed(6)
    prompts = torch.randint(0, 512, (6, 3900), generator=generator)
    with Engine(network(2), EngineConfig(num_pages=600, page_size=16)) as engine:
        for length in (20, 900, 3900):
            batch = [
                (row[:length].tolist(), Sampling(temperature=0, max_tokens=5)) for row in prompts
            ]
            together = engine.generate_batch(batch)
            alone = [engine.generate_batch([job])[0] for job in batch]
            close(together, alone)
    assert SIZES[0] > len(prompts)
