"""From a question to the files of its run folder, and back from the events alone."""

import asyncio
import csv
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.agents.scripted import Cast, Pages, Talk, access, search, spawn
from tests.runs.json_schema import violations
from wideseek.agents.prompts import load_prompts
from wideseek.agents.research import Research
from wideseek.runs.answer import Answer, derive_answer, read_answer
from wideseek.runs.events import Event, EventType
from wideseek.runs.export import to_csv, write_answer
from wideseek.runs.log import RunLog, read_events, read_page
from wideseek.tools.outcome import Status
from wideseek.trajectory import End

WORLD = {
    "https://w/Brazil": "Brazil\nCapital: Brasília",
    "https://w/Peru": "Peru\nCapital: Lima",
    "https://w/Lands": "2 items\n1. Brazil\n2. Peru",
}
TABLE = "\n".join(
    [
        "```markdown",
        "| # | country | capital |",
        "|---|---|---|",
        "| 1 | Brazil | Brasília |",
        "| 2 | Peru | Cusco |",
        "```",
    ]
)
QUESTION = "All lands with capital?"


def lead(talk: Talk) -> str:
    return [spawn("the list"), spawn("Brazil", "Peru"), TABLE][talk.turn - 1]


def sub(talk: Talk) -> str:
    wanted = "items" if "the list" in talk.user else talk.user.split("Subtask: ")[1].split("\n")[0]
    url = "https://w/" + ("Lands" if wanted == "items" else wanted)
    report = "the list" if wanted == "items" else f"{wanted} | some city"
    return [search(wanted, "nowhere"), access(url), report][talk.turn - 1]


def recorded(tmp_path: Path, question: str = QUESTION, **settings: Any) -> Path:
    tools = Pages(WORLD)
    with RunLog(tmp_path, "run") as log:
        research = Research(
            open_lead=Cast(settings.pop("lead", lead)).open,
            open_sub=Cast(settings.pop("sub", sub)).open,
            search=tools,
            access=tools,
            prompts=load_prompts("en"),
            emit=log.emit,
            **settings,
        )
        asyncio.run(research.run(question))
    return log.folder


def test_table_and_its_sources_come_from_the_run_folder_alone(tmp_path: Path) -> None:
    answer = read_answer(recorded(tmp_path))
    assert answer.columns == ("country", "capital")
    assert answer.rows == (
        {"country": "Brazil", "capital": "Brasília"},
        {"country": "Peru", "capital": "Cusco"},
    )
    assert answer.markdown.splitlines()[0] == "| country | capital |"
    assert answer.stop_reason == "answered"
    assert [source.url for source in answer.row_sources(0)] == ["https://w/Brazil"]
    capital = answer.cell_sources[0][1]
    assert capital is not None
    assert (capital.quote, capital.agent_id) == ("Capital: Brasília", "sub-2")
    assert answer.cell_sources[1][1] is None, "no page says Cusco: marked, not hidden"
    assert answer.doubts(0) == {}
    assert answer.doubts(1) == {"capital": 'the page says "Capital: Lima"'}


def test_json_form_is_what_ask_and_serve_print(tmp_path: Path) -> None:
    shown = json.loads(json.dumps(read_answer(recorded(tmp_path)).to_json()))
    assert list(shown) == ["columns", "rows", "markdown", "sources", "stop_reason", "usage"]
    assert shown["sources"][1]["cells"]["capital"] is None
    assert list(shown["sources"][1]["doubts"]) == ["capital"]
    assert shown["sources"][1]["pages"][0]["url"] == "https://w/Peru"
    assert shown["sources"][1]["pages"][0]["quote"] == "Peru"
    assert shown["usage"]["agents"] == 4


def test_boxed_answer_is_one_row(tmp_path: Path) -> None:
    answer = read_answer(recorded(tmp_path, lead=lambda talk: "It is \\boxed{Lima}."))
    assert answer.columns == ("answer",) and answer.rows == ({"answer": "Lima"},)


def test_answer_without_a_table_is_shown_as_text(tmp_path: Path) -> None:
    answer = read_answer(recorded(tmp_path, lead=lambda talk: "<think>x</think>I do not know."))
    assert (answer.columns, answer.rows) == ((), ())
    assert answer.markdown == "I do not know."


@pytest.mark.parametrize("text", ["<think>\nitems: 3", "<think>a</think>\n\n<think>b"])
def test_a_thought_is_no_answer(tmp_path: Path, text: str) -> None:
    answer = read_answer(recorded(tmp_path, lead=lambda talk: text))
    assert answer.markdown == "" and not answer.tells_something


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("| a | b |\n|---|---|\n| Lima | unknown |\n| Oslo | - |", False),
        ("| a | b |\n|---|---|\n| Lima | Unknown |\n| Oslo | 7 |", True),
        ("| a |\n|---|\n| Lima |", True),
        ("\\boxed{unknown}", False),
        ("\\boxed{Lima}", True),
        ("\\boxed{Lima", False),
        ("I do not know.", True),
    ],
)
def test_an_answer_tells_something_unless_all_is_unknown(
    tmp_path: Path, text: str, tells: bool
) -> None:
    answer = read_answer(recorded(tmp_path, lead=lambda talk: text))
    assert answer.tells_something is tells


def test_columns_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    answer = read_answer(
        recorded(tmp_path, lead=lambda talk: "| a | a (2) | a |\n|---|---|---|\n| 1 | 2 | 3 |")
    )
    assert answer.rows == ({"a": "1", "a (2)": "2", "a (3)": "3"},)


def test_killed_run_still_gives_the_rows_reported_so_far(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    events = read_events(folder)
    reported = next(e.seq for e in events if e.data.get("report") == "Brazil | some city")
    answer = derive_answer(events[: reported + 1], lambda sha256: read_page(folder, sha256))
    assert answer.stop_reason == "unfinished"
    assert {"item": "Brazil", "capital": "some city"} in answer.rows
    assert answer.usage["agents"] == 4
    assert derive_answer([], lambda sha256: "").rows == ()


def test_answer_can_be_derived_after_every_event(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    events = read_events(folder)
    for length in range(len(events) + 1):
        derive_answer(events[:length], lambda sha256: read_page(folder, sha256))


def test_pages_read_can_be_recovered(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    pages = [event.data["page"] for event in read_events(folder) if "page" in event.data]
    assert {page["url"]: read_page(folder, page["sha256"]) for page in pages} == WORLD


def test_files_are_written_from_the_events(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    write_answer(folder)
    assert json.loads((folder / "table.json").read_text())["rows"][0]["capital"] == "Brasília"
    assert (folder / "table.md").read_text().startswith("| country | capital |\n| --- | --- |\n")
    with (folder / "table.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["country", "capital"], ["Brazil", "Brasília"], ["Peru", "Cusco"],
        ]  # fmt: skip
    evidence = [json.loads(line) for line in (folder / "evidence.jsonl").read_text().splitlines()]
    assert [(e["row"], e["column"], bool(e["source"])) for e in evidence] == [
        (0, "country", True), (0, "capital", True), (1, "country", True), (1, "capital", False),
    ]  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["question"] == QUESTION
    assert summary["agent_ends"] == {"answered": 4}
    assert summary["tool_outcomes"] == {"access": {"ok": 3}, "search": {"ok": 3, "no_results": 3}}
    assert (summary["cells"], summary["cells_with_source"]) == (4, 3)
    assert not list(folder.glob("*.part"))


def test_files_of_a_run_without_a_table_are_written_too(tmp_path: Path) -> None:
    folder = recorded(tmp_path, lead=lambda talk: "Nothing.")
    write_answer(folder)
    assert (folder / "table.csv").read_text() == ""
    assert (folder / "table.md").read_text() == "Nothing.\n"


def in_table(cell: str) -> Answer:
    return Answer(
        columns=("c",),
        rows=({"c": cell},),
        markdown="",
        cell_sources=((None,),),
        cell_doubts=((None,),),
        stop_reason="answered",
        usage={},
    )


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-cmd|x", "'-cmd|x"),
        ("@sum", "'@sum"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("-5", "-5"),
        ("+1,234.5 %", "+1,234.5 %"),
        ("-5+cmd", "'-5+cmd"),
        ("plain", "plain"),
        ("'", "'"),
    ],
)
def test_csv_text_is_never_a_formula(cell: str, written: str) -> None:
    lines = csv.reader(io.StringIO(to_csv(in_table(cell)), newline=""))
    assert list(lines) == [["c"], [written]]


SCHEMA = json.loads((files("wideseek.runs") / "events.schema.json").read_text())


def breaks(event: Event) -> list[str]:
    return violations(json.loads(event.to_json()), SCHEMA, SCHEMA)


def test_every_event_of_a_run_keeps_the_schema(tmp_path: Path) -> None:
    def careless(talk: Talk) -> str:
        return "<tool_call>oops</tool_call>" if talk.turn == 1 else lead_after(talk)

    def lead_after(talk: Talk) -> str:
        return [spawn("Brazil"), TABLE][talk.turn - 2]

    seen = set()
    for name, settings in {"good": {}, "careless": {"lead": careless}}.items():
        for event in read_events(recorded(tmp_path / name, **settings)):
            assert breaks(event) == []
            seen.add(event.type)
    assert seen == {
        EventType.RUN_STARTED, EventType.PLAN_UPDATED, EventType.AGENT_SPAWNED, EventType.WARNING,
        EventType.AGENT_STATE, EventType.LLM_DONE, EventType.TOOL_CALLED, EventType.TOOL_RESULT,
        EventType.BUDGET_UPDATED, EventType.RUN_COMPLETED,
    }  # fmt: skip


def test_schema_and_code_know_the_same_words() -> None:
    assert SCHEMA["properties"]["type"]["enum"] == [kind.value for kind in EventType]
    assert SCHEMA["$defs"].keys() == {"usage", *(kind.value for kind in EventType)}
    guarded = [rule["if"]["properties"]["type"]["const"] for rule in SCHEMA["allOf"]]
    assert guarded == [kind.value for kind in EventType]
    status = SCHEMA["$defs"]["tool.result"]["properties"]["status"]["enum"]
    assert status == [status.value for status in Status]
    ends = SCHEMA["$defs"]["agent.state"]["properties"]["end"]["enum"]
    assert ends == [end.value for end in End]


def test_schema_refuses_what_breaks_it() -> None:
    def event(type: EventType, **data: Any) -> Event:
        return Event(run_id="r", seq=0, ts=1.0, agent_id=None, parent_id=None, type=type, data=data)

    assert breaks(event(EventType.AGENT_STATE, state="running")) == []
    assert breaks(event(EventType.AGENT_STATE, state="resting")) != []
    assert breaks(event(EventType.TOOL_RESULT, call_id="x", name="search", status="ok")) != []
    assert breaks(event(EventType.CELL_VERIFIED, row=1, column="c", source=None)) == []
    assert breaks(event(EventType.CELL_VERIFIED, row=1, column="c", source={})) != []
