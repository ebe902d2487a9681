"""The summary: means by hand, intervals by seed, counts by name."""

from dataclasses import replace

import pytest
from wideseek_eval.bootstrap import bootstrap_mean
from wideseek_eval.provenance import provenance
from wideseek_eval.report import render, row_bucket, summarise
from wideseek_eval.results import Record
from wideseek_eval.trace import AgentCost, Trace

from tests.eval.test_eval_run import RECORD, SCORE
from wideseek.grading.qa import QAScore

PERFECT = replace(SCORE, item_f1=1.0, row_f1=1.0, success=True)


def record(
    task: str, trial: int = 0, right: bool = False, rows: int = 3, **other: object
) -> Record:
    score = PERFECT if right else SCORE
    kind = "table" if rows else "boxed"
    return replace(RECORD, task=task, trial=trial, score=score, rows=rows, kind=kind, **other)  # type: ignore[arg-type]


def test_trials_are_averaged_within_their_task_first() -> None:
    records = [record("a", 0, True), record("a", 1, True), record("a", 2, True), record("b")]
    scores = summarise(records, seed=0)["all"]
    assert scores["tasks"] == 2
    assert scores["item_f1"]["mean"] == 0.75
    assert scores["success"]["mean"] == 0.5


def test_the_interval_depends_on_the_seed_alone() -> None:
    groups = [[i**0.5] for i in range(40)]
    assert bootstrap_mean(groups, 1) == bootstrap_mean(groups, 1)
    assert bootstrap_mean(groups, 1) != bootstrap_mean(groups, 2)
    forward = [record(f"t{i}", right=i % 3 == 0) for i in range(20)]
    assert summarise(forward, 5) == summarise(reversed(forward), 5)


def test_the_interval_holds_the_mean_and_narrows_with_tasks() -> None:
    mean, low, high = bootstrap_mean([[0.0], [1.0]] * 50, 0)
    assert mean == 0.5
    # The mean of 100 fair coins has a standard deviation of 0.05.
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert bootstrap_mean([[0.7]], 0) == (0.7, 0.7, 0.7)
    # Trials at one task say nothing about other tasks.
    assert bootstrap_mean([[0.0, 1.0] * 50], 0) == (0.5, 0.5, 0.5)


def test_results_are_split_by_width_and_kind() -> None:
    records = [record(f"t{rows}", right=rows > 10, rows=rows) for rows in (0, 1, 3, 10, 11, 30, 60)]
    summary = summarise(records, seed=0)
    tasks = {name: scores["tasks"] for name, scores in summary["by_rows"].items()}
    assert list(tasks.items()) == [
        ("boxed", 1),
        ("1-2", 1),
        ("3-10", 2),
        ("11-30", 2),
        ("over 50", 1),
    ]
    assert summary["by_rows"]["11-30"]["item_f1"]["mean"] == 1.0
    assert summary["by_rows"]["3-10"]["item_f1"]["mean"] == 0.5
    assert {name: s["tasks"] for name, s in summary["by_kind"].items()} == {"boxed": 1, "table": 6}
    assert [row_bucket(rows) for rows in (2, 31, 50)] == ["1-2", "31-50", "31-50"]


def test_costs_and_endings_are_counted() -> None:
    records = [
        record("a", seconds=2.0, subagents=4, tool_outcomes={"search ok": 2}),
        record("b", seconds=4.0, stop_reason="max_seconds", answered=False),
        replace(record("c"), score=None, failure="bad_gold", agent_ends={"budget": 2}),
    ]
    summary = summarise(records, seed=0)
    assert summary["mean"]["subagents"] == pytest.approx(4 / 3)
    assert summary["max_seconds"] == 4.0
    assert summary["stop_reasons"] == {"answered": 2, "max_seconds": 1}
    assert summary["agent_ends"] == {"answered": 2, "budget": 2}
    assert summary["tool_outcomes"] == {"search ok": 2}
    assert summary["grading_failures"] == {"bad_gold": 1}
    assert summary["nothing_to_grade"] == 1
    assert summary["all"]["tasks"] == 2, "a failure to grade is not a zero"


def test_the_text_shows_every_group_and_never_a_made_up_number() -> None:
    text = render(summarise([record("a", right=True), record("b", rows=0)], seed=0))
    assert "all                2  0.750 [0.500, 1.000]" in text
    assert "3-10 rows          1  1.000 [1.000, 1.000]" in text
    assert "kind boxed         1  0.500 [0.500, 0.500]" in text
    assert "not measured" in render(summarise([], seed=0))


def test_a_number_carries_where_it_comes_from() -> None:
    told = provenance()
    assert {"commit", "date", "python", "versions"} == told.keys()


def test_the_best_of_trials_is_taken_within_each_task() -> None:
    records = [record("a", 0, True), record("a", 1), record("b", 0), record("b", 1)]
    summary = summarise(records, seed=0)
    assert summary["k"] == 2 and summary["all"]["short"] == 0
    assert summary["all"]["item_f1"]["mean"] == 0.625
    assert summary["all"]["best"]["item_f1"]["mean"] == 0.75
    assert summary["all"]["success"]["mean"] == 0.25
    assert summary["all"]["best"]["success"]["mean"] == 0.5, "Pass@k"
    assert "best of 2          2  0.750" not in render(summary)
    assert "best of 2      tasks" in render(summary)
    assert summarise(records[:3], seed=0)["all"]["short"] == 1


def test_phrases_are_a_block_of_their_own() -> None:
    qa = QAScore(em=False, sub_em=True, cover_em=True, f1=0.5)
    answer = replace(RECORD, task="q", score=None, qa=qa, judged=True, group="NQ", rows=0)
    summary = summarise([record("a", right=True), answer], seed=0)
    assert summary["all"]["tasks"] == 1 and "f1" not in summary["all"]
    assert summary["qa_by_group"]["NQ"]["f1"]["mean"] == 0.5
    assert summary["qa"]["judged"]["mean"] == 1.0
    assert "NQ                 1  0.000 [0.000, 0.000]" in render(summary)


def trace(**other: object) -> Trace:
    agents = (AgentCost("lead", 100, 0, 3.0), AgentCost("sub", 40, 2, 1.0))
    given: dict[str, object] = dict(
        language="en", agents=agents, fetches={"access": (3, 4)}, blocked=0, canaries=0
    )
    return Trace(**(given | other))  # type: ignore[arg-type]


def test_trials_that_read_a_canary_are_told_and_left_out_beside() -> None:
    records = [record("a", right=True), record("b")]
    traces = {("a", 0): trace(canaries=1, language="zh"), ("b", 0): trace(blocked=2)}
    summary = summarise(records, 0, traces)
    found = summary["contamination"]
    assert found["trials_flagged"] == ["a-t0"] and found["calls_blocked"] == 2
    assert summary["all"]["item_f1"]["mean"] == 0.75, "nothing is dropped in silence"
    assert found["all_without_flagged"]["item_f1"]["mean"] == 0.5
    assert summary["by_language"]["zh"]["item_f1"]["mean"] == 1.0
    assert summary["fetches"]["access"] == {"succeeded": 6, "tried": 8}
    text = render(summary)
    assert "access 75.0% (6 of 8)" in text
    assert "2 calls kept from benchmark pages, 1 texts with a canary read in 1 of 2 trials" in text
    assert "a sub agent on average: 40 tokens, 2.0 tool calls, 1.0 s" in text
    assert "contamination: not measured" in render(summarise(records, 0))
