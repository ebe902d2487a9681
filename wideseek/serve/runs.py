"""Research runs on a server: each a task that outlives the call that started it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from wideseek.agents.limits import Limits
from wideseek.answering import Answered, answer_question, plan_research
from wideseek.backends import Backends
from wideseek.runs.ledger import Budget
from wideseek.runs.log import new_run_id
from wideseek.serve.bodies import BudgetBody, ResearchBody
from wideseek.serve.errors import ApiError

MAX_RUNS = 8

Number = TypeVar("Number", int, float)


class Runs:
    """Starts runs, at most MAX_RUNS at a time, none wider or longer than this server allows.

    config: what to keep in every run folder besides the body of its call.
    """

    def __init__(
        self,
        backends: Backends,
        runs_dir: Path,
        *,
        width: int | None = None,
        budget: Budget | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._backends = backends
        self._runs_dir = runs_dir
        self._width = Limits().width if width is None else width
        self._budget = budget or Budget()
        self._config = dict(config or {})
        self._cancel = asyncio.Event()
        self._live: set[asyncio.Task[Answered]] = set()

    @property
    def num_live(self) -> int:
        """Runs under way."""
        return len(self._live)

    def start(self, body: ResearchBody) -> asyncio.Task[Answered]:
        """Start a run; ApiError if it asks for more than there is."""
        if len(self._live) >= MAX_RUNS:
            raise ApiError(503, "too many runs at a time", code="overloaded", retry_after=10)
        width = within(body.max_agents, self._width, "max_agents")
        research = plan_research(
            self._backends,
            body.question,
            width=width,
            language=body.language,
            budget=self._grant(body.budget),
        )
        run = asyncio.ensure_future(
            answer_question(
                research,
                body.question,
                runs_dir=self._runs_dir,
                run_id=new_run_id(),
                workflow=body.workflow,
                seed=body.seed or 0,
                config=self._config | body.model_dump(),
                cancel=self._cancel,
            )
        )
        self._live.add(run)
        run.add_done_callback(self._live.discard)
        return run

    async def stop(self) -> None:
        """End every run with what it has, and close the backends."""
        self._cancel.set()
        await asyncio.gather(*self._live, return_exceptions=True)
        await self._backends.close()

    def _grant(self, asked: BudgetBody) -> Budget:
        most = self._budget
        return Budget(
            max_agents=within(asked.agents, most.max_agents, "budget.agents"),
            max_tokens=within(asked.tokens, most.max_tokens, "budget.tokens"),
            max_tool_calls=most.max_tool_calls,
            max_seconds=within(asked.seconds, most.max_seconds, "budget.seconds"),
        )


def within(asked: Number | None, most: Number | None, field: str) -> Number | None:
    """What was asked for, or the most there is; ApiError where the one exceeds the other."""
    if asked is None or most is None:
        return most if asked is None else asked
    if asked > most:
        raise ApiError(400, f"{field} is at most {most} here", param=field, code="invalid_value")
    return asked
