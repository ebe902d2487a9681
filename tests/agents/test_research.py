"""A question answered by a team: waves, isolation, and what agents may open."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.agents.scripted import Cast, Pages, Speak, Talk, access, call, lines, search, spawn
from wideseek.agents.limits import Limits
from wideseek.agents.prompts import load_prompts
from wideseek.agents.research import Research
from wideseek.backends import LocalModel, find_model_folder
from wideseek.generation import Message, Sampling
from wideseek.model.renderer import Renderer
from wideseek.runs.events import EventType
from wideseek.trajectory import End, Rollout

WORLD = {
    "https://w/Brazil": "Brazil\nCapital: Brasília\nSee https://w/Peru.",
    "https://w/Peru": "Peru\nCapital: Lima",
}


def team(lead: Speak, sub: Speak, **settings: Any) -> tuple[Research, Cast, Cast]:
    """A Research whose lead and subagents speak by these functions, and their casts."""
    leads, subs = Cast(lead), Cast(sub)
    tools = settings.pop("tools", None) or Pages(WORLD)
    research = Research(
        open_lead=leads.open,
        open_sub=subs.open,
        search=tools,
        access=tools,
        prompts=load_prompts("en"),
        **settings,
    )
    return research, leads, subs


def ask(research: Research, question: str = "Capitals?", **how: Any) -> Rollout:
    return asyncio.run(research.run(question, **how))


def subtask(talk: Talk) -> str:
    found = re.search(r"Subtask: (.*)", talk.user)
    assert found is not None
    return found[1]


def saying(*said: str) -> Speak:
    return lambda talk: said[talk.turn - 1]


def all_at_once(number: int) -> Callable[[], asyncio.Barrier]:
    """A barrier that opens when `number` are waiting; made inside the loop."""
    kept: list[asyncio.Barrier] = []

    def barrier() -> asyncio.Barrier:
        if not kept:
            kept.append(asyncio.Barrier(number))
        return kept[0]

    return barrier


def test_reports_become_one_tool_reply_in_call_order() -> None:
    waits: dict[str, asyncio.Event] = {}

    async def report(talk: Talk) -> str:
        # a waits for b, and b for c: they finish in reverse order.
        mine = subtask(talk)
        after = waits.setdefault(chr(ord(mine) + 1), asyncio.Event())
        if mine != "c":
            await after.wait()
        waits.setdefault(mine, asyncio.Event()).set()
        return f"<think>{mine}</think> report {mine}"

    research, leads, _ = team(saying(spawn("a", "b", "c"), "\\boxed{x}"), report)
    rollout = ask(research)
    assert leads.talks[0].tool_texts == [
        "Subagent 1:\nreport a\n\nSubagent 2:\nreport b\n\nSubagent 3:\nreport c"
        "\n\n[turn 2 of 10, up to 10 subagents a call]"
    ]
    assert rollout.answer == "\\boxed{x}"
    assert rollout.stop_reason == "answered"
    assert [t.agent_id for t in rollout.trajectories] == ["lead", "sub-1", "sub-2", "sub-3"]
    assert [t.parent_id for t in rollout.trajectories] == [None, "lead", "lead", "lead"]
    assert [t.task for t in rollout.trajectories[1:]] == ["a", "b", "c"]


def test_fifty_subagents_run_at_once_and_share_nothing() -> None:
    barrier = all_at_once(50)

    async def report(talk: Talk) -> str:
        await barrier().wait()  # deadlocks unless all fifty are live together
        return search(subtask(talk)) if talk.turn == 1 else f"found {subtask(talk)}"

    tasks = [f"item {number:02d}" for number in range(50)]
    research, leads, subs = team(
        saying(spawn(*tasks), "done"), report, limits=Limits(width=50), tools=Pages({})
    )
    rollout = ask(research)
    for number, (talk, trajectory) in enumerate(
        zip(subs.talks, rollout.trajectories[1:], strict=True)
    ):
        assert set(re.findall(r"item \d\d", talk.context)) == {tasks[number]}
        assert trajectory.report == f"found {tasks[number]}"
        assert [t.text for t in trajectory.turns] == [search(tasks[number]), trajectory.report]
    told = re.findall(r"Subagent (\d+):\nfound item (\d\d)", leads.talks[0].tool_texts[0])
    assert told == [(str(number + 1), f"{number:02d}") for number in range(50)]


def test_searches_of_one_turn_run_at_once_and_are_told_in_call_order() -> None:
    barrier = all_at_once(3)

    class Slow(Pages):
        async def search(self, query: str, count: int = 3) -> Any:
            await barrier().wait()
            return await super().search(query, count)

    research, _, subs = team(
        saying(spawn("a"), "done"),
        saying(search("Peru", "nothing", "Brazil"), "ok"),
        tools=Slow(WORLD),
    )
    ask(research)
    assert re.findall(r"Search: (\w+)", subs.talks[0].tool_texts[0]) == [
        "Peru",
        "nothing",
        "Brazil",
    ]
    assert "Search: nothing\nNothing to show: no results." in subs.talks[0].tool_texts[0]


def test_subagents_count_on_over_waves_and_see_only_their_own_task() -> None:
    research, _, subs = team(saying(spawn("a", "b"), spawn("c"), "done"), saying("r", "r"))
    rollout = ask(research, "Which?")
    assert [t.agent_id for t in rollout.trajectories[1:]] == ["sub-1", "sub-2", "sub-3"]
    assert [talk.user for talk in subs.talks] == [
        f"Question: Which?\n\nSubtask: {task}\n\n[turn 1 of 20]" for task in "abc"
    ]


def test_subagents_beyond_the_width_are_cut_and_the_lead_is_told() -> None:
    research, leads, subs = team(
        saying(spawn("a", "b", "c", "d"), "done"), saying("r"), limits=Limits(width=2)
    )
    ask(research)
    assert len(subs.talks) == 2
    assert (
        "Not run: 2 more than the 2 allowed a call. Ask for them in the next turn."
        in leads.talks[0].tool_texts[0]
    )


def test_failed_subagent_gives_a_fixed_notice() -> None:
    sub: Speak = lambda talk: search("x") if subtask(talk) == "a" else "fine"  # noqa: E731
    research, leads, _ = team(saying(spawn("a", "b"), "done"), sub, limits=Limits(sub_turns=2))
    rollout = ask(research)
    assert [t.end for t in rollout.trajectories] == [End.ANSWERED, End.TURN_LIMIT, End.ANSWERED]
    assert (
        leads.talks[0]
        .tool_texts[0]
        .startswith(
            "Subagent 1:\nNo report (turn limit). Ask again if it is needed: a\n\nSubagent 2:\nfine"
        )
    )


def test_turns_of_a_wave_are_kept_when_its_reports_do_not_fit() -> None:
    research, _, _ = team(saying(spawn("a")), saying("z" * 900), limits=Limits(seq_length=1600))
    rollout = ask(research)
    assert [t.end for t in rollout.trajectories] == [End.CONTEXT_FULL, End.ANSWERED]
    assert [turn.text for turn in rollout.trajectories[1].turns] == ["z" * 900]


def test_urls_are_opened_only_if_the_run_has_shown_them() -> None:
    tools = Pages(WORLD)
    research, _, subs = team(
        saying(spawn("a"), "done"),
        saying(access("https://w/Brazil"), search("Brasília"), access("https://w/Brazil"), "r"),
        tools=tools,
    )
    ask(research)
    first, _, third = subs.talks[0].tool_texts
    assert first.startswith("Page: https://w/Brazil\nNothing to show: refused url.")
    assert third.startswith("Page: https://w/Brazil\nBrazil\nCapital")
    assert tools.opened == ["https://w/Brazil"], "the backend never saw the refused one"


def test_urls_of_the_question_and_of_pages_may_be_opened() -> None:
    tools = Pages(WORLD)
    sub = saying(access("https://w/Brazil"), access("https://w/Peru"), "r")
    research, _, _ = team(saying(spawn("a"), "done"), sub, tools=tools)
    ask(research, "What stands on https://w/Brazil?")
    assert tools.opened == ["https://w/Brazil", "https://w/Peru"]


def test_url_that_extends_a_known_one_is_refused() -> None:
    tools = Pages(WORLD)
    research, _, _ = team(
        saying(spawn("a"), "done"), saying(access("https://w/Peru?secret=1"), "r"), tools=tools
    )
    ask(research, "See https://w/Peru?")
    assert tools.opened == []


def test_what_one_subagent_finds_the_next_wave_may_open_but_not_its_siblings() -> None:
    # Otherwise what a subagent gets would depend on who is faster.
    found = asyncio.Event()

    async def sub(talk: Talk) -> str:
        if subtask(talk) == "find":
            if talk.turn == 2:
                found.set()
            return search("Lima") if talk.turn == 1 else "see https://w/Peru"
        await found.wait()
        return access("https://w/Peru") if talk.turn == 1 else "r"

    research, _, subs = team(saying(spawn("find", "open"), spawn("open"), "done"), sub)
    ask(research)
    assert "refused url" in subs.talks[1].tool_texts[0]
    assert "Capital: Lima" in subs.talks[2].tool_texts[0]


def test_reader_extracts_what_was_asked_and_costs_tokens() -> None:
    reader = Cast(lambda talk: "<think>.</think>Lima")
    asked = call("access", urls=[{"url": "https://w/Peru", "info_to_extract": "capital"}])
    events: list[tuple[EventType, Any]] = []
    research, _, subs = team(
        saying(spawn("a"), "done"),
        saying(asked, "r"),
        open_reader=reader.open,
        known_urls=frozenset({"https://w/Peru"}),
        emit=lambda type, data, **_: events.append((type, data)),
    )
    ask(research)
    assert subs.talks[0].tool_texts[0].startswith("Page: https://w/Peru\nAsked: capital\nLima\n\n")
    assert "Question: capital\n\nPage:\nPeru\nCapital: Lima" in reader.talks[0].user
    assert reader.talks[0].tools == ()
    usage = events[-1][1]["usage"]
    assert usage["model_calls"] == 5
    pages = [data["page"]["text"] for type, data in events if "page" in data]
    assert pages == [WORLD["https://w/Peru"]], "the evidence is the page, not what was read from it"


def test_single_workflow_searches_itself() -> None:
    research, leads, subs = team(
        saying(call("search", query="Peru"), call("access", url="https://w/Peru"), "\\boxed{Lima}"),
        saying(),
    )
    rollout = ask(research, workflow="single")
    assert rollout.answer == "\\boxed{Lima}"
    assert [t.role for t in rollout.trajectories] == ["single"]
    assert "Capital: Lima" in leads.talks[0].tool_texts[1] and subs.talks == []


def test_one_research_answers_many_questions_at_once() -> None:
    research, _, _ = team(
        lambda talk: (
            spawn("a") if talk.turn == 1 else f"answer to {talk.messages[1].content[10:12]}"
        ),
        saying("r"),
    )

    async def both() -> list[Rollout]:
        return await asyncio.gather(*(research.run(f"Q{number}?") for number in range(8)))

    for number, rollout in enumerate(asyncio.run(both())):
        assert rollout.answer == f"answer to Q{number}"
        assert [t.agent_id for t in rollout.trajectories] == ["lead", "sub-1"]


@pytest.mark.parametrize(
    ("question", "how", "message"),
    [
        (" \n", {}, "question must not be empty"),
        ("Q?", {"workflow": "swarm"}, "workflow must be team or single, not 'swarm'"),
    ],
)
def test_wrong_input_is_named(question: str, how: dict[str, Any], message: str) -> None:
    research, _, _ = team(saying("x"), saying("x"))
    with pytest.raises(ValueError, match=message):
        ask(research, question, **how)


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, not 0"):
        Limits(width=0)


def test_bug_in_a_tool_surfaces_and_the_run_says_it_failed() -> None:
    class Broken(Pages):
        async def search(self, query: str, count: int = 3) -> Any:
            raise KeyError("bug")

    events: list[tuple[EventType, Any]] = []
    research, _, _ = team(
        saying(spawn("a", "b"), "done"),
        saying(search("q"), "r"),
        tools=Broken({}),
        emit=lambda type, data, **_: events.append((type, data)),
    )
    with pytest.raises(ExceptionGroup) as caught:
        ask(research)
    assert caught.value.subgroup(KeyError) is not None
    assert (events[-1][0], events[-1][1]["stop_reason"]) == (EventType.RUN_FAILED, "error")


def test_model_that_is_down_fails_the_run_as_data() -> None:
    from wideseek.generation import ModelFailure, ModelFailureKind

    down = ModelFailure(kind=ModelFailureKind.UNAUTHORIZED, detail="no key")
    events: list[tuple[EventType, Any]] = []
    research, _, _ = team(saying(), saying())
    research = Research(
        open_lead=lines(down),
        open_sub=lines(down),
        search=research.search,
        access=research.access,
        prompts=research.prompts,
        emit=lambda type, data, **_: events.append((type, data)),
    )
    rollout = ask(research)
    assert (rollout.answer, rollout.stop_reason) == ("", "model_failed")
    assert events[-1][0] is EventType.RUN_FAILED
    assert (
        EventType.WARNING,
        {"message": "unauthorized: no key", "kind": "unauthorized"},
    ) in events


def test_agents_name_their_sessions() -> None:
    """A subagent's is below the lead's, a page reader's below the agent's, and no two runs have one in common."""
    reader = Cast(saying("Lima"))
    research, leads, subs = team(
        saying(spawn("Peru", "Brazil"), "done"),
        saying(call("access", urls=[{"url": "https://w/Peru", "info_to_extract": "all"}]), "Lima"),
        open_reader=reader.open,
        known_urls=frozenset(WORLD),
    )
    for _ in range(2):
        ask(research)
    first, second = leads.sessions
    assert first != second and first.endswith("/lead") and first.count("/") == 1
    assert subs.sessions[:2] == [f"{first}/sub-1", f"{first}/sub-2"]
    assert subs.sessions[2:] == [f"{second}/sub-1", f"{second}/sub-2"]
    assert sorted(reader.sessions[:2]) == [f"{first}/sub-1/1", f"{first}/sub-2/1"]
    ask(research, workflow="single")
    assert leads.sessions[2].endswith("/single")


def test_an_engine_hears_whose_turn_it_is() -> None:
    """An engine keeps the KV of a lead whose wave runs, if it is told that there is one."""
    heard: list[str] = []

    class Listening:
        max_model_len = 64

        async def generate(self, *_: Any, session: str) -> Any:
            heard.append(session)
            raise RuntimeError("enough")

    renderer = Renderer.load(find_model_folder(None))
    model = LocalModel("m", renderer, Listening())  # type: ignore[arg-type]
    dialogue = model.open([Message(role="user", content="Hi")], (), "a/lead")
    asyncio.run(dialogue.reply(Sampling(max_tokens=1)))
    assert heard == ["a/lead"]
