"""An expert with two bad habits, for a start that reinforcement learning can visibly repair.

As a lead it often plans for the first two items only; as a subagent it often reports, after the search, what stands on
some other item's page instead of opening the right one. Both are choices the right way of which stays in the model:
residual copying errors, by contrast, are not what RL repairs in a few updates.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wideseek.agents.limits import Limits
from wideseek.agents.prompts import load_prompts
from wideseek.agents.research import Research
from wideseek.generation import Message, ToolSchema
from wideseek.model.renderer import Renderer
from wideseek.tools.corpus import Corpus
from wideseek.trajectory import Rollout
from wideseek.worlds.expert import ExpertDialogue, LeadExpert, SubExpert
from wideseek.worlds.tasks import Task, make_task
from wideseek_train.demonstrations import Example, to_example


@dataclass(frozen=True, kw_only=True, slots=True)
class Habits:
    """How often each bad habit shows, in [0, 1]: leads with too few subagents, subagents that guess."""

    few: float
    guess: float

    def __post_init__(self) -> None:
        for name in ("few", "guess"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")


@dataclass
class HastyDialogue(ExpertDialogue):
    """An expert that gives in to its habits as `rng` decides."""

    habits: Habits
    rng: random.Random

    def __post_init__(self) -> None:
        super().__post_init__()
        self._is_few = self.rng.random() < self.habits.few
        self._is_guess = self.rng.random() < self.habits.guess
        self._plan_for_few()

    def add_tool(self, text: str) -> None:
        super().add_tool(text)
        self._plan_for_few()
        expert = self.expert
        if isinstance(expert, SubExpert) and self._is_guess and len(expert.seen) == 1:
            other = self._other_page(expert.subtask)
            if other is not None:
                expert.see(other)

    def _plan_for_few(self) -> None:
        """Forget all items but two, once they are known.

        A fixed number: were it drawn, no number would be likely enough to be what a greedy lead does.
        """
        expert = self.expert
        if isinstance(expert, LeadExpert) and self._is_few and len(expert.items) > 1:
            kept = min(2, len(expert.items) - 1)
            expert.items = dict(list(expert.items.items())[:kept])
            self._is_few = False

    def _other_page(self, subtask: str) -> str | None:
        """A page that states facts like those asked for, of another item; none for a subtask that asks for a list."""
        if subtask.startswith("list: "):
            return None
        pages = [
            page.text
            for page in self.task.pages
            if any(f"\n{label}: " in page.text for label in self.task.labels)
            and page.title not in subtask
        ]
        return self.rng.choice(pages) if pages else None


def act_hastily(
    task: Task, renderer: Renderer, habits: Habits, width: int, found_count: int = 0
) -> Rollout:
    """The rollout of a team with bad habits on a task; found_count: titles that the lead begins with."""
    corpus = Corpus.from_pages(task.pages)
    opened = iter(range(1_000_000))

    def open_dialogue(
        messages: Sequence[Message], tools: Sequence[ToolSchema], session: str
    ) -> HastyDialogue:
        rng = random.Random(f"{task.id}/{next(opened)}")
        return HastyDialogue(task, renderer, messages, tools, habits=habits, rng=rng)

    research = Research(
        open_lead=open_dialogue,
        open_sub=open_dialogue,
        search=corpus,
        access=corpus,
        prompts=load_prompts("en"),
        limits=Limits(width=width, found_count=found_count),
    )
    return asyncio.run(research.run(task.question))


def draw_hasty_examples(
    seed: int,
    renderer: Renderer,
    habits: Habits,
    rows: tuple[int, int],
    found_count: int = 0,
    most_subs: int = 3,
) -> Iterator[Example]:
    """Examples without end: the lead and at most `most_subs` subagents of each rollout, over training worlds.

    found_count: titles that leads begin with.
    """
    rng = random.Random(f"bad habits/{seed}")
    while True:
        task = make_task(rng.getrandbits(48), "train", rows)
        lead, *subs = act_hastily(task, renderer, habits, 10, found_count).trajectories
        for trajectory in (lead, *rng.sample(subs, min(most_subs, len(subs)))):
            yield to_example(trajectory, trajectory.role)
