"""Two evaluations side by side: differences by hand, paired intervals, one clear line for misuse."""

import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest
from wideseek_eval.bootstrap import bootstrap
from wideseek_eval.comparison import compare
from wideseek_eval.results import Record

from tests.eval.test_eval_report import record
from tests.eval.test_eval_run import SCORE

COMPARE = Path(__file__).parents[2] / "eval" / "compare.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("eval_compare", COMPARE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scoring(task: str, item_f1: float, trial: int = 0, **other: object) -> Record:
    return replace(record(task, trial, **other), score=replace(SCORE, item_f1=item_f1))  # type: ignore[arg-type]


def test_tasks_are_paired_and_trials_averaged() -> None:
    before = [scoring("a", 0.2), scoring("b", 0.5), scoring("only before", 1.0)]
    after = [
        scoring("b", 0.5),
        scoring("a", 0.4, 0, tokens=11),
        scoring("a", 0.8, 1, tokens=21),
        scoring("only after", 0.0),
    ]
    scores, costs = compare(before, after)
    item = scores[0]
    assert (item.name, item.tasks) == ("item F1", 2)
    assert (item.before, item.after) == pytest.approx((0.35, 0.55))
    assert item.change.mean == pytest.approx(0.2)
    assert (item.up, item.down, item.same) == (1, 0, 1)
    tokens = costs[0]
    assert (tokens.name, tokens.before, tokens.after) == ("tokens", 1.0, 8.5)


def test_pairing_sees_through_the_spread_of_the_tasks() -> None:
    before = [scoring(f"t{i}", i / 50) for i in range(40)]
    after = [scoring(f"t{i}", i / 50 + 0.1) for i in range(40)]
    (item, *_), _ = compare(before, after)
    low, high = item.change.low, item.change.high
    assert low == pytest.approx(0.1) and high == pytest.approx(0.1)
    alone = bootstrap([i / 50 for i in range(40)], 0)
    assert alone.high - alone.low > 0.1, "two separate intervals would overlap"


def test_the_same_evaluation_does_not_differ_from_itself() -> None:
    records = [scoring(f"t{i}", i / 7) for i in range(7)]
    scores, costs = compare(records, records)
    assert all(found.change == (0.0, 0.0, 0.0) and found.same == 7 for found in scores + costs)


def folder_of(path: Path, records: list[Record], **config: object) -> str:
    path.mkdir()
    lines = [json.dumps(asdict(record)) + "\n" for record in records]
    (path / "results.jsonl").write_text("".join(lines) + '{"torn')
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_the_whole_command(
    program: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = folder_of(tmp_path / "a", [scoring("x", 0.2), scoring("z", 0.1)], model="m", seed=0)
    after = folder_of(tmp_path / "b", [scoring("x", 0.5)], model="n", seed=0)
    assert program.main([before, after]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("model: m -> n\n")
    assert "item F1            1     0.200     0.500  +0.300 [+0.300, +0.300]*" in shown
    assert "row F1             1     0.000     0.000  +0.000 [+0.000, +0.000] " in shown
    assert "1 tasks are in one of the two alone and left out" in shown
    assert program.main([before, after, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["config"] == {"model": ["m", "n"]}
    assert told["scores"][0]["change"] == pytest.approx([0.3, 0.3, 0.3])


def test_what_cannot_be_compared_is_one_line_and_exit_2(
    program: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = folder_of(tmp_path / "a", [scoring("x", 0.2)])
    other = folder_of(tmp_path / "b", [scoring("y", 0.2)])
    empty = folder_of(tmp_path / "c", [])
    foreign = folder_of(tmp_path / "d", [])
    (tmp_path / "d" / "results.jsonl").write_text("{}\n")
    for folder, told in (
        (other, "no task in common"),
        (empty, "holds no finished trial"),
        (foreign, "line 1: not a result"),
        (str(tmp_path / "none"), "cannot read"),
    ):
        assert program.main([good, folder]) == 2
        shown = capsys.readouterr().err
        assert told in shown and shown.count("\n") == 1
