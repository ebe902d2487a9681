"""Item F1 against width and depth: which points are measured, and what they come to.

A point is a way to answer: a team of so many subagents a call, or one agent alone with so many
turns. Every point of every system is summed up over the same tasks, those that all of them have
answered, so that curves differ by what they show and not by their questions.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from wideseek.backends import ModelPlace
from wideseek_eval.bootstrap import bootstrap
from wideseek_eval.report import Traces, contamination, values_by_task
from wideseek_eval.results import Record

CURVES = {"width": "subagents a call", "depth": "turns of one agent"}
"""The two curves by what their x counts."""

COSTS = {"computed_tokens": "tokens computed", "seconds": "seconds"}
"""What a question costs, and what costs are compared at: prompts not cached and replies; time."""

_TOLD = ("tokens", "subagents", "tool_calls")


@dataclass(frozen=True, slots=True)
class System:
    """A model, or a lead's and its subagents' models, under one name."""

    name: str
    lead: ModelPlace
    sub: ModelPlace

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.-]", "_", self.name)


@dataclass(frozen=True, order=True, slots=True)
class Point:
    """A team of `width` subagents a call, or for width 0 one agent with `turns`."""

    width: int
    turns: int = 0

    @property
    def folder(self) -> str:
        return f"team-{self.width}" if self.width else f"single-{self.turns}"

    @property
    def told(self) -> str:
        return f"team of {self.width}" if self.width else f"alone, {self.turns} turns"


Curves = Mapping[str, Mapping[int, Point]]
"""By name, the points by their x."""

Measured = Mapping[tuple[System, Point], Sequence[Record]]
"""The finished trials of every point."""

Traced = Mapping[tuple[System, Point], Traces]
"""What is known of the runs of every point."""


def plan_curves(widths: Sequence[int], turns: Sequence[int]) -> dict[str, dict[int, Point]]:
    """Both curves. Without subagents a team is one agent with the most turns of the other curve."""
    alone = Point(0, max(turns))
    wide = {width: Point(width) if width else alone for width in sorted(set(widths))}
    return {"width": wide, "depth": {count: Point(0, count) for count in sorted(set(turns))}}


def points_of(curves: Curves) -> list[Point]:
    """Every point once, in order of its curve."""
    return list(dict.fromkeys(point for curve in curves.values() for point in curve.values()))


def common_tasks(measured: Measured, trials: int, wanted: set[str]) -> list[str]:
    """The wanted tasks of which every point has all trials, scored."""
    common = wanted
    for records in measured.values():
        ours = (record for record in records if record.trial < trials)
        scored = values_by_task(ours, "item_f1")
        common = common & {task for task, values in scored.items() if len(values) == trials}
    return sorted(common)


def summarise_sweep(
    measured: Measured,
    curves: Curves,
    trials: int,
    wanted: set[str],
    seed: int,
    traced: Traced | None = None,
) -> dict[str, Any]:
    """What scaling.json says of the results: tasks, points and comparisons at equal cost.

    Each point tells of its contamination as summary.json does, and all of them add up.
    """
    tasks = common_tasks(measured, trials, wanted)
    kept = {
        place: [record for record in records if record.task in tasks and record.trial < trials]
        for place, records in measured.items()
    }
    systems = list(dict.fromkeys(system for system, _ in measured)) if tasks else []
    points = [
        _sum_up(system, point, kept[system, point], curves, seed)
        | {"contamination": _contamination(kept, traced or {}, system, point, seed)}
        for system in systems
        for point in sorted(points_of(curves))
    ]
    return {
        "tasks": len(tasks),
        "trials": trials,
        "points": points,
        "contamination": _add_up_contamination(points),
        "equal_cost": [
            told
            for system in systems
            for cost in COSTS
            for told in _equal_cost(
                system, {p: kept[system, p] for p in points_of(curves)}, curves, cost, seed
            )
        ],
    }


def _contamination(
    kept: Measured, traced: Traced, system: System, point: Point, seed: int
) -> dict[str, Any]:
    """What the guard saw in the trials of a point that count."""
    records, traces = kept[system, point], traced.get((system, point), {})
    trials = {(record.task, record.trial) for record in records}
    return contamination(records, seed, {t: traces[t] for t in traces if t in trials})


def _add_up_contamination(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all points; flagged trials by the folders of their points."""
    counts = ("traced", "calls_blocked", "texts_with_canary")
    return {name: sum(point["contamination"][name] for point in points) for name in counts} | {
        "trials_flagged": [
            f"{point['folder']}/{trial}"
            for point in points
            for trial in point["contamination"]["trials_flagged"]
        ]
    }


def _sum_up(
    system: System, point: Point, records: Sequence[Record], curves: Curves, seed: int
) -> dict[str, Any]:
    """One point: scores and costs with intervals over tasks, and how its runs ended."""
    told: dict[str, Any] = {
        "system": system.name,
        "workflow": "team" if point.width else "single",
        "folder": f"{system.folder}/{point.folder}",
        "tasks": len({record.task for record in records}),
    }
    for curve, points in curves.items():
        told[curve] = next((x for x, other in points.items() if other == point), None)
    for metric in ("item_f1", "row_f1", "success"):
        values = values_by_task(records, metric).values()
        told[metric] = bootstrap([fmean(task) for task in values], seed)._asdict()
    for cost in COSTS:
        told[cost] = bootstrap(list(_cost_by_task(records, cost).values()), seed)._asdict()
    told |= {name: fmean(getattr(record, name) for record in records) for name in _TOLD}
    told["stop_reasons"] = dict(Counter(record.stop_reason for record in records).most_common())
    return told


def _cost_by_task(records: Sequence[Record], cost: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for record in records:
        values.setdefault(record.task, []).append(float(getattr(record, cost)))
    return {task: fmean(costs) for task, costs in values.items()}


def _equal_cost(
    system: System,
    records: Mapping[Point, Sequence[Record]],
    curves: Curves,
    cost: str,
    seed: int,
) -> list[dict[str, Any]]:
    """What each team gains over one agent alone that costs as much, as far as the curve goes.

    Between two numbers of turns the score is taken to lie on a line; tasks are paired. `within`:
    the team's cost lies on the curve; else it is held against the nearest end of it.
    """
    scores = {
        point: {task: fmean(v) for task, v in values_by_task(found, "item_f1").items()}
        for point, found in records.items()
    }
    costs = {point: fmean(_cost_by_task(found, cost).values()) for point, found in records.items()}
    deep = sorted(curves["depth"].values(), key=costs.__getitem__)
    told = []
    for point in (point for point in curves["width"].values() if point.width):
        lower, upper, share = _neighbours([costs[p] for p in deep], costs[point])
        gains = [
            score - (1 - share) * scores[deep[lower]][task] - share * scores[deep[upper]][task]
            for task, score in scores[point].items()
        ]
        gain = bootstrap(gains, seed)
        wide = fmean(scores[point].values())
        within = costs[deep[0]] <= costs[point] <= costs[deep[-1]]
        told.append(
            {"system": system.name, "width": point.width, "at": cost, "cost": costs[point]}
            | {"team": wide, "alone": wide - gain.mean, "gain": gain._asdict(), "within": within}
        )
    return told


def _neighbours(ascending: Sequence[float], value: float) -> tuple[int, int, float]:
    """Where a value lies in a list: the places around it, and how far it is on the way."""
    for upper, end in enumerate(ascending):
        if value <= end:
            lower = max(0, upper - 1)
            gap = end - ascending[lower]
            return lower, upper, (value - ascending[lower]) / gap if gap > 0 else 1.0
    return len(ascending) - 1, len(ascending) - 1, 1.0
