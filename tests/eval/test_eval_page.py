"""report.html and its figure: whole, self-contained, and nothing made up."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from wideseek_eval.figure import Point, draw_png, draw_svg, points_of
from wideseek_eval.page import render_page
from wideseek_eval.report import summarise

from tests.eval.test_eval_report import record, trace

VOID = {"meta", "br", "link", "img", "input"}
HOSTILE = '<script>alert("x")</script> $body & </td>'


class Checked(HTMLParser):
    """Fails where tags do not match; keeps texts, tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def summary(**other: Any) -> dict[str, Any]:
    records = [record("a", 0, True, group="en"), record("a", 1), record("b", 0, rows=20)]
    traces = {("a", 0): trace(canaries=1), ("b", 0): trace()}
    told = {"suite": "worlds", "model": "mini", "seed": 0, "commit": "abc"}
    return told | summarise(records, 0, traces) | other


def rows_of(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page)
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in rows]


def test_the_page_is_whole_and_needs_nothing_from_elsewhere() -> None:
    page = render_page(summary())
    found = Checked(page)
    assert not {"script", "link", "img", "iframe"} & found.tags
    assert not {"src", "href", "onload"} & {name for name, _ in found.attributes}
    assert "http" not in page.replace('http-equiv="', "") and "url(" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page


def test_texts_from_outside_are_shown_and_never_run() -> None:
    records = [record("a", group=HOSTILE, stop_reason=HOSTILE)]
    page = render_page({"suite": HOSTILE, "model": HOSTILE, "x": HOSTILE} | summarise(records, 0))
    found = Checked(page)
    assert "script" not in found.tags
    assert "".join(found.texts).count('<script>alert("x")</script> $body') >= 5


def test_numbers_stand_where_they_belong() -> None:
    rows = rows_of(render_page(summary()))
    head = rows.index(["", "tasks", "item F1", "row F1", "success"])
    assert rows[head + 1] == ["all", "2", "0.625 [0.500, 0.750]", *rows[head + 1][3:]]
    assert ["a lead agent", "2", "100", "0.0", "3.0"] in rows
    assert ["access", "75.0% (6 of 8)"] in rows
    page = render_page(summary())
    assert "read a canary: a-t0" in page and "Max@2" in page and "Pass@2" in page


def test_the_papers_numbers_stand_beside_ours_only_where_ours_were_measured() -> None:
    rows = rows_of(render_page(summary()))
    assert ["WideSeek-R1-4B (team)", "40.0", "51.8", "15.3", "24.4", "0.4", "1.0", "59.0"] in rows
    assert ["here: mini", *["not measured"] * 7] in rows, "worlds are not WideSearch"
    rows = rows_of(render_page(summary(suite="widesearch")))
    assert ["here: mini", "62.5", "75.0", "25.0", "50.0", "25.0", "50.0", "not measured"] in rows
    judged = {"judged": {"mean": 0.5, "low": 0.4, "high": 0.6}}
    groups = {"NQ": judged}
    rows = rows_of(render_page(summary(suite="qa", qa_by_group=groups)))
    assert ["here: mini", "50.0", *["not measured"] * 6] in rows
    names = ["NQ", "TriviaQA", "PopQA", "2WikiMultihopQA", "HotpotQA", "Bamboogle", "Musique"]
    rows = rows_of(render_page(summary(suite="qa", qa_by_group=dict.fromkeys(names, judged))))
    assert ["here: mini", *["not measured"] * 6, "50.0"] in rows


def test_an_evaluation_without_results_has_a_page_without_numbers() -> None:
    page = render_page({"suite": "worlds", "model": None} | summarise([], 0))
    Checked(page)
    assert "not measured" in page and "<svg" not in page


POINTS = [Point("all <1>", 0.5, 0.25, 0.75, 1.0), Point("3-10 rows", 0.0, 0.0, 0.0)]


def test_dots_and_whiskers_are_to_scale() -> None:
    root = ElementTree.fromstring(draw_svg(POINTS, "item F1"))
    ticks = [float(line.attrib["x1"]) for line in root.iter("line") if line.get("class") == "grid"]
    left, quarter, half, three, right = ticks
    groups = list(root.iter("g"))
    whisker = groups[0].find("line")
    assert whisker is not None
    assert (float(whisker.attrib["x1"]), float(whisker.attrib["x2"])) == (quarter, three)
    places = {c.attrib["class"]: float(c.attrib["cx"]) for c in groups[0].iter("circle")}
    assert places == {"best": right, "mean": half}
    assert [float(c.attrib["cx"]) for c in groups[1].iter("circle")] == [left]
    assert "all <1>: 0.500 [0.250, 0.750], best of trials 1.000" in [
        t.text for t in root.iter("title")
    ]


def test_points_are_the_parts_that_have_the_metric() -> None:
    whole = summary()
    points = points_of({"all": whole["all"], "qa": whole["qa"]}, "item_f1")
    assert [(point.label, point.mean, point.best) for point in points] == [("all", 0.625, 0.75)]


def test_without_matplotlib_there_is_no_picture_and_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw_png(POINTS, "item F1", tmp_path / "f.png") is False
    assert not (tmp_path / "f.png").exists()
