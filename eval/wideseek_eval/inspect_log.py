"""An evaluation's folder as a log file of Inspect (version 2 of its format: JSON in a zip).

Written here rather than with the package, which is large and not needed to write JSON. The viewer
and `inspect_ai.log.read_eval_log` read it.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from statistics import fmean
from typing import Any

from wideseek.grading.answer import Table
from wideseek.runs.log import read_events
from wideseek.runs.table import to_markdown
from wideseek_eval.inspect_sample import JsonObject, sample_of, summary_of
from wideseek_eval.provenance import provenance
from wideseek_eval.results import Record
from wideseek_eval.suites import EvalTask

VERSION = 2


def write_inspect_log(
    folder: Path, file: Path, records: Iterable[Record], tasks: Iterable[EvalTask] = ()
) -> int:
    """Write those of a folder's trials whose runs are still there; how many they were.

    `tasks` say what was right. Of no trial there is no log; ValueError for a folder that is none.
    """
    config = _read_config(folder)
    targets = {task.id: target_of(task) for task in tasks}
    samples = []
    for record in sorted(records, key=lambda record: (record.task, record.trial)):
        run = folder / "runs" / record.run
        if (run / "events.jsonl").is_file():
            events, model = read_events(run), _model_of(run, config)
            samples.append(sample_of(record, events, run, targets.get(record.task, ""), model))
    if not samples:
        return 0
    header = _header(config, samples)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as log:
        start = {name: header[name] for name in ("version", "eval", "plan")}
        _add(log, "_journal/start.json", start)
        for sample in samples:
            _add(log, f"samples/{sample['id']}_epoch_{sample['epoch']}.json", sample)
        _add(log, "summaries.json", [summary_of(sample) for sample in samples])
        _add(log, "reductions.json", _reductions(samples))
        _add(log, "header.json", header)
    partial.replace(file)
    return len(samples)


def target_of(task: EvalTask) -> str:
    """What is right, as text."""
    if task.kind == "table":
        return to_markdown(Table(task.columns, task.rows))
    return " | ".join(task.answers)


def _read_config(folder: Path) -> JsonObject:
    try:
        config: JsonObject = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{folder} holds no config.json: not an evaluation") from None
    return config


def _model_of(run: Path, config: Mapping[str, Any]) -> str:
    """The name of the model a run was made with."""
    path = run / "config.resolved.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else config
    return str(told.get("model") or "model")


def _add(log: zipfile.ZipFile, name: str, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    log.writestr(name, text.encode("utf-8", "backslashreplace"))


def _header(config: Mapping[str, Any], samples: Sequence[JsonObject]) -> JsonObject:
    """Everything but the samples."""
    names = sorted({sample["id"] for sample in samples})
    trials = max(sample["epoch"] for sample in samples)
    started = min(sample["started_at"] for sample in samples)
    model = next(iter(samples[0]["model_usage"]))
    told = json.dumps([config, started, names], sort_keys=True).encode()
    identity = blake2b(told, digest_size=11).hexdigest()
    suite = str(config.get("suite", "evaluation"))
    made = provenance()
    usage = _add_up(samples)
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "eval_id": identity,
            "run_id": identity,
            "created": started,
            "task": f"wideseek/{suite}",
            "task_id": identity,
            "task_version": 0,
            "task_args": dict(config),
            "solver": str(config.get("workflow", "team")),
            "dataset": {"name": suite, "samples": len(names), "sample_ids": names},
            "model": model,
            "model_generate_config": {"temperature": config.get("temperature")},
            "model_base_url": config.get("base_url"),
            "config": {"epochs": trials},
            "packages": {name: number for name, number in made["versions"].items() if number},
            "metadata": {"commit": made["commit"]},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": _scores(samples),
        },
        "stats": {
            "started_at": started,
            "completed_at": max(sample["completed_at"] for sample in samples),
            "model_usage": {model: usage},
        },
    }


def _add_up(samples: Sequence[JsonObject]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for sample in samples:
        for usage in sample["model_usage"].values():
            total.update(usage)
    return dict(total)


def _values(samples: Sequence[JsonObject]) -> dict[str, dict[str, list[float]]]:
    """By metric and task."""
    values: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        for name, score in sample["scores"].items():
            values.setdefault(name, {}).setdefault(sample["id"], []).append(score["value"])
    return values


def _scores(samples: Sequence[JsonObject]) -> list[JsonObject]:
    """The mean over tasks of each metric."""
    scores = []
    for name, by_task in _values(samples).items():
        scored = sum(map(len, by_task.values()))
        mean = fmean(fmean(values) for values in by_task.values())
        scores.append(
            {
                "name": name,
                "scorer": name,
                "reducer": "mean",
                "scored_samples": scored,
                "unscored_samples": len(samples) - scored,
                "metrics": {"mean": {"name": "mean", "value": mean}},
            }
        )
    return scores


def _reductions(samples: Sequence[JsonObject]) -> list[JsonObject]:
    """The mean over trials of each metric at each task."""
    return [
        {
            "scorer": name,
            "reducer": "mean",
            "samples": [
                {"sample_id": task, "value": fmean(values)} for task, values in by_task.items()
            ],
        }
        for name, by_task in _values(samples).items()
    ]
