"""A question in, a Rollout out: the lead and its waves of subagents, or one agent alone."""

import asyncio
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args
from uuid import uuid4

from wideseek.agents.agent import Agent, RunCalls, Shared
from wideseek.agents.limits import Limits
from wideseek.agents.prompts import Prompts
from wideseek.agents.replies import tell_found, tell_report
from wideseek.agents.roles import role_specs
from wideseek.agents.toolbox import Toolbox, urls_in
from wideseek.generation import OpenDialogue, Sampling
from wideseek.runs.events import Emit, EventType, drop_event
from wideseek.runs.ledger import CANCELLED, Budget, Ledger
from wideseek.runs.table import partial_table, to_markdown
from wideseek.tools.outcome import Access, Search
from wideseek.trajectory import End, Role, Rollout, ToolCall

Workflow = Literal["team", "single"]

_END_EVENTS = {
    End.CANCELLED: EventType.RUN_CANCELLED,
    End.MODEL_FAILED: EventType.RUN_FAILED,
}


@dataclass(frozen=True, kw_only=True)
class Research:
    """How questions are answered. Holds no state of a run: it may answer many at once.

    open_lead also opens the single agent. open_reader: a model without tools that reads pages on
    the agents' behalf, none to show them the pages themselves. known_urls: pages agents may open
    without having found them.
    """

    open_lead: OpenDialogue
    open_sub: OpenDialogue
    search: Search
    access: Access
    prompts: Prompts
    limits: Limits = field(default_factory=Limits)
    budget: Budget = field(default_factory=Budget)
    sampling: Sampling = field(default_factory=Sampling)
    emit: Emit = drop_event
    open_reader: OpenDialogue | None = None
    known_urls: frozenset[str] = frozenset()

    async def run(
        self,
        question: str,
        workflow: Workflow = "team",
        seed: int = 0,
        cancel: asyncio.Event | None = None,
    ) -> Rollout:
        """Answer one question; every ending but a bug is a Rollout.

        Setting `cancel`, like a limit of the budget, ends all agents at once, and the answer is a
        partial table of what they had reported. Cancelling the task itself ends the run without
        one. ValueError for an empty question or an unknown workflow.
        """
        if not question.strip():
            raise ValueError("question must not be empty")
        if workflow not in get_args(Workflow):
            raise ValueError(f"workflow must be team or single, not {workflow!r}")
        self.emit(
            EventType.RUN_STARTED,
            {
                "question": question,
                "workflow": workflow,
                "seed": seed,
                "limits": asdict(self.limits),
                "budget": asdict(self.budget),
                "sampling": asdict(self.sampling),
            },
        )
        return await _Run(self, question, seed).answer(workflow, cancel)

    def has_room_for(self, question: str, workflow: Workflow = "team") -> bool:
        """Whether the first prompt leaves room for a reply in a context of `limits.seq_length` tokens."""
        role: Role = "lead" if workflow == "team" else "single"
        spec = role_specs(self.prompts, self.limits)[role]
        opened = self.open_lead(spec.open_messages(question, ""), spec.tools, "")
        return opened.num_tokens < self.limits.seq_length


class _Run:
    """One question being answered."""

    def __init__(self, research: Research, question: str, seed: int) -> None:
        self.research = research
        self.question = question
        self.name = uuid4().hex  # no other run of the engines that serve this one has it
        self.ledger = Ledger(research.budget)
        self.specs = role_specs(research.prompts, research.limits)
        self.shared = Shared(
            prompts=research.prompts,
            limits=research.limits,
            sampling=research.sampling,
            seed=seed,
            ledger=self.ledger,
            emit=research.emit,
        )
        self.seen = urls_in(question) | research.known_urls
        self.agents: list[Agent] = []  # the root first, then subagents in call order

    async def answer(self, workflow: Workflow, cancel: asyncio.Event | None) -> Rollout:
        ending, stop_reason = EventType.RUN_FAILED, "error"  # unless something better is known
        try:
            async with self.ledger.running(cancel):
                found = await self._find()
                self.ledger.agents.issue()
                await self._open_root(workflow, found).run()
            rollout = self._rollout()
            ending = _END_EVENTS.get(rollout.trajectories[0].end, EventType.RUN_COMPLETED)
            stop_reason = rollout.stop_reason
            return rollout
        except asyncio.CancelledError:
            ending, stop_reason = EventType.RUN_CANCELLED, CANCELLED
            raise
        finally:
            told = {"stop_reason": stop_reason, "answer": self._answer_text()}
            self.research.emit(ending, told | {"usage": self.ledger.usage()})

    async def _find(self) -> str:
        """What the root is told of pages that a search for the question itself finds."""
        count = self.research.limits.found_count
        if not count:
            return ""
        toolbox = self._toolbox(None, None)
        titles = await toolbox.find(self.question, count)
        self.seen |= toolbox.seen
        return tell_found(self.research.prompts, titles)

    def _open_root(self, workflow: Workflow, found: str) -> Agent:
        if workflow == "team":
            return self._open_agent("lead", "lead", self._run_wave, found=found)
        run_calls = self._toolbox("single", None).run
        return self._open_agent("single", "single", run_calls, found=found)

    def _open_agent(
        self, role: Role, agent_id: str, run_calls: RunCalls, subtask: str = "", found: str = ""
    ) -> Agent:
        spec = self.specs[role]
        opens = self.research.open_sub if self.agents else self.research.open_lead
        agent = Agent(
            spec,
            opens(
                spec.open_messages(self.question, subtask, found),
                spec.tools,
                self._session(agent_id),
            ),
            run_calls,
            self.shared,
            agent_id=agent_id,
            parent_id=self._root_id,
            task=subtask or self.question,
        )
        self.agents.append(agent)
        return agent

    def _session(self, agent_id: str | None) -> str:
        """A subagent's is below the root's, whose KV an engine keeps while a wave runs."""
        above = (agent.agent_id for agent in self.agents[:1])
        return "/".join((self.name, *above, agent_id or "run"))

    @property
    def _root_id(self) -> str | None:
        return self.agents[0].agent_id if self.agents else None

    def _toolbox(self, agent_id: str | None, parent_id: str | None) -> Toolbox:
        return Toolbox(
            self.shared,
            search=self.research.search,
            access=self.research.access,
            open_reader=self.research.open_reader,
            seen=self.seen,
            agent_id=agent_id,
            parent_id=parent_id,
            session=self._session(agent_id),
        )

    async def _run_wave(self, calls: tuple[ToolCall, ...]) -> list[str]:
        """Run one subagent a call, all at once, each in its own context; reports in call order."""
        granted = self.ledger.grant_agents(len(calls))
        subs: list[Agent] = []
        toolboxes: list[Toolbox] = []
        for number, call in enumerate(calls[:granted], len(self.agents)):
            toolbox = self._toolbox(f"sub-{number}", self._root_id)
            subtask = call.arguments["prompt"]
            subs.append(self._open_agent("sub", f"sub-{number}", toolbox.run, subtask))
            toolboxes.append(toolbox)
        plan = [{"agent_id": sub.agent_id, "task": sub.task} for sub in subs]
        self.research.emit(EventType.PLAN_UPDATED, {"subtasks": plan}, agent_id=self._root_id)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sub.run()) for sub in subs]
        self.seen.update(*(toolbox.seen for toolbox in toolboxes))
        if granted < len(calls):
            self.ledger.stop("max_agents")
        reports = enumerate((task.result() for task in tasks), 1)
        return [tell_report(self.research.prompts, index, report) for index, report in reports]

    def _rollout(self) -> Rollout:
        trajectories = tuple(agent.trajectory() for agent in self.agents)
        root = trajectories[0]
        completions = (turn.completion for turn in root.turns)
        versions = (completion.weight_version for completion in completions if completion)
        stopped_by = self.ledger.stop_reason if root.end is End.BUDGET else None
        return Rollout(
            question=self.question,
            trajectories=trajectories,
            answer=self._answer_text(),
            stop_reason=stopped_by or root.end.value,
            seed=self.shared.seed,
            weight_version=next(versions, 0),
        )

    def _answer_text(self) -> str:
        """The root's answer; without one, a table of what it began and its subagents reported."""
        if not self.agents:
            return ""
        root, *subs = self.agents
        if root.end is End.ANSWERED:
            return root.report
        last = root.turns[-1].text if root.turns else ""
        begun = last.rpartition("\n")[0]  # without the line that was torn
        reports = [begun, *(sub.report for sub in subs)]
        tasks = [turn.text for turn in root.turns] + [agent.task for agent in self.agents]
        table = partial_table(reports, tasks)
        return "" if table is None else f"```markdown\n{to_markdown(table)}\n```"
