"""bench/train_step.py: whole steps run, and the file says what they were."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_two_steps_of_a_tiny_model_are_written_down(tmp_path: Path) -> None:
    output = tmp_path / "steps.json"
    command = [sys.executable, "bench/main.py", "train", "--output", str(output), "--model", "tiny"]
    paths = os.pathsep.join((".", "kernels", "train"))
    subprocess.run(
        [*command, "--steps", "2", "--sequences", "3", "--reply", "16"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
        check=True,
    )
    written = json.loads(output.read_text())
    assert (written["sequences"], written["prompt_tokens"], written["reply_tokens"]) == (3, 32, 16)
    assert len(written["steps"]) == 2
    for step in written["steps"]:
        assert list(step["seconds"]) == [
            *("rollout", "sleep", "batch", "gradient", "optimizer", "sync")
        ]
        assert step["report"]["tokens"] == 3 * 16
        assert step["report"]["computed_tokens"] == 3 * 48
        assert step["report"]["mismatch"]["max"] < 1e-4
