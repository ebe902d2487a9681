"""The Engine as a service: many callers, cancellation, failures."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.engine.errors import EngineClosed
from wideseek.engine.model_runner import ModelRunner
from wideseek.generation import Completion, Sampling
from wideseek.model.qwen3 import Qwen3

from .conftest import Breakable, weights_of

Prompt = Callable[[int, int], list[int]]

GREEDY = Sampling(temperature=0.0, max_tokens=16)
ENDLESS = Sampling(temperature=1.0, max_tokens=400)


def test_200_concurrent_calls_share_prefixes_and_say_what_each_says_alone(
    model: Qwen3, prompt: Prompt
) -> None:
    prefixes = [prompt(i, 150) for i in range(4)]
    jobs = [
        (prefixes[i % 4] + prompt(100 + i, 1 + i % 9), Sampling(max_tokens=6, seed=i))
        for i in range(200)
    ]

    async def together(engine: Engine) -> list[Completion]:
        return await asyncio.gather(*(engine.generate(*job) for job in jobs))

    with Engine(model, EngineConfig(num_pages=300, page_size=16)) as engine:
        completions = asyncio.run(together(engine))
        stats = engine.stats()
    # Each prefix is computed once: 144 of its tokens are found by the 49 others.
    assert stats.prefix_hit_tokens >= 196 * 144
    assert stats.prompt_tokens == sum(len(ids) for ids, _ in jobs)
    assert stats.prompt_tokens == stats.prefix_hit_tokens + stats.prefill_tokens_computed
    assert stats.generated_tokens == 200 * 6
    assert stats.running == stats.waiting == 0
    with Engine(model, EngineConfig(num_pages=300, page_size=16)) as engine:
        for job, completion in zip(jobs[::10], completions[::10], strict=True):
            (alone,) = engine.generate_batch([job])
            assert alone.token_ids == completion.token_ids


def test_on_token_hears_of_every_token_before_the_completion(model: Qwen3, prompt: Prompt) -> None:
    heard: list[tuple[int, float]] = []
    with Engine(model, EngineConfig(num_pages=64)) as engine:
        call = engine.generate(prompt(0, 20), GREEDY, on_token=lambda *token: heard.append(token))
        completion = asyncio.run(call)
    assert [token for token, _ in heard] == list(completion.token_ids)
    assert [logprob for _, logprob in heard] == list(completion.plain_logprobs)


def test_cancelling_returns_what_was_made_and_frees_the_pages(model: Qwen3, prompt: Prompt) -> None:
    async def cancelled(engine: Engine) -> Completion:
        cancel = asyncio.Event()
        call = asyncio.create_task(engine.generate(prompt(0, 20), ENDLESS, cancel))
        while engine.stats().generated_tokens < 5:
            await asyncio.sleep(0.001)
        cancel.set()
        return await call

    config = EngineConfig(num_pages=100, page_size=16, enable_prefix_cache=False)
    with Engine(model, config) as engine:
        completion = asyncio.run(cancelled(engine))
        stats = engine.stats()
        (whole,) = engine.generate_batch([(prompt(0, 20), ENDLESS)])
    assert completion.finish_reason == "cancelled"
    made = len(completion.token_ids)
    assert 5 <= made < 400
    assert made == len(completion.logprobs) == len(completion.plain_logprobs)
    assert completion.token_ids == whole.token_ids[:made]
    assert stats.free_pages == stats.total_pages and stats.running == 0


def test_a_call_cancelled_before_it_starts_is_answered(model: Qwen3, prompt: Prompt) -> None:
    async def cancelled(engine: Engine) -> Completion:
        cancel = asyncio.Event()
        cancel.set()
        return await engine.generate(prompt(0, 20), ENDLESS, cancel)

    with Engine(model, EngineConfig(num_pages=100)) as engine:
        completion = asyncio.run(cancelled(engine))
    assert completion.finish_reason == "cancelled" and len(completion.token_ids) < 400


def test_cancelling_the_awaiting_task_ends_its_sequence(model: Qwen3, prompt: Prompt) -> None:
    async def abandoned(engine: Engine) -> None:
        call = asyncio.create_task(engine.generate(prompt(0, 20), ENDLESS))
        while engine.stats().running == 0:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while engine.stats().running:
            await asyncio.sleep(0.001)

    config = EngineConfig(num_pages=100, enable_prefix_cache=False)
    with Engine(model, config) as engine:
        asyncio.run(asyncio.wait_for(abandoned(engine), 30))
        stats = engine.stats()
    assert stats.free_pages == stats.total_pages and stats.generated_tokens < 400


def test_the_event_loop_runs_while_the_engine_computes(model: Qwen3, prompt: Prompt) -> None:
    slow = Breakable(model)
    slow.go_on.clear()

    async def beside(engine: Engine) -> int:
        call = asyncio.create_task(engine.generate(prompt(0, 20), GREEDY))
        while not slow.running.is_set():
            await asyncio.sleep(0.001)
        for _ in range(10):  # a step is being computed all this time
            await asyncio.sleep(0)
        slow.go_on.set()
        return len((await call).token_ids)

    with Engine(slow, EngineConfig(num_pages=10)) as engine:
        assert asyncio.run(beside(engine)) == 16


def test_a_failing_step_fails_every_caller_and_the_engine_goes_on(
    model: Qwen3, prompt: Prompt
) -> None:
    breakable = Breakable(model)

    async def broken(engine: Engine) -> list[Completion | BaseException]:
        breakable.broken = True
        calls = [engine.generate(prompt(i, 30), ENDLESS) for i in range(5)]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)

    with Engine(breakable, EngineConfig(num_pages=64, max_num_seqs=2)) as engine:
        (before,) = engine.generate_batch([(prompt(0, 30), GREEDY)])
        errors = asyncio.run(broken(engine))
        assert len(errors) == 5
        for error in errors:
            assert isinstance(error, RuntimeError) and "not finite" in str(error)
        stats = engine.stats()
        assert stats.free_pages == stats.total_pages and stats.running == stats.waiting == 0
        breakable.broken = False
        (after,) = engine.generate_batch([(prompt(0, 30), GREEDY)])
    assert after.token_ids == before.token_ids


def test_an_engine_that_cannot_start_over_closes_itself(
    model: Qwen3, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an error of the device that no later call survives."""

    def fail(runner: ModelRunner) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(ModelRunner, "clear", fail)
    breakable = Breakable(model)
    with Engine(breakable, EngineConfig(num_pages=64)) as engine:
        breakable.broken = True
        call = asyncio.wait_for(engine.generate(prompt(0, 30), ENDLESS), 30)
        with pytest.raises(RuntimeError, match="not finite"):
            asyncio.run(call)
        with pytest.raises(EngineClosed):
            asyncio.run(engine.generate(prompt(0, 30), ENDLESS))
        engine.pause()  # waits for nobody


def test_cancellations_updates_and_page_pressure_together_lose_nothing(
    make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    model, rng = make_model(0), random.Random(3)
    state = weights_of(model)

    async def caller(engine: Engine, index: int) -> Completion | None:
        ids = [*prompt(index % 3, 60)[: rng.randrange(1, 60)], index % 97]
        sampling = Sampling(max_tokens=rng.randrange(1, 40), seed=index)
        cancel, way = asyncio.Event(), rng.random()
        call = asyncio.create_task(engine.generate(ids, sampling, cancel))
        await asyncio.sleep(rng.random() * 0.2)
        if way < 0.2:
            cancel.set()
        elif way < 0.4:
            call.cancel()
            await asyncio.wait([call])
            return None
        return await call

    async def storm(engine: Engine) -> list[Completion | None]:
        calls = asyncio.gather(*(caller(engine, i) for i in range(80)))
        for _ in range(3):
            await asyncio.sleep(0.05)
            await asyncio.to_thread(engine.update_weights, state.items())
        return await asyncio.wait_for(calls, 60)

    with Engine(model, EngineConfig(num_pages=30, page_size=8, max_num_seqs=9)) as engine:
        completions = asyncio.run(storm(engine))
        while engine.stats().running or engine.stats().waiting:
            time.sleep(0.001)
        engine._scheduler.check()
        engine.update_weights(state.items())  # drops what is cached
        stats = engine.stats()
    assert len(completions) == 80 and any(completions)
    assert stats.free_pages == stats.total_pages and stats.weight_version == 4
    for completion in filter(None, completions):
        assert completion.finish_reason in ("length", "cancelled")
        assert len(completion.token_ids) == len(completion.logprobs)


def test_closing_fails_who_still_waits_and_refuses_who_comes_later(
    model: Qwen3, prompt: Prompt
) -> None:
    async def waiting(engine: Engine) -> None:
        call = asyncio.create_task(engine.generate(prompt(0, 20), ENDLESS))
        while engine.stats().running == 0:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(engine.close)
        with pytest.raises(RuntimeError, match="closed"):
            await call
        with pytest.raises(RuntimeError, match="closed"):
            await engine.generate(prompt(0, 20), GREEDY)

    engine = Engine(model, EngineConfig(num_pages=64))
    asyncio.run(asyncio.wait_for(waiting(engine), 30))
    engine.close()
