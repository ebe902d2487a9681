"""Suites and flags: what can be asked, and one clear line for what cannot."""

import json
from pathlib import Path
from types import ModuleType

import pytest
from wideseek_eval.suites import ATLAS, draw_worlds, read_questions

from tests.eval.scripted_eval import ScriptedModel, fenced, right
from wideseek.grading.table import TableScore


def test_worlds_depend_on_the_seed_and_have_their_own_pages() -> None:
    tasks = draw_worlds("test", 12, 0, None)
    assert len({task.id for task in tasks}) == 12
    widths = [len(task.rows) for task in tasks if task.kind == "table"]
    assert min(widths) <= 10 < max(widths)
    again = draw_worlds("test", 6, 0, None)
    assert [task.question for task in again] == [task.question for task in tasks[:6]]
    assert {task.question for task in draw_worlds("test", 12, 1, None)}.isdisjoint(
        task.question for task in tasks
    )
    narrow = draw_worlds("train", 6, 0, (3, 4))
    assert max(len(task.rows) for task in narrow) in (3, 4)
    assert tasks[0].open_corpus() is not tasks[0].open_corpus()


def test_the_gold_answer_of_a_world_is_right() -> None:
    for task in draw_worlds("test", 20, 3, None):
        answered, score = task.grade(right(task))
        assert answered and isinstance(score, TableScore) and score.success


def test_the_gold_answer_of_every_atlas_question_is_right() -> None:
    tasks = read_questions(ATLAS)
    assert len(tasks) >= 40
    for task in tasks:
        answered, score = task.grade(right(task))
        assert answered and isinstance(score, TableScore) and score.success, task.id


TABLE = {
    "id": "alps",
    "question": "List the countries of the Alps with their capital.",
    "kind": "table",
    "columns": ["country", "capital"],
    "key": "country",
    "rows": [["Austria", "Vienna"], ["France", "Paris"]],
    "answer": None,
    "aliases": {"capital": ["chief town"]},
}
BOXED = {"id": "fr", "question": "Capital of France?", "kind": "boxed", "answer": "Paris"}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_questions_are_read_from_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", TABLE, BOXED)
    table, boxed = read_questions(path)
    fence = fenced(
        ["#", "Country", "Chief town"], [["1", "france", "PARIS"], ["2", "Austria", "x"]]
    )
    answered, score = table.grade(fence)
    assert answered and isinstance(score, TableScore) and score.item_f1 == 0.75
    answered, score = boxed.grade("so \\boxed{Paris}")
    assert answered and isinstance(score, TableScore) and score.success
    answered, score = boxed.grade(fence)
    assert not answered and isinstance(score, TableScore) and score.item_f1 == 0.0
    assert [task.id for task in read_questions(path, (1, 5))] == ["alps"]
    assert read_questions(path, (3, 5)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "a/b"}, "id must be letters"),
        ({"question": " "}, "question must not be empty"),
        ({"kind": "list"}, "kind must be table or boxed, not 'list'"),
        ({"key": "Country"}, "key 'Country' is not one of the columns"),
        ({"rows": [["Austria"]]}, "row 0 has 1 cells for 2 columns"),
        ({"rows": [["Austria", 3]]}, "rows must hold texts"),
        ({"columns": []}, "columns must hold texts"),
        ({"kind": "boxed", "answer": 3}, "object is not iterable"),
    ],
)
def test_a_malformed_question_is_named_by_line(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = write(tmp_path / "q.jsonl", BOXED, TABLE | change)
    with pytest.raises(ValueError, match=r"line 2: .*") as raised:
        read_questions(path)
    assert message in str(raised.value)
    missing = {name: value for name, value in TABLE.items() if name not in change}
    with pytest.raises(ValueError, match="line 1"):
        read_questions(write(tmp_path / "q.jsonl", missing))


def test_doubled_ids_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2: id 'fr' is used twice"):
        read_questions(write(tmp_path / "q.jsonl", BOXED, BOXED))
    with pytest.raises(ValueError, match="cannot read"):
        read_questions(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "arguments",
    [
        ["chess"],
        ["worlds", "--max-agents", "0"],
        ["worlds", "--tasks", "-1"],
        ["worlds", "--rows", "5-3"],
        ["worlds", "--rows", "0-3"],
        ["worlds", "--temperature", "-1"],
        ["worlds", "--file", "x.jsonl"],
        ["worlds", "--corpus", "x.sqlite"],
        ["questions.xlsx"],
        ["questions.jsonl", "--file", "x.jsonl"],
        ["atlas", "--score-only"],
        ["atlas", "--score-only", "--predict-only", "--output-dir", "x"],
        ["worlds", "--max-seconds", "0"],
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_2(
    main: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main.main(arguments)
    assert raised.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_model_or_file_is_one_line_and_exit_2(
    main: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ["--output-dir", str(tmp_path / "out")]
    assert main.main(["worlds", "--tasks", "1", "--model", "/nowhere", *out]) == 2
    assert capsys.readouterr().err == "eval: no model folder at /nowhere\n"
    assert main.main(["atlas", "--file", str(tmp_path / "none.jsonl"), *out]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_whole_command(
    main: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = draw_worlds("test", 4, 0, None)
    model = ScriptedModel(tasks, right)

    async def open_scripted(name: str | None, base_url: str | None) -> ScriptedModel:
        return model

    monkeypatch.setattr("wideseek_eval.team.open_model", open_scripted)
    command = ["worlds", "--tasks", "4", "--trials", "2", "--base-url", "http://model"]
    command += ["--output-dir", str(tmp_path / "out")]
    assert main.main(command) == 0
    shown = capsys.readouterr()
    assert "all                4  1.000 [1.000, 1.000]" in shown.out
    assert shown.err.count("so far: item F1 1.000") == 8
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["all"]["success"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert summary["seed"] == 0 and summary["split"] == "test" and summary["trials"] == 8
    assert main.main(command) == 0
    assert len(model.asked) == 8
    assert main.main([*command, "--seed", "1"]) == 2
    assert "was begun with seed 0 not 1" in capsys.readouterr().err
    assert main.main([*command, "--no-resume"]) == 2
