"""The bundled model does its job: unseen worlds, and the README's question on real facts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MINI = ROOT / "wideseek/model/mini"
pytestmark = pytest.mark.slow


def run(words: list[str], cwd: Path) -> str:
    path = ":".join(str(ROOT / p) for p in ("", "kernels", "eval"))
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "2"},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_mini_answers_unseen_worlds(tmp_path: Path) -> None:
    flags = ["worlds", "--split", "test", "--tasks", "8", "--rows", "3-6", "--output-dir", "out"]
    run([str(ROOT / "eval/main.py"), *flags], tmp_path)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["all"]["item_f1"]["mean"] > 0.7


def ask(tmp_path: Path, question: str) -> dict[str, Any]:
    flags = ["--json", "--runs-dir", str(tmp_path / "runs"), question]
    answer: dict[str, Any] = json.loads(run(["-m", "wideseek.ask", *flags], tmp_path))
    return answer


def test_ask_lists_south_america_with_sources(tmp_path: Path) -> None:
    answer = ask(tmp_path, "List all countries in South America with capital, currency and area.")
    assert answer["stop_reason"] == "answered"
    assert answer["columns"][1:] == ["capital", "currency", "area"]
    by_name = {row[answer["columns"][0]]: row for row in answer["rows"]}
    assert len(by_name) == 12
    assert by_name["Brazil"]["capital"] == "Brasília"
    assert by_name["Peru"]["currency"] == "Sol"
    pages = {source["row"]: source["pages"] for source in answer["sources"]}
    assert all(pages[row] for row in range(12))


def test_the_bundled_model_is_small_and_has_a_card() -> None:
    assert (MINI / "model.safetensors").stat().st_size <= 16 * 2**20
    card = (MINI / "README.md").read_text()
    for word in ("Data", "Training", "Scores", "Limits", "sft.py"):
        assert word in card
