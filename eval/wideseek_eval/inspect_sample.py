"""One trial as a sample of an Inspect log: messages of the root agent, events of all agents."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wideseek.runs.events import Event, EventType
from wideseek.runs.log import read_page
from wideseek.tools.outcome import Status
from wideseek_eval.report import METRICS, value_of
from wideseek_eval.results import Record

JsonObject = dict[str, Any]

SHOWN = 4000
"""Characters of a page or a report that a log holds; the rest is in the run's folder."""

_LIMITS = {"max_seconds": "time", "max_tokens": "token", "context_full": "context"}
_BUDGETS = {"max_seconds": ("budget", "max_seconds"), "max_tokens": ("budget", "max_tokens")}
_STOPS = {"stop": "stop", "length": "max_tokens", "cancelled": "unknown"}
_GOOD = (Status.OK, Status.NO_RESULTS)


def sample_of(
    record: Record, events: Sequence[Event], folder: Path, target: str, model: str
) -> JsonObject:
    """The sample of a finished trial. `target` is what was right, empty where it is not known."""
    start, end = events[0], events[-1]
    usage = _usage(end.data["usage"])
    seconds = end.data["usage"]["seconds"]
    scores = _scores(record, end.data["answer"])
    transcript = _Transcript(folder, model, start.ts)
    for event in events:
        transcript.add(event)
    return {
        "id": record.task,
        "epoch": record.trial + 1,
        "input": start.data["question"],
        "target": target,
        "messages": transcript.root_messages,
        "output": _output(model, end.data["answer"], "stop", usage),
        "scores": scores,
        "metadata": _metadata(record),
        "store": {},
        "events": transcript.events + [_score_event(s, n, end) for n, s in scores.items()],
        "model_usage": {model: usage},
        "role_usage": {},
        "started_at": stamp(start.ts),
        "completed_at": stamp(end.ts),
        "total_time": seconds,
        "working_time": seconds,
        "uuid": f"{record.run}-{start.data['seed']:x}",
        "attachments": {},
        "limit": _limit(record.stop_reason, start.data),
    }


def summary_of(sample: Mapping[str, Any]) -> JsonObject:
    """What a viewer's list shows of a sample."""
    kept = (
        "id epoch input target scores metadata model_usage role_usage started_at completed_at "
        "total_time working_time uuid".split()
    )
    limit = sample["limit"]
    return {name: sample[name] for name in kept} | {
        "limit": limit["type"] if limit else None,
        "completed": True,
        "message_count": len(sample["messages"]),
    }


def stamp(seconds: float) -> str:
    """Unix time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _scores(record: Record, answer: str) -> dict[str, JsonObject]:
    """By metric, the answer beside the first; none where nothing was scored: that is not a zero."""
    values = {METRICS[metric]: value_of(record, metric) for metric in METRICS}
    scores: dict[str, JsonObject] = {
        name: {"value": value} for name, value in values.items() if value is not None
    }
    for score in list(scores.values())[:1]:
        score["answer"] = answer
    return scores


def _metadata(record: Record) -> JsonObject:
    names = "run kind rows group stop_reason failure subagents tokens tool_calls agent_ends".split()
    return {name: getattr(record, name) for name in [*names, "tool_outcomes"]}


def _limit(stop_reason: str, started: Mapping[str, Any]) -> JsonObject | None:
    if stop_reason not in _LIMITS:
        return None
    part, name = _BUDGETS.get(stop_reason, ("limits", "seq_length"))
    return {"type": _LIMITS[stop_reason], "limit": float(started[part][name])}


def _usage(usage: Mapping[str, Any]) -> JsonObject:
    prompt, cached, reply = (
        usage[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
    )
    return {
        "input_tokens": prompt - cached,
        "output_tokens": reply,
        "total_tokens": prompt + reply,
        "input_tokens_cache_read": cached,
    }


def _output(model: str, text: str, stop_reason: str, usage: JsonObject) -> JsonObject:
    message = {"role": "assistant", "content": text, "source": "generate", "model": model}
    choice = {"message": message, "stop_reason": stop_reason}
    return {"model": model, "choices": [choice], "completion": text, "usage": usage}


def _score_event(score: JsonObject, name: str, end: Event) -> JsonObject:
    return {
        "event": "score",
        "timestamp": stamp(end.ts),
        "working_start": end.data["usage"]["seconds"],
        "score": score,
        "scorer": name,
    }


class _Transcript:
    """The events of a run as Inspect tells them: a span an agent, replies and calls within."""

    def __init__(self, folder: Path, model: str, start: float) -> None:
        self.events: list[JsonObject] = []
        self.root_messages: list[JsonObject] = []
        self._folder = folder
        self._model = model
        self._start = start
        self._root: str | None = None
        self._called: dict[str, tuple[JsonObject, float]] = {}
        self._heard: dict[str | None, list[JsonObject]] = {}  # by agent, since its last reply

    def add(self, event: Event) -> None:
        """Take in the next event."""
        data = event.data
        match event.type:
            case EventType.AGENT_SPAWNED:
                self._begin(event)
            case EventType.LLM_DONE:
                self._reply(event)
            case EventType.TOOL_CALLED:
                self._called[data["call_id"]] = data["arguments"], event.ts
            case EventType.TOOL_RESULT:
                self._result(event)
            case EventType.AGENT_STATE if "end" in data:
                self._end(event)
            case EventType.WARNING:
                told = {"source": "wideseek", "data": data["message"]}
                self._append("info", event, told)

    def _append(self, kind: str, event: Event, fields: JsonObject) -> None:
        at = round(event.ts - self._start, 3)
        place = {"event": kind, "span_id": event.agent_id, "timestamp": stamp(event.ts)}
        self.events.append(place | {"working_start": at} | fields)

    def _hear(self, agent: str | None, message: JsonObject) -> None:
        self._heard.setdefault(agent, []).append(message)
        if agent == self._root:
            self.root_messages.append(message)

    def _begin(self, event: Event) -> None:
        if self._root is None:
            self._root = event.agent_id
        span = {"id": event.agent_id, "parent_id": event.parent_id, "type": "agent"}
        self._append("span_begin", event, span | {"name": event.agent_id})
        user = {"role": "user", "content": event.data["task"], "source": "input"}
        self._hear(event.agent_id, user)

    def _reply(self, event: Event) -> None:
        data, reads = event.data, "call_id" in event.data
        output = _output(self._model, data["text"], _STOPS[data["finish_reason"]], _usage(data))
        heard = [] if reads else self._heard.pop(event.agent_id, [])
        told = {
            "model": self._model,
            "role": "reader" if reads else None,
            "input": heard,
            "tools": [],
            "tool_choice": "auto",
            "config": {"seed": data["seed"]},
            "output": output,
            "completed": stamp(event.ts),
        }
        self._append("model", event, told)
        if event.agent_id == self._root and not reads:
            self.root_messages.append(output["choices"][0]["message"])

    def _result(self, event: Event) -> None:
        data = event.data
        arguments, begun = self._called.pop(data["call_id"], ({}, event.ts))
        text = self._tell(data)
        failed = data["status"] not in _GOOD
        kind = "timeout" if data["status"] == Status.TIMEOUT else "unknown"
        told = {
            "id": data["call_id"],
            "function": data["name"],
            "arguments": arguments,
            "result": text,
            "error": {"type": kind, "message": text} if failed else None,
            "completed": stamp(event.ts),
            "working_time": round(event.ts - begun, 3),
        }
        self._append("tool", event, told)
        if event.agent_id is not None:  # else a search of the run itself, before it has an agent
            message = {"role": "tool", "content": text, "function": data["name"]}
            self._hear(event.agent_id, message)

    def _tell(self, data: Mapping[str, Any]) -> str:
        """What a call gave, in text."""
        if "page" in data:
            return read_page(self._folder, data["page"]["sha256"])[:SHOWN]
        hits = [f"{hit['title']}\n{hit['url']}\n{hit['snippet']}" for hit in data.get("hits", ())]
        told = "\n\n".join(hits) or f"{data['status']} {data.get('detail', '')}".strip()
        return told[:SHOWN]

    def _end(self, event: Event) -> None:
        report = f"[{event.agent_id}: {event.data['end']}]\n{event.data.get('report', '')}"
        self._append("span_end", event, {"id": event.agent_id})
        if event.parent_id is not None:
            message = {"role": "tool", "content": report[:SHOWN], "function": "create_sub_agents"}
            self._hear(event.parent_id, message)
