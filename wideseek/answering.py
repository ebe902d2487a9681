"""One question as a Run: how it will be answered, its folder, and the answer derived from that."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wideseek.agents.limits import Limits
from wideseek.agents.prompts import Language, detect_language, load_prompts
from wideseek.agents.research import Research, Workflow
from wideseek.backends import Backends
from wideseek.generation import Sampling
from wideseek.runs.answer import Answer
from wideseek.runs.events import Event
from wideseek.runs.export import write_answer
from wideseek.runs.ledger import Budget
from wideseek.runs.log import RunLog, new_run_id
from wideseek.trajectory import End, Rollout

BUDGET_REASONS = frozenset({"max_agents", "max_tokens", "max_tool_calls", "max_seconds"})
BUNDLED_TURN_TOKENS = 4096
BUNDLED_SUB_TURN_TOKENS = 1024
"""Room for a table of fifty rows, and for a list of a hundred items: the bundled model, once in a
loop, would fill its context.
"""
BUNDLED_FOUND_COUNT = 5
"""Of 162 questions that people typed, 158 have their list or all their items among so many titles."""

LanguageChoice = Language | Literal["auto"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A finished run: where it lies, what happened, what came out."""

    run_id: str
    folder: Path
    rollout: Rollout
    answer: Answer

    @property
    def question_too_long(self) -> bool:
        """Whether the first prompt alone left no room for a reply."""
        root = self.rollout.trajectories[0]
        return root.end is End.CONTEXT_FULL and not root.turns


def plan_research(
    backends: Backends,
    question: str,
    *,
    width: int | None = None,
    found_count: int | None = None,
    language: LanguageChoice = "auto",
    temperature: float | None = None,
    budget: Budget | None = None,
) -> Research:
    """How these backends will answer this question; None stands for the defaults.

    width: subagents a call. Contexts are as long as both models allow. The bundled model samples
    greedily and in shorter turns, others at temperature 1. found_count: titles of pages found for the
    question that the lead begins with; the bundled model has learned to read them, others begin
    without, as the paper's.
    """
    if found_count is None:
        found_count = BUNDLED_FOUND_COUNT if backends.bundled else 0
    limits = Limits(found_count=found_count)
    if width is not None:
        limits = replace(limits, width=width)
    if backends.max_model_len is not None:
        limits = replace(limits, seq_length=min(limits.seq_length, backends.max_model_len))
    if backends.bundled:
        limits = replace(
            limits,
            max_turn_tokens=BUNDLED_TURN_TOKENS,
            max_sub_turn_tokens=BUNDLED_SUB_TURN_TOKENS,
        )
    if budget is None:
        budget = Budget()
    if temperature is None:
        temperature = 0.0 if backends.bundled else 1.0
    return Research(
        open_lead=backends.lead.open,
        open_sub=backends.sub.open,
        search=backends.corpus,
        access=backends.corpus,
        prompts=load_prompts(detect_language(question) if language == "auto" else language),
        limits=limits,
        budget=budget,
        sampling=Sampling(temperature=temperature),
    )


async def answer_question(
    research: Research,
    question: str,
    *,
    runs_dir: Path,
    run_id: str | None = None,
    workflow: Workflow = "team",
    seed: int = 0,
    config: Mapping[str, Any],
    cancel: asyncio.Event | None = None,
    watch: Callable[[Event], None] | None = None,
) -> Answered:
    """Answer one question in a new run folder; `config` is kept there as config.resolved.json.

    The run's log takes the place of the emit of `research`; `watch` is shown every event.
    LogFailedError, alone or in a group, when the folder can no longer be written to.
    """
    with RunLog(runs_dir, run_id or new_run_id(), watch=watch) as log:
        resolved = json.dumps(dict(config), ensure_ascii=False, indent=2, default=str) + "\n"
        with log.failing():
            (log.folder / "config.resolved.json").write_text(resolved, encoding="utf-8")
        rollout = await replace(research, emit=log.emit).run(
            question, workflow=workflow, seed=seed, cancel=cancel
        )
        with log.failing():
            answer = write_answer(log.folder)
    return Answered(run_id=log.run_id, folder=log.folder, rollout=rollout, answer=answer)
