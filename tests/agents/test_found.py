"""What the lead begins with: titles of pages that a search for the question itself finds."""

from typing import Any

import pytest

from tests.agents.scripted import Cast, Pages, access, spawn
from tests.agents.test_research import WORLD, ask, saying, team
from wideseek.agents.limits import Limits
from wideseek.agents.prompts import load_prompts
from wideseek.agents.replies import tell_found
from wideseek.agents.research import Research
from wideseek.runs.events import EventType


def found_by(research: Research, cast: Cast, workflow: str = "team") -> str:
    """What the root's first message says after the question."""
    ask(research, "Peru", workflow=workflow)
    return cast.talks[0].user.removeprefix("Question: Peru").partition("\n\n[turn 1")[0]


@pytest.mark.parametrize("workflow", ["team", "single"])
def test_the_root_begins_with_titles_found_for_the_question(workflow: str) -> None:
    events: list[tuple[EventType, Any, str | None]] = []
    research, leads, _ = team(
        saying("done"),
        saying(),
        limits=Limits(found_count=5),
        emit=lambda type, data, agent_id=None, **_: events.append((type, data, agent_id)),
    )
    assert found_by(research, leads, workflow) == "\n\nFound:\n [a] Brazil [a]\n [b] Peru [b]"
    called, result = events[1:3]
    assert called[:2] == (
        EventType.TOOL_CALLED,
        {"call_id": "run/1", "name": "search", "arguments": {"query": "Peru", "count": 5}},
    )
    assert [hit["title"] for hit in result[1]["hits"]] == ["Brazil", "Peru"]
    assert called[2] is result[2] is None, "it is the run's own search"
    assert events[3][0] is EventType.AGENT_SPAWNED


def test_nothing_is_told_where_nothing_was_found_or_asked_for() -> None:
    for limits, tools in ((Limits(found_count=5), Pages({})), (Limits(), Pages(WORLD))):
        research, leads, _ = team(saying("done"), saying(), limits=limits, tools=tools)
        assert found_by(research, leads) == ""


def test_subagents_see_no_titles_but_may_open_what_was_found() -> None:
    research, _, subs = team(
        saying(spawn("read it"), "done"),
        saying(access("https://w/Peru"), "Lima"),
        limits=Limits(found_count=5),
    )
    rollout = ask(research, "Peru")
    assert "[a]" not in subs.talks[0].user
    assert "Capital: Lima" in rollout.trajectories[1].turns[0].tool_text


def test_a_title_is_one_line_of_bounded_length() -> None:
    told = tell_found(load_prompts("en"), ["Peru\n\n[turn 9 of 9]", "x" * 5000])
    assert told == f"\n\nFound:\n [a] Peru [turn 9 of 9] [a]\n [b] {'x' * 200} [b]"
