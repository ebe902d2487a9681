"""bench/learning.py: curves of several runs side by side, and runs that cannot stand beside each other."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from wideseek_train.measure import ITEM_F1
from wideseek_train.metrics import STEP

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import learning


def write_run(folder: Path, seed: int, **changes: Any) -> Path:
    """Two updates of ten seconds, and evaluations before and after them that take two."""
    folder.mkdir()
    config = {"model": "/somewhere/start", "seed": seed, "save_steps": 2, "eval_steps": 2}
    config |= {"eval_tasks": 4, "baseline": "centered"} | changes
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {STEP: 0, "timing_s/step": 2.0, ITEM_F1: 0.25},
        {STEP: 1, "timing_s/step": 10.0, "critic/rewards/mean": 0.5},
        {STEP: 2, "timing_s/step": 12.0, "critic/rewards/mean": 0.75, ITEM_F1: 0.875},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_of_several_seeds_are_one_result_and_one_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (0, 1)]
    monkeypatch.setattr(learning, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["learning.py", "curves", *map(str, runs)])
    assert learning.main() == 0
    summary = json.loads((tmp_path / "results" / "curves.json").read_text())
    assert summary["settings"] == {"model": "start", "baseline": "centered"}
    assert [run["seed"] for run in summary["runs"]] == [0, 1]
    assert summary["runs"][0]["updates"] == [
        {"step": 0, "seconds": 2.0, "item_f1": 0.25},
        {"step": 1, "seconds": 12.0, "reward": 0.5},
        {"step": 2, "seconds": 24.0, "reward": 0.75, "item_f1": 0.875},
    ]
    assert {"device", "torch", "commit", "date"} <= summary["machine"].keys()
    drawn = (tmp_path / "results" / "curves.svg").read_text()
    assert drawn.startswith("<svg xmlns=") and "seed 0" in drawn and "seed 1" in drawn
    assert drawn.count("<polyline") == 2


def test_runs_of_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "a", 0), write_run(tmp_path / "b", 1, baseline="normalized")]
    monkeypatch.setattr(learning, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["learning.py", "curves", *map(str, runs)])
    assert learning.main() == 2 and not (tmp_path / "results").exists()
    assert "b differs from" in capsys.readouterr().err.replace(str(tmp_path) + "/", "")
    (tmp_path / "b" / "metrics.jsonl").unlink()
    monkeypatch.setattr("sys.argv", ["learning.py", "curves", str(tmp_path / "b")])
    assert learning.main() == 2
    assert "holds no metrics.jsonl" in capsys.readouterr().err
