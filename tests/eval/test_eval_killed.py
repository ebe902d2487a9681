"""kill -9 at random moments: nothing is lost, nothing is done twice, and the numbers are the same."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from wideseek_eval.report import summarise
from wideseek_eval.results import Record

from tests.eval.scripted_eval import ScriptedModel, ScriptedTeam, run_worlds, uneven
from tests.eval.test_eval_widesearch import figures
from tests.eval.widesearch_set import evaluate, says, score_some, wise, write_set
from wideseek.runs.events import EventType
from wideseek.runs.log import read_events

SMALL, LARGE = (6, 2, 4), (30, 4, 10)
"""Tasks, trials, kills. The large one: pytest -m slow tests/eval/test_eval_killed.py"""

PROCESSES = get_context("forkserver")
"""Children that are forked with everything imported, so that they live to be killed."""
PROCESSES.set_forkserver_preload(["tests.eval.widesearch_set"])


def evaluate_worlds(
    folder: Path, tasks: int, trials: int, seconds: float = 0.0
) -> tuple[list[Record], ScriptedModel, int]:
    return asyncio.run(run_worlds(folder, tasks, trials, uneven, seconds, cast=ScriptedTeam))


def timeless(records: list[Record]) -> dict[str, Record]:
    return {record.run: replace(record, seconds=0.0) for record in records}


def lines_of(path: Path) -> bytes:
    """The whole lines of a file that may not be there."""
    text = path.read_bytes() if path.exists() else b""
    return text[: text.rfind(b"\n") + 1]


def kill_at(
    target: Callable[..., object], arguments: tuple[object, ...], reached: Callable[[], bool]
) -> bool:
    """Start a process and kill it a random moment after `reached`; whether it was still alive."""
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    while process.is_alive() and not reached():
        time.sleep(0.002)
    time.sleep(random.random() * 0.05)
    alive = process.is_alive()
    process.kill()
    process.join()
    process.close()
    return alive


def has_ended(run: Path) -> bool:
    events = read_events(run)
    return bool(events) and events[-1].type is EventType.RUN_COMPLETED


@pytest.mark.parametrize(
    ("tasks", "trials", "kills"),
    [SMALL, pytest.param(*LARGE, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_a_killed_evaluation_goes_on_to_the_same_numbers(
    tmp_path: Path, tasks: int, trials: int, kills: int
) -> None:
    calm, _, _ = evaluate_worlds(tmp_path / "calm", tasks, trials)
    folder = tmp_path / "killed"
    path = folder / "results.jsonl"
    kept, done, killed = b"", {}, 0
    for _ in range(kills):
        wanted = kept.count(b"\n") + random.randrange(tasks * trials // kills)
        begun = len(list(folder.glob("runs/*"))) + 1

        def reached(wanted: int = wanted, begun: int = begun) -> bool:
            runs = len(list(folder.glob("runs/*")))
            return runs >= begun and lines_of(path).count(b"\n") >= wanted

        killed += kill_at(evaluate_worlds, (folder, tasks, trials, 0.02), reached)
        assert lines_of(path).startswith(kept)
        kept = lines_of(path)
        assert all(log.read_bytes() == text for log, text in done.items()), "a run was done twice"
        logs = list(folder.glob("runs/*/events.jsonl"))
        done = {log: log.read_bytes() for log in logs if has_ended(log.parent)}
    records, model, undone = evaluate_worlds(folder, tasks, trials)
    assert killed > kills // 2, "it mostly ended before it could be killed"
    assert undone == 0 and timeless(records) == timeless(calm)
    assert len(model.asked) == tasks * trials - len(done)
    assert all(log.read_bytes() == text for log, text in done.items())
    lines = [
        (line["task"], line["trial"]) for line in map(json.loads, path.read_bytes().splitlines())
    ]
    assert len(lines) == len(set(lines)) == tasks * trials
    assert summarise(records, 0)["all"] == summarise(calm, 0)["all"]


def test_scoring_that_is_killed_loses_no_answer_and_no_reply(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    calm, _ = evaluate(tmp_path / "calm", path, says(wise, []))
    folder = tmp_path / "killed"
    assert evaluate(folder, path, says(wise, []), graded=False) == ([], 0)
    replies = folder / "judge.jsonl"
    kept = b""
    for wanted in (1, 3):
        assert kill_at(
            score_some,
            (folder, path, wanted - kept.count(b"\n")),
            lambda wanted=wanted: lines_of(replies).count(b"\n") >= wanted,
        )
        assert lines_of(replies).startswith(kept)
        kept = lines_of(replies)
    known = [json.loads(line)["prompt"] for line in kept.splitlines()]
    asked: list[str] = []
    records, undone = evaluate(folder, path, says(wise, asked), answered=True)
    assert undone == 0 and figures(records) == figures(calm)
    assert not set(asked) & set(known)
