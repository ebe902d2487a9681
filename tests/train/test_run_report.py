"""What a run shows of itself: numbers by role, sampled rollouts, and one page with curves and agent trees."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from wideseek_train.curve import Curve, draw_curves
from wideseek_train.graded import Graded, GradedGroup, Reward, Unscored, assign_advantages
from wideseek_train.measure import measure_rollouts
from wideseek_train.metrics import METRICS, STEP, MetricsLog
from wideseek_train.report import CHARTS, write_report
from wideseek_train.rollout_table import sample_rollouts
from wideseek_train.tasks import TaskSource
from wideseek_train.traces import TraceFile

from tests.train.rollouts import agent
from tests.train.rollouts import rollout as rollout_of
from tests.train.start import lone_rank
from wideseek.grading.credit import CreditConfig
from wideseek.trajectory import Rollout

TASK = TaskSource(seed=1, rows=(1, 1)).draw(0, 0, {})
TEAM = rollout_of(agent("lead", 3, 5), agent("sub-1", 4), agent("sub-2", 6, 2, 1))


def paid(value: float) -> Reward:
    return Reward(value=value, item_f1=value, row_f1=0.0, overlong=0.0, answered=True)


def graded(attempt: int, reward: Reward | Unscored, of: Rollout = TEAM) -> Graded:
    return Graded(
        step=4,
        question=0,
        attempt=attempt,
        task="train-1",
        rollout=of,
        reward=reward,
        tools={"sub.search.ok": 3, "sub.search.no_results": 1, "lead.access.ok": 2},
        started=10.0,
        ended=12.5,
    )


def group(*attempts: Graded, question: int = 0) -> GradedGroup:
    return GradedGroup(question=question, task=TASK, attempts=attempts)


@pytest.fixture
def one_rank() -> Iterator[None]:
    with lone_rank():
        yield


def test_roles_are_measured_apart(one_rank: None) -> None:
    """By hand: two paid teams of a lead and two subagents, and a third whose model failed."""
    alone = rollout_of(agent("lead", 2))
    groups = [
        group(
            graded(0, paid(1.0)),
            graded(1, paid(0.0), alone),
            graded(2, Unscored(kind="model_failed", detail="")),
        )
    ]
    samples = assign_advantages(
        groups, baseline="centered", share="outcome", num_rollouts=2, credit=CreditConfig()
    )
    values = measure_rollouts(groups, samples)
    assert values.keys() <= METRICS.keys()
    assert values["critic/rewards/lead"] == 0.5 and values["critic/rewards/sub"] == 1.0
    assert values["num_turns/lead"] == pytest.approx(5 / 3) and values["num_turns/sub"] == 2.0
    assert values["tokens/lead"] == pytest.approx(18 / 3) and values["tokens/sub"] == 26 / 4
    assert values["tools/failed/sub"] == 0.25 and values["tools/failed/lead"] == 0.0
    # Half a step for each rollout: a third of one to its lead, two thirds to its subagents; the other is all lead.
    assert values["weight/lead"] == pytest.approx(0.5 / 3 + 0.5)
    assert values["weight/sub"] == pytest.approx(1.0 / 3)
    assert values["credit/lead"] == pytest.approx(0.5 * (0.5 / 3 + 0.5))
    assert values["credit/sub"] == pytest.approx(0.5 * 1.0 / 3)
    assert "critic/rewards/single" not in values and "tokens/single" not in values


def test_rollouts_that_are_shown_are_the_best_and_the_worst() -> None:
    dull = group(graded(0, paid(0.5)), graded(1, paid(0.5)), question=0)
    vivid = group(
        *(graded(i, paid(value)) for i, value in enumerate((0.2, 0.9, 0.0))),
        graded(3, Unscored(kind="model_failed", detail="")),
        question=1,
    )
    rows = sample_rollouts([dull, vivid])
    assert [(row["attempt"], row["reward"]) for row in rows] == [
        (1, 0.9),
        (2, 0.0),
        (0, 0.5),
        (1, 0.5),
    ]
    assert (rows[0]["subagents"], rows[0]["turns"], rows[0]["sampled_tokens"]) == (2, 6, 21)
    assert rows[0]["seconds"] == 2.5 and rows[0]["question"] == TASK.question
    assert sample_rollouts([group(graded(0, Unscored(kind="x", detail="")))]) == []


def test_a_curve_breaks_where_a_number_is_none() -> None:
    points = ((1.0, 2.0), (2.0, 3.0), (3.0, math.nan), (4.0, 4.0))
    svg = draw_curves([Curve("a<b", points)], "A")
    assert svg.count("<polyline") == 1 and svg.count("<circle") == 1
    (line,) = re.findall(r'<polyline[^>]*points="([^"]+)"', svg)
    (x0, y0), (x1, y1) = (map(float, place.split(",")) for place in line.split())
    assert x0 < x1 and y0 > y1  # up is less
    assert "a&lt;b" in svg and "nan" not in svg


def write_run(out: Path) -> None:
    out.mkdir()
    (out / "config.json").write_text('{"seed": 1}')
    log = MetricsLog(out, 0, {}, wandb=False)
    for step in (1, 2, 3):
        values = {STEP: step, "critic/rewards/mean": step / 4, "actor/grad_norm": math.nan}
        log.write(values | {"weight/lead": 0.5, "weight/sub": 0.5}, [])
    nasty = replace(TEAM.trajectories[1], task="<script>alert(1)</script>")
    team = replace(TEAM, trajectories=(TEAM.trajectories[0], nasty, TEAM.trajectories[2]))
    with TraceFile(out / "traces", 4, 0) as traces:
        for number, value in enumerate((0.25, 1.0, 0.5)):
            traces.write(graded(number, paid(value), team))


class Balance(HTMLParser):
    """Whether every element is closed, and what the page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.active: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "img", "link"):
            self.active.append(tag)
        self.active += [name for name, _ in attrs if name in ("src", "href") or name[:2] == "on"]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_page_of_curves_and_trees(tmp_path: Path) -> None:
    """Nothing is fetched or run, what models wrote is text, the best and the worst attempt are shown with all agents."""
    write_run(tmp_path / "run")
    page = write_report(tmp_path / "run").read_text()
    balance = Balance()
    balance.feed(page)
    assert balance.open == [] and balance.active == []
    assert page.count("<svg") == 2 and "Weight by role" in page and "Entropy" not in page
    assert "Agents of step 5" in page and page.count('class="tree"') == 2
    assert "reward 1.000" in page and "reward 0.250" in page and "reward 0.500" not in page
    assert page.count("<b>sub-2</b>") == 2 and "3 turns, 9 tokens, answered" in page
    assert "&lt;script&gt;" in page


def test_every_number_of_a_chart_is_registered() -> None:
    assert {name for names in CHARTS.values() for name in names} <= METRICS.keys()


def test_a_report_can_be_made_again_by_hand(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps({STEP: 1})[:-4])

    def make(folder: str) -> subprocess.CompletedProcess[str]:
        paths = [str(Path(__file__).parents[2] / part) for part in ("", "kernels", "train")]
        return subprocess.run(
            [sys.executable, "-m", "wideseek_train.report", str(tmp_path / folder)],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1"},
        )

    made = make("run")
    assert made.returncode == 0, made.stderr
    assert "No step has been taken" in Path(made.stdout.strip()).read_text()
    (line,) = make("nowhere").stderr.splitlines()
    assert line.startswith("report: ") and "holds no run" in line
