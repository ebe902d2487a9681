"""What an evaluation came to: means with their uncertainty, costs, and how runs ended."""

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from wideseek_eval.results import Record

BUCKETS = ((1, 2), (3, 10), (11, 30), (31, 50))
METRICS = ("item_f1", "row_f1", "success")
RESAMPLES = 2_000


def bootstrap_mean(groups: Sequence[Sequence[float]], seed: int) -> tuple[float, float, float]:
    """(mean, low, high): the mean of group means and its 95 % percentile interval.

    Groups (the trials of one task) are resampled whole, since trials at a task are alike. The same
    seed gives the same interval.
    """
    means = np.array([float(np.mean(group)) for group in groups])
    draws = np.random.default_rng(seed).integers(len(means), size=(RESAMPLES, len(means)))
    low, high = np.quantile(means[draws].mean(axis=1), (0.025, 0.975))
    return float(means.mean()), float(low), float(high)


def summarise(records: Iterable[Record], seed: int) -> dict[str, Any]:
    """Everything summary.json says of the results themselves."""
    records = sorted(records, key=lambda record: (record.task, record.trial))
    scored = [record for record in records if record.score is not None]
    return {
        "trials": len(records),
        "all": _scores(scored, seed),
        "by_rows": _split(scored, seed, lambda record: row_bucket(record.rows)),
        "by_kind": _split(scored, seed, lambda record: record.kind),
        "mean": {
            name: _mean([getattr(record, name) for record in records])
            for name in ("subagents", "tokens", "tool_calls", "seconds")
        },
        "max_seconds": max((record.seconds for record in records), default=0.0),
        "stop_reasons": _count(record.stop_reason for record in records),
        "nothing_to_grade": sum(not record.answered for record in records),
        "agent_ends": _add_up(record.agent_ends for record in records),
        "tool_outcomes": _add_up(record.tool_outcomes for record in records),
        "grading_failures": _count(record.failure for record in records if record.failure),
    }


def row_bucket(rows: int) -> str:
    """The bucket of a gold table's width; "boxed" for a question that has none."""
    if rows == 0:
        return "boxed"
    inside = (f"{low}-{high}" for low, high in BUCKETS if low <= rows <= high)
    return next(inside, f"over {BUCKETS[-1][1]}")


def _scores(records: Sequence[Record], seed: int) -> dict[str, Any]:
    """Number of tasks and, for each metric, its mean and interval."""
    by_task: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_task[record.task].append(record)
    scores: dict[str, Any] = {"tasks": len(by_task)}
    for metric in METRICS if by_task else ():
        groups = [[float(getattr(r.score, metric)) for r in group] for group in by_task.values()]
        scores[metric] = dict(
            zip(("mean", "low", "high"), bootstrap_mean(groups, seed), strict=True)
        )
    return scores


def _split(
    records: Sequence[Record], seed: int, bucket: Callable[[Record], str]
) -> dict[str, dict[str, Any]]:
    """Scores by bucket, narrow questions first."""
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.rows):
        parts[bucket(record)].append(record)
    return {name: _scores(part, seed) for name, part in parts.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _add_up(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common())


def render(summary: dict[str, Any]) -> str:
    """The summary as the text a terminal shows."""
    groups = {"all": summary["all"]}
    groups |= {f"{name} rows": s for name, s in summary["by_rows"].items() if name != "boxed"}
    groups |= {f"kind {name}": scores for name, scores in summary["by_kind"].items()}
    lines = [f"{'':14}{'tasks':>6}  {'item F1':<22}{'row F1':<22}success"]
    for name, scores in groups.items():
        cells = "".join(f"{_interval(scores.get(metric)):<22}" for metric in METRICS)
        lines.append(f"{name:14}{scores['tasks']:>6}  {cells}".rstrip())
    mean = summary["mean"]
    lines += [
        "",
        f"{summary['trials']} trials; a trial on average: {mean['subagents']:.1f} subagents, "
        f"{mean['tokens']:,.0f} tokens, {mean['tool_calls']:.1f} tool calls, "
        f"{mean['seconds']:.1f} s (longest {summary['max_seconds']:.1f} s)",
    ]
    for name in ("stop_reasons", "agent_ends", "tool_outcomes", "grading_failures"):
        told = ", ".join(f"{kind} {count}" for kind, count in summary[name].items())
        lines.append(f"{name.replace('_', ' ')}: {told or 'none'}")
    lines.append(f"answers without a table or box to grade: {summary['nothing_to_grade']}")
    return "\n".join(lines)


def _interval(score: dict[str, float] | None) -> str:
    if score is None:
        return "not measured"
    return f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def provenance() -> dict[str, Any]:
    """Commit, date and versions: what a number must carry to be compared."""
    return {
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in ("wideseek", "torch", "tantivy", "numpy")},
    }


def _commit() -> str | None:
    """Of the working tree this file lies in, with a mark if it was changed; None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + (" with changes" if changes.stdout else "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
