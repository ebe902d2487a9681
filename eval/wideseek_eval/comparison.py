"""Two evaluations side by side: differences at the tasks both have, with paired intervals."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from wideseek_eval.bootstrap import Interval, bootstrap
from wideseek_eval.report import METRICS, values_by_task
from wideseek_eval.results import Record

COSTS = {"tokens": "tokens", "tool_calls": "tool calls", "seconds": "seconds"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One measure at the tasks both evaluations have: the means of each, and after less before.

    up, down and same count tasks whose mean rose, fell and stayed.
    """

    name: str
    tasks: int
    before: float
    after: float
    change: Interval
    up: int
    down: int
    same: int


def read_records(folder: Path) -> list[Record]:
    """The finished trials of an evaluation's folder. ValueError if it holds none that can be read."""
    path = folder / "results.jsonl"
    try:
        *lines, _torn = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(Record.from_json(line))
        except ValueError as error:
            raise ValueError(f"{path} line {number}: {error}") from None
    if not records:
        raise ValueError(f"{path} holds no finished trial")
    return records


def compare(
    before: Iterable[Record], after: Iterable[Record], seed: int = 0
) -> tuple[list[Difference], list[Difference]]:
    """Differences of scores, and of costs. ValueError if no task is in both evaluations.

    A task counts with the mean over its trials. Tasks are resampled, each with both its values:
    what makes a question hard for both does not widen the interval.
    """
    before, after = list(before), list(after)
    if not {record.task for record in before} & {record.task for record in after}:
        raise ValueError("the two evaluations have no task in common")
    scores = [
        _difference(title, values_by_task(before, name), values_by_task(after, name), seed)
        for name, title in METRICS.items()
    ]
    costs = [
        _difference(title, _cost_by_task(before, name), _cost_by_task(after, name), seed)
        for name, title in COSTS.items()
    ]
    return [found for found in scores if found], [found for found in costs if found]


def _cost_by_task(records: Sequence[Record], name: str) -> dict[str, list[float]]:
    costs: dict[str, list[float]] = {}
    for record in records:
        costs.setdefault(record.task, []).append(float(getattr(record, name)))
    return costs


def _difference(
    name: str,
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    seed: int,
) -> Difference | None:
    common = sorted(before.keys() & after.keys())
    if not common:
        return None
    pairs = [(fmean(before[task]), fmean(after[task])) for task in common]
    changes = [new - old for old, new in pairs]
    return Difference(
        name=name,
        tasks=len(common),
        before=fmean(old for old, _ in pairs),
        after=fmean(new for _, new in pairs),
        change=bootstrap(changes, seed),
        up=sum(change > 0 for change in changes),
        down=sum(change < 0 for change in changes),
        same=sum(change == 0 for change in changes),
    )


def render_comparison(scores: Sequence[Difference], costs: Sequence[Difference]) -> str:
    """The differences as the text a terminal shows."""
    head = f"{'':14}{'tasks':>6}{'before':>10}{'after':>10}  {'change':<26}{'up':>5}{'down':>5}{'same':>5}"
    lines = [head, *(_line(found, 3, "+.3f") for found in scores)]
    return "\n".join([*lines, "", *(_line(found, 1, "+,.1f") for found in costs)])


def _line(found: Difference, digits: int, form: str) -> str:
    mean, low, high = (format(value, form) for value in found.change)
    clear = "*" if found.change.low > 0 or found.change.high < 0 else " "
    return (
        f"{found.name:14}{found.tasks:>6}{found.before:>10,.{digits}f}{found.after:>10,.{digits}f}  "
        f"{f'{mean} [{low}, {high}]{clear}':<26}{found.up:>5}{found.down:>5}{found.same:>5}"
    )


def config_changes(before: Path, after: Path) -> dict[str, tuple[Any, Any]]:
    """What two evaluations were not made alike in, by their config.json; {} where it is missing."""
    configs = [folder / "config.json" for folder in (before, after)]
    if not all(path.is_file() for path in configs):
        return {}
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in configs)
    names = sorted(old.keys() | new.keys())
    return {
        name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)
    }
