"""What the agents of a run are doing, as plain lines or as a block redrawn in place."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from wideseek.ask.show import cut, visible
from wideseek.runs.events import RUN_ENDS, Event, EventType

_SECONDS_BETWEEN_FRAMES = 0.05
_MARKS = {"running": "\u25b6", "done": "\u2713", "capped": "\u25a0", "failed": "\u2717"}
_COLOURS = {"running": "36", "done": "32", "capped": "33", "failed": "31"}


def describe(event: Event) -> str | None:
    """One line on an event, or None if it is not worth one."""
    data = event.data
    match event.type:
        case EventType.AGENT_SPAWNED:
            return f"started: {data['task']}" if event.parent_id else "started"
        case EventType.PLAN_UPDATED:
            count = len(data["subtasks"])
            return f"starts {count} subagent{'s' * (count != 1)}"
        case EventType.LLM_DONE if "turn" in data:
            return f"turn {data['turn']}: {data['completion_tokens']} tokens"
        case EventType.TOOL_RESULT:
            return _describe_result(data)
        case EventType.AGENT_STATE if "end" in data:
            return f"{data['state']}: {data['end'].replace('_', ' ')}"
        case EventType.WARNING:
            return f"warning: {data['message']}"
        case ended if ended in RUN_ENDS:
            return f"{ended.value.removeprefix('run.')}: {data['stop_reason'].replace('_', ' ')}"
    return None


def _describe_result(data: dict[str, Any]) -> str:
    found = data["status"].replace("_", " ")
    if data["name"] == "search":
        hits = [hit["title"] for hit in data.get("hits", ())]
        return f"searched: {', '.join(hits) or found}"
    return f"read: {data['page']['title']}" if "page" in data else f"read: {found}"


def say(out: TextIO, text: str) -> None:
    """Write and flush; once nobody reads `out` any more, to nowhere, as a run goes on without."""
    try:
        out.write(text)
        out.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


@contextmanager
def waiting(out: TextIO, text: str) -> Iterator[None]:
    """Show `text` on a terminal while the block runs, and take it away again; elsewhere nothing is shown."""
    if not is_live(out):
        yield
        return
    say(out, f"{text} \u2026")
    try:
        yield
    finally:
        say(out, "\r\x1b[2K")


def is_live(out: TextIO) -> bool:
    """Whether lines of `out` can be drawn anew."""
    return out.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class PlainProgress:
    """One line an event: seconds since the run began, the agent, what it did."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._start: float | None = None

    def show(self, event: Event) -> None:
        """Print the event's line, if it has one."""
        self._start = event.ts if self._start is None else self._start
        line = describe(event)
        if line is not None:
            agent = event.agent_id or "run"
            text = f"{event.ts - self._start:6.1f}s {agent:<8} {visible(line)}"
            say(self._out, f"{text[:300]}\n")

    def close(self) -> None:
        """Nothing is left to do."""


class LiveProgress:
    """A block of lines redrawn in place: the run's account, then what each agent did last."""

    def __init__(
        self,
        out: TextIO,
        *,
        colour: bool,
        size: Callable[[], tuple[int, int]] = shutil.get_terminal_size,
    ) -> None:
        self._out = out
        self._colour = colour
        self._size = size
        self._start: float | None = None
        self._now = self._drawn_at = 0.0
        self._usage: dict[str, Any] = {}
        self._agents: dict[str, tuple[str, str]] = {}  # agent -> its state, what it did last
        self._num_drawn = 0

    def show(self, event: Event) -> None:
        """Take in an event and redraw, at most twenty times a second."""
        self._start = event.ts if self._start is None else self._start
        self._now = event.ts
        self._usage = event.data.get("usage", self._usage)
        line = describe(event)
        if event.agent_id is not None:
            state, last = self._agents.get(event.agent_id, ("running", ""))
            state = event.data["state"] if event.type is EventType.AGENT_STATE else state
            self._agents[event.agent_id] = (state, last if line is None else visible(line))
        if event.ts - self._drawn_at >= _SECONDS_BETWEEN_FRAMES or event.type in RUN_ENDS:
            self._draw()

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._draw()

    def _draw(self) -> None:
        columns, rows = self._size()
        agents = self._pick(max(1, rows - 3))
        lines = [cut(self._head(len(self._agents) - len(agents)), columns - 1)]
        lines += [self._line(agent, columns) for agent in agents]
        up = f"\x1b[{self._num_drawn}A" if self._num_drawn else ""
        block = "".join(f"\r\x1b[2K{line}\n" for line in lines)
        say(self._out, f"{up}{block}\x1b[J")
        self._num_drawn, self._drawn_at = len(lines), self._now

    def _pick(self, room: int) -> list[str]:
        """The agents there is room for: those at work first, in the order they were started."""
        at_work = [agent for agent, (state, _) in self._agents.items() if state == "running"]
        ended = [agent for agent in self._agents if agent not in at_work]
        picked = {*at_work[:room], *ended[: max(0, room - len(at_work))]}
        return [agent for agent in self._agents if agent in picked]

    def _head(self, num_hidden: int) -> str:
        usage = self._usage
        tokens = usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
        running = sum(state == "running" for state, _ in self._agents.values())
        parts = [
            f"{self._now - (self._start or 0.0):.1f}s",
            f"{len(self._agents)} agents, {running} at work",
            f"{usage.get('tool_calls', 0)} tool calls",
            f"{tokens:,} tokens",
        ]
        return " \u00b7 ".join(parts + [f"{num_hidden} not shown"] * bool(num_hidden))

    def _line(self, agent: str, columns: int) -> str:
        state, last = self._agents[agent]
        mark = _MARKS.get(state, "\u00b7")
        if self._colour and state in _COLOURS:
            mark = f"\x1b[{_COLOURS[state]}m{mark}\x1b[0m"
        return f"{mark} {agent:<8} {cut(last, max(0, columns - 12))}"
