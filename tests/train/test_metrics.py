"""metrics.jsonl and rollouts.jsonl: what they take, how they go on, what mirrors them."""

import json
import math
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from wideseek_train.measure import measure_engine
from wideseek_train.metrics import METRICS, STEP, MetricsLog, read_lines, read_metrics

from tests.train.start import lone_rank
from wideseek.engine.stats import EngineStats, Spread, StepTimes


def test_metrics_are_registered_and_cut_back_on_resume(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0, {}, wandb=False)
    for step in (1, 2, 3):
        log.write({STEP: step, "actor/lr": 0.1}, [{"step": step, "task": "t"}] * 2)
    with pytest.raises(KeyError, match="actor/luck"):
        log.write({STEP: 4, "actor/luck": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"training/global_st')
    MetricsLog(tmp_path, 2, {}, wandb=False).write({STEP: 3, "actor/lr": 0.2})
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line[STEP], line["actor/lr"]) for line in lines] == [(1, 0.1), (2, 0.1), (3, 0.2)]
    rows = read_lines(tmp_path / "rollouts.jsonl")
    assert [row["step"] for row in rows] == [1, 1, 2, 2]


def test_numbers_that_are_none_are_null_in_the_record(tmp_path: Path) -> None:
    """Every line is JSON to any reader, and read again a number that is none stays one."""
    log = MetricsLog(tmp_path, 0, {}, wandb=False)
    log.write({STEP: 1, "actor/grad_norm": math.nan, "mismatch/max": math.inf, "actor/lr": 0.5})

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {STEP: 1, "actor/grad_norm": None, "mismatch/max": None, "actor/lr": 0.5}
    (read,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(read["actor/grad_norm"]) and read["actor/lr"] == 0.5
    MetricsLog(tmp_path, 1, {}, wandb=False)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["mismatch/max"] is None


def test_engine_numbers_are_those_between_two_looks() -> None:
    """Counts since the start would hide what a step was like; a rate without anything to share is left out."""
    counts = {field.name: 0 for field in fields(EngineStats) if field.name != "times"}
    asleep = EngineStats(**counts)
    before = replace(asleep, generated_tokens=1000, prefix_hit_tokens=900, preemptions=5)
    after = replace(
        before,
        generated_tokens=1400,
        prefix_hit_tokens=960,
        prefill_tokens_computed=20,
        preemptions=7,
        times=StepTimes(inter_token=Spread(count=9, p99=0.25)),
    )
    guessed = replace(after, draft_tokens=10, accepted_tokens=4)
    with lone_rank():
        values = measure_engine(before, after, 8.0)
        assert measure_engine(before, guessed, 8.0)["engine/acceptance"] == 0.4
        assert "engine/prefix_hit_rate" not in measure_engine(asleep, asleep, 1.0)
    assert values == {
        "engine/generated_tokens": 400,
        "engine/throughput": 50,
        "engine/prefill_tokens": 20,
        "engine/preemptions": 2,
        "engine/inter_token_p99": 0.25,
        "engine/prefix_hit_rate": 0.75,
    }
    assert values.keys() <= METRICS.keys()


def test_wandb_mirrors_offline_with_one_step_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the package: offline unless asked, no more than the settings as its config."""

    class Run:
        def __init__(self) -> None:
            self.lines: list[dict[str, Any]] = []
            self.axes: list[Any] = []
            self.finished = False

        def log(self, line: dict[str, Any]) -> None:
            self.lines.append(line)

        def define_metric(self, *names: str, **axis: str) -> None:
            self.axes.append((names, axis))

        def finish(self) -> None:
            self.finished = True

    given: dict[str, Any] = {}
    wandb, mirror = ModuleType("wandb"), Run()

    def init(**arguments: Any) -> Run:
        given.update(arguments)
        return mirror

    wandb.init, wandb.Error = init, OSError  # type: ignore[attr-defined]
    wandb.Table = lambda columns, data: (columns, data)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.delenv("WANDB_MODE", raising=False)
    log = MetricsLog(tmp_path, 0, {"steps": 3}, wandb=True)
    log.write({STEP: 1, "actor/lr": 0.1}, [{"step": 1, "reward": 0.5}, {"step": 1, "reward": 0.0}])
    log.close()
    assert given["mode"] == "offline" and given["config"] == {"steps": 3}
    assert mirror.axes == [((STEP,), {}), (("*",), {"step_metric": STEP})]
    table = (["step", "reward"], [[1, 0.5], [1, 0.0]])
    assert mirror.lines == [{STEP: 1, "actor/lr": 0.1, "rollouts": table}] and mirror.finished
    assert os.environ.get("WANDB_MODE") is None

    def refuse(**arguments: Any) -> Run:
        raise OSError("no route to host\nlong story")

    wandb.init = refuse  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"^W&B: no route to host; WANDB_MODE=offline"):
        MetricsLog(tmp_path, 1, {}, wandb=True)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
