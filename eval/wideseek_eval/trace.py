"""What a run's folder tells beyond its answer: what each agent cost, and what the tools gave."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wideseek.agents.prompts import Language, detect_language
from wideseek.runs.events import Event, EventType
from wideseek.runs.log import read_events, read_page
from wideseek.tools.outcome import Status
from wideseek_eval.contamination import REFUSAL, Guard, load_guard

_NOT_FETCHED = (Status.REFUSED_URL, Status.CANCELLED)
_FETCHED = {"search": (Status.OK, Status.NO_RESULTS), "access": (Status.OK,)}


@dataclass(slots=True)
class AgentCost:
    """One agent: tokens of prompts and replies, tool calls, seconds from its start to its end."""

    role: str
    tokens: int = 0
    tool_calls: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One run. fetches: (succeeded, tried) by tool, without calls that were never sent out.

    blocked: tool calls in which the guard stepped in. canaries: texts read that carry a mark.
    """

    language: Language
    agents: tuple[AgentCost, ...]
    fetches: dict[str, tuple[int, int]]
    blocked: int
    canaries: int


def read_traces(runs: Path, trials: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Trace]:
    """The traces of trials (task, trial) whose runs are still under `runs`."""
    guard = load_guard()
    read = {(task, trial): read_trace(runs / f"{task}-t{trial}", guard) for task, trial in trials}
    return {trial: trace for trial, trace in read.items() if trace is not None}


def read_trace(folder: Path, guard: Guard) -> Trace | None:
    """The Trace of a run; None where its events are gone."""
    if not (folder / "events.jsonl").is_file():
        return None
    events = read_events(folder)
    results = [event.data for event in events if event.type is EventType.TOOL_RESULT]
    started = (event.data["question"] for event in events if event.type is EventType.RUN_STARTED)
    pages = {data["page"]["sha256"] for data in results if "page" in data}
    texts = [read_page(folder, sha256) for sha256 in sorted(pages)]
    texts += [hit["snippet"] for data in results for hit in data.get("hits", ())]
    return Trace(
        language=detect_language(next(started, "")),
        agents=_agent_costs(events),
        fetches={
            name: _fetched(good, [data["status"] for data in results if data["name"] == name])
            for name, good in _FETCHED.items()
        },
        blocked=sum(data.get("detail", "").endswith(REFUSAL) for data in results),
        canaries=sum(guard.count_canaries(text) > 0 for text in texts),
    )


def _fetched(good: Sequence[str], statuses: Sequence[str]) -> tuple[int, int]:
    counts = Counter(status for status in statuses if status not in _NOT_FETCHED)
    return sum(counts[status] for status in good), counts.total()


def _agent_costs(events: Sequence[Event]) -> tuple[AgentCost, ...]:
    """Agents in the order they came; one whose end is not told lived until the last event."""
    costs: dict[str, AgentCost] = {}
    born: dict[str, float] = {}
    for event in events:
        agent = event.agent_id
        if event.type is EventType.AGENT_SPAWNED and agent is not None:
            costs[agent], born[agent] = AgentCost(event.data["role"]), event.ts
            costs[agent].seconds = events[-1].ts - event.ts
        if agent is None or agent not in costs:
            continue
        if event.type is EventType.LLM_DONE:
            costs[agent].tokens += event.data["prompt_tokens"] + event.data["completion_tokens"]
        elif event.type is EventType.TOOL_RESULT:
            costs[agent].tool_calls += 1
        elif event.type is EventType.AGENT_STATE and "end" in event.data:
            costs[agent].seconds = event.ts - born[agent]
    return tuple(costs.values())
