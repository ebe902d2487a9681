"""Numbers an engine gives about itself."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.engine.stats import RECENT, Durations, Spread
from wideseek.generation import Sampling
from wideseek.model.qwen3 import Qwen3

from .conftest import Breakable, interrupted, weights_of

Prompt = Callable[[int, int], list[int]]

GREEDY = Sampling(temperature=0.0, max_tokens=16)


def test_a_new_engine_has_counted_nothing(model: Qwen3) -> None:
    with Engine(model, EngineConfig(num_pages=10)) as engine:
        stats = engine.stats()
    assert stats.kv_use == stats.prefix_hit_rate == stats.acceptance == 0.0
    assert stats.times.first_token == stats.times.inter_token == stats.times.model == Spread()


def test_counts_and_durations_of_a_few_calls(model: Qwen3, prompt: Prompt) -> None:
    job = (prompt(0, 100), GREEDY)
    config = EngineConfig(num_pages=20, page_size=16, max_draft_tokens=0)
    with Engine(model, config) as engine:
        engine.generate_batch([job])
        engine.generate_batch([job])
        asyncio.run(engine.score(job[0]))
        stats = engine.stats()
    assert stats.prefix_hit_tokens == 99
    # Scoring from the first token on can reuse nothing; its last token is not computed.
    assert stats.prefill_tokens_computed == 100 + 1 + 99
    assert stats.prefix_hit_rate == pytest.approx(99 / 299)
    # 115 tokens have KV, in eight pages that the tree keeps.
    assert (stats.free_pages, stats.cached_pages, stats.kv_use) == (12, 8, 8 / 20)
    assert stats.generated_tokens == 32 and stats.steps == 33
    assert stats.times.first_token.count == 2 and stats.times.inter_token.count == 30
    times = stats.times
    for part in (times.schedule, times.prepare, times.model, times.sample, times.commit):
        assert part.count == stats.steps
        assert 0 < part.p50 <= part.p90 <= part.p99 and part.mean > 0
    assert stats.times.first_token.p50 > 0 and stats.times.inter_token.p50 > 0


def test_guesses_are_counted_and_a_runs_tokens_are_timed_each(model: Qwen3, prompt: Prompt) -> None:
    ids = prompt(0, 40)
    with Engine(model, EngineConfig(num_pages=40, page_size=16)) as engine:
        engine._scheduler.row_cost.break_even = (  # type: ignore[method-assign]
            lambda decoding: 0.0
        )
        (once,) = engine.generate_batch([(ids, GREEDY)])
        engine.generate_batch([([*ids, *once.token_ids] * 3, Sampling(max_tokens=40, seed=1))])
        stats = engine.stats()
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    assert stats.acceptance == stats.accepted_tokens / stats.draft_tokens
    assert stats.times.inter_token.count == 15 + 39


def test_quantiles_are_those_of_the_last_durations() -> None:
    durations = Durations()
    for seconds in [100.0] * 10 + np.linspace(0, 1, RECENT).tolist():
        durations.add(seconds)
    spread = durations.spread()
    assert spread.count == RECENT + 10 and spread.mean == pytest.approx(0.74, abs=0.01)
    assert spread.p50 == pytest.approx(0.5, abs=0.01)
    assert spread.p90 == pytest.approx(0.9, abs=0.01)
    assert spread.p99 == pytest.approx(0.99, abs=0.01)


def test_numbers_are_one_flat_dict_of_all_there_is(model: Qwen3, prompt: Prompt) -> None:
    with Engine(model, EngineConfig(num_pages=20, page_size=16)) as engine:
        engine.generate_batch([(prompt(0, 40), GREEDY)])
        stats = engine.stats()
    numbers = stats.numbers()
    assert all(type(value) in (int, float) for value in numbers.values())
    assert numbers["generated_tokens"] == 16 and numbers["kv_use"] == stats.kv_use > 0
    assert numbers["first_token/p50"] == stats.times.first_token.p50 > 0
    assert numbers["inter_token/count"] == 15 and numbers["model/mean"] > 0


def test_new_weights_and_sleep_are_no_preemptions(model: Qwen3, prompt: Prompt) -> None:
    breakable = Breakable(model)
    jobs = (prompt(0, 40), Sampling(temperature=0.0, max_tokens=60))

    async def both(engine: Engine) -> None:
        for act in (lambda: engine.update_weights(weights_of(model).items()), engine.sleep):
            call = await interrupted(engine, jobs, 5, act)
            engine.wake()
            await call

    with Engine(breakable, EngineConfig(num_pages=20, page_size=16)) as engine:
        asyncio.run(both(engine))
        stats = engine.stats()
    assert stats.prefill_tokens_computed > 2 * 40, "nothing was computed again"
    assert stats.preemptions == 0
