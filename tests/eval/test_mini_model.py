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
    assert done.returncode in (0, 1, 3), done.stderr[-2000:]  # 1 and 3: an incomplete answer
    return done.stdout


def test_mini_answers_unseen_worlds(tmp_path: Path) -> None:
    flags = [
        "worlds",
        "--split",
        "test",
        "--tasks",
        "6",
        "--rows",
        "3-6",
        "--max-seconds",
        "15",
        "--output-dir",
        "out",
    ]
    run([str(ROOT / "eval/main.py"), *flags], tmp_path)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    # Measured 0.99 on 21 tasks of 3 to 10 rows; the goal is 0.9 (wideseek/model/mini/README.md).
    assert summary["all"]["item_f1"]["mean"] > 0.7


def ask(tmp_path: Path, question: str) -> dict[str, Any]:
    flags = ["--json", "--max-seconds", "45", "--runs-dir", str(tmp_path / "runs"), question]
    answer: dict[str, Any] = json.loads(run(["-m", "wideseek.ask", *flags], tmp_path))
    return answer


def test_ask_finds_south_american_countries_and_their_pages(tmp_path: Path) -> None:
    """Twelve rows, each with its page, and cells as the atlas has them."""
    answer = ask(tmp_path, "List all countries in South America with capital, currency and area.")
    assert answer["columns"][1:] == ["capital", "currency", "area"]
    questions = (ROOT / "eval/atlas/questions.jsonl").read_text().splitlines()
    gold = json.loads(questions[0])
    assert gold["question"].startswith("List all countries in South America")
    rows = [list(row.values()) for row in answer["rows"]]
    assert [row[0] for row in rows] == [row[0] for row in gold["rows"]]
    assert {source["row"] for source in answer["sources"] if source["pages"]} == set(range(12))
    cells = zip(
        (c for row in rows for c in row), (c for row in gold["rows"] for c in row), strict=True
    )
    # "Guarani", which its page calls "Guarani (currency)"; another CPU may round another way.
    assert sum(ours != theirs for ours, theirs in cells) <= 2


def test_the_bundled_model_is_small_and_has_a_card() -> None:
    assert (MINI / "model.safetensors").stat().st_size <= 16 * 2**20
    card = (MINI / "README.md").read_text()
    for word in ("Data", "Training", "Scores", "Limits", "sft.py"):
        assert word in card
