"""Runs the trials of a suite, several at once, each in a run folder of its own."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from wideseek.agents.model_call import derive_seed
from wideseek.agents.research import Workflow
from wideseek.answering import answer_question, plan_research
from wideseek.backends import Backends, Model, name_of
from wideseek.runs.events import Event, EventType
from wideseek.runs.ledger import Budget
from wideseek.runs.log import read_events
from wideseek_eval.results import Record, Results, grade_run
from wideseek_eval.suites import EvalTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How every question is answered. width: subagents a call; max_seconds: of one question."""

    workflow: Workflow
    width: int
    temperature: float
    max_seconds: float
    seed: int


async def run_trials(
    tasks: Sequence[EvalTask],
    trials: int,
    model: Model,
    settings: Settings,
    results: Results,
    *,
    concurrency: int,
    show: Callable[[Record], None],
) -> int:
    """Answer and grade what `results` lacks, in task order; the number that got no answer at all.

    A model that failed (an outage, not a bad answer) leaves no result: the trial is done again by
    the next session on the same folder.
    """
    open_slots = asyncio.Semaphore(concurrency)
    unfinished = 0

    async def run_one(task: EvalTask, trial: int) -> None:
        nonlocal unfinished
        async with open_slots:
            run = f"{task.id}-t{trial}"
            events = await _events_of(task, trial, run, model, settings, results.folder / "runs")
        if events[-1].type is not EventType.RUN_COMPLETED:
            unfinished += 1
            return
        record = grade_run(task, trial, run, events)
        results.add(record)
        show(record)

    async with asyncio.TaskGroup() as group:
        for trial, task in product(range(trials), tasks):
            if (task.id, trial) not in results.records:
                group.create_task(run_one(task, trial))
    return unfinished


async def _events_of(
    task: EvalTask, trial: int, run: str, model: Model, settings: Settings, runs_dir: Path
) -> list[Event]:
    """The events of a trial: those of a folder that was completed before, else of a new run."""
    folder = runs_dir / run
    if folder.exists():
        events = read_events(folder)
        if events and events[-1].type is EventType.RUN_COMPLETED:
            return events
        shutil.rmtree(folder)  # cut short by a kill or an outage
    seed = derive_seed(settings.seed, task.id, trial)
    backends = Backends(
        lead=model, sub=model, corpus=task.open_corpus(), bundled=model.name == name_of(None)
    )
    research = plan_research(
        backends,
        task.question,
        width=settings.width,
        temperature=settings.temperature,
        budget=Budget(max_agents=None, max_seconds=settings.max_seconds),
    )
    config: dict[str, Any] = {"task": task.id, "trial": trial, "model": model.name}
    answered = await answer_question(
        research,
        task.question,
        runs_dir=runs_dir,
        run_id=run,
        workflow=settings.workflow,
        seed=seed,
        config=config,
    )
    return read_events(answered.folder)
