"""The WideSearch scorer on tables from hell: it ends, says something, and stays within bounds."""

import json
from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wideseek.grading.failure import Failure
from wideseek.grading.widesearch import Status, WideSearchScore, score_recorded
from wideseek.grading.widesearch_figures import Figures
from wideseek.grading.widesearch_metrics import OFFICIAL, PREPARATIONS
from wideseek.grading.widesearch_pairs import Evaluation, read_evaluation
from wideseek.grading.widesearch_table import read_answer, read_gold

NASTY = ["nan", "NaN", "", "N/A", "-nan", "inf", "1e999", "1.0", "007", '"', '"x', "x|y", "\r"]
MIXED = ["Ａ", "ß", "İ", "年", "١٢", "мая", "\u200b", "\ufeff", "\x00", "\ud800", "e\u0301", "🦄"]
cells = st.one_of(
    st.sampled_from(NASTY + MIXED + ["2020-01-01", "https://[a", "https://b.io", "45%"]),
    st.text(max_size=8),
)


@st.composite
def specifications(draw: st.DrawFn) -> Evaluation:
    names = ["k", "v", "w"]
    rules = {
        name: {
            "preprocess": draw(st.lists(st.sampled_from(sorted(PREPARATIONS)), max_size=2)),
            "metric": draw(st.lists(st.sampled_from([*sorted(OFFICIAL), "llm_judge"]), max_size=2)),
            "criterion": draw(st.sampled_from([0.1, 0, None, "same"])),
        }
        for name in names
    }
    keys = draw(st.sampled_from([["k"], ["k", "v"], ["w"], []]))
    return read_evaluation({"required": names, "unique_columns": keys, "eval_pipeline": rules})


@st.composite
def answers(draw: st.DrawFn) -> str:
    rows = draw(st.lists(st.lists(cells, min_size=2, max_size=4), max_size=6))
    body = "\n".join("| " + " | ".join(row) + " |" for row in [["k", "v", "w"], *rows])
    return draw(
        st.sampled_from([body, f"```markdown\n{body}\n```", f"{body}\n```markdown", body[1:]])
    )


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), cells, st.lists(st.integers(), max_size=1)
)
replies = st.one_of(
    st.none(),
    st.just("no json"),
    st.dictionaries(st.one_of(cells, st.sampled_from(["idx_0", "idx_1"])), values, max_size=3).map(
        lambda said: f"```json\n{json.dumps(said)}\n```"
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    answers(),
    st.lists(st.lists(cells, min_size=3, max_size=3), max_size=4),
    specifications(),
    st.lists(replies, max_size=5),
)
def test_any_table_gets_a_score_and_corrected_figures_lie_within_0_and_1(
    answer: str, gold: list[list[str]], specification: Evaluation, said: list[str | None]
) -> None:
    csv = "\n".join(",".join(row) for row in [["k", "v", "w"], *gold])
    result = score_recorded(answer, csv, specification, said)
    assert isinstance(result.official, Figures)
    if result.status is not Status.OK:
        assert not any(astuple(result.official))
    if not isinstance(result.corrected, Failure):
        assert all(0.0 <= figure <= 1.0 for figure in astuple(result.corrected))


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='|"-:\n\r ,aK1.e\x00\ufeff年', max_size=80))
def test_readers_are_total_and_rectangular(text: str) -> None:
    for columns in (read_answer(text), read_gold(text)):
        assert len({len(column.cells) for column in columns or ()}) <= 1


def wide(rows: int, columns: int) -> tuple[str, str, Evaluation]:
    names = [f"c{column}" for column in range(columns)]
    cells = [[f"{row}x{column}" for column in range(columns)] for row in range(rows)]
    answer = "\n".join("| " + " | ".join(row) + " |" for row in [names, *cells])
    gold = "\n".join(",".join(row) for row in [names, *cells])
    rule = {"preprocess": ["norm_str"], "metric": ["exact_match"]}
    form = {
        "required": names,
        "unique_columns": ["c0"],
        "eval_pipeline": dict.fromkeys(names, rule) | {"c0": {"metric": ["number_near"]}},
    }
    return answer, gold, read_evaluation(form)


@pytest.mark.parametrize(("rows", "columns"), [(200, 50), (2, 5_000)])
def test_large_tables_are_scored_whole(rows: int, columns: int) -> None:
    result = score_recorded(*wide(rows, columns), [])
    assert result.matched_rows == rows
    assert set(astuple(result.official)) == {1.0} == set(astuple(result.corrected))  # type: ignore[arg-type]


TEN_MEGABYTES = 10_000_000
FLOODS = {
    "nan cells": "| k | v |\n" + "| nan | NaN |\n" * 5_000,
    "quotes": "| k | v |\n" + '| "a | b |\n' * 5_000,
    "equal headers": "| " + "k | " * 5_000 + "\n| a |",
    "pipes": "|" * (TEN_MEGABYTES // 5),
    "fences": "```markdown\n" * (TEN_MEGABYTES // 24),
    "prose": "word " * (TEN_MEGABYTES // 5),
}


def loose(step: str) -> Evaluation:
    """Metrics of every kind, no judge."""
    metrics = ["in_match", "number_near", "url_match", "date_near"]
    return read_evaluation(
        {
            "required": ["k", "v"],
            "unique_columns": ["k"],
            "eval_pipeline": {
                "k": {"metric": []},
                "v": {"preprocess": [step], "metric": metrics, "criterion": 0.1},
            },
        }
    )


@pytest.mark.parametrize("name", FLOODS)
def test_floods_neither_crash_nor_hang(name: str) -> None:
    result = score_recorded(FLOODS[name], "k,v\na,1\nb,\n", loose("norm_str"), [])
    assert isinstance(result, WideSearchScore)


@pytest.mark.parametrize("step", sorted(PREPARATIONS))
def test_cells_of_megabytes_neither_crash_nor_hang(step: str) -> None:
    units = ["9", "https://", "1 May ", "a ", "-.", "年"]
    size = TEN_MEGABYTES // 4 // len(units)
    rows = [f"| {row} | {unit * (size // len(unit))} |" for row, unit in enumerate(units)]
    gold = "k,v\n" + "".join(f"{row},{unit}\n" for row, unit in enumerate(units))
    result = score_recorded("\n".join(["| k | v |", *rows]), gold, loose(step), [])
    assert result.matched_rows == len(units)
