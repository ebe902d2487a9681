"""What a sweep is shown as: two figures, a page, and a text for the terminal."""

import tomllib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from wideseek_eval.curves import Line, Panel, Spot, draw_curves, draw_curves_png
from wideseek_eval.page import NOT_MEASURED, fill_page, section, table
from wideseek_eval.report import interval, tell_contamination
from wideseek_eval.scaling import COSTS, CURVES

AXIS = "item F1"
_TITLES = {"width": "Width: one agent, then wider teams", "depth": "Depth: more turns of one agent"}
_DASHED = {"width": "dashed: one agent, more and more turns", "depth": "dashed: wider teams"}
_NOTES = {
    "width": "Left: by subagents a call, 0 being one agent alone. Middle and right: teams by what a "
    "question costs.",
    "depth": "Left: by the turns of one agent. Middle and right: the same points by what a question "
    "costs.",
}
_SHOWN_ELSEWHERE = frozenset(("points", "equal_cost", "tasks", "trials", "contamination"))
_COSTS = {"computed_tokens": ",.0f", "seconds": ".1f"}


def panels_of(summary: Mapping[str, Any], curve: str) -> list[Panel]:
    """The panels of one figure: by its own count, and by each cost beside the other curve."""
    systems = list(dict.fromkeys(point["system"] for point in summary["points"]))

    def line(number: int, name: str, count: str, by: str, *, faint: bool = False) -> Line:
        ours = [p for p in summary["points"] if p["system"] == name and p[count] is not None]
        if by in COSTS:  # one agent alone is the start of the width curve, but costs as its own do
            ours = [p for p in ours if (count == "width") == (p["workflow"] == "team")]
        spots = (
            Spot(
                x=point[by] if by in CURVES else point[by]["mean"],
                told=f"{point[count]} {CURVES[count]}: {interval(point['item_f1'])}",
                **point["item_f1"],
            )
            for point in sorted(ours, key=lambda point: float(point[count]))
        )
        return Line(name, number, tuple(spots), faint)

    plain = tuple(line(n, name, curve, curve) for n, name in enumerate(systems))
    panels = [Panel(CURVES[curve], "count", plain)]
    other = next(name for name in CURVES if name != curve)
    for cost, title in COSTS.items():
        both = [line(n, name, other, cost, faint=True) for n, name in enumerate(systems)]
        both += [line(n, name, curve, cost) for n, name in enumerate(systems)]
        panels.append(Panel(f"{title} a question", "cost", tuple(both)))
    return panels


def draw_figures(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """width.svg and depth.svg, and with matplotlib .png; the files that were written."""
    written = []
    for curve in CURVES:
        panels = panels_of(summary, curve)
        path = folder / f"{curve}.svg"
        path.write_text(draw_curves(panels, AXIS, _DASHED[curve]), encoding="utf-8")
        written.append(path)
        if draw_curves_png(panels, AXIS, _DASHED[curve], path.with_suffix(".png")):
            written.append(path.with_suffix(".png"))
    return written


def render_sweep_page(summary: Mapping[str, Any]) -> str:
    """scaling.html. Texts from outside are escaped."""
    title = f"Width and depth, {summary.get('suite', 'evaluation')}"
    parts = [f"<h1>{escape(title)}</h1>", _intro(summary)]
    if summary["points"]:
        for curve in CURVES:
            drawn = draw_curves(panels_of(summary, curve), AXIS, _DASHED[curve])
            figure = f"<figure>{drawn}<figcaption>{_NOTES[curve]}</figcaption></figure>"
            parts.append(section(_TITLES[curve], figure))
    parts += [_points(summary), _equal_cost(summary), *_papers(summary)]
    told = {name: value for name, value in summary.items() if name not in _SHOWN_ELSEWHERE}
    rows = [(name.replace("_", " "), str(value)) for name, value in told.items()]
    return fill_page(title, [*parts, section("How it was made", table((), rows))])


def _intro(summary: Mapping[str, Any]) -> str:
    trials = f"{summary['trials']} trials each" if summary["trials"] > 1 else "one trial each"
    same = f"the same {summary['tasks']} tasks at every point"
    told = (same, trials, summary.get("date"), summary.get("commit"))
    note = "Means over tasks with 95 % bootstrap intervals."
    return f'<p class="soft">{escape(" · ".join(str(t) for t in told if t))}<br>{note}</p>'


_HEAD = ("", "", "tasks", "item F1", "row F1", "success", *COSTS.values(), "subagents", "calls")


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            point["system"],
            tell_point(point),
            str(point["tasks"]),
            *(interval(point[metric]) for metric in ("item_f1", "row_f1", "success")),
            *(format(point[cost]["mean"], form) for cost, form in _COSTS.items()),
            f"{point['subagents']:.1f}",
            f"{point['tool_calls']:.1f}",
        )
        for point in summary["points"]
    ]


def tell_point(point: Mapping[str, Any]) -> str:
    """What was measured at a point, in a few words."""
    if point["workflow"] == "team":
        return f"team, {point['width']} a call"
    return f"alone, {point['depth']} turns"


def _points(summary: Mapping[str, Any]) -> str:
    seen = f'<p class="soft">{escape(tell_contamination(summary["contamination"]))}</p>'
    return section("Points", table(_HEAD, _rows(summary)) + seen)


def _equal_cost(summary: Mapping[str, Any]) -> str:
    """A team against one agent that is given as many tokens, or as much time."""
    parts = []
    for cost, title in COSTS.items():
        rows = [
            (
                told["system"],
                f"team, {told['width']} a call",
                format(told["cost"], _COSTS[cost]),
                f"{told['team']:.3f}",
                f"{told['alone']:.3f}" + ("" if told["within"] else " (end of its curve)"),
                interval(told["gain"]),
            )
            for told in summary["equal_cost"]
            if told["at"] == cost
        ]
        head = ("", "", title, "team", "one agent", "difference")
        parts.append(table(head, rows, f"at equal {title}, a question"))
    note = "One agent's score between two numbers of turns is taken to lie on a line."
    return section("At equal cost", "".join(parts) + f'<p class="soft">{note}</p>')


def _papers(summary: Mapping[str, Any]) -> list[str]:
    """The paper's figures as tables, with what was measured here on the same suite."""
    told = tomllib.loads((files("wideseek_eval") / "paper.toml").read_text(encoding="utf-8"))
    parts = []
    for curve, counts in (("width", told["subagents"]), ("depth", told["turns"])):
        rows = [[name, *(f"{value:.1f}" for value in values)] for name, *values in told[curve]]
        theirs = len(rows)
        rows += [[f"here: {n}", *cells] for n, cells in _ours(summary, curve, counts).items()]
        head = (CURVES[curve], *map(str, counts))
        parts.append(table(head, rows, "item F1 on WideSearch, in percent", ours=theirs))
    rows = [[name, *(f"{value:.1f}" for value in values)] for name, *values in told["roles"]]
    head = ("", "item F1", "row F1", "success")
    parts.append(table(head, rows, "which roles were trained, on WideSearch, in percent"))
    return [section("Beside the paper", "".join(parts))]


def _ours(summary: Mapping[str, Any], curve: str, counts: Sequence[int]) -> dict[str, list[str]]:
    wide = summary.get("suite") == "widesearch"
    found: dict[str, dict[int, float]] = {}
    for point in summary["points"]:
        points = found.setdefault(point["system"], {})
        if wide and point[curve] is not None:
            points[point[curve]] = point["item_f1"]["mean"]
    return {
        name: [f"{100 * points[x]:.1f}" if x in points else NOT_MEASURED for x in counts]
        for name, points in found.items()
    }


def render_sweep(summary: Mapping[str, Any]) -> str:
    """The points and comparisons as the text a terminal shows."""
    if not summary["points"]:
        return "no task was answered at every point"
    lines = []
    for table_head, rows in (
        (_HEAD, _rows(summary)),
        (
            ("", "", "at equal", "one agent", "difference"),
            [
                (
                    told["system"],
                    f"team, {told['width']} a call",
                    COSTS[told["at"]],
                    f"{told['alone']:.3f}" + ("" if told["within"] else " (end)"),
                    interval(told["gain"]),
                )
                for told in summary["equal_cost"]
            ],
        ),
    ):
        widths = [max(map(len, column)) for column in zip(table_head, *rows, strict=True)]
        for row in (table_head, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        lines.append("")
    return "\n".join([*lines, tell_contamination(summary["contamination"])])
