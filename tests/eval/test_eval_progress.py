"""The bar as a terminal shows it, and plain lines where there is none."""

import asyncio
import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from wideseek_eval.progress import BarProgress, LineProgress, Tally, open_progress
from wideseek_eval.results import Results
from wideseek_eval.spending import Attempt
from wideseek_eval.suites import draw_worlds

from tests.eval.test_eval_report import record

PRICES = (1e4, 1e4, 1e4)
OUTCOMES = {"search ok": 3, "access timeout": 1}


def screen(written: str) -> list[str]:
    """The lines a terminal shows after what was written, by the few sequences a bar may use."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[\d*[A-Z]|\r|\n|[^\x1b\r\n]+", written):
        match part:
            case "\r":
                pass  # every text is preceded by the order to clear its line
            case "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            case "\x1b[2K":
                lines[row] = ""
            case "\x1b[J":
                del lines[row + 1 :]
                lines[row] = ""
            case _ if part.startswith("\x1b["):
                row -= int(part[2:-1])
                assert part.endswith("A") and row >= 0
            case _:
                lines[row] += part
    return lines[:-1]


class Bar:
    """A bar of four trials on a terminal that is `columns` wide; a second passes at each look."""

    def __init__(self, results: Results, columns: int = 200) -> None:
        self.out = io.StringIO()
        self.results = results
        self.now = 0.0
        tally = Tally(results, frozenset("ab"), 2, PRICES)
        self.bar = BarProgress(tally, self.out, size=lambda: (columns, 24), clock=lambda: self.now)

    def end(self, task: str, trial: int, right: bool) -> None:
        """A trial of 100 tokens."""
        ended = record(task, trial, right, tokens=100, tool_outcomes=OUTCOMES)
        self.results.add(ended)
        self.bar.show(ended)

    @property
    def shown(self) -> list[str]:
        return screen(self.out.getvalue())


def test_the_bar_is_redrawn_in_place_and_ends_full(tmp_path: Path) -> None:
    with Results(tmp_path, {}, resume=True) as results:
        bar = Bar(results)
        bar.bar.draw()
        assert bar.shown == ["╌" * 40 + " 0/4 · 0:00", "0.00 dollars in all"]
        bar.now = 70.0
        bar.end("a", 0, True)
        bar.now = 80.0
        bar.end("b", 0, False)
        assert bar.shown == [
            "━" * 20 + "╌" * 20 + " 2/4 · 1:20, 1:20 left",
            "item F1 0.750 · success 0.500 · 100 tokens · 2 of 8 tool calls failed · 2.00 dollars in all",
            "b trial 0: item F1 0.500, 3 rows, answered, 0.1 s",
        ]
        bar.bar.miss(draw_worlds("test", 1, 0, None)[0], 1)
        assert bar.shown[0].endswith(" 2/4 · 1:20, 0:27 left · 1 without an answer")
        assert bar.shown[2] == "test-0 trial 1: no answer"
        bar.now = 3700.0
        bar.end("a", 1, True)
        assert bar.shown[0] == "━" * 30 + "╌" * 10 + " 3/4 · 1:01:40 · 1 without an answer"
        assert len(bar.shown) == 3


def test_a_message_stays_above_the_bar(tmp_path: Path) -> None:
    with Results(tmp_path, {}, resume=True) as results:
        bar = Bar(results)
        bar.end("a", 0, True)
        bar.bar.tell("eval: the judge is out \x1b[31m")
        bar.end("b", 0, True)
        bar.bar.tell("eval: the judge answers again")
        first, second, *drawn = bar.shown
        assert first == "eval: the judge is out \ufffd[31m"
        assert second == "eval: the judge answers again"
        assert len(drawn) == 3 and " 2/4 " in drawn[0]


@pytest.mark.parametrize("columns", [20, 44, 60])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, columns: int) -> None:
    with Results(tmp_path, {}, resume=True) as results:
        bar = Bar(results, columns)
        bar.end("a", 0, True)
        assert max(map(len, bar.shown)) < columns
        assert bar.shown[0].startswith("━" * 2)


def test_trials_of_an_earlier_session_count_and_others_do_not(tmp_path: Path) -> None:
    with Results(tmp_path, {}, resume=True) as results:
        results.add(record("a", 0, True))
        results.add(record("a", 2))  # only two trials are wanted now
        results.add(record("stray", 0))
        bar = Bar(results)
        bar.now = 30.0
        bar.bar.draw()
        assert bar.shown[0].endswith(" 1/4 · 0:30"), "nothing is known of the pace yet"
        assert bar.shown[1].startswith("item F1 1.000")
        bar.end("b", 0, True)
        assert bar.shown[0].endswith(" 2/4 · 0:30, 1:00 left"), "earlier ones took no time"


def test_cost_is_that_of_all_attempts(tmp_path: Path) -> None:
    with Results(tmp_path, {}, resume=True) as results:
        lost = Attempt(tokens=300, reply_tokens=0, cached_tokens=0)
        results.unscored[tmp_path / "runs" / "b-t0"] = lost
        bar = Bar(results)
        bar.end("a", 0, True)
        assert bar.shown[1].endswith("4.00 dollars in all")


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    out = io.StringIO()
    with Results(tmp_path, {}, resume=True) as results:
        progress = LineProgress(Tally(results, frozenset("ab"), 1, None), out)
        ended = replace(record("a", 0, True), tool_outcomes=OUTCOMES)
        results.add(ended)
        progress.show(ended)
        progress.tell("eval: the judge is out")
        progress.miss(draw_worlds("test", 1, 0, None)[0], 0)
    assert out.getvalue().splitlines() == [
        "[1/2] a trial 0: item F1 1.000, 3 rows, answered, 0.1 s"
        " | so far: item F1 1.000, success 1.000, 1 tokens, 1 of 4 tool calls failed",
        "eval: the judge is out",
        "[2/2] test-0 trial 0: no answer",
    ]


@pytest.mark.parametrize(
    ("tty", "term", "kind"),
    [
        (True, "xterm", BarProgress),
        (True, "dumb", LineProgress),
        (False, "xterm", LineProgress),
    ],
)
def test_a_bar_is_for_terminals_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tty: bool, term: str, kind: type
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: tty)
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("TERM", term)

    async def look() -> type:
        with Results(tmp_path, {}, resume=True) as results:
            async with open_progress(results, frozenset("ab"), 1, None) as progress:
                await asyncio.sleep(0.01)
                assert ("0/2" in out.getvalue()) == (kind is BarProgress), "drawn before any ends"
                return type(progress)

    assert asyncio.run(look()) is kind
    assert ("\x1b" in out.getvalue()) == (kind is BarProgress)
