"""Budgets are hard, accounts are exact, and a stopped run gives what there is."""

import asyncio
from typing import Any

import pytest

import wideseek.agents.research as research_module
from tests.agents.scripted import Cast, Pages, Said, Speak, Talk, search, spawn
from wideseek.agents.limits import Limits
from wideseek.agents.prompts import load_prompts
from wideseek.agents.research import Research
from wideseek.runs.events import EventType
from wideseek.runs.ledger import Budget, Ledger
from wideseek.trajectory import End, Rollout

PARTIAL = "```markdown\n| item | capital |\n| --- | --- |\n| Peru | Lima |\n```"


class Watched:
    """A run whose ledger is checked at every event."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ledgers: list[Ledger] = []
        self.events: list[tuple[EventType, Any]] = []
        self.lead = self.sub = Cast(lambda talk: "")

        def make(budget: Budget) -> Ledger:
            self.ledgers.append(Ledger(budget))
            return self.ledgers[-1]

        monkeypatch.setattr(research_module, "Ledger", make)

    @property
    def ledger(self) -> Ledger:
        return self.ledgers[-1]

    def emit(self, type: EventType, data: Any, **_: Any) -> None:
        self.events.append((type, data))
        for count in self.counts() if self.ledgers else ():
            assert count.issued == count.done + count.failed + count.live
            assert min(count.done, count.failed, count.live) >= 0
        if self.ledgers and self.ledger.budget.max_tokens is not None:
            spent = self.ledger.prompt_tokens + self.ledger.completion_tokens
            assert spent <= self.ledger.budget.max_tokens

    def counts(self) -> tuple[Any, ...]:
        return self.ledger.agents, self.ledger.model_calls, self.ledger.tool_calls

    def research(self, lead: Speak, sub: Speak, tools: Any = None, **settings: Any) -> Research:
        self.lead, self.sub = Cast(lead), Cast(sub)
        tools = tools or Pages({})
        return Research(
            open_lead=self.lead.open,
            open_sub=self.sub.open,
            search=tools,
            access=tools,
            prompts=load_prompts("en"),
            emit=self.emit,
            **settings,
        )

    def run(self, lead: Speak, sub: Speak, **settings: Any) -> Rollout:
        rollout = asyncio.run(self.research(lead, sub, **settings).run("Each with capital?"))
        assert [count.live for count in self.counts()] == [0, 0, 0]
        return rollout


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def always_spawns(talk: Talk) -> str:
    return spawn(*(f"turn {talk.turn} task {number}" for number in range(10)))


def test_lead_that_always_spawns_is_stopped_by_the_agents_it_may_start(watched: Watched) -> None:
    rollout = watched.run(always_spawns, lambda talk: "Peru | Lima", budget=Budget(max_agents=14))
    assert len(watched.sub.talks) == 14
    assert watched.ledger.agents.issued == 15
    assert rollout.stop_reason == "max_agents"
    assert rollout.trajectories[0].end is End.BUDGET
    assert {t.end for t in rollout.trajectories[1:]} == {End.ANSWERED}
    assert rollout.answer == PARTIAL
    assert watched.events[-1][0] is EventType.RUN_COMPLETED
    assert watched.events[-1][1]["stop_reason"] == "max_agents"
    assert watched.events[-1][1]["answer"] == PARTIAL


@pytest.mark.parametrize("max_tokens", [1, 900, 2_000, 10_000, 50_000])
def test_tokens_are_never_overdrawn(watched: Watched, max_tokens: int) -> None:
    rollout = watched.run(
        always_spawns,
        lambda talk: search("q") if talk.turn < 4 else "Peru | Lima",
        budget=Budget(max_tokens=max_tokens),
        limits=Limits(seq_length=8000),
    )
    assert watched.ledger.prompt_tokens + watched.ledger.completion_tokens <= max_tokens
    assert rollout.stop_reason == "max_tokens"
    assert rollout.trajectories[0].end is End.BUDGET


def test_enough_tokens_do_not_stop_a_run_though_agents_wait_for_them(watched: Watched) -> None:
    # Ten subagents that may need 8000 tokens each share 30000 and use far less.
    rollout = watched.run(
        lambda talk: always_spawns(talk) if talk.turn == 1 else "done",
        lambda talk: "Peru | Lima",
        budget=Budget(max_tokens=30_000),
        limits=Limits(seq_length=8000),
    )
    assert rollout.stop_reason == "answered"
    assert len(watched.sub.talks) == 10


def test_tool_calls_are_hard_over_all_agents(watched: Watched) -> None:
    tools = Pages({})
    rollout = watched.run(
        always_spawns, lambda talk: search("a", "b"), tools=tools, budget=Budget(max_tool_calls=7)
    )
    assert len(tools.counts) == 7
    assert watched.ledger.tool_calls.issued == 7
    assert rollout.stop_reason == "max_tool_calls"
    assert {t.end for t in rollout.trajectories} == {End.BUDGET}


def reports_then_hangs(talk: Talk) -> Said:
    return "Peru | Lima" if "task 0" in talk.user else None


def test_seconds_end_agents_in_the_middle_of_a_reply(watched: Watched) -> None:
    rollout = watched.run(always_spawns, reports_then_hangs, budget=Budget(max_seconds=0.5))
    assert rollout.stop_reason == "max_seconds"
    assert rollout.answer == PARTIAL
    unfinished = rollout.trajectories[2]
    assert unfinished.end is End.BUDGET
    assert [turn.text for turn in unfinished.turns] == ["unfinis"], "what was made is kept"


def test_cancel_gives_a_partial_table(watched: Watched) -> None:
    async def cancelled() -> Rollout:
        cancel = asyncio.Event()

        def sub(talk: Talk) -> Said:
            if "task 9" in talk.user:
                cancel.set()
            return reports_then_hangs(talk)

        return await watched.research(always_spawns, sub).run("Each with capital?", cancel=cancel)

    rollout = asyncio.run(cancelled())
    assert (rollout.stop_reason, rollout.answer) == ("cancelled", PARTIAL)
    assert rollout.trajectories[0].end is End.CANCELLED
    assert watched.events[-1][0] is EventType.RUN_CANCELLED


@pytest.mark.parametrize(("hangs_at", "num_cancelled"), [("q", 10), ("Q?", 1)])
def test_cancel_interrupts_a_tool_that_hangs(
    watched: Watched, hangs_at: str, num_cancelled: int
) -> None:
    """Searches of subagents, and the one for the question itself before there is an agent."""

    class Hanging(Pages):
        async def search(self, query: str, count: int = 3) -> Any:
            if query == hangs_at:
                cancel.set()
                await asyncio.Event().wait()
            return await super().search(query, count)

    cancel = asyncio.Event()
    research = watched.research(
        always_spawns, lambda talk: search("q"), Hanging({}), limits=Limits(found_count=5)
    )
    rollout = asyncio.run(research.run("Q?", cancel=cancel))
    assert rollout.stop_reason == "cancelled"
    before = ["no_results"] if hangs_at == "q" else []  # what the search for the question gave
    assert watched.ledger.tool_calls.failed == num_cancelled
    assert watched.ledger.tool_calls.issued == num_cancelled + len(before)
    results = [data["status"] for type, data in watched.events if type is EventType.TOOL_RESULT]
    assert results == before + ["cancelled"] * num_cancelled


def test_cancelling_the_task_ends_everything_and_says_so(watched: Watched) -> None:
    async def killed() -> None:
        started = asyncio.Event()

        def sub(talk: Talk) -> Said:
            started.set()
            return None

        task = asyncio.create_task(watched.research(always_spawns, sub).run("Q?"))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.sleep(0)
        assert not [other for other in left if not other.done()]

    asyncio.run(killed())
    assert watched.events[-1][0] is EventType.RUN_CANCELLED
    assert [count.live for count in watched.counts()] == [0, 0, 0]


def test_lead_cut_in_its_table_keeps_the_rows_it_had_finished(watched: Watched) -> None:
    table = "```markdown\n| country | capital |\n|---|---|\n| Peru | Lima |\n| Brazil | Bras"
    rollout = watched.run(
        lambda talk: table * 99, lambda talk: "", limits=Limits(max_turn_tokens=len(table))
    )
    assert rollout.stop_reason == "runaway"
    assert rollout.answer == PARTIAL.replace("item", "country")


def test_subagents_may_have_a_shorter_reply_than_the_lead(watched: Watched) -> None:
    spoken = iter([spawn("a"), "done" * 30])
    limits = Limits(max_turn_tokens=400, max_sub_turn_tokens=50)
    rollout = watched.run(lambda talk: next(spoken), lambda talk: "z" * 51, limits=limits)
    assert [t.end for t in rollout.trajectories] == [End.ANSWERED, End.RUNAWAY]


def test_final_answer_given_while_the_run_is_stopped_still_counts(watched: Watched) -> None:
    async def answers_too_late() -> Rollout:
        cancel = asyncio.Event()

        async def lead(talk: Talk) -> str:
            cancel.set()
            await asyncio.sleep(0)
            return "\\boxed{Lima}"

        return await watched.research(lead, lead).run("Q?", cancel=cancel)

    rollout = asyncio.run(answers_too_late())
    assert (rollout.stop_reason, rollout.answer) == ("answered", "\\boxed{Lima}")


def test_calls_made_while_the_run_is_stopped_are_not_run(watched: Watched) -> None:
    async def spawns_too_late() -> Rollout:
        cancel = asyncio.Event()

        async def lead(talk: Talk) -> str:
            cancel.set()
            await asyncio.sleep(0)
            return spawn("a")

        return await watched.research(lead, lead).run("Q?", cancel=cancel)

    rollout = asyncio.run(spawns_too_late())
    assert watched.sub.talks == [] and watched.ledger.agents.issued == 1
    assert rollout.trajectories[0].turns[0].calls[0].arguments == {"prompt": "a"}
