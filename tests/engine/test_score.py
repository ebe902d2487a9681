"""Log-probabilities of given tokens: those of a plain forward, through the engine's own cache."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
import torch

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Completion, Sampling
from wideseek.model.qwen3 import PackedAttention, Qwen3

from .conftest import Breakable

Prompt = Callable[[int, int], list[int]]

GREEDY = Sampling(temperature=0.0, max_tokens=24)


def plain_forward(model: Qwen3, ids: Sequence[int]) -> list[float]:
    """What a trainer computes: log-probability of each token after the first."""
    with torch.no_grad():
        tokens, attention = torch.tensor(ids), PackedAttention(torch.tensor([0, len(ids)]))
        logits = model.logits(model(tokens, torch.arange(len(ids)), attention))
    log_probs = logits[:-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    scores: list[float] = log_probs.tolist()
    return scores


@pytest.mark.parametrize("shape", [{}, {"tied_head": True}])
@pytest.mark.parametrize("max_batch_tokens", [2048, 9])
def test_scores_are_those_of_a_plain_forward(
    make_model: Callable[..., Qwen3], prompt: Prompt, shape: dict[str, bool], max_batch_tokens: int
) -> None:
    model, ids = make_model(1, **shape), prompt(0, 150)
    config = EngineConfig(num_pages=64, max_num_seqs=4, max_batch_tokens=max_batch_tokens)
    with Engine(model, config) as engine:
        scored = asyncio.run(engine.score(ids))
        one = asyncio.run(engine.score(ids[:2]))
        assert engine.stats().generated_tokens == 0
    assert scored.token_ids == tuple(ids[1:]) and scored.logprobs == scored.plain_logprobs
    assert scored.plain_logprobs == pytest.approx(plain_forward(model, ids), abs=1e-4)
    assert one.plain_logprobs == pytest.approx(plain_forward(model, ids[:2]), abs=1e-4)
    assert (scored.finish_reason, scored.prompt_tokens) == ("length", 1)
    assert scored.weight_versions == (0,) * 149


def test_what_was_sampled_scores_as_it_was_sampled(model: Qwen3, prompt: Prompt) -> None:
    job = (prompt(3, 100), Sampling(temperature=1.0, max_tokens=40, seed=5))
    with Engine(model, EngineConfig(num_pages=64, page_size=16)) as engine:
        (said,) = engine.generate_batch([job])
        scored = asyncio.run(engine.score([*job[0], *said.token_ids], first=100))
    assert scored.token_ids == said.token_ids and scored.cached_tokens == 99
    assert scored.plain_logprobs == pytest.approx(said.plain_logprobs, abs=1e-5)


def test_scores_and_samples_share_steps_and_do_not_disturb_each_other(
    model: Qwen3, prompt: Prompt
) -> None:
    jobs = [(prompt(i, 30 + i), GREEDY) for i in range(4)]
    texts = [prompt(10 + i, 40 + 9 * i) for i in range(4)]

    async def together(engine: Engine) -> tuple[list[Completion], list[Completion]]:
        calls = [engine.generate(*job) for job in jobs]
        scores = [engine.score(ids, first=i + 1) for i, ids in enumerate(texts)]
        mixed = [call for pair in zip(calls, scores, strict=True) for call in pair]
        done = await asyncio.gather(*mixed)
        return done[::2], done[1::2]

    config = EngineConfig(num_pages=40, page_size=8, max_num_seqs=8, max_batch_tokens=31)
    with Engine(model, config) as engine:
        said, scored = asyncio.run(together(engine))
        engine._scheduler.check()
    with Engine(model, EngineConfig(num_pages=64)) as engine:
        alone = engine.generate_batch(jobs)
    assert [c.token_ids for c in said] == [c.token_ids for c in alone]
    for i, (ids, scores) in enumerate(zip(texts, scored, strict=True)):
        assert scores.plain_logprobs == pytest.approx(plain_forward(model, ids)[i:], abs=1e-4)


def test_a_whole_context_can_be_scored(model: Qwen3, prompt: Prompt) -> None:
    with Engine(model, EngineConfig(num_pages=4, page_size=16)) as engine:
        assert len(asyncio.run(engine.score(prompt(0, 64))).logprobs) == 63


def test_scoring_can_be_cancelled(model: Qwen3, prompt: Prompt) -> None:
    held = Breakable(model)
    held.go_on.clear()
    ids = prompt(0, 60)

    async def scene(engine: Engine) -> Completion:
        cancel = asyncio.Event()
        call = asyncio.create_task(engine.score(ids, cancel=cancel))
        assert await asyncio.to_thread(held.running.wait, 30)
        cancel.set()
        await asyncio.sleep(0.05)
        held.go_on.set()
        return await call

    config = EngineConfig(num_pages=64, max_num_seqs=1, max_batch_tokens=8)
    with Engine(held, config) as engine:
        partial = asyncio.run(asyncio.wait_for(scene(engine), 30))
        assert engine.stats().running == 0
    made = len(partial.logprobs)
    assert partial.finish_reason == "cancelled" and 0 < made < 59
    assert partial.token_ids == tuple(ids[1 : made + 1])
    assert partial.logprobs == pytest.approx(plain_forward(model, ids)[:made], abs=1e-4)


@pytest.mark.parametrize(
    ("length", "first", "message"),
    [
        (0, 1, "the prompt is empty"),
        (1, 1, "first must be from 1 to 0"),
        (9, 0, "first must be from 1 to 8, the last token, not 0"),
        (9, 9, "first must be from 1 to 8, the last token, not 9"),
        (65, 1, "65 tokens do not fit a context of 64"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    model: Qwen3, prompt: Prompt, length: int, first: int, message: str
) -> None:
    with (
        Engine(model, EngineConfig(num_pages=4, page_size=16)) as engine,
        pytest.raises(ValueError, match=message),
    ):
        asyncio.run(engine.score(prompt(0, length), first))


def test_scores_that_are_not_finite_fail_the_call(model: Qwen3, prompt: Prompt) -> None:
    broken = Breakable(model)
    broken.broken = True
    with (
        Engine(broken, EngineConfig(num_pages=8)) as engine,
        pytest.raises(RuntimeError, match="not finite"),
    ):
        asyncio.run(engine.score(prompt(0, 9)))
