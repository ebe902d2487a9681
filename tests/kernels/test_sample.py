"""Sampling: the right distribution, the right log-probabilities, and no dependence on others."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wideseek_kernels import reference_sample
from wideseek_kernels.reference_sample import _draw, uniform
from wideseek_kernels.sample import sample

from tests.kernels.threads import three_threads  # noqa: F401 - a fixture


def draw(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seeds: Tensor | None = None,
    positions: Tensor | None = None,
    op: Callable[..., tuple[Tensor, ...]] = sample,
) -> tuple[Tensor, ...]:
    """sample() with the same settings in every row; seeds count up where none are given."""
    n = len(logits)
    return op(
        logits,
        torch.full((n,), temperature),
        torch.full((n,), top_k),
        torch.full((n,), top_p),
        torch.full((n,), min_p),
        torch.arange(n) if seeds is None else seeds,
        torch.full((n,), 7) if positions is None else positions,
    )


def oracle(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> list[float]:
    """The filtered distribution, straight from the definitions, one token at a time."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    if top_k:
        kth = sorted(weights, reverse=True)[min(top_k, len(weights)) - 1]
        weights = [w if w >= kth else 0.0 for w in weights]
    if top_p < 1:
        total, mass, least = sum(weights), 0.0, 0.0
        for w in sorted(weights, reverse=True):
            mass, least = mass + w / total, w
            if mass >= top_p:
                break
        weights = [w if w >= least else 0.0 for w in weights]
    if min_p:
        weights = [w if w >= min_p * max(weights) else 0.0 for w in weights]
    return [w / sum(weights) for w in weights]


def chi_square(counts: list[int], probabilities: list[float]) -> float:
    """How many standard deviations the counts' chi-square lies above what chance makes of it."""
    total = sum(counts)
    used = [(c, p * total) for c, p in zip(counts, probabilities, strict=True) if p > 0]
    statistic = sum((count - expected) ** 2 / expected for count, expected in used)
    freedom = max(1, len(used) - 1)
    return (statistic - freedom) / math.sqrt(2 * freedom)


LOGITS = [2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0, 1.5]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.5, 0, 1.0, 0.0),
        (2.0, 3, 1.0, 0.0),
        (1.0, 0, 0.7, 0.0),
        (1.0, 0, 1.0, 0.2),
        (1.5, 6, 0.85, 0.1),
    ],
)
def test_tokens_come_with_the_frequencies_of_the_filtered_distribution(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    n = 20_000
    tokens, _, _ = draw(
        torch.tensor(LOGITS).expand(n, -1),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
    )
    probabilities = oracle(LOGITS, temperature, top_k, top_p, min_p)
    counts = torch.bincount(tokens, minlength=len(LOGITS)).tolist()
    assert all(count == 0 for count, p in zip(counts, probabilities, strict=True) if p == 0)
    assert chi_square(counts, probabilities) < 5


@settings(deadline=None, max_examples=150)
@given(
    logits=st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=1, max_size=12),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.7]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.05, 0.31, 0.777, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.013, 0.21, 1.0]),
    seed=st.integers(0, 1000),
)
def test_log_probabilities_are_those_of_the_filtered_and_of_the_plain_softmax(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    tokens, logprobs, plain = draw(
        torch.tensor([logits]),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seeds=torch.tensor([seed]),
    )
    expected = oracle(logits, temperature, top_k, top_p, min_p)[tokens[0]]
    assert expected > 0
    assert logprobs[0].item() == pytest.approx(math.log(expected), abs=1e-5)
    assert plain[0].item() == pytest.approx(
        math.log(oracle(logits, 1.0, 0, 1.0, 0.0)[tokens[0]]), abs=1e-5
    )


def test_temperature_zero_takes_the_largest_at_log_probability_zero() -> None:
    tokens, logprobs, plain = draw(torch.tensor([LOGITS, LOGITS[::-1]]), temperature=0.0)
    assert tokens.tolist() == [0, 7]
    assert logprobs.tolist() == [0.0, 0.0]
    assert plain[0].item() == pytest.approx(math.log(oracle(LOGITS, 1.0, 0, 1.0, 0.0)[0]), abs=1e-6)


def test_the_smallest_number_does_not_draw_what_was_filtered_out() -> None:
    log_probs = torch.tensor([[-torch.inf, 0.5, 0.5]]).log_softmax(-1)
    assert _draw(log_probs, torch.zeros(1, dtype=torch.float64)).tolist() == [1]
    last = torch.full((1,), 1 - 2.0**-52, dtype=torch.float64)
    assert _draw(log_probs, last).tolist() == [2]


def test_a_tiny_temperature_is_greedy_and_finite() -> None:
    tokens, logprobs, _ = draw(torch.tensor([LOGITS]) * 100, temperature=1e-30)
    assert tokens.tolist() == [0] and logprobs.tolist() == [0.0]


@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("op", [sample, reference_sample.sample])
def test_logits_that_are_no_numbers_give_some_token(
    op: Callable[..., tuple[Tensor, ...]], bad: float, filters: dict[str, float]
) -> None:
    """The engine asks only afterwards whether they were finite: nothing may fail, or be read, out of range before."""
    for columns in (slice(None), slice(7, 8)):
        logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
        logits[:, columns] = bad
        tokens = draw(logits, op=op, **filters)[0]  # type: ignore[arg-type]
        assert ((tokens >= 0) & (tokens < 1000)).all()


def test_equal_logits_stay_or_go_together() -> None:
    logits = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.5]).expand(400, -1)
    for setting in ({"top_k": 2}, {"top_p": 0.3}, {"min_p": 1.0}):
        tokens, _, _ = draw(logits, **setting)  # type: ignore[arg-type]
        assert set(tokens.tolist()) == {1, 2, 3}


def test_a_row_does_not_see_its_batch_mates() -> None:
    generator = torch.Generator().manual_seed(3)
    n, vocab = 40, 1000
    logits = torch.randn(n, vocab, generator=generator) * 3
    rng = np.random.default_rng(0)
    columns = (
        torch.from_numpy(rng.choice([0.0, 0.7, 1.0], n).astype(np.float32)),
        torch.from_numpy(rng.choice([0, 5, 50], n)),
        torch.from_numpy(rng.choice([0.5, 0.95, 1.0], n).astype(np.float32)),
        torch.from_numpy(rng.choice([0.0, 0.05], n).astype(np.float32)),
        torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, n)),
        torch.arange(n) * 3,
    )
    together = sample(logits, *columns)
    for i in range(n):
        alone = sample(logits[i : i + 1], *(column[i : i + 1] for column in columns))
        for one, all_rows in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_rows[i])


def test_a_draw_is_a_value_of_seed_and_position() -> None:
    logits = torch.zeros(2000, 50)
    same = torch.full((2000,), 11)
    by_seed, _, _ = draw(logits, positions=same)
    again, _, _ = draw(logits, positions=same)
    by_position, _, _ = draw(logits, seeds=same, positions=torch.arange(2000))
    assert torch.equal(by_seed, again)
    for tokens in (by_seed, by_position):
        counts = torch.bincount(tokens, minlength=50).tolist()
        assert chi_square(counts, [1 / 50] * 50) < 5


def test_uniform_numbers_are_even_and_neighbours_unrelated() -> None:
    seeds, positions = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    numbers = uniform(seeds.reshape(-1), positions.reshape(-1)).reshape(200, 200)
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = torch.histc(numbers.reshape(-1), 100, 0, 1).int().tolist()
    assert chi_square(counts, [0.01] * 100) < 5
    centred = numbers - 0.5
    for neighbour in (centred.roll(1, 0), centred.roll(1, 1), centred.T):
        assert abs((centred * neighbour).mean() * 12) < 5 / 200  # of 40,000: five deviations


def test_uniform_is_splitmix64() -> None:
    """Against the generator in plain integers."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    for seed, position in ((0, 0), (1, 5), (-1, 3), (2**63 - 1, 4096)):
        bits = mix((mix((seed + golden) % 2**64) + position * golden) % 2**64)
        expected = (bits >> 12) / 2**52
        assert uniform(torch.tensor([seed]), torch.tensor([position])).item() == expected


@pytest.mark.parametrize("scale", [0.01, 8.0])
def test_top_p_is_the_same_whether_the_likely_tokens_reach_it_or_all_are_sorted(
    scale: float,
) -> None:
    """A flat row of 600 needs the sort, a steep one does not; both against the definition."""
    generator = torch.Generator().manual_seed(1)
    row = torch.randn(600, generator=generator) * scale
    tokens, logprobs, _ = draw(row.expand(3000, -1), top_p=0.8)
    expected = oracle(row.tolist(), 1.0, 0, 0.8, 0.0)
    assert sum(p > 0 for p in expected) > 256 or scale > 1
    assert all(expected[token] > 0 for token in tokens.tolist())
    likeliest = int(np.argmax(expected))
    assert (
        chi_square(
            [(tokens == likeliest).sum().item(), (tokens != likeliest).sum().item()],
            [expected[likeliest], 1 - expected[likeliest]],
        )
        < 5
    )
    log_expected = torch.tensor(expected).log()[tokens]
    torch.testing.assert_close(logprobs, log_expected, atol=1e-5, rtol=0)
