"""The supervised start: a small run learns, writes an ordinary folder, and can be continued."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wideseek.model.renderer import Renderer
from wideseek.model.weights import load_model

ROOT = Path(__file__).parents[2]
SMALL = [
    "num_layers=2",
    "intermediate_size=128",
    "stems=400",
    "tokens_per_step=1200",
    "max_length=1500",
    "learning_rate=1.2e-3",
]


def run_sft(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train/sft.py"), *words],
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": ":".join(str(ROOT / p) for p in ("", "kernels", "train")),
            "OMP_NUM_THREADS": "1",
        },
        timeout=280,
    )


@pytest.mark.slow
def test_sft_learns_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "first"
    done = run_sft(str(out), "steps=60", "warmup_steps=10", "log_steps=15", *SMALL)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "sft_log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss_plan"] < 0.75 * lines[0]["loss_plan"]
    assert json.loads((out / "sft.json").read_text())["steps"] == 60
    model, renderer = load_model(out), Renderer.load(out)
    assert max(renderer.encode("Morlen has 12 castles.")) < model.config.vocab_size

    again = tmp_path / "second"
    done = run_sft(
        str(again), f"start={out}", "steps=16", "log_steps=16", *SMALL, "learning_rate=1e-5"
    )
    assert done.returncode == 0, done.stderr
    first = json.loads((again / "sft_log.jsonl").read_text())
    assert first["loss_plan"] < 0.8 * lines[0]["loss_plan"]


def test_wrong_settings_are_one_line(tmp_path: Path) -> None:
    done = run_sft(str(tmp_path / "x"), "stepz=3")
    assert done.returncode != 0 and "stepz" in done.stderr and "Traceback" not in done.stderr
