"""Runs the trials of a suite, several at once, each in a run folder of its own."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from wideseek.agents.model_call import derive_seed
from wideseek.agents.research import Workflow
from wideseek.answering import answer_question, plan_research
from wideseek.backends import Backends, Model, name_of
from wideseek.grading.failure import Failure
from wideseek.grading.patient_judge import PatientJudge
from wideseek.runs.events import Event, EventType
from wideseek.runs.ledger import Budget
from wideseek.runs.log import read_events
from wideseek_eval.contamination import GuardedTools, load_guard
from wideseek_eval.grade import Grade, grade_answer
from wideseek_eval.responses import write_response
from wideseek_eval.results import Record, Results, record_run
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
    model: Model | None,
    settings: Settings,
    results: Results,
    *,
    concurrency: int,
    show: Callable[[Record], None],
    graded: bool = True,
    judge: PatientJudge | None = None,
) -> int:
    """Answer and grade what `results` lacks, in task order; the number that got no answer at all.

    Without a model only finished runs are graded; without `graded` they are only run, and shown as
    records without a score. A model that failed (an outage, not a bad answer) leaves no result: the
    trial is done again by the next session on the same folder. Nor does a judge that failed: the
    answer is kept, and judged by the next session.
    """
    open_slots = asyncio.Semaphore(concurrency)
    unfinished = 0

    async def run_one(task: EvalTask, trial: int) -> None:
        nonlocal unfinished
        folder = results.runs / f"{task.id}-t{trial}"
        async with open_slots:
            events = _finished_events(folder)
            if not events and model is not None:
                events = await _ask(task, trial, folder, model, settings)
        if not events or events[-1].type is not EventType.RUN_COMPLETED:
            unfinished += 1
            return
        answer = events[-1].data["answer"]
        write_response(results.folder / "responses", folder, task, trial, answer)
        grade: Grade | Failure = Grade(answered=bool(answer))
        if graded:
            grade = await grade_answer(task, answer, judge)
        if isinstance(grade, Failure):
            unfinished += 1
            return
        record = record_run(task, trial, folder.name, events, grade)
        if graded:
            results.add(record)
        show(record)

    async with asyncio.TaskGroup() as group:
        for trial, task in product(range(trials), tasks):
            if (task.id, trial) not in results.records:
                group.create_task(run_one(task, trial))
    return unfinished


def _finished_events(folder: Path) -> list[Event]:
    """The events of a run that was completed before; none for one cut short, or not begun."""
    events = read_events(folder) if folder.exists() else []
    return events if events and events[-1].type is EventType.RUN_COMPLETED else []


async def _ask(
    task: EvalTask, trial: int, folder: Path, model: Model, settings: Settings
) -> list[Event]:
    """The events of a new run in `folder`, in place of one that a kill or an outage cut short."""
    if folder.exists():
        shutil.rmtree(folder)
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
    tools = GuardedTools(research.search, research.access, load_guard())
    research = replace(research, search=tools, access=tools)
    config: dict[str, Any] = {"task": task.id, "trial": trial, "model": model.name}
    answered = await answer_question(
        research,
        task.question,
        runs_dir=folder.parent,
        run_id=folder.name,
        workflow=settings.workflow,
        seed=seed,
        config=config,
    )
    return read_events(answered.folder)
