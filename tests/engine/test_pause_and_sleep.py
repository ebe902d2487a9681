"""The engine held still: paused, asleep, aborted; what was under way goes on as if nothing was."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.engine.errors import EngineAsleep, EngineClosed
from wideseek.generation import Completion, Sampling
from wideseek.model.qwen3 import Qwen3

from .conftest import Breakable, interrupted, weights_of

Prompt = Callable[[int, int], list[int]]

GREEDY = Sampling(temperature=0.0, max_tokens=16)
LONG = Sampling(temperature=1.0, max_tokens=60, seed=9)
ENDLESS = Sampling(temperature=1.0, max_tokens=400)
PAGES = EngineConfig(num_pages=64, page_size=16)


@pytest.fixture
def whole(model: Qwen3, prompt: Prompt) -> Completion:
    """What LONG says when nobody interrupts."""
    with Engine(model, PAGES) as engine:
        (said,) = engine.generate_batch([(prompt(0, 50), LONG)])
    return said


def test_a_paused_engine_takes_no_step_and_goes_on_where_it_stood(
    model: Qwen3, prompt: Prompt, whole: Completion
) -> None:
    async def scene(engine: Engine) -> tuple[Completion, Completion]:
        first = await interrupted(engine, (prompt(0, 50), LONG), 5, engine.pause)
        second = asyncio.create_task(engine.generate(prompt(1, 9), GREEDY))
        steps = engine.stats().steps
        await asyncio.sleep(0.1)
        assert engine.stats().steps == steps and not first.done() and not second.done()
        engine.pause()  # no different from once
        engine.resume()
        return await first, await second

    with Engine(Breakable(model), PAGES) as engine:
        first, second = asyncio.run(asyncio.wait_for(scene(engine), 30))
        assert engine.stats().preemptions == 0
    assert first.token_ids == whole.token_ids and len(second.token_ids) == 16


def test_a_call_cancelled_during_a_pause_gets_what_was_made(
    model: Qwen3, prompt: Prompt, whole: Completion
) -> None:
    async def scene(engine: Engine) -> Completion:
        call = await interrupted(engine, (prompt(0, 50), LONG), 5, engine.pause)
        steps = engine.stats().steps
        cancel = asyncio.Event()
        cancel.set()
        other = await engine.generate(prompt(1, 9), GREEDY, cancel)
        assert other.finish_reason == "cancelled" and not other.token_ids
        await asyncio.sleep(0.1)
        assert engine.stats().steps == steps, "the end of one call made another go on"
        engine.abort()
        return await call

    with Engine(Breakable(model), PAGES) as engine:
        partial = asyncio.run(asyncio.wait_for(scene(engine), 30))
        stats = engine.stats()
    assert partial.finish_reason == "cancelled" and stats.running == stats.waiting == 0
    made = len(partial.token_ids)
    assert made in (5, 6) and partial.token_ids == whole.token_ids[:made]
    assert len(partial.weight_versions) == len(partial.logprobs) == made


def test_abort_ends_every_call_and_the_next_one_is_served(model: Qwen3, prompt: Prompt) -> None:
    async def scene(engine: Engine) -> list[Completion]:
        calls = [asyncio.create_task(engine.generate(prompt(i, 9), ENDLESS)) for i in range(4)]
        while engine.stats().generated_tokens < 8:
            await asyncio.sleep(0.001)
        engine.abort()
        return await asyncio.gather(*calls)

    with Engine(model, EngineConfig(num_pages=64, max_num_seqs=2)) as engine:
        aborted = asyncio.run(asyncio.wait_for(scene(engine), 30))
        (fine,) = engine.generate_batch([(prompt(0, 9), GREEDY)])
    assert {c.finish_reason for c in aborted} == {"cancelled"}
    assert [bool(c.token_ids) for c in aborted] == [True, True, False, False]
    assert len(fine.token_ids) == 16


def test_asleep_it_holds_no_kv_refuses_calls_and_then_goes_on(
    model: Qwen3, prompt: Prompt, whole: Completion
) -> None:
    async def scene(engine: Engine) -> Completion:
        call = await interrupted(engine, (prompt(0, 50), LONG), 5, engine.sleep)
        stats = engine.stats()
        assert stats.free_pages == stats.total_pages and stats.waiting == 1
        assert engine._runner._k_cache.numel() == engine._runner._v_cache.numel() == 0
        with pytest.raises(EngineAsleep, match="asleep"):
            await engine.generate(prompt(1, 9), GREEDY)
        with pytest.raises(EngineAsleep, match="asleep"):
            await asyncio.to_thread(engine.generate_batch, [(prompt(1, 9), GREEDY)])
        await asyncio.sleep(0.05)
        assert not call.done() and engine.stats().steps == stats.steps
        engine.sleep()  # no different from once
        engine.wake()
        return await call

    with Engine(Breakable(model), PAGES) as engine:
        completion = asyncio.run(asyncio.wait_for(scene(engine), 30))
        engine.wake()  # awake already
        (again,) = engine.generate_batch([(prompt(0, 50), LONG)])
        engine._scheduler.check()
    assert completion.token_ids == whole.token_ids == again.token_ids
    assert completion.weight_versions == (0,) * 60


def test_asleep_a_call_under_way_can_be_cancelled(model: Qwen3, prompt: Prompt) -> None:
    async def scene(engine: Engine) -> Completion:
        call = await interrupted(engine, (prompt(0, 50), LONG), 5, engine.sleep)
        engine.abort()
        return await call

    with Engine(Breakable(model), PAGES) as engine:
        partial = asyncio.run(asyncio.wait_for(scene(engine), 30))
    assert partial.finish_reason == "cancelled" and len(partial.token_ids) in (5, 6)


def test_dropped_weights_are_gone_until_wake_brings_others(
    model: Qwen3, make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    other = make_model(7)
    with Engine(make_model(0), PAGES) as engine:
        engine.sleep()
        engine.sleep(drop_weights=True)
        assert sum(p.numel() for p in engine.model.parameters()) == 0
        with pytest.raises(ValueError, match="the weights were dropped"):
            engine.wake()
        with pytest.raises(ValueError, match="missing tensors"):
            engine.wake([])
        with pytest.raises(EngineAsleep):
            engine.generate_batch([(prompt(0, 9), GREEDY)])
        engine.wake(weights_of(other).items())
        (woken,) = engine.generate_batch([(prompt(0, 9), GREEDY)])
    with Engine(other, PAGES) as engine:
        (cold,) = engine.generate_batch([(prompt(0, 9), GREEDY)])
    assert woken.token_ids == cold.token_ids and woken.weight_versions == (1,) * 16


def test_weights_may_be_updated_asleep(
    model: Qwen3, make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    other = make_model(7)
    with Engine(make_model(0), PAGES) as engine:
        engine.sleep(drop_weights=True)
        engine.update_weights(weights_of(other).items())
        with pytest.raises(EngineAsleep):
            engine.generate_batch([(prompt(0, 9), GREEDY)])
        engine.wake()
        (woken,) = engine.generate_batch([(prompt(0, 9), GREEDY)])
    with Engine(other, PAGES) as engine:
        (cold,) = engine.generate_batch([(prompt(0, 9), GREEDY)])
    assert woken.token_ids == cold.token_ids


def test_two_intruders_take_turns(make_model: Callable[..., Qwen3]) -> None:
    model = make_model(0)
    states = [weights_of(make_model(seed)) for seed in range(4)]
    with Engine(model, PAGES) as engine:
        updates = [
            threading.Thread(target=engine.update_weights, args=(state.items(),))
            for state in states
            for _ in range(5)
        ]
        for update in updates:
            update.start()
        for update in updates:
            update.join(30)
        assert engine.stats().weight_version == 20
        whole = [all(s[n].equal(p) for n, p in model.named_parameters()) for s in states]
    assert sum(whole) == 1, "the weights are a mixture"


def test_a_closed_engine_says_so_by_type(model: Qwen3, prompt: Prompt) -> None:
    engine = Engine(model, PAGES)
    engine.pause()
    engine.close()
    with pytest.raises(EngineClosed):
        engine.generate_batch([(prompt(0, 9), GREEDY)])
