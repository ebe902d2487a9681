"""What the engine says: as transformers does, and the same however the work is cut up."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Completion, Sampling
from wideseek.model.qwen3 import PackedAttention, Qwen3

Prompt = Callable[[int, int], list[int]]
Job = tuple[list[int], Sampling]

GREEDY = Sampling(temperature=0.0, max_tokens=24)


def run(model: Qwen3, jobs: list[Job], **config: Any) -> list[Completion]:
    with Engine(model, EngineConfig(**{"num_pages": 64} | config)) as engine:
        return engine.generate_batch(jobs)


def what_was_said(completions: list[Completion]) -> list[tuple[Sequence[int], str]]:
    return [(c.token_ids, c.finish_reason) for c in completions]


def logits_of(model: Qwen3, ids: Sequence[int]) -> torch.Tensor:
    """Logits [len(ids), V] of one plain forward, without the engine."""
    with torch.no_grad():
        tokens = torch.tensor(ids)
        attention = PackedAttention(torch.tensor([0, len(ids)]))
        return model.logits(model(tokens, torch.arange(len(ids)), attention))


@pytest.mark.parametrize("max_batch_tokens", [2048, 7])
@pytest.mark.parametrize(
    "shape", [{}, {"tied_head": True}, {"num_kv_heads": 1}, {"num_kv_heads": 4}]
)
def test_greedy_says_what_transformers_says(
    make_model: Callable[..., Qwen3], prompt: Prompt, shape: dict[str, Any], max_batch_tokens: int
) -> None:
    model = make_model(1, **shape)
    theirs = Qwen3ForCausalLM(Qwen3Config(**model.config.to_dict())).eval()
    state = model.state_dict()
    if model.config.tied_head:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state)
    jobs = [(prompt(i, length), GREEDY) for i, length in enumerate((1, 20, 64, 130))]
    ours = run(model, jobs, max_batch_tokens=max_batch_tokens, max_num_seqs=4)
    assert len({token for c in ours for token in c.token_ids}) > 10, "the model repeats itself"
    for (ids, sampling), completion in zip(jobs, ours, strict=True):
        said = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=sampling.max_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        assert completion.token_ids == tuple(said[0, len(ids) :].tolist())


@pytest.fixture(scope="module")
def mixed_jobs() -> list[Job]:
    """Prompts of many lengths, some with common beginnings, greedy and sampled."""
    generator = torch.Generator().manual_seed(5)

    def ids(length: int) -> list[int]:
        drawn: list[int] = torch.randint(0, 97, (length,), generator=generator).tolist()
        return drawn

    shared = ids(140)
    samplings = (
        Sampling(temperature=0.0, max_tokens=20),
        Sampling(temperature=1.0, max_tokens=33, seed=5),
        Sampling(temperature=0.8, top_p=0.9, top_k=20, min_p=0.01, max_tokens=9, seed=6),
    )
    prompts = [shared[: 10 * i] + ids(3 + 17 * i % 60) for i in range(15)]
    return [(p, samplings[i % 3]) for i, p in enumerate(prompts)]


@pytest.fixture(scope="module")
def alone(model: Qwen3, mixed_jobs: list[Job]) -> list[Completion]:
    """Every job in an engine of its own."""
    return [run(model, [job])[0] for job in mixed_jobs]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_batch_tokens": 9, "max_num_seqs": 8},
        {"max_num_seqs": 2},
        {"page_size": 4, "num_pages": 900},
        {"page_size": 256},
        {"enable_prefix_cache": False},
        {"page_size": 16, "num_pages": 24},
        {"page_size": 16, "num_pages": 24, "enable_prefix_cache": False, "max_batch_tokens": 128},
    ],
    ids=str,
)
def test_batch_mates_chunks_pages_and_cache_change_nothing(
    model: Qwen3, mixed_jobs: list[Job], alone: list[Completion], config: dict[str, Any]
) -> None:
    together = run(model, mixed_jobs, **config)
    assert what_was_said(together) == what_was_said(alone)
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
        assert ours.plain_logprobs == pytest.approx(theirs.plain_logprobs, abs=1e-5)


def test_a_fast_engine_says_what_an_exact_one_says_but_for_last_bits(
    model: Qwen3, mixed_jobs: list[Job], alone: list[Completion]
) -> None:
    together = run(model, mixed_jobs, exact=False)
    same = [a.token_ids == b.token_ids for a, b in zip(together, alone, strict=True)]
    assert sum(same) >= len(same) - 1, "two tokens about as likely are rare"
    for ours, theirs, is_same in zip(together, alone, same, strict=True):
        if is_same:
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


def test_preemption_changes_nothing(
    model: Qwen3, mixed_jobs: list[Job], alone: list[Completion]
) -> None:
    with Engine(model, EngineConfig(page_size=8, num_pages=30)) as engine:
        engine.generate_batch([([1], Sampling(max_tokens=1))])  # so that short replies are expected
        together = engine.generate_batch(mixed_jobs)
        assert engine.stats().preemptions > 0
    assert what_was_said(together) == what_was_said(alone)


def test_a_second_time_comes_from_the_cache_and_says_the_same(
    model: Qwen3, mixed_jobs: list[Job], alone: list[Completion]
) -> None:
    with Engine(model, EngineConfig(page_size=8, num_pages=600)) as engine:
        engine.generate_batch(mixed_jobs)
        computed = engine.stats().prefill_tokens_computed
        again = engine.generate_batch(mixed_jobs)
        assert engine.stats().prefill_tokens_computed - computed == len(mixed_jobs)
    assert what_was_said(again) == what_was_said(alone)
    assert all(c.cached_tokens == c.prompt_tokens - 1 for c in again)


def test_log_probabilities_are_those_of_a_plain_forward(
    model: Qwen3, mixed_jobs: list[Job], alone: list[Completion]
) -> None:
    for (ids, sampling), completion in zip(mixed_jobs[:6], alone[:6], strict=True):
        log_probs = logits_of(model, [*ids, *completion.token_ids]).log_softmax(-1)
        rows = log_probs[len(ids) - 1 : -1]
        expected = rows.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0].tolist()
        assert completion.plain_logprobs == pytest.approx(expected, abs=1e-4)
        if sampling.temperature == 0:
            assert set(completion.logprobs) == {0.0}
        elif sampling.temperature == 1:
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)
        else:
            pairs = zip(completion.logprobs, completion.plain_logprobs, strict=True)
            assert any(drawn > plain + 1e-3 for drawn, plain in pairs)


def test_sampled_first_tokens_have_the_models_frequencies(model: Qwen3, prompt: Prompt) -> None:
    ids = prompt(3, 12)
    jobs = [(ids, Sampling(temperature=0.7, max_tokens=1, seed=seed)) for seed in range(1500)]
    said = run(model, jobs)
    probabilities = (logits_of(model, ids)[-1] / 0.7).softmax(-1)
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in said]), minlength=97)
    likely = probabilities * 1500 > 5
    assert likely.sum() >= 3
    expected = torch.cat((probabilities[likely], probabilities[~likely].sum()[None])) * 1500
    seen = torch.cat((counts[likely], counts[~likely].sum()[None]))
    statistic = ((seen - expected) ** 2 / expected).sum().item()
    freedom = len(expected) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_seeds_decide_what_is_sampled(model: Qwen3, prompt: Prompt) -> None:
    ids = prompt(4, 10)
    jobs = [(ids, Sampling(max_tokens=12, seed=seed)) for seed in (1, 2, 1)]
    first, second, third = run(model, jobs)
    assert first.token_ids == third.token_ids
    assert first.token_ids != second.token_ids


def test_a_draw_depends_on_the_seed_and_the_position_alone(model: Qwen3, prompt: Prompt) -> None:
    ids = prompt(4, 10)
    flat = Sampling(temperature=50.0, max_tokens=30, seed=3)
    (whole,) = run(model, [(ids, flat)])
    assert len(set(whole.token_ids)) > 15, "each position draws anew"
    (rest,) = run(model, [([*ids, *whole.token_ids[:11]], flat)])
    assert rest.token_ids[:19] == whole.token_ids[11:]


@pytest.mark.parametrize("only_the_likeliest", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_each_filter_reaches_the_sampler(
    model: Qwen3, prompt: Prompt, only_the_likeliest: dict[str, Any]
) -> None:
    ids = prompt(6, 30)
    sampled = Sampling(temperature=2.0, max_tokens=24, **only_the_likeliest)
    greedy, filtered = run(model, [(ids, GREEDY), (ids, sampled)])
    assert filtered.token_ids == greedy.token_ids and set(filtered.logprobs) == {0.0}


def test_a_stop_token_ends_and_stays(model: Qwen3, prompt: Prompt) -> None:
    ids = prompt(6, 30)
    (whole,) = run(model, [(ids, GREEDY)])
    stop = whole.token_ids[7]
    end = whole.token_ids.index(stop) + 1
    sampling = Sampling(temperature=0.0, max_tokens=24, stop_token_ids=(96, stop))
    (cut,) = run(model, [(ids, sampling)])
    assert cut.token_ids == whole.token_ids[:end] and cut.finish_reason == "stop"
    assert len(cut.logprobs) == len(cut.plain_logprobs) == end
    assert whole.finish_reason == "length" and len(whole.token_ids) == 24


def test_a_stop_string_ends_after_the_token_that_completes_it(model: Qwen3, prompt: Prompt) -> None:
    def decode(token_ids: Sequence[int]) -> str:
        return "".join(f"<{token}>" for token in token_ids)

    ids = prompt(6, 30)
    (whole,) = run(model, [(ids, GREEDY)])
    a, b = whole.token_ids[4:6]
    sampling = Sampling(temperature=0.0, max_tokens=24, stop=("never", f"{a}><{b}"))
    with Engine(model, EngineConfig(num_pages=8), decode=decode) as engine:
        (cut,) = engine.generate_batch([(ids, sampling)])
    assert cut.token_ids == whole.token_ids[:6] and cut.finish_reason == "stop"


def test_a_full_context_ends_with_length(model: Qwen3, prompt: Prompt) -> None:
    (cut,) = run(model, [(prompt(6, 30), GREEDY)], max_model_len=40)
    assert len(cut.token_ids) == 10 and cut.finish_reason == "length"
    (cut,) = run(model, [(prompt(6, 30), GREEDY)], page_size=8, num_pages=4)
    assert len(cut.token_ids) == 2 and cut.finish_reason == "length"


def test_bfloat16_runs_and_is_near(make_model: Callable[..., Qwen3], prompt: Prompt) -> None:
    model = make_model(0)
    jobs = [(prompt(i, 40), Sampling(temperature=0.0, max_tokens=1)) for i in range(8)]
    full = run(model, jobs)
    half = run(model.to(torch.bfloat16), jobs)
    near = [
        abs(h.plain_logprobs[0] - f.plain_logprobs[0]) < 0.3
        for h, f in zip(half, full, strict=True)
    ]
    assert sum(near) >= 6
