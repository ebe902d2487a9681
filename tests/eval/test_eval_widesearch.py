"""WideSearch through an evaluation: official figures, corrected ones beside them, by hand."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from wideseek_eval.page import render_page
from wideseek_eval.report import render, summarise, value_of
from wideseek_eval.results import Record
from wideseek_eval.suites import read_file

from tests.eval.test_eval_judges import GIVES_UP, HASTY
from tests.eval.widesearch_set import (
    ANSWERS,
    FIRM_GOLD,
    FIRM_HEAD,
    FIRMS,
    evaluate,
    no_corpus,
    says,
    scripted,
    wise,
    write_set,
)
from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.patient_judge import PatientJudge, ReplyFile

OUT = Failure(FailureKind.JUDGE_SILENT, "gone")
# item F1 and row F1 of both answers. The first of ws_zh_001 has a date that the corrected figures do
# not take: five of six cells, one of two rows. The second of ws_en_001 has four right cells of five
# in one of two rows, P = 4/5, R = 4/10; the second of ws_zh_001 the two names of six cells.
OFFICIAL = {
    "ws_en_001": [(1.0, 1.0), (8 / 15, 0.0)],
    "ws_en_002": [(0.0, 0.0), (0.0, 0.0)],
    "ws_zh_001": [(1.0, 1.0), (1 / 3, 0.0)],
}
CORRECTED = OFFICIAL | {"ws_zh_001": [(5 / 6, 0.5), (1 / 3, 0.0)]}


def figures(records: list[Record], suffix: str = "") -> dict[str, list[tuple[float, float]]]:
    """Item and row F1 by task, the better answer first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        item, row = (value_of(record, f"{name}{suffix}") for name in ("item_f1", "row_f1"))
        assert item is not None and row is not None
        found.setdefault(record.task, []).append((item, row))
    return {task: sorted(pairs, reverse=True) for task, pairs in found.items()}


def near(expected: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    return {task: [pytest.approx(pair) for pair in pairs] for task, pairs in expected.items()}


def timeless(records: list[Record]) -> list[Record]:
    return [replace(record, seconds=0.0) for record in records]


def test_official_and_corrected_figures_are_those_by_hand(tmp_path: Path) -> None:
    records, undone = evaluate(tmp_path / "out", write_set(tmp_path / "set"), says(wise, []))
    assert undone == 0 and len(records) == 6
    assert figures(records) == near(OFFICIAL)
    assert figures(records, "_corrected") == near(CORRECTED)
    assert sorted(value_of(record, "success") or 0.0 for record in records) == [0] * 4 + [1] * 2
    statuses = {record.wide.status for record in records if record.wide}
    assert statuses == {"ok", "no_table"} and {record.score for record in records} == {None}
    assert sum(record.answered for record in records) == 4
    lines = (tmp_path / "out/results.jsonl").read_text().splitlines()
    again = map(Record.from_json, lines)
    assert sorted(again, key=lambda record: record.run) == records


def test_a_summary_equals_the_official_one_and_is_split_by_language(tmp_path: Path) -> None:
    records, _ = evaluate(tmp_path / "out", write_set(tmp_path / "set"), says(wise, []))
    summary = summarise(records, 0)
    wide = summary["widesearch"]
    assert list(wide) == ["all", "en", "zh"]
    names = {"item_f1": "f1_by_item", "row_f1": "f1_by_row", "success": "score"}
    for group, scores in {"all": summary["all"], **summary["by_group"]}.items():
        for kind, suffix in (("official", ""), ("corrected", "_corrected")):
            for metric, name in names.items():
                spread = wide[group][kind][name]
                assert scores[metric + suffix]["mean"] == pytest.approx(spread["avg_n"])
                assert scores["best"][metric + suffix]["mean"] == pytest.approx(spread["max_n"])
    # Avg@2 of the items: (23/30 + 0 + 2/3) / 3; Max@2: 2/3; the same without the date.
    assert wide["all"]["official"]["f1_by_item"] == pytest.approx(
        {"avg_n": 43 / 90, "max_n": 2 / 3, "min_n": (8 / 15 + 1 / 3) / 3}
    )
    assert wide["zh"]["corrected"]["f1_by_item"] == pytest.approx(
        {"avg_n": 7 / 12, "max_n": 5 / 6, "min_n": 1 / 3}
    )
    assert wide["en"]["official"]["score"] == {"avg_n": 0.25, "max_n": 0.5, "min_n": 0.0}
    assert "item F1 corrected" in render(summary)
    short = summarise(records[:-1], 0)["widesearch"]
    assert short["zh"]["official"]["f1_by_item"]["max_n"] in (pytest.approx(1 / 3), 1.0)
    assert short["all"]["official"] is None, "what is not scored is no zero"
    page = render_page({"suite": "widesearch", "model": "mini", "judge": "wise"} | summary)
    assert "the official figures, 2 trials, judged by wise" in page and "exact judge" not in page
    assert "<td>f1 by item</td><td>0.478</td><td>0.667</td>" in page


@pytest.mark.parametrize("alive", [0, 1, 3])
def test_a_judge_that_dies_in_the_middle_costs_nothing_but_time(tmp_path: Path, alive: int) -> None:
    path = write_set(tmp_path / "set")
    calm, _ = evaluate(tmp_path / "calm", path, says(wise, []))
    answered: list[str] = []

    def dies(prompt: str) -> str | Failure:
        if len(answered) == alive:
            return OUT
        answered.append(prompt)
        return wise(prompt)

    records, undone = evaluate(tmp_path / "out", path, says(dies, []), patience=GIVES_UP)
    assert undone > 0 and undone + len(records) == 6
    assert timeless(records) == [r for r in timeless(calm) if r.run in {x.run for x in records}]
    later: list[str] = []
    records, undone = evaluate(
        tmp_path / "out", path, says(wise, later), patience=HASTY, answered=True
    )
    assert undone == 0 and figures(records) == figures(calm)
    assert not set(later) & set(answered), "nothing is asked twice"


def test_babble_is_no_verdict(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    records, undone = evaluate(tmp_path / "out", path, says(lambda prompt: "Hard to say.", []))
    # Only what needs no judge is scored: the garbled and the empty answer.
    assert undone == 4 and {record.task for record in records} == {"ws_en_002"}


def test_a_gold_at_fault_keeps_the_official_zero_and_has_no_corrected_figure(
    tmp_path: Path,
) -> None:
    path = write_set(tmp_path / "set")
    (tmp_path / "set/widesearch_gold/ws_en_001.csv").write_text(FIRM_GOLD.replace("CEO", "Boss"))
    records, undone = evaluate(tmp_path / "out", path, says(wise, []))
    bad = [record for record in records if record.failure == "bad_gold"]
    assert undone == 0 and [record.task for record in bad] == ["ws_en_001"] * 2
    assert [value_of(record, "item_f1") for record in bad] == [0.0, 0.0]
    assert [value_of(record, "item_f1_corrected") for record in bad] == [None, None]
    summary = summarise(records, 0)
    assert summary["grading_failures"] == {"bad_gold": 2}
    assert summary["widesearch"]["en"]["corrected"]["f1_by_item"]["avg_n"] == 0.0


def test_a_gold_given_as_markdown_scores_like_the_file(tmp_path: Path) -> None:
    gold = FIRM_HEAD + "".join(
        f"| {' | '.join(line.split(','))} |\n" for line in FIRM_GOLD.splitlines()[1:]
    )
    row = {"instance_id": "ws_en_001", "query": "Which firms?", "evaluation": json.dumps(FIRMS)}
    row |= {"answer": f"```markdown\n{gold}```", "unique_columns": ["company"]}
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(row) + "\n")
    records, _ = evaluate(tmp_path / "out", path, says(wise, []))
    assert figures(records) == near({"ws_en_001": OFFICIAL["ws_en_001"]})


def test_an_evaluation_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    row = {"instance_id": "x", "query": "q", "answer": "| a |\n|---|\n| 1 |"}
    row["evaluation"] = json.dumps({"required": ["a"], "eval_pipeline": {"a": []}})
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"test\.jsonl: x: evaluation: eval_pipeline\.a must be"):
        read_file(path, None, no_corpus)


def test_the_whole_command_with_and_without_a_judge(
    main: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_set(tmp_path / "set")
    model = scripted(read_file(path, None, no_corpus))
    out = tmp_path / "out"

    async def open_scripted(name: str | None, base_url: str | None) -> object:
        return model

    @asynccontextmanager
    async def open_wise(*place: object, **how: object) -> AsyncIterator[PatientJudge]:
        with PatientJudge(says(wise, []), ReplyFile(out / "judge.jsonl", "wise")) as judge:
            yield judge

    monkeypatch.setattr("wideseek_eval.team.open_model", open_scripted)
    command = ["widesearch", "--file", str(path), "--trials", "2", "--output-dir", str(out)]
    command += ["--base-url", "http://model"]
    assert main.main(command) == 0
    # By rule "J. Doe" is nobody, so both rows of ws_en_001 have a wrong cell.
    by_rule = json.loads((out / "summary.json").read_text())
    assert by_rule["by_group"]["en"]["best"]["row_f1"]["mean"] == 0.0
    assert by_rule["all"]["best"]["item_f1"]["mean"] == pytest.approx((0.8 + 0.0 + 1.0) / 3)
    assert "so far: item F1" in capsys.readouterr().err
    monkeypatch.setattr(main, "open_judge", open_wise)
    asked = len(model.asked)
    for _ in range(2):
        assert main.main([*command, "--judge", "wise", "--score-only"]) == 0
        summary = json.loads((out / "summary.json").read_text())
        assert summary["all"]["best"]["item_f1"]["mean"] == pytest.approx(2 / 3)
        assert summary["widesearch"]["en"]["official"]["score"]["max_n"] == 0.5
    assert len(model.asked) == asked == sum(map(len, ANSWERS.values()))
