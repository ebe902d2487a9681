"""Supervised examples: the expert at work in the real agent loop, kept as token ids and a mask of what was said.

Because the rollouts are those of `wideseek.agents`, every template token, hint and tool text is what the model will see.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wideseek.agents.limits import Limits
from wideseek.agents.prompts import load_prompts
from wideseek.agents.replies import tell_found
from wideseek.agents.research import Research
from wideseek.agents.roles import role_specs
from wideseek.generation import Message, ToolSchema
from wideseek.model.renderer import Renderer
from wideseek.tools.corpus import Corpus
from wideseek.tools.outcome import PageResult, SearchResult, Status
from wideseek.trajectory import Rollout, Trajectory
from wideseek.worlds.expert import ExpertDialogue, LeadExpert
from wideseek.worlds.tasks import Kind, Task, make_task

WIDTHS = (10, 10, 10, 10, 10, 10, 8, 6, 5, 4, 3, 2, 1)


@dataclass(frozen=True, slots=True)
class Example:
    """One trajectory: token_ids [T] int32 and said [T] bool, True where the expert spoke; role for the loss report."""

    token_ids: np.ndarray
    said: np.ndarray
    role: str


class FlakyTools:
    """Search and access that fail now and then, as the web does; a call asked for again may succeed."""

    def __init__(self, corpus: Corpus, share: float, rng: random.Random) -> None:
        self.corpus = corpus
        self.share = share
        self.rng = rng

    def _failure(self, *kinds: Status) -> Status | None:
        return self.rng.choice(kinds) if self.rng.random() < self.share else None

    async def search(self, query: str, count: int = 3) -> SearchResult:
        """The corpus's result, or one without hits."""
        failure = self._failure(Status.NO_RESULTS, Status.TIMEOUT, Status.RATE_LIMITED)
        return SearchResult(failure) if failure else await self.corpus.search(query, count)

    async def access(self, url: str) -> PageResult:
        """The corpus's page, or none."""
        failure = self._failure(Status.REFUSED_URL, Status.NOT_FOUND, Status.TIMEOUT)
        return PageResult(failure, url) if failure else await self.corpus.access(url)


class GarbledDialogue(ExpertDialogue):
    """An expert whose report is spoilt, as a weaker subagent's would be."""

    def speak(self) -> str:
        said = super().speak()
        thought, _, row = said.rpartition("\n\n")
        if not row.startswith("| "):
            return said
        return f"{thought}\n\n{garble(row, random.Random(row))}"


def garble(row: str, rng: random.Random) -> str:
    """A row with a cell lost or said over and over, broken off in the middle, or no row at all."""
    cells = row.strip("| ").split(" | ")
    at = rng.randrange(1, len(cells))
    draw = rng.random()
    if draw < 0.3 and len(cells) > 2:
        cells.pop(at)
    elif draw < 0.6:
        cells[at:at] = [cells[at]] * rng.randint(1, 4)
    elif draw < 0.9:
        return row[: rng.randint(len(cells[0]) + 6, max(len(cells[0]) + 6, len(row) - 3))].rstrip()
    else:
        return rng.choice(("unknown", "no list found", "", f"| {cells[0]}"))
    return f"| {' | '.join(cells)} |"


def demonstrate(
    task: Task,
    renderer: Renderer,
    workflow: str,
    width: int,
    flaky: float = 0.0,
    garbled: float = 0.0,
    found_count: int = 0,
) -> Rollout:
    """The expert's rollout on a task, `width` subagents a call at most.

    flaky: share of tool calls that fail; garbled: share of subagents whose report is spoilt; found_count: titles that the
    lead or the single agent begins with.
    """
    tools = FlakyTools(Corpus.from_pages(task.pages), flaky, random.Random(task.id))
    spoil = random.Random(task.id)

    def open_dialogue(
        messages: Sequence[Message], tools: Sequence[ToolSchema], session: str
    ) -> ExpertDialogue:
        return ExpertDialogue(task, renderer, messages, tools)

    def open_sub(
        messages: Sequence[Message], tools: Sequence[ToolSchema], session: str
    ) -> ExpertDialogue:
        kind = GarbledDialogue if spoil.random() < garbled else ExpertDialogue
        return kind(task, renderer, messages, tools)

    research = Research(
        open_lead=open_dialogue,
        open_sub=open_sub,
        search=tools,
        access=tools,
        prompts=load_prompts("en"),
        limits=Limits(width=width, found_count=found_count),
    )
    return asyncio.run(
        research.run(task.question, workflow="single" if workflow == "single" else "team")
    )


def to_example(trajectory: Trajectory, role: str) -> Example:
    """A trajectory's ids and mask."""
    pairs = list(trajectory.token_ids())
    ids = np.fromiter((token for token, _ in pairs), dtype=np.int32, count=len(pairs))
    said = np.fromiter((sampled for _, sampled in pairs), dtype=bool, count=len(pairs))
    return Example(ids, said, role)


def find_titles(task: Task, count: int, rng: random.Random) -> list[str]:
    """Titles that a search for the question finds in the task's world; now and then in another order, without one, or none.

    Made-up worlds are small, and their search errs less than one over all that a site has.
    """
    if not count:
        return []
    corpus = Corpus.from_pages(task.pages)
    found = asyncio.run(corpus.search(task.question, count))
    titles = [hit.title for hit in found.hits]
    if rng.random() < 0.05:
        rng.shuffle(titles)
    if titles and rng.random() < 0.1:
        titles.remove(rng.choice(titles))
    return titles if rng.random() < 0.97 else []


def plan_example(
    task: Task, renderer: Renderer, width: int, found_count: int, rng: random.Random
) -> Example:
    """The lead's first turn alone: reading the question is what takes the most practice, and it is short."""
    prompts = load_prompts("en")
    spec = role_specs(prompts, Limits(width=width))["lead"]
    found = tell_found(prompts, find_titles(task, found_count, rng))
    messages = spec.open_messages(task.question, found=found)
    asked = renderer.first(messages, spec.tools)
    spoken = LeadExpert(task, messages[-1].content).speak()
    said = [*renderer.encode(spoken), renderer.stop_token_ids[0]]
    mask = np.arange(len(asked) + len(said)) >= len(asked)
    return Example(np.array([*asked, *said], dtype=np.int32), mask, "plan")


def _draw_rows(rng: random.Random) -> tuple[int, int]:
    """Mostly narrow tables, now and then a very wide one: a wide lead costs as much as ten narrow ones."""
    return rng.choices(
        ((1, 3), (2, 8), (6, 12), (10, 20), (20, 35), (35, 50)), (25, 40, 21, 9, 3.2, 1.8)
    )[0]


def draw_examples(
    seed: int,
    renderer: Renderer,
    max_length: int,
    plans: int,
    reports: int,
    found_count: int = 0,
) -> Iterator[Example]:
    """An endless stream of examples of all roles; at most two subagents of a rollout are kept.

    Trajectories above `max_length` tokens are dropped. After each rollout come `plans` first turns of other leads and
    `reports` subagents of as many other worlds: facts are worded alike within a world. found_count: titles found for the
    question that leads begin with; with them askers may call a list otherwise than its page.
    """
    loose = found_count > 0
    rng = random.Random(f"demonstrations/{seed}")
    while True:
        kind: Kind = "boxed" if rng.random() < 0.13 else "table"
        single = rng.random() < 0.08
        rows = rng.choice(((1, 3), (2, 8))) if single else _draw_rows(rng)
        if kind == "boxed":
            rows = (1, 4)
        task = make_task(rng.getrandbits(48), "train", rows, kind, loose=loose)
        workflow = "single" if single else "team"
        garbled = rng.uniform(0.1, 0.5) if rng.random() < 0.2 else 0.0
        rollout = demonstrate(
            task, renderer, workflow, rng.choice(WIDTHS), 0.03, garbled, found_count
        )
        lead, *subs = rollout.trajectories
        if garbled:
            subs = []  # only how the lead goes on from what it was told is to be learned
        kept = subs[:1] + rng.sample(subs[1:], min(1, len(subs) - 1)) if subs else []
        for trajectory in (lead, *kept):
            listing = trajectory.role == "sub" and trajectory.task.startswith("list: ")
            example = to_example(trajectory, "list" if listing else trajectory.role)
            if len(example.token_ids) <= max_length:
                yield example
        for _ in range(plans):
            rows = rng.choice(((1, 1), (2, 4)))
            task = make_task(
                rng.getrandbits(48),
                "train",
                rows,
                rng.choice(("boxed", "table", "table", "table")),
                loose=loose,
            )
            yield plan_example(task, renderer, rng.choice(WIDTHS), found_count, rng)
        for _ in range(reports):
            # A boxed question's fact is as often as not a question of its own: "who found", "how big".
            asked: Kind = rng.choice(("table", "boxed"))
            task = make_task(rng.getrandbits(48), "train", (1, 2), asked)
            *_, last = demonstrate(task, renderer, "team", 10, 0.03).trajectories
            if (
                last.role == "sub"
                and len((example := to_example(last, "sub")).token_ids) <= max_length
            ):
                yield example
