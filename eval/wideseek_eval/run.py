"""Runs the trials of a suite, several at once, each in a run folder of its own."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from wideseek.agents.model_call import derive_seed
from wideseek.agents.research import Research, Workflow
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
from wideseek_eval.spending import spent_in
from wideseek_eval.suites import EvalTask
from wideseek_eval.team import Team


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How every question is answered.

    width: subagents a call; found_count: titles the lead begins with; turns: of an agent that works
    alone, lead_turns: of a lead. max_seconds, max_tokens: of one question. reply_tokens: of one reply, and of a
    subagent's. None: as `plan_research` has it.
    """

    workflow: Workflow
    width: int
    temperature: float
    max_seconds: float
    seed: int
    found_count: int | None = None
    turns: int | None = None
    lead_turns: int | None = None
    max_tokens: int | None = None
    reply_tokens: tuple[int, int] | None = None


def no_limit(unanswered: int) -> bool:
    """Whether another trial may begin after so many without an answer: always."""
    return True


def not_shown(task: EvalTask, trial: int) -> None:
    """Nobody is told of a trial without an answer."""


async def run_trials(
    tasks: Sequence[EvalTask],
    trials: int,
    model: Model | Team | None,
    settings: Settings,
    results: Results,
    *,
    concurrency: int,
    show: Callable[[Record], None],
    graded: bool = True,
    judge: PatientJudge | None = None,
    may_begin: Callable[[int], bool] = no_limit,
    miss: Callable[[EvalTask, int], None] = not_shown,
) -> int:
    """Answer and grade what `results` lacks, in task order; the number that got no answer at all.

    Without a model only finished runs are graded; without `graded` they are only run, and shown as
    records without a score. A model that failed (an outage, not a bad answer) leaves no result: the
    trial is done again by the next session on the same folder. Nor does a judge that failed: the
    answer is kept, and judged by the next session. may_begin is asked before each question; miss is
    called for each trial that was tried and is left without an answer or a verdict.
    """
    team = model if isinstance(model, Team | None) else Team(model, model)
    open_slots = asyncio.Semaphore(concurrency)
    unfinished = 0

    async def run_one(task: EvalTask, trial: int) -> None:
        nonlocal unfinished
        folder = results.runs / f"{task.id}-t{trial}"
        async with open_slots:
            events = _finished_events(folder)
            if not events and team is not None and may_begin(unfinished):
                if folder.exists():
                    results.put_aside(folder)
                events = await _ask(task, trial, folder, team, settings)
                results.unscored[folder] = spent_in(events)
        if not events or events[-1].type is not EventType.RUN_COMPLETED:
            unfinished += 1
            if events:
                miss(task, trial)
            return
        answer = events[-1].data["answer"]
        write_response(results.folder / "responses", folder, task, trial, answer)
        grade: Grade | Failure = Grade(answered=bool(answer))
        if graded:
            grade = await grade_answer(task, answer, judge)
        if isinstance(grade, Failure):
            unfinished += 1
            miss(task, trial)
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
    # A kill may leave a folder that holds nothing yet.
    events = read_events(folder) if (folder / "events.jsonl").is_file() else []
    return events if events and events[-1].type is EventType.RUN_COMPLETED else []


async def _ask(
    task: EvalTask, trial: int, folder: Path, team: Team, settings: Settings
) -> list[Event]:
    """The events of a new run in `folder`."""
    research = _plan(task, team, settings)
    tools = GuardedTools(research.search, research.access, load_guard())
    research = replace(research, search=tools, access=tools)
    config: dict[str, Any] = {"task": task.id, "trial": trial, "model": team.name}
    answered = await answer_question(
        research,
        task.question,
        runs_dir=folder.parent,
        run_id=folder.name,
        workflow=settings.workflow,
        seed=derive_seed(settings.seed, task.id, trial),
        config=config,
    )
    return read_events(answered.folder)


def _plan(task: EvalTask, team: Team, settings: Settings) -> Research:
    """How the settings have a question answered."""
    bundled = team.lead is team.sub and team.lead.name == name_of(None)
    budget = Budget(max_agents=None, max_seconds=settings.max_seconds)
    if settings.max_tokens is not None:
        budget = replace(budget, max_tokens=settings.max_tokens)
    research = plan_research(
        Backends(lead=team.lead, sub=team.sub, corpus=task.open_corpus(), bundled=bundled),
        task.question,
        width=settings.width,
        found_count=settings.found_count,
        temperature=settings.temperature,
        budget=budget,
    )
    limits = research.limits
    if settings.turns is not None:
        limits = replace(limits, single_turns=settings.turns)
    if settings.lead_turns is not None:
        limits = replace(limits, lead_turns=settings.lead_turns)
    if settings.reply_tokens is not None:
        most, of_sub = settings.reply_tokens
        limits = replace(limits, max_turn_tokens=most, max_sub_turn_tokens=of_sub)
    return replace(research, limits=limits)
