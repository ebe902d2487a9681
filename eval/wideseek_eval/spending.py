"""What attempts cost, in tokens and dollars: with a result or without."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from wideseek.runs.events import Event, EventType

Prices = tuple[float, float, float]
"""Dollars for a million tokens of prompts, of prompts from the cache, and of replies."""


class Spent(Protocol):
    """Tokens of prompts and replies; those of replies, and of prompts that came from the cache."""

    @property
    def tokens(self) -> int: ...

    @property
    def reply_tokens(self) -> int: ...

    @property
    def cached_tokens(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What a run without a result has Spent."""

    tokens: int
    reply_tokens: int
    cached_tokens: int


def spent_in(events: Iterable[Event]) -> Attempt:
    """What the replies cost that a run was given, whether it came to an end or not."""
    replies = [event.data for event in events if event.type is EventType.LLM_DONE]
    prompts, written, cached = (
        sum(reply[name] for reply in replies)
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
    )
    return Attempt(tokens=prompts + written, reply_tokens=written, cached_tokens=cached)


def dollars(attempts: Iterable[Spent], prices: Prices) -> float:
    """What attempts cost; prompts from the cache at their own price."""
    total = 0.0
    for spent in attempts:
        prompt = spent.tokens - spent.reply_tokens - spent.cached_tokens
        parts = prompt, spent.cached_tokens, spent.reply_tokens
        total += sum(price * tokens for price, tokens in zip(prices, parts, strict=True))
    return total / 1e6
