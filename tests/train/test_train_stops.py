"""How a run of train/main.py ends before its last step, what it leaves behind, and what it does not do twice."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch.distributed as dist
from wideseek_train.checkpoint import read_state
from wideseek_train.collect import Collector
from wideseek_train.metrics import STEP, read_lines, read_metrics
from wideseek_train.trainer import Trainer

from tests.train.start import WORDS, load_script, write_start

Call = Callable[..., None]


@pytest.fixture(scope="module")
def main() -> ModuleType:
    return load_script()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_start(tmp_path_factory.mktemp("start"))


@pytest.fixture
def train(
    main: ModuleType, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Call]:
    """Runs train/main.py in tmp_path/run with more words."""

    def run(*words: str) -> None:
        argv = ["main.py", "mini_cpu", f"model={start}", f"out={tmp_path / 'run'}", *WORDS]
        monkeypatch.setattr(sys, "argv", [*argv, *words])
        try:
            main.main()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

    yield run


def test_collapse_leaves_a_snapshot_and_a_report(
    train: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy whose answers have no form is stopped after three steps, all of them recorded."""
    with pytest.raises(SystemExit) as ended:
        train("steps=5", "save_steps=5", "collapse.max_broken=0.5")
    assert ended.value.code == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("train: step 3: collapse, rollouts/answered was 0, 0, 0 in 3 steps")
    out = tmp_path / "run"
    assert told.endswith(str(out / "collapsed" / "step-000003"))
    assert read_state(out / "collapsed" / "step-000003").steps_done == 3
    assert not (
        out / "checkpoints"
    ).exists()  # started again, it goes on from weights that are well
    assert [line[STEP] for line in read_metrics(out / "metrics.jsonl")] == [1, 2, 3]
    assert "rollouts/answered" in (out / "report.html").read_text()


def test_data_sets_are_asked_and_their_cursor_is_kept(
    train: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"Who is {n}?", "answer": "Ibsen", "qid": n} for n in range(5)]
    data = tmp_path / "depth_20k.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train("steps=2", f"data={data}:0.5", "save_steps=1")
    out = tmp_path / "run"
    lines = read_metrics(out / "metrics.jsonl")
    asked = {
        (line["step"], line["question"]): line["task"]
        for path in (out / "traces").iterdir()
        for line in read_lines(path)
    }
    assert len(asked) == sum(line["critic/groups/drawn"] for line in lines)
    own = [task for task in asked.values() if task.startswith("depth_20k-")]
    assert 0 < len(own) < len(asked)
    assert read_state(out / "checkpoints" / "step-000002").cursor == {"depth_20k": len(own)}
    assert len(set(own[:5])) == len(own[:5])
    settings = json.loads((out / "config.json").read_text())
    assert list(settings["data_sha256"]) == ["depth_20k"]
    data.write_text(data.read_text() + json.dumps(rows[0]) + "\n")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        train("steps=2", f"data={data}:0.5", "save_steps=1")
    assert ended.value.code == 2
    assert "was begun with data_sha256.depth_20k" in capsys.readouterr().err


def test_a_row_without_a_field_ends_a_run_before_it_begins(
    train: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "depth_20k.jsonl"
    data.write_text('{"question": "Who?", "answer": "Ibsen"}\n{"question": "Where?"}\n')
    with pytest.raises(SystemExit) as ended:
        train(f"data={data}:0.5")
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and f"{data} line 2: answer must be" in line
    assert not (tmp_path / "run").exists()


def test_the_start_is_evaluated_once_and_best_needs_every_score(
    train: Call, tmp_path: Path, main: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started again before its first checkpoint, a run knows what the start scored; few scores make no best."""
    calls = []
    evaluate = Collector.evaluate

    def count(self: Collector, tasks: Any) -> Any:
        calls.append(len(tasks))
        return evaluate(self, tasks)[: len(tasks) - lost]

    monkeypatch.setattr(Collector, "evaluate", count)
    monkeypatch.setattr(main, "failed_share", lambda values: 0.9)
    lost = 1
    words = ("steps=1", "eval_steps=1", "eval_tasks=2")
    with pytest.raises(SystemExit):
        train(*words)
    assert len(calls) == 1 and not (tmp_path / "run" / "best").exists()
    (tmp_path / "run" / "metrics.jsonl").unlink()
    lost = 0
    for _ in range(2):
        with pytest.raises(SystemExit):
            train(*words)
    assert len(calls) == 2 and (tmp_path / "run" / "best").is_dir()


def test_too_many_failed_rollouts_end_a_run_before_it_steps(
    train: Call,
    tmp_path: Path,
    main: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def step(self: Trainer, batch: Any) -> Any:
        raise AssertionError("took a step")

    monkeypatch.setattr(main, "failed_share", lambda values: 0.9)
    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(SystemExit) as ended:
        train("steps=1")
    assert ended.value.code == 1
    assert "step 0: 90% of rollouts got no reward" in capsys.readouterr().err
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == []


def test_an_export_touches_nothing_but_its_folder(
    train: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is not there is not begun, and a neighbour of a like name stays."""
    target, neighbour = tmp_path / "model", tmp_path / "model.part"
    with pytest.raises(SystemExit) as ended:
        train("steps=1", "--export", str(target))
    assert ended.value.code == 2 and "no checkpoint yet" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    train("steps=1")
    neighbour.mkdir()
    (neighbour / "mine").write_text("precious")
    train("steps=1", "--export", str(target))
    assert (neighbour / "mine").read_text() == "precious"
    assert (target / "config.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "model", "model.part"}
