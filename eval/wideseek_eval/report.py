"""What an evaluation came to: means with their uncertainty, costs, and how runs ended."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, Literal

from wideseek.grading.widesearch_aggregate import summarise as official_summary
from wideseek_eval.bootstrap import Interval, bootstrap
from wideseek_eval.results import Record
from wideseek_eval.trace import Trace

BUCKETS = ((1, 2), (3, 10), (11, 30), (31, 50))
METRICS = {
    "item_f1": "item F1",
    "row_f1": "row F1",
    "success": "success",
    "item_f1_corrected": "item F1 corrected",
    "row_f1_corrected": "row F1 corrected",
    "success_corrected": "success corrected",
    "em": "exact match",
    "sub_em": "substring",
    "cover_em": "cover",
    "f1": "F1",
    "judged": "judged right",
}
"""What is averaged, in the order it is shown: all tables have the first three, phrases those from
"exact match". Of WideSearch the first three are the official figures, the corrected beside them."""

WIDESEARCH = {"item_f1": "f1_by_item", "row_f1": "f1_by_row", "success": "score"}
"""The names of the first three among the figures of WideSearch."""

Traces = Mapping[tuple[str, int], Trace]
"""By task and trial; of trials whose events are still there."""


def value_of(record: Record, metric: str) -> float | None:
    """A metric of one trial; None where its kind of question does not have it."""
    if metric == "judged":
        return None if record.judged is None else float(record.judged)
    if record.wide is not None:
        name = WIDESEARCH.get(metric.removesuffix("_corrected"))
        official = not metric.endswith("_corrected")
        figures = record.wide.official if official else record.wide.corrected
        return None if name is None or figures is None else float(getattr(figures, name))
    for score in (record.score, record.qa):
        if score is not None and hasattr(score, metric):
            return float(getattr(score, metric))
    return None


def values_by_task(records: Iterable[Record], metric: str) -> dict[str, list[float]]:
    """The values of a metric at every task that has some, trials in order."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.task, record.trial)):
        value = value_of(record, metric)
        if value is not None:
            values[record.task].append(value)
    return dict(values)


def summarise(records: Iterable[Record], seed: int, traces: Traces | None = None) -> dict[str, Any]:
    """Everything summary.json says of the results themselves.

    Scores are Avg@k with intervals, and under "best" Max@k, which for success is Pass@k; k is the
    number of trials that were scored, and "short" counts tasks that have fewer.
    """
    records = sorted(records, key=lambda record: (record.task, record.trial))
    traces = traces or {}
    scored = [record for record in records if record.is_table_score]
    answers = [record for record in records if record.qa is not None]

    def language(record: Record) -> str | None:
        trace = traces.get((record.task, record.trial))
        return None if trace is None else trace.language

    return {
        "trials": len(records),
        "k": max(Counter(record.task for record in scored + answers).values(), default=0),
        "all": _scores(scored, seed),
        "by_group": _split(scored, seed, lambda record: record.group or None),
        "by_rows": _split(scored, seed, lambda record: row_bucket(record.rows)),
        "by_kind": _split(scored, seed, lambda record: record.kind),
        "by_language": _split(scored, seed, language),
        "widesearch": _widesearch(scored),
        "qa": _scores(answers, seed),
        "qa_by_group": _split(answers, seed, lambda record: record.group or None),
        "mean": {
            name: _mean([getattr(record, name) for record in records])
            for name in ("subagents", "tokens", "tool_calls", "seconds")
        },
        "max_seconds": max((record.seconds for record in records), default=0.0),
        "agents": agent_costs(traces.values()),
        "fetches": fetches(traces.values()),
        "contamination": contamination(scored or answers, seed, traces),
        "stop_reasons": _count(record.stop_reason for record in records),
        "nothing_to_grade": sum(not record.answered for record in records),
        "agent_ends": _add_up(record.agent_ends for record in records),
        "tool_outcomes": _add_up(record.tool_outcomes for record in records),
        "grading_failures": _count(record.failure for record in records if record.failure),
    }


def _widesearch(scored: Sequence[Record]) -> dict[str, Any]:
    """All figures as the official summary gives them, whole and by language.

    Empty without WideSearch tables; None where some trials of a task have no such figures, since
    what is not scored is never a zero.
    """
    wide = [record for record in scored if record.wide is not None]
    parts = {"all": wide} if wide else {}
    for record in wide:
        parts.setdefault(record.group, []).append(record)
    return {
        name: {kind: _official_summary(part, kind) for kind in ("official", "corrected")}
        for name, part in parts.items()
    }


def _official_summary(
    records: Sequence[Record], kind: Literal["official", "corrected"]
) -> dict[str, Any] | None:
    trials: dict[str, list[dict[str, float]]] = defaultdict(list)
    for record in records:
        figures = getattr(record.wide, kind)
        if figures is not None:
            trials[record.task].append(asdict(figures))
    counts = {len(those) for those in trials.values()}
    if len(counts) != 1:
        return None
    return {name: asdict(found) for name, found in official_summary(trials, *counts).items()}


def row_bucket(rows: int) -> str:
    """The bucket of a gold table's width; "boxed" for a question that has none."""
    if rows == 0:
        return "boxed"
    inside = (f"{low}-{high}" for low, high in BUCKETS if low <= rows <= high)
    return next(inside, f"over {BUCKETS[-1][1]}")


def agent_costs(traces: Iterable[Trace]) -> dict[str, dict[str, float]]:
    """By role: how many agents there were, and what one of them cost on average."""
    agents = [agent for trace in traces for agent in trace.agents]
    return {
        role: {"agents": len(those)}
        | {
            name: fmean(getattr(agent, name) for agent in those)
            for name in ("tokens", "tool_calls", "seconds")
        }
        for role in sorted({agent.role for agent in agents})
        if (those := [agent for agent in agents if agent.role == role])
    }


def fetches(traces: Iterable[Trace]) -> dict[str, dict[str, int]]:
    """By tool: how many calls that were sent out came back with what they were sent for."""
    total: dict[str, dict[str, int]] = {}
    for trace in traces:
        for tool, (succeeded, tried) in trace.fetches.items():
            counts = total.setdefault(tool, {"succeeded": 0, "tried": 0})
            counts["succeeded"] += succeeded
            counts["tried"] += tried
    return total


def contamination(scored: Sequence[Record], seed: int, traces: Traces) -> dict[str, Any]:
    """What the guard saw, and the scores without the trials that read a canary."""
    flagged = {trial for trial, trace in traces.items() if trace.canaries}
    clean = [record for record in scored if (record.task, record.trial) not in flagged]
    return {
        "traced": len(traces),
        "calls_blocked": sum(trace.blocked for trace in traces.values()),
        "texts_with_canary": sum(trace.canaries for trace in traces.values()),
        "trials_flagged": [f"{task}-t{trial}" for task, trial in sorted(flagged)],
        "all_without_flagged": _scores(clean, seed) if flagged else None,
    }


def _scores(records: Sequence[Record], seed: int) -> dict[str, Any]:
    """Number of tasks and, for each metric some of them have, Avg@k and Max@k with intervals."""
    trials = Counter(record.task for record in records)
    short = sum(count < max(trials.values()) for count in trials.values())
    scores: dict[str, Any] = {"tasks": len(trials), "short": short, "best": {}}
    for metric in METRICS:
        values = values_by_task(records, metric).values()
        if values:
            scores[metric] = bootstrap([fmean(task) for task in values], seed)._asdict()
            scores["best"][metric] = bootstrap([max(task) for task in values], seed)._asdict()
    return scores


def _split(
    records: Sequence[Record], seed: int, bucket: Callable[[Record], str | None]
) -> dict[str, dict[str, Any]]:
    """Scores by bucket, narrow questions first."""
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.rows):
        name = bucket(record)
        if name is not None:
            parts[name].append(record)
    return {name: _scores(part, seed) for name, part in parts.items()}


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _add_up(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common())


def blocks_of(summary: dict[str, Any]) -> list[dict[str, dict[str, Any]]]:
    """The scores of a summary by the name of the part, tables first, then phrases of QA sets.

    The first part of a block is all of it. Tables are there even if nothing was measured.
    """
    tables = {"all": summary["all"]}
    tables |= {f"{name} rows": s for name, s in summary["by_rows"].items() if name != "boxed"}
    tables |= {f"kind {name}": scores for name, scores in summary["by_kind"].items()}
    tables |= summary["by_language"] | summary["by_group"]
    phrases = {"all": summary["qa"]} | summary["qa_by_group"]
    measured = [block for block in (tables, phrases) if block["all"]["tasks"]]
    return measured or [tables]


def metrics_of(block: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The metrics a block has; those of tables where nothing was measured."""
    return [name for name in METRICS if name in block["all"]] or list(METRICS)[:3]


def render(summary: dict[str, Any]) -> str:
    """The summary as the text a terminal shows."""
    lines: list[str] = []
    for block in blocks_of(summary):
        lines += [*_render_scores("", block, metrics_of(block)), ""]
        if summary["k"] > 1:
            best = {name: scores | scores["best"] for name, scores in block.items()}
            lines += [*_render_scores(f"best of {summary['k']}", best, metrics_of(block)), ""]
        if short := block["all"]["short"]:
            lines += [f"{short} tasks have fewer trials than others", ""]
    mean, fetched = summary["mean"], summary["fetches"]
    lines += [
        f"{summary['trials']} trials; a trial on average: {mean['subagents']:.1f} subagents, "
        f"{mean['tokens']:,.0f} tokens, {mean['tool_calls']:.1f} tool calls, "
        f"{mean['seconds']:.1f} s (longest {summary['max_seconds']:.1f} s)",
    ]
    if "dollars" in summary:
        lines.append(f"cost: {tell_dollars(summary)}")
    for role, cost in summary["agents"].items():
        lines.append(
            f"a {role} agent on average: {cost['tokens']:,.0f} tokens, "
            f"{cost['tool_calls']:.1f} tool calls, {cost['seconds']:.1f} s"
        )
    if fetched:
        told = (f"{tool} {rate(counts)}" for tool, counts in fetched.items())
        lines.append("fetched: " + ", ".join(told))
    lines.append(tell_contamination(summary["contamination"]))
    for name in ("stop_reasons", "agent_ends", "tool_outcomes", "grading_failures"):
        told = (f"{kind} {count}" for kind, count in summary[name].items())
        lines.append(f"{name.replace('_', ' ')}: {', '.join(told) or 'none'}")
    lines.append(f"answers without a table or phrase to grade: {summary['nothing_to_grade']}")
    return "\n".join(lines)


def _render_scores(
    title: str, block: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]
) -> list[str]:
    lines = [f"{title:14}{'tasks':>6}  " + "".join(f"{METRICS[m]:<22}" for m in metrics).rstrip()]
    for name, scores in block.items():
        cells = "".join(f"{interval(scores.get(metric)):<22}" for metric in metrics)
        lines.append(f"{name:14}{scores['tasks']:>6}  {cells}".rstrip())
    return lines


def interval(score: Mapping[str, float] | None) -> str:
    """A mean with its interval, or that there is none."""
    if score is None:
        return "not measured"
    mean, low, high = Interval(**score)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def rate(counts: Mapping[str, int]) -> str:
    """A success rate with its counts."""
    if not counts["tried"]:
        return "never tried"
    share = counts["succeeded"] / counts["tried"]
    return f"{share:.1%} ({counts['succeeded']} of {counts['tried']})"


def tell_dollars(summary: Mapping[str, Any]) -> str:
    """What all trials cost, one of them, and attempts that left no result."""
    each = summary["dollars"] / max(1, summary["trials"])
    told = f"{summary['dollars']:,.2f} dollars, {each:,.4f} a trial"
    unscored = summary["dollars_unscored"]
    return told + (f"; {unscored:,.2f} for attempts without a result" if unscored else "")


def tell_contamination(found: Mapping[str, Any]) -> str:
    """One line on what the guard saw."""
    if not found["traced"]:
        return "contamination: not measured"
    return (
        f"contamination: {found['calls_blocked']} calls kept from benchmark pages, "
        f"{found['texts_with_canary']} texts with a canary read "
        f"in {len(found['trials_flagged'])} of {found['traced']} trials"
    )
