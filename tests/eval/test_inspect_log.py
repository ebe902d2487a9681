"""The log for Inspect's viewer: its structure by hand, and read by the package where it is there."""

import asyncio
import json
import zipfile
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from wideseek_eval.comparison import read_records
from wideseek_eval.inspect_log import target_of, write_inspect_log
from wideseek_eval.inspect_sample import sample_of
from wideseek_eval.report import summarise
from wideseek_eval.results import Results
from wideseek_eval.run import run_trials
from wideseek_eval.suites import EvalTask, draw_worlds

from tests.agents.scripted import call
from tests.eval.scripted_eval import (
    OUTAGE,
    SETTINGS,
    ScriptedModel,
    ScriptedTeam,
    right,
    run_worlds,
)
from tests.eval.test_eval_run import RECORD
from wideseek.runs.events import EventType
from wideseek.runs.log import RunLog, read_events
from wideseek.tools.corpus import Corpus
from wideseek.tools.outcome import Page

TASKS, TRIALS = 4, 2


def evaluate(folder: Path) -> list[EvalTask]:
    asyncio.run(run_worlds(folder, TASKS, TRIALS, cast=ScriptedTeam))
    return draw_worlds("test", TASKS, 0, None)


def read_log(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as log:
        assert log.testzip() is None
        return {name: json.loads(log.read(name)) for name in log.namelist()}


def test_the_log_holds_every_trial_once(tmp_path: Path) -> None:
    tasks = evaluate(tmp_path / "out")
    records = read_records(tmp_path / "out")
    written = write_inspect_log(tmp_path / "out", tmp_path / "log.eval", records, tasks)
    assert written == TASKS * TRIALS
    log = read_log(tmp_path / "log.eval")
    parts = ["_journal/start.json", "header.json", "reductions.json", "summaries.json"]
    samples = [f"samples/{task.id}_epoch_{n}.json" for task in tasks for n in (1, 2)]
    assert sorted(log) == sorted([*parts, *samples])
    assert not list(tmp_path.glob("*.part"))
    header = log["header.json"]
    assert header["version"] == 2 and header["status"] == "success"
    assert header["eval"]["dataset"]["sample_ids"] == sorted(task.id for task in tasks)
    assert header["eval"]["config"]["epochs"] == TRIALS and header["eval"]["model"] == "scripted"
    assert header["results"]["total_samples"] == TASKS * TRIALS
    datetime.fromisoformat(header["eval"]["created"])
    assert [(s["id"], s["epoch"]) for s in log["summaries.json"]] == [
        (log[name]["id"], log[name]["epoch"]) for name in sorted(samples)
    ]


def test_its_scores_are_those_of_the_report(tmp_path: Path) -> None:
    tasks = evaluate(tmp_path)
    write_inspect_log(tmp_path, tmp_path / "log.eval", read_records(tmp_path), tasks)
    log = read_log(tmp_path / "log.eval")
    records = read_records(tmp_path)
    report = summarise(records, 0)["all"]
    means = {
        s["name"]: s["metrics"]["mean"]["value"] for s in log["header.json"]["results"]["scores"]
    }
    assert means == {
        "item F1": pytest.approx(report["item_f1"]["mean"]),
        "row F1": pytest.approx(report["row_f1"]["mean"]),
        "success": pytest.approx(report["success"]["mean"]),
    }
    for record in records:
        sample = log[f"samples/{record.task}_epoch_{record.trial + 1}.json"]
        assert record.score is not None
        assert sample["scores"]["item F1"]["value"] == record.score.item_f1
        usage = sample["model_usage"]["scripted"]
        assert (
            usage["total_tokens"]
            == record.tokens
            == sum(
                event["output"]["usage"]["total_tokens"]
                for event in sample["events"]
                if event["event"] == "model"
            )
        )
        task = next(task for task in tasks if task.id == record.task)
        assert sample["target"] == target_of(task) and sample["input"] == task.question
    reduced = {part["scorer"]: part["samples"] for part in log["reductions.json"]}
    assert len(reduced["item F1"]) == TASKS


def test_every_agent_is_a_span_within_its_lead(tmp_path: Path) -> None:
    evaluate(tmp_path)
    write_inspect_log(tmp_path, tmp_path / "log.eval", read_records(tmp_path))
    sample = read_log(tmp_path / "log.eval")["samples/test-0_epoch_1.json"]
    events = sample["events"]
    begun = {e["id"]: e["parent_id"] for e in events if e["event"] == "span_begin"}
    assert begun == {"lead": None, "sub-1": "lead", "sub-2": "lead"}
    assert sorted(e["id"] for e in events if e["event"] == "span_end") == sorted(begun)
    spans = {e["span_id"] for e in events if e["event"] in ("model", "tool")}
    assert spans == set(begun)
    assert [e["timestamp"] for e in events] == sorted(e["timestamp"] for e in events)
    roles = [message["role"] for message in sample["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "assistant"]
    assert "I found a list." in sample["messages"][2]["content"]
    searched = next(e for e in events if e["event"] == "tool")
    assert searched["function"] == "search" and searched["arguments"] == {"query": "the list"}
    assert sample["target"] == "", "the folder does not hold what was right"


def test_pages_are_shown_in_part_and_failures_as_errors(tmp_path: Path) -> None:
    page = Page("Gold", "https://a.org/gold", "Gold\n" + "x" * 9000)
    corpus = Corpus.from_pages([page])
    task = EvalTask(
        id="q",
        question="What of https://a.org/gold?",
        kind="boxed",
        open_corpus=lambda: corpus,
        answers=("x",),
    )
    opened = [call("access", url="https://a.org/gold"), call("access", url="https://a.org/none")]
    said = iter([*opened, "\\boxed{x}"])
    model = ScriptedModel([task], lambda task: next(said))

    async def evaluate_one() -> None:
        with Results(tmp_path, {"suite": "file", "workflow": "single"}, resume=True) as results:
            alone = SETTINGS.__class__(
                workflow="single", width=1, temperature=0.0, max_seconds=9.0, seed=0
            )
            await run_trials([task], 1, model, alone, results, concurrency=1, show=lambda r: None)

    asyncio.run(evaluate_one())
    write_inspect_log(tmp_path, tmp_path / "log.eval", read_records(tmp_path), [task])
    sample = read_log(tmp_path / "log.eval")["samples/q_epoch_1.json"]
    good, bad = [event for event in sample["events"] if event["event"] == "tool"]
    assert good["error"] is None and good["result"].startswith("Gold\nxxx")
    assert len(good["result"]) < 9000
    assert bad["error"]["message"].startswith(("refused_url", "not_found"))
    assert sample["target"] == "x"


def test_a_stopped_and_a_failed_trial_are_told(tmp_path: Path) -> None:
    with RunLog(tmp_path, "a-t0", clock=lambda: 5.0) as log:
        usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens"), 0)
        log.emit(
            EventType.RUN_STARTED,
            {"question": "q", "seed": 7, "budget": {"max_seconds": 60.0}, "limits": {}},
        )
        log.emit(EventType.AGENT_SPAWNED, {"role": "lead", "task": "q"}, agent_id="lead")
        log.emit(EventType.WARNING, {"message": "too many calls"}, agent_id="lead")
        log.emit(EventType.RUN_COMPLETED, {"answer": "\ud800", "usage": usage | {"seconds": 60.0}})
    record = RECORD.__class__.from_json(
        json.dumps(
            {
                **{name: getattr(RECORD, name) for name in RECORD.__dataclass_fields__},
                "score": None,
                "failure": "bad_gold",
                "stop_reason": "max_seconds",
            }
        )
    )
    sample = sample_of(record, read_events(log.folder), log.folder, "", "m")
    assert sample["limit"] == {"type": "time", "limit": 60.0}
    assert sample["scores"] == {} and sample["metadata"]["failure"] == "bad_gold"
    assert [event["data"] for event in sample["events"] if event["event"] == "info"] == [
        "too many calls"
    ]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "runs").mkdir()
    log.folder.rename(tmp_path / "runs" / "a-t0")
    line = json.dumps({n: getattr(record, n) for n in RECORD.__dataclass_fields__}) + "\n"
    (tmp_path / "results.jsonl").write_text(line)
    assert write_inspect_log(tmp_path, tmp_path / "odd.eval", read_records(tmp_path)) == 1
    assert read_log(tmp_path / "odd.eval")["header.json"]["results"]["scores"] == []


def test_the_command_writes_it_and_refuses_what_is_none(
    export: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(tmp_path / "out")
    file = tmp_path / "logs" / "x.eval"
    assert export.main([str(tmp_path / "out"), str(file)]) == 0
    assert f"8 trials in {file}" in capsys.readouterr().out and file.exists()
    for folder in (tmp_path, tmp_path / "none"):
        assert export.main([str(folder), str(file)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as raised:
        export.main([str(tmp_path / "out"), "x.json"])
    assert raised.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_main_writes_it_with_what_was_right(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tasks = draw_worlds("test", 2, 0, None)

    async def open_scripted(name: str | None, base_url: str | None) -> ScriptedModel:
        return ScriptedModel(tasks, right)

    monkeypatch.setattr("wideseek_eval.team.open_model", open_scripted)
    words = ["worlds", "--tasks", "2", "--base-url", "http://m", "--output-dir", str(tmp_path)]
    assert main.main([*words, "--inspect", str(tmp_path / "log.eval")]) == 0
    log = read_log(tmp_path / "log.eval")
    assert log["samples/test-0_epoch_1.json"]["target"] == target_of(tasks[0]) != ""
    assert log["header.json"]["eval"]["task"] == "wideseek/worlds"
    assert main.main([*words, "--tasks", "1", "--inspect", str(tmp_path / "one.eval")]) == 0
    one = read_log(tmp_path / "one.eval")
    assert [name for name in one if name.startswith("samples")] == ["samples/test-0_epoch_1.json"]


def test_of_no_answer_there_is_no_log_and_no_wrong_usage(
    main: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def open_scripted(name: str | None, base_url: str | None) -> ScriptedModel:
        return ScriptedModel(draw_worlds("test", 1, 0, None), lambda task: OUTAGE)

    monkeypatch.setattr("wideseek_eval.team.open_model", open_scripted)
    words = ["worlds", "--tasks", "1", "--base-url", "http://m", "--output-dir", str(tmp_path)]
    assert main.main([*words, "--inspect", str(tmp_path / "log.eval")]) == 1
    assert not (tmp_path / "log.eval").exists()
    assert "for Inspect's viewer: no trial, and no file" in capsys.readouterr().err


def test_inspect_reads_it(tmp_path: Path) -> None:
    reason = (
        "inspect_ai is large and not needed to write a log; where it is installed, it must read it"
    )
    inspect_log = pytest.importorskip("inspect_ai.log", reason=reason)
    tasks = evaluate(tmp_path)
    write_inspect_log(tmp_path, tmp_path / "log.eval", read_records(tmp_path), tasks)
    log = inspect_log.read_eval_log(str(tmp_path / "log.eval"))
    assert log.status == "success" and len(log.samples) == TASKS * TRIALS
    means = {score.name: score.metrics["mean"].value for score in log.results.scores}
    assert means["item F1"] == pytest.approx(
        summarise(read_records(tmp_path), 0)["all"]["item_f1"]["mean"]
    )
    sample = next(s for s in log.samples if s.id == "test-0" and s.epoch == 1)
    assert [message.role for message in sample.messages][:2] == ["user", "assistant"]
    assert {event.event for event in sample.events} >= {"span_begin", "model", "tool", "score"}
    assert len(inspect_log.read_eval_log_sample_summaries(str(tmp_path / "log.eval"))) == 8
