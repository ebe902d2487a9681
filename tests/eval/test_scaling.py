"""The sweep over width and depth: points by hand, even tasks, resumption, and what is written."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from wideseek_eval import team
from wideseek_eval.results import Record
from wideseek_eval.scaling import (
    Point,
    System,
    common_tasks,
    plan_curves,
    points_of,
    summarise_sweep,
)
from wideseek_eval.suites import EvalTask, draw_worlds

from tests.eval.scripted_eval import OUTAGE, ScriptedModel, WideTeam
from tests.eval.test_eval_report import record, trace
from tests.eval.test_eval_run import SCORE
from wideseek.backends import LocalModel, ModelPlace

PLACE = ModelPlace("m", None)
ONE = System("one", PLACE, PLACE)
ROWS = (6, 9)


def scoring(task: str, item_f1: float, tokens: int = 10, cached: int = 0, **other: Any) -> Record:
    score = replace(SCORE, item_f1=item_f1)
    return replace(record(task, **other), score=score, tokens=tokens, cached_tokens=cached)


def test_a_team_of_none_is_one_agent_with_the_most_turns() -> None:
    curves = plan_curves((10, 0, 2, 2), (5, 50))
    assert curves["width"] == {0: Point(0, 50), 2: Point(2), 10: Point(10)}
    assert curves["depth"] == {5: Point(0, 5), 50: Point(0, 50)}
    assert points_of(curves) == [Point(0, 50), Point(2), Point(10), Point(0, 5)]
    assert Point(0, 50).folder == "single-50" and Point(2).folder == "team-2"


def test_every_point_is_summed_up_over_the_same_tasks() -> None:
    curves = plan_curves((2,), (5,))
    measured = {
        (ONE, Point(2)): [scoring("a", 1.0), scoring("b", 0.0), scoring("c", 0.0)],
        (ONE, Point(0, 5)): [scoring("a", 0.5), scoring("c", 0.5), scoring("stray", 1.0)],
    }
    assert common_tasks(measured, 1, {"a", "b", "c"}) == ["a", "c"]
    summary = summarise_sweep(measured, curves, 1, {"a", "b", "c"}, 0)
    assert summary["tasks"] == 2
    alone, team = summary["points"]
    assert (alone["workflow"], alone["depth"], alone["width"]) == ("single", 5, None)
    assert (team["width"], team["depth"], team["folder"]) == (2, None, "one/team-2")
    assert team["item_f1"]["mean"] == 0.5 and team["item_f1"]["high"] == 1.0
    assert {point["tasks"] for point in summary["points"]} == {2}


def test_a_task_counts_with_all_its_trials_or_not_at_all() -> None:
    whole = [scoring("a", 1.0, trial=trial) for trial in range(2)]
    torn = [scoring("b", 1.0, trial=0), replace(scoring("b", 1.0, trial=1), score=None)]
    assert common_tasks({(ONE, Point(1)): whole + torn}, 2, {"a", "b"}) == ["a"]
    assert summarise_sweep({(ONE, Point(1)): torn}, plan_curves((1,), (1,)), 2, {"b"}, 0) == {
        "tasks": 0,
        "trials": 2,
        "points": [],
        "equal_cost": [],
        "contamination": {
            "traced": 0,
            "calls_blocked": 0,
            "texts_with_canary": 0,
            "trials_flagged": [],
        },
    }


def equal_cost(team_tokens: int) -> dict[str, Any]:
    curves = plan_curves((4,), (5, 10, 20))
    costs = {5: 100, 10: 200, 20: 400}
    measured = {
        (ONE, Point(0, turns)): [scoring("a", turns / 100, cost), scoring("b", 0.0, cost)]
        for turns, cost in costs.items()
    }
    measured[ONE, Point(4)] = [scoring(t, 0.5, team_tokens + 40, 40) for t in ("a", "b")]
    told: dict[str, Any] = summarise_sweep(measured, curves, 1, {"a", "b"}, 0)["equal_cost"][0]
    return told


def test_a_team_is_held_against_one_agent_that_costs_as_much() -> None:
    told = equal_cost(250)
    assert told["at"] == "computed_tokens" and told["cost"] == 250, "cached tokens are not computed"
    # A quarter of the way from 10 turns to 20: task a scores 0.125, task b nothing.
    assert told["alone"] == pytest.approx(0.0625)
    assert told["gain"]["mean"] == pytest.approx(0.4375)
    assert (told["gain"]["low"], told["gain"]["high"]) == pytest.approx((0.375, 0.5))
    assert told["within"]
    beyond, below = equal_cost(1000), equal_cost(1)
    assert not beyond["within"] and beyond["alone"] == pytest.approx(0.1)
    assert not below["within"] and below["alone"] == pytest.approx(0.025)


class Command:
    """`eval/scaling.py` on scripts; `seconds` is what a reply takes."""

    def __init__(
        self, scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0
    ) -> None:
        self.models: dict[str, WideTeam] = {}
        self._scaling = scaling
        tasks = draw_worlds("test", 6, 0, ROWS, "table")

        async def open_scripted(name: str | None, base_url: str | None) -> ScriptedModel:
            model = WideTeam(tasks, lambda task: "", seconds)
            model.name = str(name)
            return self.models.setdefault(model.name, model)

        monkeypatch.setattr("wideseek_eval.team.open_model", open_scripted)

    def __call__(self, folder: Path, *words: str) -> int:
        flags = ["--base-url", "http://model", "--rows", "6-9", "--output-dir", str(folder)]
        code: int = self._scaling.main([*flags, *words])
        return code

    @property
    def asked(self) -> int:
        return sum(len(model.asked) for model in self.models.values())


POINTS = ("--widths", "0,1,4", "--turns", "5,20", "--tasks", "3")


def read_summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "scaling.json").read_text())
    return summary


def test_one_command_measures_and_draws_both_curves(
    scaling: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Command(scaling, monkeypatch)
    assert run(tmp_path, *POINTS, "--model", "trained=a") == 0
    summary = read_summary(tmp_path)
    assert summary["tasks"] == 3 and summary["trials"] == 1 and run.asked == 12
    means = {
        tuple(p[k] for k in ("width", "depth")): p["item_f1"]["mean"] for p in summary["points"]
    }
    assert set(means) == {(None, 5), (0, 20), (1, None), (4, None)}
    assert means[4, None] > means[0, 20] > means[1, None] > means[None, 5] > 0
    four = next(p for p in summary["points"] if p["width"] == 4)
    assert four["subagents"] == 4 and four["computed_tokens"]["mean"] > 0
    assert {told["width"] for told in summary["equal_cost"]} == {1, 4}
    assert summary["systems"] == {"trained": {"model": "a"}}
    assert summary["contamination"]["traced"] == 12, "the guard watched every trial"
    assert all(point["contamination"]["traced"] == 3 for point in summary["points"])
    for name in ("width.svg", "depth.svg", "scaling.html"):
        assert (tmp_path / name).stat().st_size > 1000
    shown = capsys.readouterr()
    assert "contamination: 0 calls kept" in shown.out
    assert "contamination: 0 calls kept" in (tmp_path / "scaling.html").read_text()
    assert "team, 4 a call" in shown.out and "3 of 3 tasks at every point" in shown.err
    assert (summary["lead_turns"], summary["found"]) == (None, None)
    assert run(tmp_path, *POINTS, "--model", "trained=a") == 0 and run.asked == 12
    assert run(tmp_path, *POINTS, "--model", "trained=a", "--draw") == 0


def test_little_time_means_fewer_tasks_at_every_point(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [0.0]
    monkeypatch.setattr(scaling, "time", SimpleNamespace(monotonic=lambda: now[0]))
    real = scaling.run_point

    async def slow(*given: Any) -> int:
        now[0] += 10.0 if given[1].name == "a" else 1.0
        failed: int = await real(*given)
        return failed

    monkeypatch.setattr(scaling, "run_point", slow)
    run = Command(scaling, monkeypatch)
    models = ("--model", "a=a", "--model", "b=b", "--tasks", "6")
    # A round of a takes 40 s: half of four minutes hold three. b is faster, but may not go beyond.
    assert run(tmp_path, *POINTS[:4], *models, "--minutes", "4") == 0
    first = read_summary(tmp_path)
    assert first["tasks"] == 3 and {point["tasks"] for point in first["points"]} == {3}
    assert run.asked == 3 * 4 * 2
    lines = {path: path.read_bytes() for path in tmp_path.glob("*/*/results.jsonl")}
    assert run(tmp_path, *POINTS[:4], *models, "--minutes", "60") == 0
    assert read_summary(tmp_path)["tasks"] == 6 and run.asked == 6 * 4 * 2
    assert all(path.read_bytes().startswith(before) for path, before in lines.items())


def test_time_that_ends_within_the_first_task_leaves_no_curve(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = iter(range(0, 10_000, 15))
    monkeypatch.setattr(scaling, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    run = Command(scaling, monkeypatch)
    assert run(tmp_path, *POINTS, "--minutes", "2") == 1
    assert read_summary(tmp_path)["points"] == [] and not (tmp_path / "width.svg").exists()
    assert 0 < run.asked < 4


def test_no_question_is_begun_after_the_time_whatever_the_trials(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [0.0]
    monkeypatch.setattr(scaling, "time", SimpleNamespace(monotonic=lambda: now[0]))
    real = WideTeam._speak

    async def slow(self: WideTeam, talk: Any) -> Any:
        now[0] += 5.0
        return await real(self, talk)

    monkeypatch.setattr(WideTeam, "_speak", slow)
    run = Command(scaling, monkeypatch)
    flags = ("--widths", "0", "--turns", "5", "--tasks", "1", "--trials", "5")
    assert run(tmp_path, *flags, "--minutes", "0.2") == 1
    assert run.asked == 3, "at 0, 5 and 10 of 12 seconds"
    assert read_summary(tmp_path)["unanswered"] == 0


def test_points_of_other_weights_are_refused_before_anything_is_asked(
    scaling: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Command(scaling, monkeypatch)
    flags = ("--turns", "5", "--tasks", "1", "--widths")
    assert run(tmp_path, *flags, "1", "--model", "trained=a") == 0
    assert run(tmp_path, *flags, "4", "--model", "trained=b") == 2
    assert "points of {'model': 'a'} beside {'model': 'b'}" in capsys.readouterr().err
    assert run.models["b"].asked == [] and not (tmp_path / "trained" / "team-4").exists()
    (tmp_path / "trained" / "team-1" / "config.json").write_text('{"model": "b"}')
    assert run(tmp_path, *flags, "1", "--model", "trained=a", "--draw") == 2


def test_contamination_is_counted_at_every_point_and_in_all() -> None:
    curves = plan_curves((2,), (5,))
    measured = {
        (ONE, Point(2)): [scoring("a", 1.0), scoring("b", 0.0)],
        (ONE, Point(0, 5)): [scoring("a", 0.5), scoring("b", 0.5), scoring("stray", 1.0)],
    }
    traced = {
        (ONE, Point(2)): {("a", 0): trace(canaries=2), ("b", 0): trace(blocked=1)},
        (ONE, Point(0, 5)): {("a", 0): trace(blocked=3), ("stray", 0): trace(blocked=50)},
    }
    summary = summarise_sweep(measured, curves, 1, {"a", "b"}, 0, traced)
    alone, team = (point["contamination"] for point in summary["points"])
    assert (alone["traced"], alone["calls_blocked"], alone["trials_flagged"]) == (1, 3, [])
    assert (team["texts_with_canary"], team["trials_flagged"]) == (2, ["a-t0"])
    assert team["all_without_flagged"]["item_f1"]["mean"] == 0.0
    assert summary["contamination"] == {
        "traced": 3,
        "calls_blocked": 4,
        "texts_with_canary": 2,
        "trials_flagged": ["one/team-2/a-t0"],
    }


def test_lead_and_subagents_may_be_different_models(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Command(scaling, monkeypatch)
    opened: dict[str, list[str]] = {}

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def open_noted(messages: Any, tools: Any, session: str) -> Any:
            kinds = "lead" if "create_sub_agents" in str(tools) else "sub"
            opened.setdefault(name, []).append(kinds)
            return real(messages, tools, session)

        return open_noted

    plain = team.open_model

    async def open_noting(name: str | None, base_url: str | None) -> Any:
        model = await plain(name, base_url)
        monkeypatch.setattr(model, "open", noting(str(name), model.open))
        return model

    monkeypatch.setattr("wideseek_eval.team.open_model", open_noting)
    flags = ("--widths", "2", "--turns", "5", "--tasks", "1", "--model", "lead only=a,b")
    assert run(tmp_path, *flags) == 0
    assert opened["b"] == ["sub", "sub"] and opened["a"] == ["lead", "sub"]  # sub: alone, 5 turns
    config = json.loads((tmp_path / "lead_only" / "team-2" / "config.json").read_text())
    assert (config["model"], config["sub_model"]) == ("a", "b")
    run_config = next(tmp_path.glob("lead_only/team-2/runs/*/config.resolved.json"))
    assert json.loads(run_config.read_text())["model"] == "a+b"


def test_an_outage_is_no_point_and_is_made_good(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Command(scaling, monkeypatch)
    with monkeypatch.context() as broken:
        broken.setattr(WideTeam, "_speak", ScriptedModel._speak)
        broken.setattr(ScriptedModel, "_answer", None, raising=False)

        async def out(self: ScriptedModel, talk: Any) -> Any:
            return OUTAGE

        broken.setattr(WideTeam, "_speak", out)
        assert run(tmp_path, *POINTS) == 1
    assert read_summary(tmp_path)["unanswered"] == 12
    assert run(tmp_path, *POINTS) == 0 and read_summary(tmp_path)["tasks"] == 3


def test_models_forget_between_points(scaling: ModuleType) -> None:
    told: list[str] = []
    engine = SimpleNamespace(sleep=lambda: told.append("sleep"), wake=lambda: told.append("wake"))
    local = LocalModel("m", None, engine)  # type: ignore[arg-type]
    scaling.forget(team.Team(local, local))
    assert told == ["sleep", "wake"]
    scaling.forget(team.Team(local, ScriptedModel([], lambda task: "")))
    assert told == ["sleep", "wake"] * 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--widths", "1,x"],
        ["--widths", ""],
        ["--turns", "0,5"],
        ["--reply-tokens", "1,2,3"],
        ["--model", "a"],
        ["--model", "=a"],
        ["--model", "a=b,c,d"],
        ["--model", "a=x", "--model", "a=y"],
        ["--minutes", "0"],
        ["--suite", "chess"],
        ["--suite", "worlds", "--corpus", "x.sqlite"],
        ["--temperature", "nan"],
        ["--draw"],
        ["stray"],
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_2(
    scaling: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        scaling.main(arguments)
    assert raised.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_cannot_be_measured_is_one_line_and_exit_2(
    scaling: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ["--output-dir", str(tmp_path / "out"), "--tasks", "1"]
    assert scaling.main(["--model", "a=/nowhere", *out]) == 2
    assert capsys.readouterr().err == "scaling: no model folder at /nowhere\n"
    assert scaling.main(["--suite", "widesearch", *out]) == 2
    assert "widesearch needs --file" in capsys.readouterr().err
    (tmp_path / "boxed.jsonl").write_text(
        '{"id": "fr", "question": "Capital of France?", "kind": "boxed", "answer": "Paris"}\n'
    )
    assert scaling.main(["--suite", str(tmp_path / "boxed.jsonl"), *out[:2]]) == 2
    assert "no table to ask" in capsys.readouterr().err


def test_only_tables_are_asked(main: ModuleType) -> None:
    kinds = {task.kind for task in draw_worlds("test", 20, 0, ROWS)}
    assert kinds == {"table", "boxed"}
    tables: list[EvalTask] = draw_worlds("test", 20, 0, ROWS, "table")
    assert {task.kind for task in tables} == {"table"} and len(tables) == 20


def test_a_lead_of_few_turns_starts_fewer_subagents(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With turns for one wave, width is how many subagents there can be at all."""
    run = Command(scaling, monkeypatch)
    words = (*POINTS, "--lead-turns", "2", "--found", "3", "--model", "trained=a")
    assert run(tmp_path, *words) == 0
    summary = read_summary(tmp_path)
    assert (summary["lead_turns"], summary["found"]) == (2, 3)
    limits = {
        event["data"]["limits"]["lead_turns"]
        for path in tmp_path.glob("trained/team-*/runs/*/events.jsonl")
        for event in map(json.loads, path.read_text().splitlines())
        if "limits" in event["data"]
    }
    assert limits == {2}
