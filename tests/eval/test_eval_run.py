"""Trials: graded from their events, kept the moment they end, done once whatever happens."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from wideseek_eval.flags import team_config
from wideseek_eval.results import Record, Results
from wideseek_eval.suites import EvalTask
from wideseek_eval.team import Team

from tests.eval.scripted_eval import OUTAGE, SETTINGS, ScriptedModel, fenced, right, run_worlds
from tests.test_line_file import room_for
from wideseek.backends import ModelPlace
from wideseek.grading.table import TableScore
from wideseek.runs.log import read_events


def timeless(records: list[Record]) -> dict[tuple[str, int], Record]:
    """Records by trial, without what differs from run to run."""
    return {(r.task, r.trial): replace(r, seconds=0.0) for r in records}


def test_right_answers_score_one_and_count_their_cost(tmp_path: Path) -> None:
    records, model, undone = asyncio.run(run_worlds(tmp_path, answer=right))
    assert undone == 0 and len(records) == 12
    assert {record.trial for record in records} == {0, 1}
    assert all(record.score and record.score.success and record.answered for record in records)
    assert all(record.stop_reason == "answered" and record.tokens > 0 for record in records)
    assert all(record.agent_ends == {"answered": 1} for record in records)
    assert len(model.asked) == 12
    events = read_events(tmp_path / "runs" / records[0].run)
    assert (
        events[0].data["seed"] != read_events(tmp_path / "runs" / records[-1].run)[0].data["seed"]
    )


def test_a_folder_without_an_event_is_begun_again(tmp_path: Path) -> None:
    """As a kill leaves it between making the folder and the first line."""
    with Results(tmp_path, {"suite": "worlds"}, resume=True):
        pass
    (tmp_path / "runs" / "test-0-t0" / "pages").mkdir(parents=True)
    records, _, undone = asyncio.run(run_worlds(tmp_path, 2, 1, right))
    assert undone == 0 and len(records) == 2


@pytest.mark.parametrize(
    "text", ["", "I cannot tell.", "```markdown\n|||\n```", "\\boxed{", "| a |"]
)
def test_garbled_answers_score_zero_and_are_counted(tmp_path: Path, text: str) -> None:
    records, _, undone = asyncio.run(run_worlds(tmp_path, 3, 1, lambda task: text))
    assert undone == 0 and len(records) == 3
    assert all(record.score is not None and record.score.item_f1 == 0.0 for record in records)
    assert not any(record.answered for record in records)


def test_a_half_right_table_scores_by_hand(tmp_path: Path) -> None:
    def first_half(task: EvalTask) -> str:
        return fenced(task.columns, task.rows[: len(task.rows) // 2])

    records, _, _ = asyncio.run(run_worlds(tmp_path, 6, 1, first_half))
    for record in records:
        if record.kind == "boxed":
            continue
        recall = (record.rows // 2) / record.rows
        assert record.score is not None
        assert record.score.item_f1 == pytest.approx(2 * recall / (1 + recall))
        assert record.score.row_precision == 1.0 and not record.score.success


def test_an_outage_is_no_zero_and_is_tried_again(tmp_path: Path) -> None:
    records, _, undone = asyncio.run(run_worlds(tmp_path, 2, 2, lambda task: OUTAGE))
    assert (records, undone) == ([], 4)
    records, model, undone = asyncio.run(run_worlds(tmp_path, 2, 2, right))
    assert (len(records), undone, len(model.asked)) == (4, 0, 4)


def test_a_question_that_takes_too_long_is_cut_and_graded(tmp_path: Path) -> None:
    hasty = replace(SETTINGS, max_seconds=0.05)
    records, _, undone = asyncio.run(run_worlds(tmp_path, 1, 1, lambda task: None, 0.0, hasty))
    assert undone == 0
    assert records[0].stop_reason == "max_seconds"
    assert records[0].score is not None and not records[0].score.success


def test_finished_trials_are_not_done_again(tmp_path: Path) -> None:
    before, _, _ = asyncio.run(run_worlds(tmp_path, 4, 1))
    text = (tmp_path / "results.jsonl").read_bytes()
    after, model, _ = asyncio.run(run_worlds(tmp_path, 4, 1))
    assert model.asked == []
    assert (after, (tmp_path / "results.jsonl").read_bytes()) == (before, text)
    more, model, _ = asyncio.run(run_worlds(tmp_path, 5, 2))
    assert len(more) == 10 and len(model.asked) == 6
    assert (tmp_path / "results.jsonl").read_bytes().startswith(text)


@pytest.mark.parametrize("torn", [1, 30])
def test_a_torn_last_line_is_dropped_and_made_good(tmp_path: Path, torn: int) -> None:
    before, _, _ = asyncio.run(run_worlds(tmp_path, 4, 1))
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-torn])
    after, model, _ = asyncio.run(run_worlds(tmp_path, 4, 1))
    assert timeless(after) == timeless(before)
    assert model.asked == []  # the run itself was complete: only its line was torn
    with Results(tmp_path, {"suite": "worlds"}, resume=True) as results:
        assert timeless(list(results.records.values())) == timeless(before)


def test_a_run_cut_short_is_done_anew(tmp_path: Path) -> None:
    before, _, _ = asyncio.run(run_worlds(tmp_path, 4, 1))
    path = tmp_path / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    last = json.loads(lines[-1])
    log = tmp_path / "runs" / last["run"] / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    after, model, _ = asyncio.run(run_worlds(tmp_path, 4, 1))
    assert model.asked == [last["task"]]
    assert timeless(after) == timeless(before)


SCORE = TableScore(
    item_f1=0.5,
    item_precision=0.5,
    item_recall=0.5,
    row_f1=0.0,
    row_precision=0.0,
    row_recall=0.0,
    success=False,
    columns_matched=1,
)
RECORD = Record(
    task="a",
    trial=0,
    run="a-t0",
    kind="table",
    rows=3,
    answered=True,
    score=SCORE,
    failure=None,
    stop_reason="answered",
    subagents=0,
    tokens=1,
    tool_calls=0,
    seconds=0.1,
    agent_ends={"answered": 1},
    tool_outcomes={},
)


def test_results_of_another_config_are_refused(tmp_path: Path) -> None:
    with Results(tmp_path, {"seed": 0, "rows": (1, 2)}, resume=True):
        pass
    with Results(tmp_path, {"seed": 1, "rows": (1, 2)}, resume=True) as results:
        results.add(RECORD)
    with Results(tmp_path, {"seed": 1, "rows": (1, 2)}, resume=True) as results:
        assert results.records == {("a", 0): RECORD}
    with pytest.raises(ValueError, match="was begun with seed 1 not 2"):
        Results(tmp_path, {"seed": 2, "rows": (1, 2)}, resume=True)
    with pytest.raises(ValueError, match="holds results already"):
        Results(tmp_path, {"seed": 1, "rows": (1, 2)}, resume=False)


def test_runs_of_which_nothing_is_known_are_refused(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a-t0").mkdir(parents=True)
    with pytest.raises(ValueError, match="was begun with seed None not 1"):
        Results(tmp_path, {"seed": 1}, resume=True)


def test_a_run_folder_is_not_continued_with_other_models(tmp_path: Path) -> None:
    folder, out = tmp_path / "weights", tmp_path / "out"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"first")
    place, served = ModelPlace(str(folder), None), ModelPlace(None, "http://m")
    one = ScriptedModel([], right)

    def begin(*places: ModelPlace, sub: ScriptedModel = one) -> None:
        with Results(out, team_config(*places, Team(one, sub)), resume=True) as results:
            if not results.records:
                results.add(RECORD)

    begin(place, place)
    begin(place, place)
    with pytest.raises(ValueError, match="was begun with sub_model None not 'scripted'"):
        begin(place, served)
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"was begun with model_sha256 '.* not '"):
        begin(place, place)
    out = tmp_path / "team"
    begin(place, served)
    with pytest.raises(ValueError, match="was begun with sub_model 'scripted' not None"):
        begin(place, place)
    other = ScriptedModel([], right)
    other.name = "another"
    with pytest.raises(ValueError, match="sub_model 'scripted' not 'another'"):
        begin(place, served, sub=other)


def test_a_full_disk_costs_the_result_at_hand_alone(tmp_path: Path) -> None:
    with Results(tmp_path, {}, resume=True) as results:
        results.add(RECORD)
        whole = results.path.stat().st_size
        late = replace(RECORD, task="b", run="b-t0")
        with room_for(whole + 50), pytest.raises(OSError):
            results.add(late)
        assert results.path.stat().st_size == whole and ("b", 0) not in results.records
        results.add(late)
    with Results(tmp_path, {}, resume=True) as results:
        assert list(results.records.values()) == [RECORD, late]


@pytest.mark.parametrize("line", ["{}", "[]", "junk", '{"score": {}}'])
def test_a_foreign_line_is_refused_by_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "results.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"results\.jsonl line 1"):
        Results(tmp_path, {}, resume=True)
