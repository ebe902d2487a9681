"""Events: the truth of a run, one record a thing that happened.

events.schema.json beside this file is their contract: within version 1, types and fields are only
added.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Protocol

VERSION = 1


class EventType(StrEnum):
    """What an event tells; events.schema.json says what its data holds."""

    RUN_STARTED = "run.started"
    PLAN_UPDATED = "plan.updated"
    AGENT_SPAWNED = "agent.spawned"
    AGENT_STATE = "agent.state"
    LLM_DELTA = "llm.delta"
    LLM_DONE = "llm.done"
    TOOL_CALLED = "tool.called"
    TOOL_RESULT = "tool.result"
    ROW_ADDED = "row.added"
    CELL_UPDATED = "cell.updated"
    CELL_VERIFIED = "cell.verified"
    BUDGET_UPDATED = "budget.updated"
    WARNING = "warning"
    GAP = "gap"
    HEARTBEAT = "heartbeat"
    RUN_COMPLETED = "run.completed"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"


RUN_ENDS = (EventType.RUN_COMPLETED, EventType.RUN_FAILED, EventType.RUN_CANCELLED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of events.jsonl. seq counts from 0 without gaps; ts is Unix time in seconds."""

    v: int = VERSION
    run_id: str
    seq: int
    ts: float
    agent_id: str | None
    parent_id: str | None
    type: EventType
    data: dict[str, Any]

    def to_json(self) -> str:
        """One line, without its line end."""
        envelope = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(envelope, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "Event":
        """Reads what `to_json` wrote, ignoring fields it does not know. ValueError otherwise."""
        record = json.loads(line)
        try:
            known = {field.name: record[field.name] for field in fields(cls)}
            if known["v"] != VERSION:
                raise ValueError(f"version {known['v']}, not {VERSION}")
            return cls(**{**known, "type": EventType(known["type"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an event, {error!r}") from None


class Emit(Protocol):
    """Takes the events of a run as they happen. `data` is JSON; the taker may keep it."""

    def __call__(
        self,
        type: EventType,
        data: Mapping[str, Any],
        *,
        agent_id: str | None = None,
        parent_id: str | None = None,
    ) -> None: ...


def drop_event(
    type: EventType,
    data: Mapping[str, Any],
    *,
    agent_id: str | None = None,
    parent_id: str | None = None,
) -> None:
    """An Emit for runs that nobody watches and nothing records."""
