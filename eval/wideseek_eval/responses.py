"""Answers under the names and in the form that the official scorer of WideSearch reads.

The scorer finds them with --response_root FOLDER and the part of the names before the instance as
--model_config_name. What a model wrote stands there unchanged: both scorers see the same text.
"""

import json
import re
from pathlib import Path

from wideseek_eval.suites import EvalTask


def response_path(folder: Path, model: str, task: EvalTask, trial: int) -> Path:
    """{model}_{instance}_{trial}_response.jsonl; a model's path of slashes becomes one name."""
    name = re.sub(r"[^\w.-]", "_", model)
    return folder / f"{name}_{task.id}_{trial}_response.jsonl"


def write_response(folder: Path, run: Path, task: EvalTask, trial: int, answer: str) -> Path:
    """The answer of a run that ended, as a file of one line; a file that is there is replaced."""
    config = json.loads((run / "config.resolved.json").read_text(encoding="utf-8"))
    path = response_path(folder, config["model"], task, trial)
    folder.mkdir(exist_ok=True)
    record = {"instance_id": task.id, "response": answer, "messages": None, "trial_idx": trial}
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(record, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")
    partial.replace(path)
    return path
