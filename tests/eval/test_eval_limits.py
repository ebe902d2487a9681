"""The flags that pick tasks and keep an evaluation within bounds."""

import asyncio
import json
import re
from argparse import ArgumentTypeError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from wideseek_eval.flags import pick, price_list, task_range
from wideseek_eval.progress import tool_failures
from wideseek_eval.spending import dollars
from wideseek_eval.suites import draw_worlds
from wideseek_eval.throttle import ThrottledModel

from tests.agents.scripted import Said, Talk
from tests.eval.scripted_eval import OUTAGE, ScriptedModel, ScriptedTeam, right
from tests.eval.test_eval_report import record
from wideseek.generation import Message, Sampling


class Command:
    """`eval/main.py worlds` on a script."""

    def __init__(
        self,
        main: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        answer: Any = right,
        cast: type[ScriptedModel] = ScriptedModel,
    ) -> None:
        self.model = cast(draw_worlds("test", 6, 0, None), answer)
        self.opened: list[str | None] = []
        self._main = main

        async def open_scripted(name: str | None, base_url: str | None) -> ScriptedModel:
            self.opened.append(name)
            return self.model

        monkeypatch.setattr("wideseek_eval.team.open_model", open_scripted)

    def __call__(self, folder: Path, *words: str) -> int:
        flags = ["worlds", "--base-url", "http://model", "--output-dir", str(folder)]
        code: int = self._main.main([*flags, *words])
        return code

    @staticmethod
    def summary(folder: Path) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        return told


def test_tasks_are_picked_by_number_range_and_name(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Command(main, monkeypatch)
    assert run(tmp_path / "a", "--limit", "3-4") == 0
    assert sorted(run.model.asked) == ["test-2", "test-3"]
    assert run(tmp_path / "b", "--tasks", "6", "--sample-id", "test-5, test-1") == 0
    assert sorted(run.model.asked[2:]) == ["test-1", "test-5"]
    assert run(tmp_path / "c", "--tasks", "2", "--sample-id", "test-5") == 2
    assert (task_range("3"), task_range("2-3")) == (slice(0, 3), slice(1, 3))
    for text in ("0", "3-2", "0-2", "-1", "x", ""):
        with pytest.raises(ArgumentTypeError):
            task_range(text)
    with pytest.raises(ValueError, match="no task nobody"):
        pick(draw_worlds("test", 2, 0, None), "test-0,nobody")


def test_leads_begin_with_titles_found_where_asked_for(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Command(main, monkeypatch)
    assert run(tmp_path, "--tasks", "1", "--found", "3") == 0
    events = map(json.loads, (tmp_path / "runs/test-0-t0/events.jsonl").read_text().splitlines())
    found = next(event["data"] for event in events if event["type"] == "tool.called")
    assert (found["call_id"], found["arguments"]["count"]) == ("run/1", 3)
    assert json.loads((tmp_path / "config.json").read_text())["found"] == 3


def test_tokens_of_a_question_are_limited(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Command(main, monkeypatch)
    assert run(tmp_path, "--tasks", "2", "--token-limit", "50", "--time-limit", "9") == 0
    assert run.summary(tmp_path)["stop_reasons"] == {"max_tokens": 2}
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["token_limit"], config["max_seconds"]) == (50, 9.0)


def test_cost_is_told_and_limited(
    main: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prices = ("--price", "1000000,0,1000000")
    run = Command(main, monkeypatch)
    assert run(tmp_path, "--tasks", "4", "--concurrency", "1", *prices, "--cost-limit", "1") == 3
    assert len(run.model.asked) == 1
    shown = capsys.readouterr()
    summary = run.summary(tmp_path)
    assert summary["dollars"] == summary["mean"]["tokens"] > 100
    assert f"cost: {summary['dollars']:,.2f} dollars" in shown.out
    assert "dollars in all" in shown.err
    page = (tmp_path / "report.html").read_text()
    assert f"{summary['dollars']:,.2f} dollars" in page
    assert run(tmp_path, "--tasks", "4", *prices) == 0 and len(run.model.asked) == 4


class DyingTeam(ScriptedTeam):
    """Subagents report, and before the lead can answer the server is gone."""

    dies = True

    async def _speak(self, talk: Talk) -> Said:
        said = await super()._speak(talk)
        dead = self.dies and talk.turn > 1 and "Look for" not in talk.user
        return OUTAGE if dead else said


def test_attempts_without_a_result_cost_too_even_in_the_next_session(
    main: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Command(main, monkeypatch, cast=DyingTeam)
    prices = ("--tasks", "3", "--concurrency", "1", "--price", "1000000,0,1000000")
    for _ in range(2):
        assert run(tmp_path, *prices, "--cost-limit", "1") == 3
        assert run.model.asked == ["test-0"]
        summary = run.summary(tmp_path)
        assert summary["dollars"] == 0 and summary["dollars_unscored"] > 100
    assert "for attempts without a result" in capsys.readouterr().out
    lost = summary["dollars_unscored"]
    DyingTeam.dies = False
    try:
        assert run(tmp_path, *prices) == 0
    finally:
        DyingTeam.dies = True
    assert run.model.asked == ["test-0", "test-0", "test-1", "test-2"]
    assert run.summary(tmp_path)["dollars_unscored"] == lost, "the second attempt has a result"
    assert [run.name for run in (tmp_path / "cut_short").iterdir()] == ["test-0-t0-1"]
    assert run(tmp_path, *prices) == 0 and run.summary(tmp_path)["dollars_unscored"] == lost


def test_answers_that_are_not_graded_yet_cost_too(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Command(main, monkeypatch)
    words = ("--tasks", "3", "--concurrency", "1", "--price", "1000000,0,1000000")
    assert run(tmp_path, *words, "--cost-limit", "1", "--predict-only") == 3
    assert len(run.model.asked) == 1
    assert run(tmp_path, *words, "--score-only") == 1
    summary = run.summary(tmp_path)
    assert summary["trials"] == 1 and summary["dollars"] > 100
    assert summary["dollars_unscored"] == 0


def test_cost_counts_the_cache_apart_and_failures_are_no_empty_searches() -> None:
    outcomes = {"search ok": 3, "search no_results": 2, "access timeout": 1, "access not_found": 1}
    one = record("a", tokens=100, cached_tokens=30, reply_tokens=20, tool_outcomes=outcomes)
    assert dollars([one, one], (1e6, 1e5, 1e7)) == 2 * (50 * 1 + 30 * 0.1 + 20 * 10)
    assert tool_failures([one, one]) == (4, 14)
    assert price_list("1,2") == (1.0, 1.0, 2.0) and price_list("3,1,9") == (3.0, 1.0, 9.0)
    for text in ("1", "1,2,3,4", "a,b", "-1,2", "nan,1", "inf,1"):
        with pytest.raises(ArgumentTypeError):
            price_list(text)


def test_the_first_failure_can_be_the_last(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Command(main, monkeypatch, lambda task: OUTAGE)
    assert run(tmp_path / "all", "--tasks", "4", "--concurrency", "1") == 1
    assert len(run.model.asked) == 4
    flags = ("--tasks", "4", "--concurrency", "1", "--fail-on-error")
    assert run(tmp_path / "first", *flags) == 1
    assert len(run.model.asked) == 5


def test_lead_and_subagents_may_be_different_models(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Command(main, monkeypatch, cast=ScriptedTeam)
    assert run(tmp_path, "--tasks", "1", "--model", "big", "--sub-model", "small") == 0
    assert run.opened == ["big", "small"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model"], config["sub_model"]) == ("big", "small")
    assert run(tmp_path, "--tasks", "1", "--model", "big", "--sub-model", "other") == 2


def test_only_so_many_replies_are_under_way_at_once() -> None:
    live = most = 0

    class Counting:
        num_tokens, token_ids = 3, (1, 2, 3)

        def count_tool_tokens(self, text: str) -> int:
            return len(text)

        def add_tool(self, text: str) -> None:
            added.append(text)

        async def reply(self, sampling: Sampling, cancel: asyncio.Event | None = None) -> str:
            nonlocal live, most
            live += 1
            most = max(most, live)
            await asyncio.sleep(0.001)
            live -= 1
            return "said"

    added: list[str] = []
    plain = SimpleNamespace(name="m", max_model_len=9, open=lambda *opened: Counting())
    model = ThrottledModel(plain, 3)  # type: ignore[arg-type]
    assert (model.name, model.max_model_len) == ("m", 9)

    async def talk() -> list[Any]:
        dialogues = [model.open([Message(role="user", content="x")], ()) for _ in range(12)]
        dialogues[0].add_tool("told")
        assert (dialogues[0].num_tokens, list(dialogues[0].token_ids)) == (3, [1, 2, 3])
        assert dialogues[0].count_tool_tokens("four") == 4
        return await asyncio.gather(*(dialogue.reply(Sampling()) for dialogue in dialogues))

    assert asyncio.run(talk()) == ["said"] * 12
    assert most == 3 and added == ["told"]


def test_the_model_is_throttled_where_a_flag_says_so(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Command(main, monkeypatch, cast=ScriptedTeam)
    wrapped: list[int] = []

    class Noted(ThrottledModel):
        def __init__(self, model: Any, connections: int) -> None:
            wrapped.append(connections)
            super().__init__(model, connections)

    monkeypatch.setattr("wideseek_eval.team.ThrottledModel", Noted)
    assert run(tmp_path, "--tasks", "2", "--max-connections", "1") == 0
    assert wrapped == [1] and run.summary(tmp_path)["trials"] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--cost-limit", "1"],
        ["--price", "free"],
        ["--token-limit", "0"],
        ["--max-connections", "0"],
        ["--limit", "4-2"],
        ["--inspect", "log.json"],
        ["--inspect", "log.eval", "--predict-only"],
    ],
)
def test_a_wrong_limit_is_one_line_and_exit_2(
    main: ModuleType, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main.main(["worlds", *words])
    assert raised.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_lead_has_the_turns_it_is_given(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[str] = []

    class Noting(ScriptedModel):
        async def _speak(self, talk: Talk) -> Said:
            told.extend(re.findall(r"turn 1 of (\d+)", talk.user))
            return await super()._speak(talk)

    run = Command(main, monkeypatch, cast=Noting)
    assert run(tmp_path / "a", "--tasks", "1") == 0
    assert run(tmp_path / "b", "--tasks", "1", "--lead-turns", "3") == 0
    assert told == ["10", "3"]
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["lead_turns"] == 3
