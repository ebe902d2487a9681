"""WideSearch figures of hand-computed tables: right, wrong, garbled, empty, badly judged."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import pytest

from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.judge import Align, ScorePairs, Verify
from wideseek.grading.widesearch import (
    Question,
    Status,
    WideSearchScore,
    score_recorded,
    score_widesearch,
)
from wideseek.grading.widesearch_figures import Figures
from wideseek.grading.widesearch_pairs import Evaluation, read_evaluation
from wideseek.grading.widesearch_table import read_answer

ZERO = Figures()
PERFECT = Figures(**dict.fromkeys(Figures.__slots__, 1.0))
GOLD = "k,v\na,x\nb,y\nc,z\n"


def spec(
    metric: Sequence[str] = ("exact_match",),
    key: Sequence[str] = ("number_near",),
    columns: Sequence[str] = ("k", "v"),
    **rule: Any,
) -> Evaluation:
    """k is the key (by default not aligned by a judge); the others share the metric."""
    plain = {"preprocess": ["norm_str"]}
    rules = {name: plain | {"metric": list(metric)} | rule for name in columns[1:]}
    return read_evaluation(
        {
            "required": list(columns),
            "unique_columns": ["k"],
            "eval_pipeline": {"k": plain | {"metric": list(key)}} | rules,
        }
    )


def table(*rows: str) -> str:
    return "```markdown\n" + "\n".join(f"| {row} |" for row in ("k | v", "--|--", *rows)) + "\n```"


def fenced(values: Mapping[str, Any]) -> str:
    return f"```json\n{json.dumps(values)}\n```"


def score(response: str | None, *replies: str | None, gold: str = GOLD, **rule: Any) -> Any:
    return score_recorded(response, gold, spec(**rule), replies)


def rows(figures: Figures | Failure) -> tuple[float, float, float]:
    assert isinstance(figures, Figures)
    return figures.precision_by_row, figures.recall_by_row, figures.f1_by_row


def items(figures: Figures | Failure) -> tuple[float, float, float]:
    assert isinstance(figures, Figures)
    return figures.precision_by_item, figures.recall_by_item, figures.f1_by_item


def test_the_gold_itself_is_perfect_in_any_order() -> None:
    result = score(table("c | z", "a | x", "b | y"))
    assert (result.status, result.official, result.corrected) == (Status.OK, PERFECT, PERFECT)
    assert result.cell_scores == {"v_exact_match": (1.0, 1.0, 1.0)}


def test_one_wrong_cell_one_row_too_many_and_one_too_few() -> None:
    result = score(table("a | x", "b | wrong", "d | w"))
    # Of 3 rows answered and 3 wanted one is right; of 6 items two keys and one value.
    assert rows(result.official) == rows(result.corrected) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert items(result.official) == items(result.corrected) == pytest.approx((0.5, 0.5, 0.5))
    assert result.official.score == 0.0
    short = score(table("a | x"))
    assert items(short.official) == pytest.approx((1.0, 1 / 3, 0.5))


def test_the_first_row_of_a_repeated_key_is_kept_on_both_sides() -> None:
    result = score(table("a | x", "a | w", "b | y"), gold="k,v\na,x\na,w\nb,y\n")
    assert (result.matched_rows, result.official, result.corrected) == (2, PERFECT, PERFECT)
    late = score(table("a | w", "a | x"), gold="k,v\na,x\n")
    assert items(late.official) == items(late.corrected) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("cells", "spelt"),
    [
        (["1", ""], ["1.0", "nan"]),
        (["007", "10"], ["7", "10"]),
        (["1.50", "3"], ["1.5", "3.0"]),
        (["tRUE", "NA"], ["True", "nan"]),
        (["12345678901234567890", ""], ["12345678901234567890", ""]),
        (["99999999999999999999", ""], ["99999999999999999999", "nan"]),
        (["1,000", "null"], ["1,000", "nan"]),
    ],
)
def test_cells_are_spelled_by_the_type_of_their_column(cells: list[str], spelt: list[str]) -> None:
    body = "\n".join(f"| k | {cell} |" for cell in ["V V", *cells])
    columns = read_answer(body)
    assert columns is not None
    assert (columns[1].name, columns[1].cells) == ("vv", spelt)


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (None, Status.RESPONSE_NONE),
        ("", Status.NO_TABLE),
        ("no table | at | all", Status.NO_TABLE),
        ("｜k｜v｜\n｜a｜x｜", Status.NO_TABLE),
        ("```markdown\n```", Status.ERROR),
        (table("a | x", "b | y | surplus"), Status.ERROR),
        (table('a | "x', "b | y"), Status.ERROR),
        (table("a | \ud800"), Status.ERROR),
        (table("q | x"), Status.ERROR),
        (table(), Status.ERROR),
    ],
)
def test_garbled_answers_are_zero_without_asking_a_judge(
    response: str | None, status: Status
) -> None:
    result = score(response)
    assert (result.status, result.official, result.corrected) == (status, ZERO, ZERO)
    assert result.asked == ()


def test_headers_are_mapped_by_the_judge_and_an_extra_column_zeroes_everything() -> None:
    answer = table("a | x", "b | y", "c | z").replace("k | v", "K | worth")
    mapped = score(answer, fenced({"worth": "v"}))
    assert mapped.asked == (Align(("k", "worth"), ("k", "v")),)
    assert mapped.official == PERFECT
    unmapped = score(answer, fenced({}))
    assert (unmapped.status, unmapped.corrected) == (Status.COLUMN_MISMATCH, ZERO)
    extra = "| k | v | more |\n| a | x | 1 |\n| b | y | 2 |\n| c | z | 3 |"
    assert score(extra, fenced({})).status is Status.COLUMN_MISMATCH
    silent = score(answer, None)
    assert silent.official == ZERO
    assert isinstance(silent.corrected, Failure)
    assert silent.corrected.kind is FailureKind.JUDGE_SILENT


def test_two_answers_for_one_key_count_twice_only_officially() -> None:
    answer = table("a1 | x", "a2 | x", "b | y", "c | z")
    result = score(answer, fenced({"a1": "a", "a2": "a"}), key=["exact_match"])
    assert rows(result.official) == pytest.approx((1.0, 4 / 3, 8 / 7))
    assert rows(result.corrected) == pytest.approx((3 / 4, 1.0, 6 / 7))


def test_a_name_of_the_gold_is_not_mapped_away_when_corrected() -> None:
    result = score(table("a | y"), fenced({"a": "b"}), key=["exact_match"])
    assert items(result.official)[0] == 1.0
    assert items(result.corrected)[0] == 0.0


def test_blank_keys_join_only_officially() -> None:
    result = score(table(" | x"), gold="k,v\n,x\n")
    assert rows(result.official) == (1.0, 1.0, 1.0)
    assert rows(result.corrected) == (0.0, 0.0, 0.0)


def test_two_metrics_or_none_count_a_cell_once_when_corrected() -> None:
    both = score(
        table("a | x", "b | ye"), gold="k,v\na,x\nb,yes\n", metric=["exact_match", "in_match"]
    )
    assert items(both.official) == (1.25, 1.25, 1.25)
    assert items(both.corrected) == (0.75, 0.75, 0.75)
    none = score(table("a | x", "b | y", "c | wrong"), metric=[])
    assert items(none.official) == (0.5, 0.5, 0.5)
    assert items(none.corrected) == pytest.approx((5 / 6, 5 / 6, 5 / 6))


def test_judge_scores_are_clamped_when_corrected() -> None:
    reply = fenced({"idx_0": 2, "idx_1": 1, "idx_2": -1})
    result = score(table("a | x", "b | y", "c | z"), reply, metric=["llm_judge"], criterion="same")
    assert result.asked == (ScorePairs((("x", "x"), ("y", "y"), ("z", "z")), "same"),)
    # Keys 3; officially 2 + 1 - 1, and rows 1 + 1 - 1; corrected 1 + 1 + 0.
    assert items(result.official)[0] == pytest.approx(5 / 6)
    assert rows(result.official)[0] == pytest.approx(1 / 3)
    assert items(result.corrected)[0] == pytest.approx(5 / 6)
    assert rows(result.corrected)[0] == pytest.approx(2 / 3)


def test_equal_tables_succeed_officially_against_the_judge() -> None:
    none = fenced(dict.fromkeys(("idx_0", "idx_1", "idx_2"), 0))
    result = score(table("a | x", "b | y", "c | z"), none, metric=["llm_judge"])
    assert (result.official.score, items(result.official)[0]) == (1.0, 0.5)
    assert isinstance(result.corrected, Figures) and result.corrected.score == 0.0


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (None, FailureKind.JUDGE_SILENT),
        ("all of them look right", FailureKind.JUDGE_UNREADABLE),
        (fenced({"idx_0": 1, "idx_1": 1}), FailureKind.JUDGE_UNREADABLE),
        (fenced({"idx_0": 1, "idx_1": 1, "idx_2": "yes"}), FailureKind.JUDGE_UNREADABLE),
        (fenced({"idx_0": 1, "idx_1": 1, "idx_2": float("nan")}), FailureKind.JUDGE_UNREADABLE),
    ],
)
def test_a_judge_without_a_verdict_leaves_no_corrected_figure(
    reply: str | None, kind: FailureKind
) -> None:
    result = score(table("a | x", "b | y", "c | z"), reply, metric=["llm_judge"])
    assert isinstance(result.official, Figures)
    assert isinstance(result.corrected, Failure) and result.corrected.kind is kind


@pytest.mark.parametrize(
    ("gold", "rule"),
    [
        ("k,w\na,x\n", {}),
        ('k,v\na,"x\n', {}),
        ("", {}),
        ("k,v,V\na,x,x\n", {}),
        (GOLD, {"metric": ["fuzzy"]}),
        (GOLD, {"preprocess": ["fuzzy"]}),
    ],
)
def test_a_gold_or_specification_at_fault_is_a_failure(gold: str, rule: dict[str, Any]) -> None:
    result = score(table("a | x"), gold=gold, **rule)
    assert (result.status, result.official) == (Status.ERROR, ZERO)
    assert isinstance(result.corrected, Failure)
    assert result.corrected.kind is FailureKind.BAD_GOLD


def test_what_breaks_the_official_scorer_is_scored_when_corrected() -> None:
    stamped = table("a | 2020-01-01T00:00:00+00:00")
    result = score(stamped, gold="k,v\na,2020-01-01\n", metric=["date_near"])
    assert (result.status, result.official, result.corrected) == (Status.ERROR, ZERO, PERFECT)


def test_past_a_break_the_judge_is_asked_for_the_corrected_figures_alone() -> None:
    specification = read_evaluation(
        {
            "required": ["k", "v", "w"],
            "unique_columns": ["k"],
            "eval_pipeline": {
                "k": {"metric": ["number_near"]},
                "v": {"metric": ["url_match"]},
                "w": {"metric": ["llm_judge"]},
            },
        }
    )
    answer = "| k | v | w |\n| a | https://[x | y |"
    result = score_recorded(
        answer, "k,v,w\na,https://a.com,y\n", specification, [fenced({"idx_0": 1})]
    )
    assert (result.official, result.asked) == (ZERO, ())
    assert items(result.corrected) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("required", None),
        ("unique_columns", "k"),
        ("eval_pipeline", []),
        ("eval_pipeline", {"k": []}),
        ("eval_pipeline", {"k": {"metric": "exact_match"}}),
    ],
)
def test_a_specification_of_another_form_names_its_field(field: str, value: object) -> None:
    form = {"required": ["k"], "unique_columns": ["k"], "eval_pipeline": {}, field: value}
    with pytest.raises(ValueError, match=field):
        read_evaluation(form)


def live(answers: Mapping[type, str | None], asked: list[object]) -> WideSearchScore | Failure:
    async def judge(question: Align | ScorePairs | Verify) -> str | None:
        asked.append(question)
        await asyncio.sleep(0)
        return answers[type(question)]

    rule = spec(metric=["llm_judge"], key=["exact_match"], columns=("k", "v", "w"))
    answer = "| k | v | w |\n| A1 | x | y |"
    return asyncio.run(score_widesearch(answer, "k,v,w\na,x,y\n", rule, judge))


def test_a_live_judge_is_asked_what_a_recorded_one_was() -> None:
    asked: list[object] = []
    result = live({Align: fenced({"A1": "a"}), ScorePairs: fenced({"idx_0": 1})}, asked)
    assert isinstance(result, WideSearchScore)
    assert (result.official, result.corrected) == (PERFECT, PERFECT)
    pairs = [ScorePairs((("x", "x"),)), ScorePairs((("y", "y"),))]
    assert asked == [Align(("A1",), ("a",)), *pairs] == list(result.asked)


@pytest.mark.parametrize("silent", [Align, ScorePairs])
def test_a_live_judge_without_a_reply_is_a_failure_and_no_zero(silent: type[Question]) -> None:
    replies: dict[type, str | None] = {
        Align: fenced({"A1": "a"}),
        ScorePairs: fenced({"idx_0": 1}),
    }
    result = live(replies | {silent: None}, [])
    assert isinstance(result, Failure) and result.kind is FailureKind.JUDGE_SILENT


def test_figures_in_official_order() -> None:
    assert astuple(score(table("a | x")).official) == pytest.approx(
        (0, 1, 1 / 3, 0.5, 1, 1 / 3, 0.5)
    )
