"""Line charts of a sweep: panels side by side, as a whole SVG file and, with matplotlib, PNG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Literal

COLOURS = ("#2563c9", "#d9580d", "#1a8a45", "#8b3fc7", "#b3880b", "#0e8294")
_PANEL, _GAP, _LEFT, _TOP, _HEIGHT, _BOTTOM, _LEGEND = 272, 26, 44, 14, 210, 42, 22
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_STYLE = (
    ".sweep{--ink:#1c1e21;--soft:#666b73;--line:#dcdfe3;--paper:#fdfdfb;"
    "font:12px system-ui,sans-serif;font-variant-numeric:tabular-nums}"
    "@media(prefers-color-scheme:dark)"
    "{.sweep{--ink:#e5e7ea;--soft:#9aa1ab;--line:#33373d;--paper:#15171a}}"
    ".sweep .ground{fill:var(--paper)}"
    ".sweep text{fill:var(--ink);text-anchor:middle}"
    ".sweep .soft{fill:var(--soft)}.sweep .end{text-anchor:end}.sweep .start{text-anchor:start}"
    ".sweep .grid{stroke:var(--line)}.sweep path{fill:none;stroke-width:2}"
    ".sweep .whisker{stroke-width:2;stroke-linecap:round;opacity:.4}"
    ".sweep .faint{opacity:.45}.sweep .faint path{stroke-dasharray:5 4;stroke-width:1.5}"
)


@dataclass(frozen=True, slots=True)
class Spot:
    """A mean in [0, 1] with its interval at x; told: what a pointer is shown."""

    x: float
    mean: float
    low: float
    high: float
    told: str


@dataclass(frozen=True, slots=True)
class Line:
    """Spots that belong together. colour counts through COLOURS; a faint line is for reference."""

    name: str
    colour: int
    spots: tuple[Spot, ...]
    faint: bool = False

    @property
    def paint(self) -> str:
        return COLOURS[self.colour % len(COLOURS)]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over one axis: "count" for numbers from 0 on, "cost" for what is more than 0."""

    axis: str
    scale: Literal["count", "cost"]
    lines: tuple[Line, ...]

    def place(self, x: float) -> float:
        """Where x stands on an axis on which ratios count."""
        return math.log1p(x) if self.scale == "count" else math.log(max(x, 1e-9))

    def span(self) -> tuple[float, float]:
        """The places of the ends of the axis, with a margin."""
        places = [self.place(spot.x) for line in self.lines for spot in line.spots] or [0.0, 1.0]
        margin = 0.06 * (max(places) - min(places)) or 0.5
        return min(places) - margin, max(places) + margin

    def ticks(self) -> list[float]:
        """Where the axis is labelled: at every x counted, or at round costs."""
        if self.scale == "count":
            lines = [line for line in self.lines if not line.faint]
            return sorted({spot.x for line in lines for spot in line.spots})
        low, high = self.span()
        steps = [n * 10.0**power for power in range(-3, 12) for n in (1, 2, 5)]
        inside = [step for step in steps if low <= self.place(step) <= high]
        return inside[:: math.ceil(len(inside) / 5)] if inside else []


def draw_curves(panels: Sequence[Panel], axis: str, note: str) -> str:
    """The panels as one SVG that needs nothing else.

    axis: what all lines measure. note: stands below the names of the lines.
    """
    width = _LEFT + len(panels) * (_PANEL + _GAP)
    names = list(dict.fromkeys((line.name, line.paint) for p in panels for line in p.lines))
    foot = _TOP + _HEIGHT
    height = foot + _BOTTOM + _LEGEND * (len(names) + 1)
    parts = [f"<style>{_STYLE}</style>", f'<rect class="ground" {_box(width, height)}/>']
    for number, panel in enumerate(panels):
        parts.append(_draw_panel(panel, _LEFT + number * (_PANEL + _GAP), labelled=number == 0))
    for number, (name, paint) in enumerate(names):
        y = foot + _BOTTOM + _LEGEND * number + 8
        parts.append(
            f'<circle cx="{_LEFT + 6}" cy="{y - 4}" r="4.5" fill="{paint}"/>'
            f'<text class="start" x="{_LEFT + 18}" y="{y}">{escape(name)}</text>'
        )
    last = foot + _BOTTOM + _LEGEND * len(names) + 8
    parts.append(f'<text class="soft start" x="{_LEFT}" y="{last}">{escape(note)}</text>')
    parts.append(
        f'<text class="soft" transform="translate(12 {_TOP + _HEIGHT / 2}) rotate(-90)">'
        f"{escape(axis)}</text>"
    )
    head = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="sweep"'
    label = escape(f"{axis} against {', '.join(panel.axis for panel in panels)}", quote=True)
    return f'<svg {head} role="img" aria-label="{label}">{"".join(parts)}</svg>\n'


def _box(width: int, height: int) -> str:
    return f'width="{width}" height="{height}"'


def _draw_panel(panel: Panel, left: int, *, labelled: bool) -> str:
    low, high = panel.span()
    foot = _TOP + _HEIGHT

    def x(value: float) -> float:
        return left + _PANEL * (panel.place(value) - low) / (high - low)

    def y(value: float) -> float:
        return foot - _HEIGHT * min(1.0, max(0.0, value))

    parts = []
    for tick in _TICKS:
        parts.append(
            f'<line class="grid" x1="{left}" x2="{left + _PANEL}" '
            f'y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        if labelled:
            parts.append(
                f'<text class="soft end" x="{left - 8}" y="{y(tick) + 4:.1f}">{tick:g}</text>'
            )
    for tick in panel.ticks():
        parts.append(f'<text class="soft" x="{x(tick):.1f}" y="{foot + 16}">{short(tick)}</text>')
    middle = left + _PANEL / 2
    parts.append(f'<text class="soft" x="{middle:g}" y="{foot + 34}">{escape(panel.axis)}</text>')
    drawn = sorted(enumerate(panel.lines), key=lambda item: not item[1].faint)
    parts += [_draw_line(line, x, y, shift=1.5 * (n % 3 - 1)) for n, line in drawn]
    return f"<g>{''.join(parts)}</g>"


def _draw_line(
    line: Line, x: Callable[[float], float], y: Callable[[float], float], *, shift: float
) -> str:
    """A line through its spots as they come, each with a whisker; `shift` keeps those apart."""
    spots = line.spots
    parts = [
        f'<path stroke="{line.paint}" d="M{x(a.x):.1f} {y(a.mean):.1f}'
        f'L{x(b.x):.1f} {y(b.mean):.1f}"/>'
        for a, b in pairwise(spots)
    ]
    for spot in spots:
        at, whisker = x(spot.x), x(spot.x) + shift
        if not line.faint:
            parts.append(
                f'<line class="whisker" stroke="{line.paint}" x1="{whisker:.1f}" x2="{whisker:.1f}" '
                f'y1="{y(spot.low):.1f}" y2="{y(spot.high):.1f}"/>'
            )
        parts.append(
            f'<circle cx="{at:.1f}" cy="{y(spot.mean):.1f}" r="{2.5 if line.faint else 4}" '
            f'fill="{line.paint}"><title>{escape(f"{line.name}, {spot.told}")}</title></circle>'
        )
    kind = ' class="faint"' if line.faint else ""
    return f"<g{kind}>{''.join(parts)}</g>"


def short(value: float) -> str:
    """A number of an axis: 1200000 is 1.2M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:g}"


def draw_curves_png(panels: Sequence[Panel], axis: str, note: str, path: Path) -> bool:
    """The same as a picture; False, and no file, where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(3.9 * len(panels), 3.6), layout="constrained")
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for line in sorted(panel.lines, key=lambda line: not line.faint):
            spots = line.spots
            places = [panel.place(spot.x) for spot in spots]
            means = [spot.mean for spot in spots]
            if line.faint:
                axes.plot(places, means, ".--", color=line.paint, alpha=0.45, linewidth=1)
                continue
            ends = [
                [max(0.0, spot.mean - spot.low) for spot in spots],
                [max(0.0, spot.high - spot.mean) for spot in spots],
            ]
            axes.errorbar(
                places, means, yerr=ends, fmt="o-", color=line.paint, capsize=2, label=line.name
            )
        axes.set_xticks([panel.place(tick) for tick in panel.ticks()], map(short, panel.ticks()))
        axes.set(xlim=panel.span(), ylim=(-0.02, 1.02), xlabel=panel.axis)
        axes.set_ylabel(axis if number == 0 else "")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    legend = {"loc": "outside lower left", "frameon": False, "ncols": 3}
    figure.legend(handles, names, title=note, title_fontsize="small", **legend)
    figure.savefig(path, dpi=160)
    return True
