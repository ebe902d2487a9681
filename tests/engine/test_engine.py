"""The Engine as a service: many callers, cancellation, new weights, failures."""

import asyncio
import random
import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Completion, Sampling
from wideseek.model.qwen3 import Attention, Qwen3

Prompt = Callable[[int, int], list[int]]

GREEDY = Sampling(temperature=0.0, max_tokens=16)
ENDLESS = Sampling(temperature=1.0, max_tokens=400)


class Breakable(Qwen3):
    """Fails at the steps it is told to, and can be held up."""

    def __init__(self, model: Qwen3) -> None:
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        self.broken = False
        self.running = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def forward(self, tokens_T: Tensor, positions_T: Tensor, attention: Attention) -> Tensor:
        self.running.set()
        assert self.go_on.wait(30)
        hidden = super().forward(tokens_T, positions_T, attention)
        return hidden * torch.nan if self.broken else hidden


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


def test_after_new_weights_it_says_what_a_cold_engine_says(
    model: Qwen3, make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    jobs = [(prompt(i, 100), GREEDY) for i in range(5)]
    other = make_model(7)
    with Engine(make_model(0), EngineConfig(num_pages=64, page_size=16)) as engine:
        before = engine.generate_batch(jobs)
        engine.update_weights(other.state_dict().items())
        after = engine.generate_batch(jobs)
        assert engine.stats().weight_version == 1
    with Engine(other, EngineConfig(num_pages=64, page_size=16)) as engine:
        cold = engine.generate_batch(jobs)
    assert [c.token_ids for c in after] == [c.token_ids for c in cold]
    assert [c.token_ids for c in after] != [c.token_ids for c in before]
    assert {c.weight_version for c in before} == {0} and {c.weight_version for c in after} == {1}
    assert all(c.cached_tokens == 0 for c in after)


def test_a_sequence_under_way_goes_on_under_the_new_weights(
    model: Qwen3, make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    ids, other = prompt(0, 100), make_model(7)
    sampling = Sampling(temperature=0.0, max_tokens=60)
    changing = Breakable(model)
    with Engine(changing, EngineConfig(num_pages=64, page_size=16)) as engine:

        async def updated() -> Completion:
            call = asyncio.create_task(engine.generate(ids, sampling))
            while engine.stats().generated_tokens < 3:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(engine.update_weights, other.state_dict().items())
            return await call

        completion = asyncio.run(updated())
    assert completion.weight_version == 1 and len(completion.token_ids) == 60
    with Engine(model, EngineConfig(num_pages=64)) as engine:
        (old,) = engine.generate_batch([(ids, sampling)])
    pairs = zip(completion.token_ids, old.token_ids, strict=True)
    kept = next(i for i, (new, before) in enumerate(pairs) if new != before)
    # From the first difference on it is the new model's continuation of all that was said.
    with Engine(other, EngineConfig(num_pages=64)) as engine:
        rest = Sampling(temperature=0.0, max_tokens=60 - kept)
        (cold,) = engine.generate_batch([([*ids, *completion.token_ids[:kept]], rest)])
    assert kept >= 3 and completion.token_ids[kept:] == cold.token_ids


def test_new_weights_wait_for_the_running_step(model: Qwen3, prompt: Prompt) -> None:
    held = Breakable(model)
    held.go_on.clear()
    name = "model.norm.weight"
    updated = threading.Event()

    def update(engine: Engine) -> None:
        engine.update_weights([(name, torch.zeros(48))])
        updated.set()

    with Engine(held, EngineConfig(num_pages=8)) as engine:
        calls = [
            threading.Thread(target=engine.generate_batch, args=([(prompt(0, 9), GREEDY)],)),
            threading.Thread(target=update, args=(engine,)),
        ]
        calls[0].start()
        assert held.running.wait(30)
        calls[1].start()
        assert not updated.wait(0.2) and held.state_dict()[name].all()
        held.go_on.set()
        for call in calls:
            call.join(30)
    assert updated.is_set() and not held.state_dict()[name].any()


def test_weights_that_do_not_fit_change_nothing(
    make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    with Engine(make_model(0), EngineConfig(num_pages=8)) as engine:
        (before,) = engine.generate_batch([(prompt(0, 9), GREEDY)])
        good = ("model.norm.weight", torch.zeros(48))
        with pytest.raises(ValueError, match="nonsense"):
            engine.update_weights([good, ("nonsense", torch.zeros(1))])
        with pytest.raises(ValueError, match=r"lm_head.weight has shape \(2, 2\)"):
            engine.update_weights([good, ("lm_head.weight", torch.zeros(2, 2))])
        (after,) = engine.generate_batch([(prompt(0, 9), GREEDY)])
        assert engine.stats().weight_version == 0
    assert after.token_ids == before.token_ids


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


def test_broken_weights_leave_nothing_behind(
    make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    job = (prompt(0, 30), GREEDY)
    model = make_model(0)
    name = "model.layers.0.self_attn.v_proj.weight"
    good = model.state_dict()[name].clone()
    with Engine(model, EngineConfig(num_pages=4, page_size=16)) as engine:
        (before,) = engine.generate_batch([job])
        engine.update_weights([(name, torch.full_like(good, torch.nan))])
        with pytest.raises(RuntimeError, match="not finite"):
            engine.generate_batch([job])
        engine.update_weights([(name, good)])
        (after,) = engine.generate_batch([job])
    assert after.token_ids == before.token_ids and after.weight_version == 2


def test_cancellations_updates_and_page_pressure_together_lose_nothing(
    make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    model, rng = make_model(0), random.Random(3)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

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
        engine.update_weights([])  # drops what is cached
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
