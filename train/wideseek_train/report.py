"""report.html of a run: curves from metrics.jsonl and agent trees from traces, one page without scripts or anything else.

`python -m wideseek_train.report RUN` writes it again, also while the run goes on.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from wideseek.trajectory import Trajectory
from wideseek_train.curve import Curve, draw_curves
from wideseek_train.graded import Graded, Reward
from wideseek_train.metrics import METRICS, STEP, read_lines, read_metrics
from wideseek_train.selection import count_sampled
from wideseek_train.traces import read_trace_heads

CHARTS: Mapping[str, tuple[str, ...]] = {
    "Reward": ("critic/rewards/mean", "critic/score/mean", "val-core/worlds/item_f1/mean@1"),
    "Reward by role": tuple(f"critic/rewards/{role}" for role in ("lead", "sub", "single")),
    "Weight by role": tuple(f"weight/{role}" for role in ("lead", "sub", "single")),
    "Answers": ("rollouts/answered", "rollouts/repeating"),
    "Entropy": ("actor/entropy",),
    "Gradient norm": ("actor/grad_norm",),
    "Gradient norm by role": tuple(f"actor/grad_norm/{role}" for role in ("lead", "sub", "single")),
    "Trainer against engine": ("mismatch/mean", "mismatch/p99_9"),
    "Subagents": ("wideseek_r1/traj/mean/subtask", "wideseek_r1/avg_num_subagents_per_traj"),
    "Turns by role": tuple(f"num_turns/{role}" for role in ("lead", "sub", "single")),
    "Tokens by role": tuple(f"tokens/{role}" for role in ("lead", "sub", "single")),
    "Tool calls that gave nothing": tuple(
        f"tools/failed/{role}" for role in ("lead", "sub", "single")
    ),
    "Seconds": ("timing_s/gen", "timing_s/update_actor", "timing_s/update_weights"),
}
"""What is drawn together; a name that a run never measured is left out."""

HEADS = 16
"""Rollouts of a step that are looked through for the best and the worst."""
TEXT = 1500
"""Characters of a turn that are shown."""


def write_report(out: Path) -> Path:
    """Write `out`/report.html. ValueError if there is no run in `out`."""
    if not (out / "config.json").is_file():
        raise ValueError(f"{out} holds no run: it has no config.json")
    path = out / "report.html"
    partial = path.with_suffix(".part")
    partial.write_text(render_report(out), encoding="utf-8")
    partial.replace(path)
    return path


def render_report(out: Path) -> str:
    """The page of a run folder; texts of models and data are escaped."""
    lines = read_metrics(out / "metrics.jsonl")
    settings = json.loads((out / "config.json").read_text())
    title = f"Training run {out.resolve().name}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _facts(lines),
        *_charts(lines),
        _trees(out / "traces"),
        _table("Rollouts", read_lines(out / "rollouts.jsonl")[-12:]),
        _settings(settings),
    ]
    page = (files("wideseek_train") / "report.html").read_text(encoding="utf-8")
    return Template(page).substitute(title=escape(title), body="\n".join(filter(None, body)))


def _facts(lines: Sequence[Mapping[str, float]]) -> str:
    if not lines:
        return '<p class="soft">No step has been taken.</p>'
    shown = {name: value for line in lines for name, value in line.items()}
    facts = "".join(
        f"<div><dt>{escape(told)}</dt><dd>{shown[name]:.4g}</dd></div>"
        for name, told in (
            (STEP, "steps"),
            ("val-core/worlds/item_f1/mean@1", "item F1, unseen worlds"),
            ("critic/rewards/mean", "reward, last step"),
            ("perf/throughput", "trained tokens a second"),
        )
        if name in shown
    )
    return f'<dl class="facts">{facts}</dl>'


def _charts(lines: Sequence[Mapping[str, float]]) -> Iterable[str]:
    for title, names in CHARTS.items():
        curves = [
            Curve(name, tuple((line[STEP], line[name]) for line in lines if name in line))
            for name in names
        ]
        if curves := [curve for curve in curves if any(math.isfinite(v) for _, v in curve.points)]:
            units = "; ".join(f"{curve.name}: {METRICS[curve.name]}" for curve in curves)
            yield (
                f"<h2>{escape(title)}</h2><figure>{draw_curves(curves, title)}"
                f"<figcaption>{escape(units)}</figcaption></figure>"
            )


def _trees(folder: Path) -> str:
    """The best and the worst rollout among the first of the newest step."""
    heads = read_trace_heads(folder, HEADS)
    paid = [(a, a.reward) for a in heads if isinstance(a.reward, Reward)]
    paid.sort(key=lambda pair: -pair[1].value)
    chosen = [paid[0], paid[-1]] if len(paid) > 1 else paid
    trees = "".join(_tree(attempt, reward) for attempt, reward in chosen)
    return f"<h2>Agents of step {heads[0].step + 1}</h2>{trees}" if trees else ""


def _tree(attempt: Graded, reward: Reward) -> str:
    root, *subs = attempt.rollout.trajectories
    head = (
        f"{attempt.task}, attempt {attempt.attempt}: reward {reward.value:.3f}, "
        f"item F1 {reward.item_f1:.3f}, {attempt.ended - attempt.started:.1f} s"
    )
    children = "".join(f"<li>{_agent(sub)}</li>" for sub in subs)
    nested = f"<ul>{children}</ul>" if children else ""
    return (
        f'<section class="tree"><p><b>{escape(attempt.rollout.question)}</b><br>'
        f'<span class="soft">{escape(head)}</span></p><ul><li>{_agent(root)}{nested}</li></ul></section>'
    )


def _agent(trajectory: Trajectory) -> str:
    turns = range(len(trajectory.turns))
    sampled = sum(count_sampled(trajectory, turn) for turn in turns)
    told = f"{len(turns)} turns, {sampled} tokens, {trajectory.end.value}"
    task = trajectory.task if trajectory.role == "sub" else ""
    parts = "".join(
        f"<pre>{escape(_cut(turn.text))}</pre>"
        + (f'<pre class="tool">{escape(_cut(turn.tool_text))}</pre>' if turn.tool_text else "")
        for turn in trajectory.turns
    )
    return (
        f"<details><summary><b>{escape(trajectory.agent_id)}</b> {escape(task)} "
        f'<span class="soft">{escape(told)}</span></summary>{parts}</details>'
    )


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]} … {len(text) - TEXT} characters more"


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = [name for name in rows[0] if name not in ("question", "answer")]
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_shown(row[name]))}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return (
        f'<h2>{escape(title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _settings(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, indent=2)
    return f"<h2>Settings</h2><details><summary>config.json</summary><pre>{escape(text)}</pre></details>"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m wideseek_train.report RUN")
    try:
        print(write_report(Path(sys.argv[1])))
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        sys.exit(2)
