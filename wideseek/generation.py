"""The seam between agents and whatever generates tokens.

Two levels, one meaning. `Generate` takes token ids and returns sampled ids: the engine's form. `Dialogue` takes
messages and returns text: what an agent holds. A Dialogue on a `Generate` keeps the token ids itself and is
append-only; a Dialogue on an HTTP endpoint keeps the messages. Agents know only Dialogue.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How one completion is drawn.

    temperature 0 is greedy. top_k 0, top_p 1 and min_p 0 switch a filter off; filters apply in the order
    temperature, top-k, top-p, min-p. `seed` is a value, not a state: the same (seed, position) draws the same token
    whatever else runs. `stop` strings end a completion after the token that completes them; the ids keep that token.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 1024
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0.0:
            raise ValueError(f"temperature must be at least 0, not {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, not {self.top_k}")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p must be in [0, 1], not {self.min_p}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if any(not text for text in self.stop):
            raise ValueError("stop must not hold an empty string")


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """Sampled ids of one call, the stop token included when one was drawn.

    logprobs[i] is the log-probability of token_ids[i] under the distribution it was drawn from (after temperature and
    filters; 0.0 when greedy); plain_logprobs[i] under the untouched softmax of the logits. cached_tokens counts prompt
    tokens whose KV was reused. weight_version is the last one at work; weight_versions[i] is the one that sampled
    token_ids[i], or it is empty and all were sampled by the last.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    plain_logprobs: tuple[float, ...]
    finish_reason: FinishReason
    weight_version: int
    cached_tokens: int
    prompt_tokens: int
    weight_versions: tuple[int, ...] = ()


class Generate(Protocol):
    """Anything that continues token ids; `Engine.generate` is one.

    Setting `cancel` ends the completion early with what was made so far and finish_reason "cancelled".
    """

    async def __call__(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        cancel: asyncio.Event | None = None,
    ) -> Completion: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One chat message; role is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One assistant turn as text, its end-of-turn token taken off.

    `completion` is None when the model is an endpoint that does not return token ids.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    completion: Completion | None = None


class ModelFailureKind(StrEnum):
    """Why a model call gave no reply."""

    CONTEXT_FULL = "context_full"
    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    BAD_REPLY = "bad_reply"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFailure:
    """A model call that ended without a reply, as data."""

    kind: ModelFailureKind
    detail: str


class Dialogue(Protocol):
    """One agent's context with one model. Append-only: what was said is never rendered again."""

    @property
    def num_tokens(self) -> int:
        """Tokens the next reply is conditioned on (an endpoint without ids: an estimate from its usage reports)."""
        ...

    @property
    def token_ids(self) -> Sequence[int]:
        """The context as token ids; empty where the model keeps them to itself."""
        ...

    def count_tool_tokens(self, text: str) -> int:
        """Tokens that `add_tool(text)` would add, template tokens included."""
        ...

    def add_tool(self, text: str) -> None:
        """Append one tool message and open the next assistant turn."""
        ...

    async def reply(
        self, sampling: Sampling, cancel: asyncio.Event | None = None
    ) -> Reply | ModelFailure:
        """Sample the next assistant turn and append it."""
        ...


ToolSchema = dict[str, Any]
OpenDialogue = Callable[[Sequence[Message], Sequence[ToolSchema], str], Dialogue]
"""Starts a Dialogue from the first messages, the JSON schemas of the tools the role may call, and a session.

The session says whose turns these are, as a path from the run down: "a1b2/lead/sub-3" is a subagent of "a1b2/lead". An
engine keeps a session's KV between turns, and shares itself out among runs.
"""
