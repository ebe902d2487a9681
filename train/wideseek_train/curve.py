"""Curves over steps as SVG; colours come from the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 210, 56, 16, 10, 46
_TICKS = 4


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric's name and its (step, value) points in step order; a value that is not finite breaks the line."""

    name: str
    points: tuple[tuple[float, float], ...]


def draw_curves(curves: Sequence[Curve], label: str) -> str:
    """Lines on one pair of axes, named below; a lone point between gaps is a dot."""
    points = [p for curve in curves for p in curve.points if math.isfinite(p[1])]
    steps, values = [p[0] for p in points] or [0.0], [p[1] for p in points] or [0.0]
    first, last = min(steps), max(steps)
    low, high = _bounds(min(values), max(values))
    foot = _HEIGHT - _BOTTOM

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - first) / ((last - first) or 1.0)

    def y(value: float) -> float:
        return foot - (foot - _TOP) * (value - low) / (high - low)

    parts = []
    for tick in range(_TICKS + 1):
        value = low + (high - low) * tick / _TICKS
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text class="value" x="{_LEFT - 8}" y="{y(value) + 4:.1f}">{value:.3g}</text>'
        )
    for step in sorted({first, last}):
        parts.append(f'<text class="tick" x="{x(step):.1f}" y="{foot + 16}">{step:g}</text>')
    for index, curve in enumerate(curves):
        parts += [_line([(x(s), y(v)) for s, v in run], index) for run in _runs(curve)]
        place = _LEFT + index * (_WIDTH - _LEFT) / len(curves)
        parts.append(
            f'<line class="curve c{index}" x1="{place:.1f}" x2="{place + 14:.1f}" y1="{_HEIGHT - 9}" y2="{_HEIGHT - 9}"/>'
            f'<text class="name" x="{place + 19:.1f}" y="{_HEIGHT - 5}">{escape(curve.name)}</text>'
        )
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {box} role="img" aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'


def _runs(curve: Curve) -> list[list[tuple[float, float]]]:
    """The stretches of a curve between values that are not finite."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in curve.points:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _line(places: Sequence[tuple[float, float]], index: int) -> str:
    if len(places) == 1:
        return f'<circle class="dot c{index}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2.5"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="curve c{index}" points="{path}"/>'


def _bounds(low: float, high: float) -> tuple[float, float]:
    """Ends of the value axis: shares from 0 to 1, other numbers with a margin."""
    if low >= 0.0 and 0.2 < high <= 1.0:
        return 0.0, 1.0
    margin = 0.05 * (high - low) or abs(high) or 1.0
    return (0.0 if low >= 0.0 else low - margin), high + margin
