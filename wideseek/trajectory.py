"""Frozen records of what happened: Turn, Trajectory, Rollout, RolloutGroup.

A Trajectory is one training sequence by construction: prompt ids, then for every Turn the sampled ids and the ids of
the tool reply. Nothing in it is ever re-encoded from text.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from wideseek.generation import Completion

Role = Literal["lead", "sub", "single"]


class End(StrEnum):
    """Why an agent stopped. Every agent has exactly one."""

    ANSWERED = "answered"
    TURN_LIMIT = "turn_limit"
    CONTEXT_FULL = "context_full"
    RUNAWAY = "runaway"
    MODEL_FAILED = "model_failed"
    BUDGET = "budget"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One request of a turn after parsing; `error` holds the readable reason when it was not run.

    name is create_sub_agents, search or access; arguments are those of SPEC section 5, one item a call.
    """

    name: str
    arguments: dict[str, Any]
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One model call and the reply of its tools.

    tool_token_ids [.] are the ids appended after the completion (template, tool text, hint, opening of the next turn);
    empty on the last turn.
    """

    text: str
    completion: Completion | None
    calls: tuple[ToolCall, ...] = ()
    tool_text: str = ""
    tool_token_ids: tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """One agent's ordered turns and the reason it ended.

    agent_id is "lead", "single" or "sub-K", K counting from 1 over the whole rollout in call order.
    """

    agent_id: str
    parent_id: str | None
    role: Role
    task: str
    prompt_token_ids: tuple[int, ...]
    turns: tuple[Turn, ...]
    end: End
    report: str

    def token_ids(self) -> Iterator[tuple[int, bool]]:
        """(token id, was it sampled) over the whole sequence, in order."""
        for token in self.prompt_token_ids:
            yield token, False
        for turn in self.turns:
            for token in turn.completion.token_ids if turn.completion else ():
                yield token, True
            for token in turn.tool_token_ids:
                yield token, False


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One attempt at a question: the tree of Trajectories (lead or single first, then subs in call order)."""

    question: str
    trajectories: tuple[Trajectory, ...]
    answer: str
    stop_reason: str
    seed: int = 0
    weight_version: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutGroup:
    """The attempts at one question that share a baseline, with one reward each."""

    question: str
    rollouts: tuple[Rollout, ...]
    rewards: tuple[float, ...] = field(default=())
