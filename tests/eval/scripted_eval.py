"""An evaluation of worlds on a script instead of a model."""

import asyncio
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from wideseek_eval.results import Record, Results
from wideseek_eval.run import Settings, run_trials
from wideseek_eval.suites import EvalTask, draw_worlds

from tests.agents.scripted import Cast, Said, Talk, search, spawn
from wideseek.generation import Dialogue, Message, ModelFailure, ModelFailureKind, ToolSchema

SETTINGS = Settings(workflow="team", width=10, temperature=0.0, max_seconds=60.0, seed=0)
OUTAGE = ModelFailure(kind=ModelFailureKind.UNAVAILABLE, detail="no server")


class ScriptedModel:
    """Answers each task at once with `answer(task)`; `asked` counts the replies."""

    name = "scripted"
    max_model_len = None

    def __init__(
        self, tasks: Sequence[EvalTask], answer: Callable[[EvalTask], Said], seconds: float = 0.0
    ) -> None:
        self.asked: list[str] = []
        self._tasks = tasks
        self._answer = answer
        self._seconds = seconds

    def open(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], session: str = ""
    ) -> Dialogue:
        return Cast(self._speak).open(messages, tools, session)

    async def _speak(self, talk: Talk) -> Said:
        task = next(task for task in self._tasks if task.question in talk.user)
        self.asked.append(task.id)
        await asyncio.sleep(self._seconds)
        return self._answer(task)

    async def close(self) -> None:
        pass


class ScriptedTeam(ScriptedModel):
    """Two subagents search once and report; then the lead answers, right or not as its seed has it.

    `asked` counts the leads' answers.
    """

    async def _speak(self, talk: Talk) -> Said:
        await asyncio.sleep(self._seconds)
        if "Look for" in talk.user:
            return search("the list") if talk.turn == 1 else "I found a list."
        if talk.turn == 1:
            return spawn("Look for one half.", "Look for the other.")
        task = next(task for task in self._tasks if task.question in talk.user)
        self.asked.append(task.id)
        seed = talk.samplings[-1].seed
        return right(task) if seed is not None and seed % 3 else uneven(task)


class WideTeam(ScriptedModel):
    """A team reads two rows a subagent it may start, an agent alone a row in every five turns."""

    async def _speak(self, talk: Talk) -> Said:
        await asyncio.sleep(self._seconds)
        if "Look for" in talk.user:
            return search("the list") if talk.turn == 1 else "I found a list."
        task = next(task for task in self._tasks if task.question in talk.user)
        turns = int(re.findall(r"turn 1 of (\d+)", talk.user)[0])
        width = re.findall(r"up to (\d+) subagents", talk.user)
        if not width:
            self.asked.append(task.id)
            return fenced(task.columns, task.rows[: turns // 5])
        if talk.turn == 1:
            return spawn(*(f"Look for part {part}." for part in range(int(width[0]))))
        self.asked.append(task.id)
        return fenced(task.columns, task.rows[: 2 * int(width[0])])


def fenced(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "```markdown\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n```"


def right(task: EvalTask) -> str:
    if task.kind == "boxed":
        return f"\\boxed{{{task.answers[0]}}}"
    return fenced(task.columns, task.rows)


def uneven(task: EvalTask) -> str:
    """Right for some tasks, half right or silent for others, always the same for one task."""
    luck = zlib.crc32(task.id.encode()) % 3
    if luck == 0 or task.kind == "boxed":
        return right(task)
    return "I do not know." if luck == 1 else fenced(task.columns, task.rows[::2])


async def run_worlds(
    folder: Path,
    count: int = 6,
    trials: int = 2,
    answer: Callable[[EvalTask], Said] = uneven,
    seconds: float = 0.0,
    settings: Settings = SETTINGS,
    cast: type[ScriptedModel] = ScriptedModel,
) -> tuple[list[Record], ScriptedModel, int]:
    """Evaluate in `folder`: the records, the model with what it was asked, trials left undone."""
    tasks = draw_worlds("test", count, 0, None)
    model = cast(tasks, answer, seconds)
    with Results(folder, {"suite": "worlds"}, resume=True) as results:
        undone = await run_trials(
            tasks, trials, model, settings, results, concurrency=3, show=lambda record: None
        )
    return list(results.records.values()), model, undone
