"""Keys and values in fp8: the same however the work is cut up, near to full precision, in half the memory of bf16."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.engine.model_runner import kv_pages_that_fit
from wideseek.generation import Completion, Sampling
from wideseek.model.qwen3 import Qwen3

MINI = Path(__file__).parents[2] / "wideseek/model/mini"

Prompt = Callable[[int, int], list[int]]
Job = tuple[list[int], Sampling]
KvDtype = Literal["auto", "fp8"]


def run(model: Qwen3, jobs: list[Job], **config: Any) -> list[Completion]:
    with Engine(model, EngineConfig(**{"num_pages": 64, "kv_dtype": "fp8"} | config)) as engine:
        return engine.generate_batch(jobs)


def what_was_said(completions: list[Completion]) -> list[tuple[Sequence[int], Sequence[float]]]:
    return [(c.token_ids, c.plain_logprobs) for c in completions]


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    """Greedy and sampled, some with common beginnings."""
    generator = torch.Generator().manual_seed(5)

    def ids(length: int) -> list[int]:
        drawn: list[int] = torch.randint(0, 97, (length,), generator=generator).tolist()
        return drawn

    shared = ids(140)
    samplings = Sampling(temperature=0.0, max_tokens=20), Sampling(max_tokens=33, seed=5)
    prompts = [shared[: 14 * i] + ids(3 + 17 * i % 60) for i in range(11)]
    return [(p, samplings[i % 2]) for i, p in enumerate(prompts)]


@pytest.fixture(scope="module")
def alone(model: Qwen3, jobs: list[Job]) -> list[Completion]:
    """Every job in an engine of its own."""
    return [run(model, [job])[0] for job in jobs]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_batch_tokens": 9, "max_num_seqs": 8},
        {"page_size": 4, "num_pages": 900},
        {"enable_prefix_cache": False},
        {"page_size": 16, "num_pages": 24},
    ],
    ids=str,
)
def test_batch_mates_chunks_pages_and_cache_change_nothing(
    model: Qwen3, jobs: list[Job], alone: list[Completion], config: dict[str, Any]
) -> None:
    assert what_was_said(run(model, jobs, **config)) == what_was_said(alone)


def test_what_is_cached_already_changes_nothing(
    model: Qwen3, jobs: list[Job], alone: list[Completion]
) -> None:
    with Engine(model, EngineConfig(page_size=8, num_pages=600, kv_dtype="fp8")) as engine:
        engine.generate_batch(jobs)
        again = engine.generate_batch(jobs)
        engine.sleep()
        engine.wake()
        anew = engine.generate_batch(jobs)
    assert all(c.cached_tokens == c.prompt_tokens - 1 for c in again)
    assert what_was_said(again) == what_was_said(anew) == what_was_said(alone)


def scores(kv_dtype: KvDtype) -> torch.Tensor:
    """Log-probabilities that the bundled model gives to what it said in contexts of agents."""
    contexts = json.loads(Path(__file__).with_name("agent_contexts.json").read_text())

    async def all_of_them(engine: Engine) -> list[Completion]:
        calls = (engine.score(c["prompt"] + c["said"], len(c["prompt"])) for c in contexts)
        return await asyncio.gather(*calls)

    config = EngineConfig(dtype="float32", device="cpu", kv_dtype=kv_dtype, num_pages=64)
    with Engine.load(MINI, config) as engine:
        scored = asyncio.run(all_of_them(engine))
    return torch.tensor([score for one in scored for score in one.plain_logprobs])


def test_the_bundled_model_is_near_to_itself() -> None:
    """Its heads that match words are sharp: in 35 of 552 turns another token came out (docs/log.md)."""
    off = (scores("fp8") - scores("auto")).abs()
    assert len(off) > 200
    # Measured 6e-6, 0.0014 and, of one token, 0.3.
    assert 0 < off.median() < 1e-4 and off.mean() < 0.01


def pages(model: Qwen3, kv_dtype: KvDtype, dtype: torch.dtype) -> int:
    config = EngineConfig(kv_dtype=kv_dtype, kv_memory_gb=0.01)
    weights = Qwen3(model.config).to(dtype)
    return kv_pages_that_fit(weights, config, 1024)


def test_a_page_has_half_the_bytes_of_bfloat16(model: Qwen3) -> None:
    half = pages(model, "auto", torch.bfloat16)
    assert half == int(0.01 * 2**30) // (64 * 2 * 3 * 2 * 16 * 2)
    for dtype in (torch.bfloat16, torch.float32):
        assert pages(model, "fp8", dtype) in (2 * half, 2 * half + 1)
    small = EngineConfig(kv_dtype="fp8", kv_memory_gb=1e-6)
    with pytest.raises(ValueError, match="less than one page of 12288 bytes"):
        kv_pages_that_fit(model, small, 1024)


def test_a_nan_is_no_number_in_fp8_either(make_model: Callable[..., Qwen3], prompt: Prompt) -> None:
    """What saturates must not hide that a model is broken."""
    model, job = make_model(0), (prompt(0, 30), Sampling(temperature=0.0, max_tokens=8))
    weight = model.get_parameter("model.layers.1.self_attn.k_norm.weight").data
    with Engine(model, EngineConfig(num_pages=64, kv_dtype="fp8")) as engine:
        weight[3] = 1e30
        assert len(engine.generate_batch([job])[0].token_ids) == 8
        weight[3] = torch.nan
        engine.update_weights(model.state_dict().items())  # forgets what is cached
        with pytest.raises(RuntimeError, match="not finite"):
            engine.generate_batch([job])
