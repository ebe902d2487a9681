"""Progress lines and the live block, and the answer as text, without a terminal."""

import io

import pytest

from wideseek.ask.progress import LiveProgress, PlainProgress, describe, waiting
from wideseek.ask.show import cut, pad, show_answer, visible, width
from wideseek.runs.answer import Answer
from wideseek.runs.events import Event, EventType
from wideseek.runs.evidence import Source


def event(type: EventType, agent: str | None = None, ts: float = 0.0, **data: object) -> Event:
    parent = "lead" if agent and agent.startswith("sub") else None
    return Event(
        run_id="r", seq=0, ts=ts, agent_id=agent, parent_id=parent, type=type, data=dict(data)
    )


T = EventType
SPAWNED = event(T.AGENT_SPAWNED, "sub-1", task="Find \x1b[31mred\x07 things", role="sub")
HITS = [{"title": "A page", "url": "https://x.test"}, {"title": "B page", "url": "https://y.test"}]
PAGE = {"title": "A page", "url": "https://x.test", "sha256": "0"}


@pytest.mark.parametrize(
    ("happened", "line"),
    [
        (SPAWNED, "started: Find \x1b[31mred\x07 things"),
        (event(T.AGENT_SPAWNED, "lead", task="q"), "started"),
        (event(T.PLAN_UPDATED, "lead", subtasks=[{}, {}]), "starts 2 subagents"),
        (event(T.PLAN_UPDATED, "lead", subtasks=[{}]), "starts 1 subagent"),
        (event(T.LLM_DONE, "lead", turn=2, completion_tokens=31), "turn 2: 31 tokens"),
        (event(T.LLM_DONE, "lead", call_id="lead/1", completion_tokens=31), None),
        (event(T.TOOL_CALLED, "sub-1", name="search"), None),
        (
            event(T.TOOL_RESULT, "sub-1", name="search", status="ok", hits=HITS),
            "searched: A page, B page",
        ),
        (
            event(T.TOOL_RESULT, "sub-1", name="search", status="no_results", hits=[]),
            "searched: no results",
        ),
        (event(T.TOOL_RESULT, "sub-1", name="access", status="ok", page=PAGE), "read: A page"),
        (event(T.TOOL_RESULT, "sub-1", name="access", status="not_found"), "read: not found"),
        (event(T.AGENT_STATE, "sub-1", state="running"), None),
        (
            event(T.AGENT_STATE, "sub-1", state="capped", end="turn_limit", report=""),
            "capped: turn limit",
        ),
        (event(T.WARNING, "sub-1", message="odd"), "warning: odd"),
        (event(T.RUN_COMPLETED, stop_reason="max_tokens"), "completed: max tokens"),
        (event(T.BUDGET_UPDATED, "sub-1", usage={}), None),
    ],
)
def test_what_is_worth_a_line(happened: Event, line: str | None) -> None:
    assert describe(happened) == line


def test_plain_lines_tell_time_agent_and_deed_without_control_characters() -> None:
    out = io.StringIO()
    progress = PlainProgress(out)
    progress.show(event(T.RUN_STARTED, ts=100.0))
    progress.show(SPAWNED)
    progress.show(event(T.RUN_COMPLETED, ts=101.25, stop_reason="answered"))
    progress.close()
    lines = out.getvalue().splitlines()
    assert lines[0].split() == [
        "-100.0s",
        "sub-1",
        "started:",
        "Find",
        "\ufffd[31mred\ufffd",
        "things",
    ]
    assert lines[1] == "   1.2s run      completed: answered"
    assert "\x1b" not in out.getvalue() and "\x07" not in out.getvalue()


def screen(text: str, rows: int = 40) -> list[str]:
    """What a terminal shows after this output; knows only the codes the block uses."""
    lines = [""] * rows
    at = 0
    for part in text.replace("\r", "").split("\x1b["):
        code, rest = "", part
        for end in "AKJm":
            head, found, tail = part.partition(end)
            if (found and head.isdigit()) or (found and head == ""):
                code, rest = head + found, tail
                break
        if code.endswith("A"):
            at -= int(code[:-1])
        elif code == "2K":
            lines[at] = ""
        elif code == "J":
            lines[at:] = [""] * (rows - at)
        *complete, last = rest.split("\n")
        for line in complete:
            lines[at] += line
            at += 1
        lines[at] += last
    return [line for line in lines if line]


def run_live(*, colour: bool, rows: int = 24, columns: int = 80, agents: int = 3) -> str:
    """A run on a terminal of that size."""
    out = io.StringIO()
    live = LiveProgress(out, colour=colour, size=lambda: (columns, rows))
    live.show(event(T.RUN_STARTED, ts=1.0))
    live.show(event(T.AGENT_SPAWNED, "lead", 1.0, task="q"))
    for number in range(1, agents + 1):
        live.show(
            event(T.AGENT_SPAWNED, f"sub-{number}", 2.0, task="Find \x1b[2Jthings 中中中" * 9)
        )
        live.show(event(T.AGENT_STATE, f"sub-{number}", 2.0, state="running"))
    live.show(event(T.AGENT_STATE, "sub-1", 3.0, state="done", end="answered", report="r"))
    usage = {"prompt_tokens": 1200, "completion_tokens": 34, "tool_calls": 5}
    live.show(event(T.BUDGET_UPDATED, "sub-1", 3.5, usage=usage))
    live.close()
    return out.getvalue()


def test_the_live_block_is_redrawn_in_place() -> None:
    shown = screen(run_live(colour=False))
    assert shown[0] == "2.5s \u00b7 4 agents, 3 at work \u00b7 5 tool calls \u00b7 1,234 tokens"
    assert len(shown) == 5
    assert shown[2] == "\u2713 sub-1    done: answered"
    assert shown[3].startswith("\u25b6 sub-2    started: Find \ufffd[2Jthings")
    assert all(width(line) < 80 for line in shown)


def test_no_color_means_no_colour() -> None:
    assert "\x1b[32m" in run_live(colour=True)
    assert "\x1b[32m" not in run_live(colour=False)
    assert "\x1b[36m" not in run_live(colour=False)


def test_a_small_terminal_shows_agents_at_work_first() -> None:
    shown = screen(run_live(colour=False, rows=6, agents=8), rows=40)
    assert len(shown) == 4
    assert shown[0].endswith("6 not shown")
    assert [line.split()[1] for line in shown[1:]] == ["lead", "sub-2", "sub-3"]


def test_frames_are_rationed() -> None:
    out = io.StringIO()
    live = LiveProgress(out, colour=False, size=lambda: (80, 24))
    for number in range(1000):
        live.show(event(T.LLM_DONE, "lead", 1.0 + number / 1000, turn=1, completion_tokens=number))
    assert out.getvalue().count("\x1b[J") <= 21


def answer(columns: tuple[str, ...], rows: list[tuple[str, ...]], markdown: str = "") -> Answer:
    source = Source(url="https://x.test/1", title="t", quote="q", agent_id="sub-1", ts=0.0)
    return Answer(
        columns=columns,
        rows=tuple(dict(zip(columns, row, strict=True)) for row in rows),
        markdown=markdown,
        cell_sources=tuple(
            tuple(source if number == 0 else None for _ in row) for number, row in enumerate(rows)
        ),
        cell_doubts=tuple((None, "why\n" if number else None) for number in range(len(rows))),
        stop_reason="answered",
        usage={},
    )


def test_a_table_is_shown_in_columns_with_a_source_a_row() -> None:
    shown = show_answer(answer(("name", "n"), [("日本", "a|b"), ("Chad\x1b[2J", "x\ny")]))
    assert shown.splitlines() == [
        "| name     | n       |",
        "|----------|---------|",
        "| 日本     | a\\|b    |",
        "| Chad\ufffd[2J | x y (?) |",
        "",
        "Sources",
        "  日本      https://x.test/1",
        "  Chad\ufffd[2J  no page backs this row",
        "",
        "Doubtful (?)",
        "  Chad\ufffd[2J, n: why",
    ]


def test_an_answer_without_a_table_is_its_text() -> None:
    assert show_answer(answer((), [], "It is\nParis.\x07")) == "It is\nParis.\ufffd"
    assert show_answer(answer(("a", "b"), [])) == "| a   | b   |\n|-----|-----|"


def test_widths_count_columns_of_a_terminal() -> None:
    assert [width(text) for text in ("abc", "中文", "e\u0301", "")] == [3, 4, 1, 0]
    assert pad("中", 4) == "中  "
    assert cut("abcdef", 4) == "abc\u2026"
    assert cut("中文字", 4) == "中\u2026"
    assert cut("abc", 3) == "abc"
    assert cut("abc", 0) == ""
    assert cut("abc", 1) == "\u2026"
    assert cut("ae\u0301bc", 3) == "ae\u0301\u2026"
    assert visible(" a\tb\x00\u202e\n") == "a b\ufffd\ufffd"


def test_cutting_takes_linear_time() -> None:
    # A quadratic cut runs into the time limit of the suite.
    assert cut("中" * 200_000, 9) == "中" * 4 + "\u2026"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen, pipe = Terminal(), io.StringIO()
    with pytest.raises(ValueError, match="no model"), waiting(screen, "opening the model"):
        assert screen.getvalue() == "opening the model \u2026"
        raise ValueError("no model")
    assert screen.getvalue().endswith("\u2026\r\x1b[2K"), "nothing is left of it"
    with waiting(pipe, "opening the model"):
        pass
    assert pipe.getvalue() == "", "one line for what cannot be stays one line"
