"""The main figure: means with their intervals, one line a part, as SVG and, with matplotlib, PNG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

_WIDTH, _LEFT, _RIGHT, _LINE, _TOP, _BOTTOM = 640, 150, 52, 30, 12, 34
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Point:
    """A mean in [0, 1] with its interval; best: the mean of the best trials, where it differs."""

    label: str
    mean: float
    low: float
    high: float
    best: float | None = None


def points_of(block: Mapping[str, Any], metric: str) -> list[Point]:
    """A Point for each part of a block of scores that has the metric."""
    points = []
    for name, scores in block.items():
        if metric in scores:
            best, mean = scores["best"][metric]["mean"], scores[metric]["mean"]
            points.append(Point(name, **scores[metric], best=best if best > mean else None))
    return points


def draw_svg(points: Sequence[Point], axis: str) -> str:
    """A dot and a whisker a line, a ring for the best trials; colours come from the page."""
    height = _TOP + _LINE * len(points) + _BOTTOM
    foot = height - _BOTTOM
    span = _WIDTH - _LEFT - _RIGHT

    def x(value: float) -> str:
        return f"{_LEFT + span * min(1.0, max(0.0, value)):.1f}"

    parts = [
        f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP}" y2="{foot}"/>'
        f'<text class="tick" x="{x(tick)}" y="{foot + 16}">{tick:g}</text>'
        for tick in _TICKS
    ]
    for index, point in enumerate(points):
        y = _TOP + _LINE * (index + 0.5)
        told = f"{point.label}: {point.mean:.3f} [{point.low:.3f}, {point.high:.3f}]"
        ring = ""
        if point.best is not None:
            told += f", best of trials {point.best:.3f}"
            ring = f'<circle class="best" cx="{x(point.best)}" cy="{y:g}" r="4.5"/>'
        parts.append(
            f"<g><title>{escape(told)}</title>"
            f'<text class="label" x="{_LEFT - 14}" y="{y + 4:g}">{escape(point.label)}</text>'
            f'<line class="whisker" x1="{x(point.low)}" x2="{x(point.high)}" y1="{y:g}" y2="{y:g}"/>'
            f'{ring}<circle class="mean" cx="{x(point.mean)}" cy="{y:g}" r="4.5"/>'
            f'<text class="value" x="{_WIDTH - 2}" y="{y + 4:g}">{point.mean:.3f}</text></g>'
        )
    middle = _LEFT + span / 2
    parts.append(f'<text class="axis" x="{middle:g}" y="{height - 2}">{escape(axis)}</text>')
    box = f'viewBox="0 0 {_WIDTH} {height}"'
    return f'<svg {box} role="img" aria-label="{escape(axis, quote=True)}">{"".join(parts)}</svg>'


def draw_png(points: Sequence[Point], axis: str, path: Path) -> bool:
    """The same figure as a picture; False, and no file, where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7.0, 0.9 + 0.34 * len(points)), layout="constrained")
    axes = figure.add_subplot()
    lines = range(len(points))
    means = [point.mean for point in points]
    ends = [
        [max(0.0, point.mean - point.low) for point in points],
        [max(0.0, point.high - point.mean) for point in points],
    ]
    axes.errorbar(means, lines, xerr=ends, fmt="o", color="#1f6feb", markersize=5)
    best = [(point.best, line) for point, line in zip(points, lines, strict=True) if point.best]
    if best:
        axes.plot(*zip(*best, strict=True), "o", color="#1f6feb", fillstyle="none", markersize=5)
    axes.set_yticks(lines, [point.label for point in points])
    axes.set(xlim=(-0.02, 1.02), xlabel=axis)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=160)
    return True
