"""An expert that is sometimes at a loss, for steps whose attempts differ in what they earn."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch.distributed as dist
from wideseek_train.collect import CollectConfig, Collector
from wideseek_train.tasks import TaskSource

from wideseek.agents.limits import Limits
from wideseek.agents.model_call import derive_seed
from wideseek.generation import (
    Message,
    ModelFailure,
    ModelFailureKind,
    Reply,
    Sampling,
    ToolSchema,
)
from wideseek.grading.credit import CreditConfig
from wideseek.model.renderer import Renderer
from wideseek.worlds.expert import ExpertDialogue, LeadExpert
from wideseek.worlds.tasks import Task, make_task

CONFIG = CollectConfig(questions=2, group_size=3, most_questions=5, min_rows=2, max_rows=3)
SEED = 1
SOURCE = TaskSource(seed=SEED, rows=(2, 3))


@dataclass
class MoodyDialogue(ExpertDialogue):
    """An expert that, as a lead, knows nothing when its seed is odd; or whose model is down; or which takes its time."""

    model: "MoodyModel | None" = None

    async def reply(
        self, sampling: Sampling, cancel: asyncio.Event | None = None
    ) -> Reply | ModelFailure:
        assert self.model is not None
        self.model.replies += 1
        await asyncio.sleep(self.model.seconds)
        self.mood = sampling.seed % 2 if self.model.moody else 0
        if self.model.fails and isinstance(self.expert, LeadExpert) and self.mood:
            return ModelFailure(kind=ModelFailureKind.UNAVAILABLE, detail="down")
        return await super().reply(sampling, cancel)

    def speak(self) -> str:
        odd = isinstance(self.expert, LeadExpert) and self.mood
        return "I do not know." if odd else super().speak()


@dataclass
class MoodyModel:
    """Plays the expert of whichever question it is asked."""

    renderer: Renderer
    tasks: dict[str, Task]
    seconds: float = 0.0
    moody: bool = True
    fails: bool = False
    replies: int = 0
    name: str = "moody"
    max_model_len: int = field(default=32768)

    def open(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], session: str
    ) -> MoodyDialogue:
        task = next(t for question, t in self.tasks.items() if question in messages[-1].content)
        return MoodyDialogue(task, self.renderer, messages, tools, model=self)

    async def close(self) -> None:
        pass


class SilentModel(MoodyModel):
    """Must not be asked anything."""

    def open(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], session: str
    ) -> MoodyDialogue:
        raise AssertionError("a replay asked the model")


def tasks_of(step: int) -> dict[str, Task]:
    """The worlds a step may ask about, for the expert."""
    seeds = (derive_seed(SEED, "question", step, q) for q in range(CONFIG.most_questions))
    return {task.question: task for task in (make_task(s, "train", (2, 3), "table") for s in seeds)}


def collector(folder: Path, model: MoodyModel, **changes: object) -> Collector:
    values: dict[str, object] = {
        "config": CONFIG,
        "tasks": SOURCE,
        "limits": Limits(),
        "credit": CreditConfig(),
        "turns": "all",
        "lead": model,
        "sub": model,
        "store": dist.HashStore(),
        "traces": folder,
        "rollout_seconds": 600.0,
    }
    return Collector(**(values | changes))  # type: ignore[arg-type]


def moody(renderer: Renderer, step: int = 0, **changes: object) -> MoodyModel:
    return MoodyModel(renderer, tasks_of(step), **changes)  # type: ignore[arg-type]
