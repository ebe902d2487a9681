"""New weights: swapped whole or not at all, in the middle of what is being said."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import pytest
import torch

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.engine.weight_swap import WeightSwap
from wideseek.generation import Completion, Sampling
from wideseek.model.qwen3 import Qwen3

from .conftest import Breakable, interrupted, weights_of

Prompt = Callable[[int, int], list[int]]

GREEDY = Sampling(temperature=0.0, max_tokens=16)


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


def updated_midway(
    model: Qwen3, other: Qwen3, ids: list[int], sampling: Sampling, *, keep_kv: bool
) -> tuple[Completion, int]:
    """A completion during which the weights changed, and the tokens computed after that."""

    async def scene(engine: Engine) -> tuple[Completion, int]:
        computed: list[int] = []

        def update() -> None:
            computed.append(engine.stats().prefill_tokens_computed)
            engine.update_weights(weights_of(other).items(), keep_kv=keep_kv)

        call = await interrupted(engine, (ids, sampling), 5, update)
        completion = await call
        return completion, engine.stats().prefill_tokens_computed - computed[0]

    with Engine(Breakable(model), EngineConfig(num_pages=64, page_size=16)) as engine:
        found = asyncio.run(scene(engine))
        engine._scheduler.check()
    return found


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_sequence_under_way_goes_on_under_the_new_weights(
    model: Qwen3, make_model: Callable[..., Qwen3], prompt: Prompt, temperature: float
) -> None:
    ids, other = prompt(0, 100), make_model(7)
    sampling = Sampling(temperature=temperature, max_tokens=60, seed=3)
    completion, computed = updated_midway(model, other, ids, sampling, keep_kv=False)
    runs = [(version, len(list(run))) for version, run in groupby(completion.weight_versions)]
    assert completion.weight_version == 1 and len(completion.token_ids) == 60
    (_, old), (_, new) = runs
    assert [version for version, _ in runs] == [0, 1] and old >= 5 and old + new == 60
    assert computed == 100 + old
    with Engine(model, EngineConfig(num_pages=64)) as engine:
        (before,) = engine.generate_batch([(ids, sampling)])
    assert completion.token_ids[:old] == before.token_ids[:old]
    assert completion.token_ids != before.token_ids
    # The rest is the new model's continuation of all that was said.
    with Engine(other, EngineConfig(num_pages=64)) as engine:
        rest = Sampling(temperature=temperature, max_tokens=new, seed=3)
        (cold,) = engine.generate_batch([([*ids, *completion.token_ids[:old]], rest)])
    assert completion.token_ids[old:] == cold.token_ids
    assert completion.plain_logprobs[old:] == pytest.approx(cold.plain_logprobs, abs=1e-5)


def test_kv_of_older_weights_is_kept_when_that_is_asked(
    model: Qwen3, make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    ids, other = prompt(0, 100), make_model(7)
    sampling = Sampling(temperature=0.0, max_tokens=60)
    completion, computed = updated_midway(model, other, ids, sampling, keep_kv=True)
    dropped, _ = updated_midway(model, other, ids, sampling, keep_kv=False)
    assert computed == 0 and set(completion.weight_versions) == {0, 1}
    old = completion.weight_versions.count(0)
    assert completion.token_ids[:old] == dropped.token_ids[:old]
    assert completion.token_ids != dropped.token_ids, "the kept KV was not read"


def test_kept_kv_is_found_by_the_next_turn_and_gone_after_a_drop(
    model: Qwen3, make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    job, other = (prompt(0, 100), GREEDY), make_model(7)
    with Engine(make_model(0), EngineConfig(num_pages=64, page_size=16)) as engine:
        engine.generate_batch([job])
        engine.update_weights(weights_of(other).items(), keep_kv=True)
        (kept,) = engine.generate_batch([job])
        engine.update_weights(weights_of(other).items())
        (dropped,) = engine.generate_batch([job])
    assert kept.cached_tokens == 99 and kept.weight_versions == (1,) * 16
    with Engine(other, EngineConfig(num_pages=64)) as engine:
        (cold,) = engine.generate_batch([job])
    assert dropped.cached_tokens == 0 and dropped.token_ids == cold.token_ids


def test_a_completion_says_which_weights_sampled_each_token(model: Qwen3, prompt: Prompt) -> None:
    with Engine(Breakable(model), EngineConfig(num_pages=64)) as engine:
        (before,) = engine.generate_batch([(prompt(0, 9), GREEDY)])
        engine.update_weights(weights_of(model).items())
        (after,) = engine.generate_batch([(prompt(0, 9), GREEDY)])
    assert before.weight_versions == (0,) * 16 and after.weight_versions == (1,) * 16
    assert before.token_ids == after.token_ids


def test_new_weights_wait_for_the_running_step(model: Qwen3, prompt: Prompt) -> None:
    held = Breakable(model)
    held.go_on.clear()
    name = "model.norm.weight"
    updated = threading.Event()

    def update(engine: Engine) -> None:
        engine.update_weights((weights_of(held) | {name: torch.zeros(48)}).items())
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


NORM, HEAD = "model.norm.weight", "lm_head.weight"


def all_but(*names: str) -> Callable[[Qwen3], Iterator[tuple[str, Any]]]:
    return lambda model: (p for p in weights_of(model).items() if p[0] not in names)


def all_with(**changed: object) -> Callable[[Qwen3], Iterator[tuple[str, Any]]]:
    named = {name.replace("__", "."): value for name, value in changed.items()}
    return lambda model: iter((weights_of(model) | named).items())


def twice(model: Qwen3) -> Iterator[tuple[str, Any]]:
    yield from weights_of(model).items()
    yield NORM, torch.zeros(48)


def broken_off(model: Qwen3) -> Iterator[tuple[str, Any]]:
    yield NORM, torch.zeros(48)
    raise ValueError("the connection is gone")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (all_but(HEAD), r"missing tensors: lm_head\.weight$"),
        (lambda model: iter(()), r"missing tensors: lm_head\.weight, .* and 31 more"),
        (all_with(nonsense=torch.zeros(1)), "the model has no tensor nonsense"),
        (all_with(lm_head__weight=torch.zeros(2, 2)), r"lm_head.weight has shape \(2, 2\)"),
        (all_with(lm_head__weight=[0.0]), "lm_head.weight is not a tensor of floats but list"),
        (all_with(model__norm__weight=torch.zeros(48).long()), "floats but torch.int64"),
        (all_with(model__norm__weight=torch.zeros(48, device="meta")), "norm.weight is not a"),
        (twice, "model.norm.weight is given twice"),
        (broken_off, "the connection is gone"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(
    make_model: Callable[..., Qwen3],
    prompt: Prompt,
    tensors: Callable[[Qwen3], Iterator[tuple[str, Any]]],
    message: str,
) -> None:
    with Engine(make_model(0), EngineConfig(num_pages=8, page_size=16)) as engine:
        (before,) = engine.generate_batch([(prompt(0, 40), GREEDY)])
        was = weights_of(engine.model)
        with pytest.raises(ValueError, match=message):
            engine.update_weights(tensors(make_model(7)))
        assert all(torch.equal(was[name], p) for name, p in engine.model.named_parameters())
        (after,) = engine.generate_batch([(prompt(0, 40), GREEDY)])
        assert engine.stats().weight_version == 0
    assert after.token_ids == before.token_ids and after.cached_tokens == 39


def test_new_weights_go_to_the_same_addresses_in_the_models_dtype(
    make_model: Callable[..., Qwen3],
) -> None:
    model, other = make_model(0).bfloat16(), make_model(7)
    addresses = [p.data_ptr() for p in model.parameters()]
    swap = WeightSwap(model)
    swap.swap(swap.stage(other.named_parameters()))
    assert [p.data_ptr() for p in model.parameters()] == addresses
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs.bfloat16())


def test_a_tied_head_may_come_with_its_second_copy(make_model: Callable[..., Qwen3]) -> None:
    model, other = make_model(0, tied_head=True), make_model(7, tied_head=True)
    swap = WeightSwap(model)
    swap.swap(swap.stage([*other.named_parameters(), (HEAD, torch.zeros(97, 48))]))
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_dropped_weights_come_back_by_a_swap(make_model: Callable[..., Qwen3]) -> None:
    model = make_model(0)
    was, swap = weights_of(model), WeightSwap(model)
    swap.drop()
    assert swap.dropped and sum(p.numel() for p in model.parameters()) == 0
    swap.swap(swap.stage(was.items()))
    assert not swap.dropped
    assert all(torch.equal(was[name], p) for name, p in model.named_parameters())


def test_broken_weights_leave_nothing_behind(
    make_model: Callable[..., Qwen3], prompt: Prompt
) -> None:
    job = (prompt(0, 30), GREEDY)
    model = make_model(0)
    name = "model.layers.0.self_attn.v_proj.weight"
    good = weights_of(model)
    bad = good | {name: torch.full_like(good[name], torch.nan)}
    with Engine(model, EngineConfig(num_pages=4, page_size=16)) as engine:
        (before,) = engine.generate_batch([job])
        engine.update_weights(bad.items())
        with pytest.raises(RuntimeError, match="not finite"):
            engine.generate_batch([job])
        engine.update_weights(good.items())
        (after,) = engine.generate_batch([job])
    assert after.token_ids == before.token_ids and after.weight_version == 2
