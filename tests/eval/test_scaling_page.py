"""The sweep's figures and page: to scale, whole, self-contained, and nothing made up."""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from wideseek_eval.curves import Line, Panel, Spot, draw_curves, draw_curves_png, short
from wideseek_eval.scaling import Point, System, plan_curves, summarise_sweep
from wideseek_eval.scaling_page import (
    draw_figures,
    panels_of,
    render_sweep,
    render_sweep_page,
)

from tests.eval.test_eval_page import HOSTILE, Checked, rows_of
from tests.eval.test_scaling import PLACE, scoring

SVG = "{http://www.w3.org/2000/svg}"


def summary(*names: str, **other: Any) -> dict[str, Any]:
    """Two tasks; a team of 2 scores 0.5, one of 8 0.75, alone 0.25 with 5 and 20 turns."""
    curves = plan_curves((0, 2, 8), (5, 20))
    scores = {Point(0, 5): 0.25, Point(0, 20): 0.25, Point(2): 0.5, Point(8): 0.75}
    measured = {
        (System(name, PLACE, PLACE), point): [
            scoring(task, score, tokens=1000 * (point.width + point.turns)) for task in "ab"
        ]
        for name in names or ("mini",)
        for point, score in scores.items()
    }
    found = summarise_sweep(measured, curves, 1, {"a", "b"}, 0)
    return {"suite": "worlds", "seed": 0, "commit": "abc"} | found | other


def circles(svg: str) -> list[tuple[float, float, str]]:
    """x, y and title of every dot that has one."""
    found = []
    for circle in ElementTree.fromstring(svg).iter(f"{SVG}circle"):
        title = circle.find(f"{SVG}title")
        if title is not None:
            found.append((float(circle.attrib["cx"]), float(circle.attrib["cy"]), title.text or ""))
    return found


def test_dots_stand_where_their_numbers_are() -> None:
    spots = tuple(Spot(x, x / 8, 0.0, 1.0, f"at {x}") for x in (1, 3, 7))
    svg = draw_curves([Panel("subagents", "count", (Line("m", 0, spots),))], "item F1", "")
    (x1, y1, _), (x3, y3, _), (x7, y7, told) = circles(svg)
    assert x3 - x1 == pytest.approx(x7 - x3, abs=0.2), "1 + x doubles twice"
    assert (y1 - y3) / (y3 - y7) == pytest.approx(0.5, abs=0.01)
    assert told == "m, at 7"
    grid = [float(g.attrib["y1"]) for g in ElementTree.fromstring(svg).iter(f"{SVG}line")][:5]
    assert grid[0] - (grid[0] - grid[4]) * 7 / 8 == pytest.approx(y7, abs=0.1)
    costs = tuple(Spot(x, 0.5, 0.5, 0.5, "") for x in (1_000.0, 10_000.0, 100_000.0))
    places = circles(draw_curves([Panel("tokens", "cost", (Line("m", 0, costs),))], "", ""))
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.2)


def test_a_panel_of_one_spot_or_none_is_drawn() -> None:
    one = Line("m", 0, (Spot(0, 0.0, 0.0, 0.0, "zero"),))
    assert len(circles(draw_curves([Panel("x", "count", (one,))], "", ""))) == 1
    assert len(circles(draw_curves([Panel("x", "cost", (one,))], "", ""))) == 1
    assert circles(draw_curves([Panel("x", "cost", ())], "", "")) == []


def test_each_figure_has_its_count_and_both_costs() -> None:
    width, tokens, seconds = panels_of(summary(), "width")
    assert [panel.axis for panel in (width, tokens, seconds)] == [
        "subagents a call",
        "tokens computed a question",
        "seconds a question",
    ]
    assert [spot.x for spot in width.lines[0].spots] == [0, 2, 8] and width.ticks() == [0, 2, 8]
    alone, team = tokens.lines
    assert alone.faint and [spot.x for spot in alone.spots] == [5000, 20000]
    assert not team.faint and [(s.x, s.mean) for s in team.spots] == [(2000, 0.5), (8000, 0.75)]
    depth, tokens, _ = panels_of(summary(), "depth")
    assert [spot.x for spot in depth.lines[0].spots] == [5, 20]
    assert [line.faint for line in tokens.lines] == [True, False]


def test_figures_are_files_that_need_nothing_else(tmp_path: Path) -> None:
    draw_figures(summary("trained", HOSTILE), tmp_path)
    for name in ("width", "depth"):
        svg = (tmp_path / f"{name}.svg").read_text()
        root = ElementTree.fromstring(svg)
        assert not [e for e in root.iter() if e.tag.endswith(("script", "image", "use"))]
        assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
        assert HOSTILE in [text.text for text in root.iter(f"{SVG}text")]
        assert "prefers-color-scheme:dark" in svg


def test_without_matplotlib_there_is_no_picture_and_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    written = draw_figures(summary(), tmp_path)
    assert [path.name for path in written] == ["width.svg", "depth.svg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["depth.svg", "width.svg"]


def test_with_matplotlib_there_is_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="an optional extra")
    assert draw_curves_png(panels_of(summary("a", "b"), "width"), "", "", tmp_path / "w.png")
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_whole_and_its_numbers_stand_where_they_belong() -> None:
    page = render_sweep_page(summary("trained", HOSTILE))
    found = Checked(page)
    assert "script" not in found.tags and not {"src", "href"} & {n for n, _ in found.attributes}
    assert "the same 2 tasks at every point" in "".join(found.texts)
    rows = rows_of(page)
    team = next(row for row in rows if row[:2] == ["trained", "team, 8 a call"])
    assert team[2:4] == ["2", "0.750 [0.750, 0.750]"] and team[6] == "8,000"
    equal = [row for row in rows if row[:2] == ["trained", "team, 8 a call"] and len(row) == 6]
    assert equal[0][2:] == ["8,000", "0.750", "0.250", "0.500 [0.500, 0.500]"]
    narrow = [row for row in rows if row[:2] == ["trained", "team, 2 a call"] and len(row) == 6]
    assert narrow[0][4] == "0.250 (end of its curve)"


def test_the_papers_curve_stands_beside_ours_only_on_its_own_questions() -> None:
    rows = rows_of(render_sweep_page(summary()))
    assert ["WideSeek-R1-4B", "19.2", "35.8", "38.2", "40.0"] in rows
    assert ["lead alone trained", "34.7", "8.8", "0.0"] in rows
    assert ["here: mini", *["not measured"] * 4] in rows, "worlds are not WideSearch"
    rows = rows_of(render_sweep_page(summary(suite="widesearch")))
    assert ["here: mini", "25.0", "50.0", "not measured", "not measured"] in rows
    assert ["here: mini", "not measured", "25.0", *["not measured"] * 3] in rows


def test_nothing_measured_shows_nothing() -> None:
    empty = summarise_sweep({}, plan_curves((1,), (1,)), 1, set(), 0)
    assert "<svg" not in render_sweep_page(empty)
    assert render_sweep(empty) == "no task was answered at every point"


def test_the_text_is_a_table_of_even_columns() -> None:
    text = render_sweep(summary())
    head, first, *_ = text.split("\n")
    assert head.index("tasks") == first.index("2 ")
    assert re.search(r"team, 8 a call\s+tokens computed\s+0\.250\s+0\.500", text)
    json.dumps(summary())


@pytest.mark.parametrize(("value", "told"), [(5, "5"), (1500, "1.5k"), (2e6, "2M"), (0.05, "0.05")])
def test_axes_are_short(value: float, told: str) -> None:
    assert short(value) == told
