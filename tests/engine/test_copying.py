"""Copy-aware decoding: what is said, and how likely, is to the bit what is said without it."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wideseek.engine.config import EngineConfig
from wideseek.engine.copying import Copying, RowCost
from wideseek.engine.engine import Engine
from wideseek.engine.step import Counters
from wideseek.generation import Completion, Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import PackedAttention, Qwen3

Prompt = Callable[[int, int], list[int]]
Job = tuple[list[int], Sampling]


@contextmanager
def always_guessing(model: Qwen3, **config: Any) -> Iterator[Engine]:
    """An engine that guesses whenever it finds a match, likely or not."""
    with Engine(model, EngineConfig(**{"num_pages": 200} | config)) as engine:
        engine._scheduler.row_cost.break_even = (  # type: ignore[method-assign]
            lambda decoding: 0.0
        )
        yield engine


def guessed(model: Qwen3, jobs: list[Job], **config: Any) -> tuple[list[Completion], Counters]:
    with always_guessing(model, **config) as engine:
        engine.generate_batch([([1], Sampling(max_tokens=1))])  # so that short replies are expected
        completions = engine.generate_batch(jobs)
        engine._scheduler.check()
        return completions, engine._scheduler.counters


def plain(model: Qwen3, jobs: list[Job], **config: Any) -> list[Completion]:
    with Engine(model, EngineConfig(num_pages=200, max_draft_tokens=0, **config)) as engine:
        return engine.generate_batch(jobs)


def what_was_said(completions: list[Completion]) -> list[tuple[object, ...]]:
    return [(c.token_ids, c.logprobs, c.plain_logprobs, c.finish_reason) for c in completions]


SAMPLINGS = (
    Sampling(temperature=0.0, max_tokens=90),
    Sampling(temperature=0.4, max_tokens=70, seed=5),
    Sampling(temperature=0.3, top_p=0.9, top_k=20, min_p=0.01, max_tokens=60, seed=6),
)


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    """Prompts that say everything several times, greedy and sampled."""
    rng = np.random.default_rng(2)
    spans = [rng.integers(0, 97, 5 + 4 * i).tolist() for i in range(6)]
    return [(spans[i] * 3 + spans[0], SAMPLINGS[i % 3]) for i in range(6)]


@pytest.fixture(scope="module")
def without(model: Qwen3, jobs: list[Job]) -> list[Completion]:
    return plain(model, jobs)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_draft_tokens": 1},
        {"max_batch_tokens": 9, "max_num_seqs": 4},
        {"page_size": 2, "num_pages": 600},
        {"enable_prefix_cache": False},
        {"page_size": 8, "num_pages": 34, "max_num_seqs": 4},
    ],
    ids=str,
)
def test_guesses_change_no_bit(
    model: Qwen3, jobs: list[Job], without: list[Completion], config: dict[str, Any]
) -> None:
    completions, counters = guessed(model, jobs, **config)
    assert what_was_said(completions) == what_was_said(without)
    assert 0 < counters.accepted_tokens < counters.draft_tokens
    assert counters.generated_tokens == 1 + sum(len(c.token_ids) for c in completions)
    if config.get("num_pages") == 34:
        assert counters.preemptions > 0


def test_guesses_at_the_default_threshold_change_no_bit(
    model: Qwen3, jobs: list[Job], without: list[Completion]
) -> None:
    with Engine(model, EngineConfig(num_pages=200)) as engine:
        completions = engine.generate_batch(jobs)
    assert what_was_said(completions) == what_was_said(without)


def looping(model: Qwen3, prompt: Prompt) -> tuple[list[int], tuple[int, ...]]:
    """A prompt after which every token is a guess come true: its own continuation, once said."""
    ids = prompt(1, 40)
    (once,) = plain(model, [(ids, Sampling(temperature=0.0, max_tokens=60))])
    return [*ids, *once.token_ids, *ids], once.token_ids


def test_a_stop_inside_a_run_of_guesses_ends_it_there(model: Qwen3, prompt: Prompt) -> None:
    ids, _ = looping(model, prompt)
    greedy = Sampling(temperature=0.0, max_tokens=30)
    (whole,) = plain(model, [(ids, greedy)])
    for place in range(2, 30, 3):
        stop = whole.token_ids[place]
        stopped = replace(greedy, stop_token_ids=(stop,))
        (cut,), _ = guessed(model, [(ids, stopped)])
        assert cut.token_ids == whole.token_ids[: whole.token_ids.index(stop) + 1]
        assert cut.finish_reason == "stop" and len(cut.plain_logprobs) == len(cut.token_ids)


def test_max_tokens_and_the_context_end_a_run_of_guesses(model: Qwen3, prompt: Prompt) -> None:
    ids, _ = looping(model, prompt)
    (whole,) = plain(model, [(ids, Sampling(temperature=0.0, max_tokens=30))])
    for length in range(1, 30, 4):
        short = Sampling(temperature=0.0, max_tokens=length)
        (cut,), _ = guessed(model, [(ids, short)])
        assert cut.token_ids == whole.token_ids[:length] and cut.finish_reason == "length"
    (full,), _ = guessed(model, [(ids, SAMPLINGS[0])], max_model_len=len(ids) + 7)
    assert full.token_ids == whole.token_ids[:7] and full.finish_reason == "length"


def test_a_stop_string_inside_a_run_of_guesses_ends_it(model: Qwen3, prompt: Prompt) -> None:
    def decode(token_ids: Sequence[int]) -> str:
        return "".join(f"<{token}>" for token in token_ids)

    ids, _ = looping(model, prompt)
    greedy = Sampling(temperature=0.0, max_tokens=30)
    (whole,) = plain(model, [(ids, greedy)])
    a, b = whole.token_ids[8:10]
    with Engine(model, EngineConfig(num_pages=64), decode=decode) as engine:
        engine._scheduler.row_cost.break_even = (  # type: ignore[method-assign]
            lambda decoding: 0.0
        )
        (cut,) = engine.generate_batch([(ids, replace(greedy, stop=(f"{a}><{b}",)))])
    end = next(i for i in range(31) if f"{a}><{b}" in decode(whole.token_ids[:i]))
    assert cut.token_ids == whole.token_ids[:end] and cut.finish_reason == "stop"


def test_every_token_of_a_run_is_heard_of(model: Qwen3, prompt: Prompt) -> None:
    heard: list[tuple[int, float]] = []
    ids, _ = looping(model, prompt)
    with always_guessing(model) as engine:
        sampling = Sampling(temperature=0.0, max_tokens=30)
        call = engine.generate(ids, sampling, on_token=lambda *token: heard.append(token))
        completion = asyncio.run(call)
    assert heard == list(zip(completion.token_ids, completion.plain_logprobs, strict=True))


def small_model() -> Qwen3:
    config = ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=4,
        hidden_size=16,
        intermediate_size=24,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_position_embeddings=64,
    )
    model = Qwen3(config)
    model.init_weights(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8.0)
    return model


def exact_probabilities(model: Qwen3, ids: list[int], length: int, temperature: float) -> Any:
    """Of every continuation of `length` tokens, [4 ** length], by plain forwards."""
    vocab = model.config.vocab_size
    paths = np.stack(np.meshgrid(*[np.arange(vocab)] * length, indexing="ij"), -1)
    paths = paths.reshape(-1, length)
    texts = torch.tensor([[*ids, *path] for path in paths.tolist()])
    count, width = texts.shape
    attention = PackedAttention(torch.arange(0, count * width + 1, width))
    with torch.no_grad():
        hidden = model(texts.flatten(), torch.arange(width).repeat(count), attention)
        log_probs = (model.logits(hidden) / temperature).log_softmax(-1).view(count, width, vocab)
    wanted = log_probs[:, len(ids) - 1 : -1].gather(-1, texts[:, len(ids) :, None])
    return wanted.double().sum((1, 2)).exp().numpy()


def test_guessed_and_judged_samples_have_the_exact_distribution() -> None:
    model, ids = small_model(), [0, 1, 2, 3, 1, 1, 0, 2] * 2
    temperature, length, draws = 1.3, 3, 3000
    sampling = Sampling(temperature=temperature, max_tokens=length)
    seeds = [(ids, replace(sampling, seed=seed)) for seed in range(draws)]
    completions, counters = guessed(model, seeds, page_size=4, max_num_seqs=32)
    assert counters.accepted_tokens > draws / 10, "too few guesses came true to test them"
    probabilities = exact_probabilities(model, ids, length, temperature)
    assert probabilities.sum() == pytest.approx(1)
    codes = np.array([c.token_ids for c in completions]) @ (4 ** np.arange(length)[::-1])
    counts = np.bincount(codes, minlength=4**length)
    likely = probabilities * draws > 5
    expected = np.append(probabilities[likely], probabilities[~likely].sum()) * draws
    seen = np.append(counts[likely], counts[~likely].sum())
    statistic = ((seen - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    freedom = len(expected) - 1
    assert likely.sum() > 15
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def follow(copying: Copying, tokens: list[int], start: int, least: float) -> tuple[int, int]:
    """Guess and judge along a text as the Scheduler does; guesses made, and come true."""
    text = np.array([*tokens, *[0] * 16])
    drafted = accepted = 0
    end = start
    while end < len(tokens):
        scratch = text.copy()
        count = copying.draft(scratch, end, min(15, len(tokens) - end - 1), least)
        drafted += count
        for step in range(count + 1):
            end += 1
            copying.heard(text, end)
            if step == count or scratch[end - 1] != text[end - 1]:
                break
            accepted += 1
    return drafted, accepted


def test_a_long_copy_is_guessed_in_whole_runs() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(0, 1000, 200).tolist()
    tokens = [*source, *rng.integers(0, 1000, 50).tolist(), *source]
    drafted, accepted = follow(Copying(), tokens, 250, 0.1)
    assert accepted > 170 and drafted - accepted < 20


def test_a_text_that_repeats_nothing_is_left_alone() -> None:
    tokens = np.random.default_rng(0).integers(0, 20, 2000).tolist()
    drafted, _ = follow(Copying(), tokens, 100, 0.2)
    assert drafted < 60, "chance matches of single tokens must stop being believed"


def test_guesses_that_keep_failing_are_no_longer_made_and_come_back_when_they_work() -> None:
    rng = np.random.default_rng(1)
    pairs = [int(token) for i in rng.integers(0, 500, 300) for token in (7, 8, i)]
    copying = Copying()
    follow(copying, pairs, 3, 0.5)
    assert copying.chance(2) < 0.4, "after 7 8 anything may follow"
    source = rng.integers(1000, 2000, 60).tolist()
    _, accepted = follow(copying, [*source, *pairs[:9], *source], 69, 0.5)
    assert accepted > 40


def test_the_longest_match_counts_and_of_equals_the_latest() -> None:
    copying = Copying()
    text = np.array([1, 2, 3, 50, 9, 2, 3, 60, 2, 3, 70, 4, 1, 2, 3, 0, 0])
    assert copying.draft(text, 15, 1, 0.0) == 1 and text[15] == 50
    copying = Copying()
    text = np.array([2, 3, 60, 2, 3, 70, 4, 2, 3, 0, 0])
    assert copying.draft(text, 9, 1, 0.0) == 1 and text[9] == 70


def test_a_guess_may_run_into_itself() -> None:
    copying = Copying()
    text = np.array([5, 6, 5, 6, *[0] * 8])
    assert copying.draft(text, 4, 7, 0.0) == 7
    assert text[4:11].tolist() == [5, 6, 5, 6, 5, 6, 5]


@given(
    tokens=st.lists(st.integers(0, 2), min_size=2, max_size=60),
    most=st.integers(0, 8),
    least=st.floats(0, 1),
)
def test_a_draft_is_a_copy_within_its_bounds(tokens: list[int], most: int, least: float) -> None:
    copying, text = Copying(), np.array([*tokens, *[9] * 9])
    count = copying.draft(text, len(tokens), most, least)
    assert 0 <= count <= most and text[: len(tokens)].tolist() == tokens
    assert (text[len(tokens) + count :] == 9).all()
    if count:
        source = copying.source
        assert text[source : source + count].tolist() == text[len(tokens) :][:count].tolist()
        matched = min(copying.length, 16)
        assert tokens[source - matched : source] == tokens[len(tokens) - matched :]


def observed(cost: RowCost, fixed: float, per_row: float, sizes: list[int]) -> RowCost:
    for rows in sizes * 40:
        cost.observe(rows, fixed + per_row * rows)
    return cost


def test_the_price_of_a_guess_follows_the_steps_that_were_taken() -> None:
    free = observed(RowCost(), 1.0, 0.0, [4, 16, 40, 64])
    dear = observed(RowCost(), 0.0, 1.0, [4, 16, 40, 64])
    assert free.break_even(64) < 0.15 < 0.85 < dear.break_even(64) <= 1.0
    mixed = observed(RowCost(), 20.0, 1.0, [4, 16, 40, 64])
    assert mixed.break_even(20) == pytest.approx(0.5, abs=0.1)
    assert mixed.break_even(1) < mixed.break_even(64)


def test_before_any_step_and_with_one_size_only_a_prior_decides() -> None:
    assert RowCost().break_even(16) == 0.5
    assert observed(RowCost(), 1.0, 0.5, [16]).break_even(16) == pytest.approx(0.5, abs=0.05)


def test_one_slow_step_changes_little() -> None:
    cost = observed(RowCost(), 20.0, 1.0, [4, 16, 40, 64])
    before = cost.break_even(20)
    cost.observe(64, 10_000.0)
    assert cost.break_even(20) == pytest.approx(before, abs=0.15)
