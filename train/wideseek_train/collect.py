"""Rollouts of a step: questions handed out through a store, many agents at once, each rollout to disk as it ends.

There is no collective here: a rank takes the next question when it has room, and a slow question holds up nobody but
the end of the step. Which questions a step holds, and every sampled token, follow from (seed, cursor, step, question,
attempt, agent, turn) alone: ranks, their speed and what was found in traces change nothing.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from wideseek.agents.limits import Limits
from wideseek.agents.model_call import derive_seed
from wideseek.agents.prompts import load_prompts
from wideseek.agents.research import Research, Workflow
from wideseek.backends import Model
from wideseek.generation import Sampling
from wideseek.grading.credit import CreditConfig
from wideseek.runs.events import EventType
from wideseek.runs.ledger import Budget
from wideseek.tools.corpus import Corpus
from wideseek_train.graded import Graded, GradedGroup, Turns, grade
from wideseek_train.tasks import Cursor, TaskSource, TrainTask
from wideseek_train.traces import TraceFile, read_traces

POLL_SECONDS = 0.02
EVALUATION = -1
"""The step under which evaluation derives its seeds."""


class Counters(Protocol):
    """What is needed of a process group's store: counters that start at 0 and are safe to share."""

    def add(self, key: str, amount: int, /) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectConfig:
    """What a step collects: `group_size` attempts at each of `questions` questions.

    Questions whose attempts all earn the same teach nothing and are drawn again, at most `most_questions` in all.
    Worlds hold min_rows to max_rows items; a lead may start min_width to limits.width subagents a call. temperature: of
    sampling, while the loss is that of the plain distribution; below 1 fewer rollouts fail for a slip in a long copy.
    """

    questions: int = 4
    group_size: int = 8
    most_questions: int = 8
    min_rows: int = 3
    max_rows: int = 6
    min_width: int = 10
    workflow: Workflow = "team"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("questions", 1), ("group_size", 2), ("min_rows", 1), ("min_width", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.most_questions < self.questions:
            raise ValueError(
                f"most_questions must be at least questions {self.questions}, not {self.most_questions}"
            )
        if self.max_rows < self.min_rows:
            raise ValueError(
                f"max_rows must be at least min_rows {self.min_rows}, not {self.max_rows}"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")

    @property
    def num_rollouts(self) -> int:
        """Rollouts a step is planned to train on, over all ranks: the denominator of the weights."""
        return self.questions * self.group_size


@dataclass(frozen=True, kw_only=True)
class Collector:
    """How a rank answers its share of the questions; keeps no state between steps.

    tasks: what is asked. lead, which also plays the single agent, and sub are one model or two.
    rollout_seconds bounds one attempt.
    traces: the folder they stream to, one that all ranks see if a step is to go on with other ranks after a kill.
    """

    config: CollectConfig
    tasks: TaskSource
    limits: Limits
    credit: CreditConfig
    turns: Turns
    lead: Model
    sub: Model
    store: Counters
    traces: Path
    rollout_seconds: float
    rank: int = 0
    num_ranks: int = 1

    def collect(self, step: int, cursor: Cursor, weights: str = "") -> list[GradedGroup]:
        """This rank's groups of a step; what traces already hold is not done again.

        cursor: how far data sets were read when the step began. weights: what its rollouts are sampled from, written
        into their traces. Returns when all ranks' groups are done, with or without a signal.
        """
        return asyncio.run(self._collect(step, cursor, weights))

    def evaluate(self, tasks: Sequence[TrainTask]) -> list[Graded]:
        """This rank's share of one greedy attempt at each task, at full width."""
        return asyncio.run(self._evaluate(tasks))

    async def _collect(self, step: int, cursor: Cursor, weights: str) -> list[GradedGroup]:
        finished = read_traces(self.traces, step)
        queue = QuestionQueue(self.store, step, self.config)
        groups: list[GradedGroup] = []
        # Half a share at once where others could take the rest; alone, everything.
        shares = self.num_ranks * 2 if self.num_ranks > 1 else 1
        lanes = -(-self.config.questions // shares)
        with TraceFile(self.traces, step, self.rank, weights) as trace:

            async def work() -> None:
                while (question := await queue.take()) is not None:
                    task = self.tasks.draw(step, question, cursor)
                    group = await self._run_group(task, (step, question), finished, trace)
                    groups.append(group)
                    queue.settle(signal=group.has_signal)

            async with asyncio.TaskGroup() as running:
                for _ in range(lanes):
                    running.create_task(work())
        return sorted(groups, key=lambda group: group.question)

    async def _run_group(
        self,
        task: TrainTask,
        place: tuple[int, int],
        finished: Mapping[tuple[int, int], Graded],
        trace: TraceFile,
    ) -> GradedGroup:
        step, question = place
        width = draw_width(self.config, self.limits.width, self.tasks.seed, step, question)
        corpus = task.open_corpus()

        async def run(attempt: int) -> Graded:
            if (question, attempt) in finished:
                return finished[question, attempt]
            graded = await self._attempt(
                task, corpus, (step, question, attempt), width, self.config.temperature
            )
            trace.write(graded)
            return graded

        async with asyncio.TaskGroup() as running:
            tasks = [running.create_task(run(i)) for i in range(self.config.group_size)]
        attempts = tuple(task.result() for task in tasks)
        return GradedGroup(question=question, task=task, attempts=attempts)

    async def _attempt(
        self,
        task: TrainTask,
        corpus: Corpus,
        place: tuple[int, int, int],
        width: int,
        temperature: float,
    ) -> Graded:
        """One rollout and its reward; every ending but a bug is a Graded."""
        tools: Counter[str] = Counter()

        def count_tools(
            type: EventType,
            data: Mapping[str, Any],
            *,
            agent_id: str | None = None,
            parent_id: str | None = None,
        ) -> None:
            if type is EventType.TOOL_RESULT and agent_id is not None:  # None: the run's own search
                role = agent_id.partition("-")[0]
                tools[f"{role}.{data['name']}.{data['status']}"] += 1

        known = (self.lead.max_model_len, self.sub.max_model_len)
        longest = min(self.limits.seq_length, *(length for length in known if length))
        limits = replace(self.limits, width=width, seq_length=longest)
        research = Research(
            open_lead=self.lead.open,
            open_sub=self.sub.open,
            search=corpus,
            access=corpus,
            prompts=load_prompts("en"),
            limits=limits,
            budget=Budget(max_agents=None, max_seconds=self.rollout_seconds),
            sampling=Sampling(temperature=temperature),
            emit=count_tools,
        )
        started = time.time()
        rollout = await research.run(
            task.question, self.config.workflow, seed=derive_seed(self.tasks.seed, *place)
        )
        return Graded(
            step=place[0],
            question=place[1],
            attempt=place[2],
            task=task.id,
            rollout=rollout,
            reward=grade(task, rollout, self.credit, self.turns),
            tools=dict(tools),
            started=started,
            ended=time.time(),
        )

    async def _evaluate(self, tasks: Sequence[TrainTask]) -> list[Graded]:
        slots = asyncio.Semaphore(self.config.num_rollouts)

        async def run(number: int) -> Graded:
            async with slots:
                corpus = tasks[number].open_corpus()
                place = (EVALUATION, number, 0)
                return await self._attempt(tasks[number], corpus, place, self.limits.width, 0.0)

        own = range(self.rank, len(tasks), self.num_ranks)
        return list(await asyncio.gather(*(run(number) for number in own)))


def draw_width(config: CollectConfig, width: int, seed: int, step: int, question: int) -> int:
    """How many subagents a call the leads of a question may start, at most `width`."""
    own = derive_seed(seed, "question", step, question)
    return random.Random(own).randint(min(config.min_width, width), width)


class QuestionQueue:
    """The questions of one step, shared by all ranks: three counters in the store.

    Number i may be taken once i < questions + groups known to teach nothing, so that neither ranks nor their speed
    decide which questions the step holds. The step is over when every question that may be taken is done.
    """

    def __init__(self, store: Counters, step: int, config: CollectConfig) -> None:
        self._store = store
        self._step = step
        self._config = config

    async def take(self) -> int | None:
        """The next question, waiting for one to be free; None when the step is over."""
        number = self._add("taken", 1) - 1
        while True:
            # In this order: what is done was counted as silent before.
            done, silent = self._add("done", 0), self._add("silent", 0)
            free = min(self._config.most_questions, self._config.questions + silent)
            if number < free:
                return number
            if done >= free:
                return None
            await asyncio.sleep(POLL_SECONDS)

    def settle(self, *, signal: bool) -> None:
        """One question is done."""
        self._add("silent", int(not signal))
        self._add("done", 1)

    def _add(self, counter: str, amount: int) -> int:
        return self._store.add(f"step-{self._step}/{counter}", amount)
