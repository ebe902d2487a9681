"""Published sets through the same machinery: graded by kind, kept by name, scored when asked."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from wideseek_eval.suites import EvalTask, open_corpus_of, read_file, read_qa

from tests.eval.scripted_eval import OUTAGE, ScriptedModel, fenced, right
from wideseek.generation import ModelFailure
from wideseek.grading.datasets import QA_SETS
from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.qa import QAScore
from wideseek.grading.table import TableScore

OPEN_CORPUS = open_corpus_of(None)
EVALUATION = {
    "required": ["player", "club", "year"],
    "unique_columns": ["player", "year"],
    "eval_pipeline": {},
}
GOLD = "Player,Country,Club,Year\nA. Bee,Xland,Ajax,1990\nA. Bee,Xland,Porto,1991\nC. Dee,,,1990\n"
TABLE = ("Player", "Club", "Year"), [["A. Bee", "Ajax", "1990"], ["C. Dee", "", "1990"]]


def write(path: Path, *records: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
    return path


def write_widesearch(folder: Path) -> Path:
    rows = [
        {"instance_id": name, "query": f"Players of {name}?", "evaluation": json.dumps(EVALUATION)}
        for name in ("ws_en_001", "ws_zh_002")
    ]
    for row in rows:
        gold = folder / "widesearch_gold" / f"{row['instance_id']}.csv"
        gold.parent.mkdir(parents=True, exist_ok=True)
        gold.write_text(GOLD)
    return write(folder / "widesearch.jsonl", *rows)


def write_qa(folder: Path) -> Path:
    for name in QA_SETS:
        record = {"question": f"Who of {name}?", "answer": ["Lise Meitner", "Meitner"]}
        write(folder / f"{name}_rand1000" / "test.jsonl", record)
    return folder


def table_f1(task: EvalTask, text: str) -> tuple[bool, float]:
    answered, score = task.grade(text)
    assert isinstance(score, TableScore)
    return answered, score.item_f1


def test_tables_are_held_against_their_required_columns_and_whole_key(tmp_path: Path) -> None:
    english, chinese = read_file(write_widesearch(tmp_path), None, OPEN_CORPUS)
    assert (english.id, english.kind, english.group) == ("ws_en_001", "table", "en")
    assert (chinese.group, english.key) == ("zh", ("Player", "Year"))
    assert table_f1(english, right(english)) == (True, 1.0)
    # Two of three rows, six of nine items: P = 1, R = 2/3.
    assert table_f1(english, fenced(*TABLE)) == (True, pytest.approx(0.8))
    # The same player twice is two rows; a year that is nobody's is none.
    twice = [["A. Bee", "Ajax", "1990"], ["A. Bee", "Porto", "1992"]]
    assert table_f1(english, fenced(TABLE[0], twice)) == (True, pytest.approx(2 * 3 / (6 + 9)))
    assert table_f1(english, fenced(TABLE[0], [["X", "Y", "Z"]])) == (True, 0.0)
    for garbled in ("", "\\boxed{A. Bee}", "```markdown\n|||\n```", "| Player |", "null"):
        assert table_f1(english, garbled) == (False, 0.0)


@pytest.mark.parametrize(
    ("text", "answered", "em", "f1"),
    [
        ("so \\boxed{Lise Meitner}", True, True, 1.0),
        ("<answer>meitner.</answer>", True, True, 1.0),
        ("<answer>Hahn</answer> \\boxed{Meitner}", True, True, 1.0),
        ("\\boxed{Meitner, Lise and Hahn}", True, False, 2 / 3),
        ("\\boxed{Hahn}", True, False, 0.0),
        ("\\boxed{}", True, False, 0.0),
        ("\\boxed{Meitner", False, False, 0.0),
        ("Lise Meitner", False, False, 0.0),
        ("", False, False, 0.0),
    ],
)
def test_phrases_are_matched_as_the_sets_do(
    tmp_path: Path, text: str, answered: bool, em: bool, f1: float
) -> None:
    task = read_qa(write_qa(tmp_path), OPEN_CORPUS)[0]
    found, score = task.grade(text)
    assert found is answered and isinstance(score, QAScore)
    assert (score.em, score.f1) == (em, pytest.approx(f1))


def test_the_seven_sets_are_groups_with_ids_of_their_own(tmp_path: Path) -> None:
    tasks = read_qa(write_qa(tmp_path), OPEN_CORPUS)
    assert [task.id for task in tasks] == [f"{name}-0" for name in QA_SETS]
    assert [task.group for task in tasks] == list(QA_SETS)
    [alone] = read_qa(tmp_path / "NQ_rand1000" / "test.jsonl", OPEN_CORPUS)
    assert (alone.id, alone.kind) == ("0", "qa")


def test_a_gold_that_is_no_table_is_a_failure(tmp_path: Path) -> None:
    row = {"question": "Which?", "answer": "no table", "unique_columns": ["a"]}
    [task] = read_file(write(tmp_path / "width.jsonl", row), None, OPEN_CORPUS)
    _, score = task.grade(fenced(*TABLE))
    assert isinstance(score, Failure) and score.kind is FailureKind.BAD_GOLD


def test_the_atlas_schema_is_told_from_published_ones(tmp_path: Path) -> None:
    boxed = {"id": "fr", "question": "Capital of France?", "kind": "boxed", "answer": "Paris"}
    [task] = read_file(write(tmp_path / "a.jsonl", boxed), None, OPEN_CORPUS)
    assert (task.id, task.kind) == ("fr", "boxed")
    flagged = {"question": "Capital of France?", "answer": "Paris", "is_markdown": False}
    [task] = read_file(write(tmp_path / "b.jsonl", flagged), None, OPEN_CORPUS)
    assert (task.id, task.kind) == ("0", "qa")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"instance_id": "a/b"}], "instance_id must be letters, digits, - and _"),
        ([{"instance_id": 1}, {"instance_id": "1"}], "instance_id '1' is used twice"),
    ],
)
def test_ids_that_cannot_name_runs_are_refused(
    tmp_path: Path, rows: list[dict[str, object]], message: str
) -> None:
    records = [{"question": "q", "answer": "a"} | row for row in rows]
    with pytest.raises(ValueError) as raised:
        read_file(write(tmp_path / "q.jsonl", *records), None, OPEN_CORPUS)
    assert message in str(raised.value) and "q.jsonl" in str(raised.value)


Say = Callable[[EvalTask], str | ModelFailure]


class Command:
    """`eval/main.py` with a scripted model in place of a real one."""

    def __init__(
        self, main: ModuleType, monkeypatch: pytest.MonkeyPatch, tasks: list[EvalTask], say: Say
    ) -> None:
        self.model = ScriptedModel(tasks, say)
        self._main = main

        async def open_scripted(name: str | None, base_url: str | None) -> ScriptedModel:
            return self.model

        monkeypatch.setattr("wideseek_eval.team.open_model", open_scripted)

    def __call__(self, *words: object) -> int:
        code: int = self._main.main([*map(str, words), "--base-url", "http://model"])
        return code


def results_of(folder: Path) -> list[dict[str, object]]:
    """The lines of results.jsonl in order of their tasks, without their times."""
    lines = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return sorted((line | {"seconds": 0} for line in lines), key=lambda line: line["run"])


def half(task: EvalTask) -> str:
    return fenced(*TABLE) if task.group == "en" else "I do not know."


def test_predicting_and_scoring_apart_give_the_same_as_at_once(
    main: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = write_widesearch(tmp_path / "data")
    run = Command(main, monkeypatch, read_file(path, None, OPEN_CORPUS), half)
    suite = ["widesearch", "--file", path, "--trials", 2, "--output-dir"]
    assert run(*suite, tmp_path / "once") == 0
    capsys.readouterr()
    assert run(*suite, tmp_path / "apart", "--predict-only") == 0
    assert (tmp_path / "apart" / "results.jsonl").read_bytes() == b""
    assert not (tmp_path / "apart" / "summary.json").exists()
    shown = capsys.readouterr()
    assert shown.out.startswith("4 answers in ") and "F1" not in shown.err
    assert len(run.model.asked) == 8
    assert run(*suite, tmp_path / "apart", "--score-only") == 0
    assert len(run.model.asked) == 8
    assert results_of(tmp_path / "apart") == results_of(tmp_path / "once")
    summary = json.loads((tmp_path / "apart" / "summary.json").read_text())
    assert summary["all"]["item_f1"]["mean"] == pytest.approx(0.4)
    assert summary["base_url"] == "http://model"
    assert {name: s["tasks"] for name, s in summary["by_group"].items()} == {"en": 1, "zh": 1}


def test_scoring_anew_drops_old_scores_and_says_what_was_never_run(
    main: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = write_widesearch(tmp_path / "data")
    run = Command(main, monkeypatch, read_file(path, None, OPEN_CORPUS), half)
    suite = ["widesearch", "--file", path, "--output-dir", tmp_path / "out"]
    assert run(*suite) == 0
    before = results_of(tmp_path / "out")
    lines = (
        (tmp_path / "out" / "results.jsonl").read_text().replace('"item_f1": 0.8', '"item_f1": 1')
    )
    (tmp_path / "out" / "results.jsonl").write_text(lines)
    assert results_of(tmp_path / "out") != before
    assert run(*suite, "--score-only") == 0
    assert results_of(tmp_path / "out") == before
    capsys.readouterr()
    assert run(*suite, "--score-only", "--trials", 2) == 1
    assert "no answer in 2 trials, not scored" in capsys.readouterr().err
    gold = tmp_path / "data" / "widesearch_gold" / "ws_en_001.csv"
    gold.write_text(GOLD.replace("Ajax", "Porto"))
    assert run(*suite, "--score-only") == 2
    assert "was begun with questions_sha256" in capsys.readouterr().err
    nowhere = ["widesearch", "--file", path, "--output-dir", tmp_path / "none", "--score-only"]
    assert run(*nowhere) == 2
    assert "nothing to score in" in capsys.readouterr().err


def test_a_prediction_cut_short_goes_on_and_refuses_another_config(
    main: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    tasks = read_qa(write_qa(tmp_path / "data"), OPEN_CORPUS)

    def some(task: EvalTask) -> str | ModelFailure:
        return OUTAGE if task.group in QA_SETS[3:] else "\\boxed{Meitner}"

    suite = ["qa", "--file", tmp_path / "data", "--output-dir", tmp_path / "out"]
    assert Command(main, monkeypatch, tasks, some)(*suite, "--predict-only") == 1
    assert len(list((tmp_path / "out" / "responses").iterdir())) == 3
    log = tmp_path / "out" / "runs" / "NQ-0-t0" / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-20])  # as a kill leaves it
    run = Command(main, monkeypatch, tasks, lambda task: "\\boxed{Meitner}")
    assert run(*suite, "--predict-only", "--max-seconds", "9") == 2
    assert "was begun with max_seconds" in capsys.readouterr().err
    assert run(*suite, "--predict-only", "--no-resume") == 2
    assert run(*suite, "--predict-only") == 0
    assert sorted(run.model.asked) == sorted(["NQ-0", *(f"{name}-0" for name in QA_SETS[3:])])
    capsys.readouterr()
    assert run(*suite) == 0
    assert len(run.model.asked) == 5
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["qa_by_group"]["PopQA"]["em"]["mean"] == 1.0
    assert "exact match" in capsys.readouterr().out


def test_responses_bear_the_official_names_and_fields(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_widesearch(tmp_path / "data")
    run = Command(main, monkeypatch, read_file(path, None, OPEN_CORPUS), half)
    run.model.name = "Some/Model 4b"
    suite = ["widesearch", "--file", path, "--trials", 2, "--output-dir", tmp_path / "out"]
    assert run(*suite) == 0
    folder = tmp_path / "out" / "responses"
    names = {
        f"Some_Model_4b_{name}_{trial}_response.jsonl"
        for name in ("ws_en_001", "ws_zh_002")
        for trial in (0, 1)
    }
    assert {file.name for file in folder.iterdir()} == names
    [line] = (folder / "Some_Model_4b_ws_en_001_1_response.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "instance_id": "ws_en_001",
        "response": fenced(*TABLE),
        "messages": None,
        "trial_idx": 1,
    }
    for file in folder.iterdir():
        file.unlink()
    assert run(*suite, "--score-only") == 0
    assert {file.name for file in folder.iterdir()} == names


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["widesearch"], "widesearch needs --file: a copy of ByteDance-Seed/WideSearch"),
        (["qa"], "qa needs --file: a copy of inclusionAI/ASearcher-test-data"),
        (["qa", "--file", "{empty}"], "has no NQ*/test.jsonl"),
        (["{empty}/none.jsonl"], "cannot read"),
        (["widesearch", "--file", "{empty}"], "must be a .jsonl, .json, .csv file"),
    ],
)
def test_a_suite_without_its_files_is_one_line_and_exit_2(
    main: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    told: str,
) -> None:
    (tmp_path / "empty").mkdir()
    words = [word.replace("{empty}", str(tmp_path / "empty")) for word in words]
    assert main.main([*words, "--output-dir", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert told in shown and shown.count("\n") == 1
    assert not (tmp_path / "out").exists()
