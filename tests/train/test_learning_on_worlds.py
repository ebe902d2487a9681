"""It learns, at the scale of a test: a spoilt start, a few updates, worlds that nobody has seen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from wideseek_train.metrics import read_metrics

ROOT = Path(__file__).parents[2]
UNSEEN = 12
"""Scores lie in [0, 1], so even of other worlds one mean is above the other by 0.4 or more by chance in fewer than one of
thirty."""


def run(script: str, *words: str) -> None:
    path = ":".join(str(ROOT / part) for part in ("", "kernels", "train"))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, str(ROOT / "train" / script), *words],
        capture_output=True,
        text=True,
        env=env,
        timeout=440,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_subagents_that_guess_learn_to_open_pages(tmp_path: Path) -> None:
    """Narrow worlds and one bad habit of two, so that four updates are enough."""
    start, out = tmp_path / "start", tmp_path / "run"
    spoilt = ("few=0", "guess=0.95", "steps=24", "learning_rate=6e-4")
    run("imperfect.py", str(start), *spoilt, "min_rows=2", "max_rows=3")
    worlds = ("collect.questions=4", "collect.most_questions=4", "collect.max_rows=3")
    words = ("steps=4", "save_steps=4", "eval_steps=4", f"eval_tasks={UNSEEN}", *worlds)
    more = ("collect.min_rows=2", "trainer.warmup_steps=1", "limits.max_sub_turn_tokens=160")
    run("main.py", "mini_cpu", f"model={start}", f"out={out}", *words, *more)
    lines = read_metrics(out / "metrics.jsonl")
    rewards = [line["critic/rewards/mean"] for line in lines[1:]]
    assert max(rewards[1:]) > rewards[0] + 0.2, rewards  # other questions every time
    before, after = (lines[at]["val-core/worlds/item_f1/mean@1"] for at in (0, -1))
    assert after >= before + 0.4, (before, after, rewards)
