"""The one account of a run: what its agents spent and may still spend, and why it was stopped.

At every moment and for agents, model calls and tool calls alike: issued = done + failed + live.
Limits are hard: nothing is granted beyond them, and the first one that is hit sets `stopped`, which
ends every agent of the run.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any, TypeVar

T = TypeVar("T")

CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a whole run may spend; None is no limit.

    max_agents counts subagents, max_tokens prompt and completion tokens of every model call,
    max_tool_calls searches and pages.
    """

    max_agents: int | None = 100
    max_tokens: int | None = 50_000_000
    max_tool_calls: int | None = 10_000
    max_seconds: float | None = 7200.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} must be more than 0, not {value}")


@dataclass(slots=True)
class Count:
    """Things of one kind: every issued one is live until it is done or failed."""

    issued: int = 0
    done: int = 0
    failed: int = 0
    live: int = 0

    def issue(self, number: int = 1) -> None:
        self.issued += number
        self.live += number

    def settle(self, *, ok: bool) -> None:
        assert self.live > 0, "settled more than was issued"
        self.live -= 1
        self.done += ok
        self.failed += not ok


class Ledger:
    """Spending of one run. Not for threads: all agents of a run share one event loop."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.agents = Count()
        self.model_calls = Count()
        self.tool_calls = Count()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.stopped = asyncio.Event()
        self.stop_reason: str | None = None
        self._reserved = 0
        self._tokens_freed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()

    @asynccontextmanager
    async def running(self, cancel: asyncio.Event | None) -> AsyncIterator[None]:
        """While open: stop the run when its seconds are over or `cancel` is set."""
        timer = cancelled = None
        if self.budget.max_seconds is not None:
            timer = self._loop.call_later(self.budget.max_seconds, self.stop, "max_seconds")
        if cancel is not None:
            cancelled = self._loop.create_task(self._stop_on(cancel))
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            if cancelled is not None:
                cancelled.cancel()

    async def _stop_on(self, cancel: asyncio.Event) -> None:
        await cancel.wait()
        self.stop(CANCELLED)

    def stop(self, reason: str) -> None:
        """End every agent of the run; the first reason is the one that is kept."""
        if self.stop_reason is None:
            self.stop_reason = reason
        self.stopped.set()
        self._wake()

    def grant_agents(self, wanted: int) -> int:
        """Issue as many subagents as are wanted and left; the root agent is not counted."""
        return _grant(self.agents, wanted, self.budget.max_agents, already=self.agents.issued - 1)

    def grant_tool_calls(self, wanted: int) -> int:
        """Issue as many tool calls as are wanted and left."""
        return _grant(
            self.tool_calls, wanted, self.budget.max_tool_calls, already=self.tool_calls.issued
        )

    async def reserve(self, prompt: int, wanted: int) -> int:
        """Issue a model call, set aside its tokens, and grant it completion tokens.

        Waits while others hold what is left. 0, and nothing issued, once the run has stopped or not
        one more token can be had, which stops it.
        """
        while not self.stopped.is_set():
            left = self._tokens_left()
            granted = wanted if left is None else min(wanted, left - prompt)
            if granted == wanted or (granted > 0 and not self._reserved):
                self.model_calls.issue()
                self._reserved += prompt + granted
                return granted
            if not self._reserved:
                self.stop("max_tokens")
                break
            await self._tokens_freed.wait()
        return 0

    def settle(
        self, reserved: int, *, prompt: int, completion: int, cached: int = 0, ok: bool
    ) -> None:
        """End a model call: give back the `reserved` tokens and charge those used."""
        self.model_calls.settle(ok=ok)
        self._reserved -= reserved
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.cached_tokens += cached
        self._wake()

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, or None if the run stops first; the work is then cancelled."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.stopped.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stop.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    def usage(self) -> dict[str, int | float]:
        """What was spent so far, as it is shown: counts, tokens and seconds."""
        return {
            "agents": self.agents.issued,
            "agents_failed": self.agents.failed,
            "model_calls": self.model_calls.issued,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "tool_calls": self.tool_calls.issued,
            "tool_calls_failed": self.tool_calls.failed,
            "seconds": round(self._loop.time() - self._start, 3),
        }

    def _tokens_left(self) -> int | None:
        if self.budget.max_tokens is None:
            return None
        return self.budget.max_tokens - self.prompt_tokens - self.completion_tokens - self._reserved

    def _wake(self) -> None:
        self._tokens_freed.set()
        self._tokens_freed = asyncio.Event()


def _grant(count: Count, wanted: int, limit: int | None, *, already: int) -> int:
    granted = wanted if limit is None else min(wanted, limit - already)
    count.issue(granted)
    return granted
