"""The reference-compatible reward: table reader, score, verdicts and credit assignment."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wideseek.grading.credit import Credit, CreditConfig, CreditTurn, credit_assignment
from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.judge import Align, ScorePairs, Verify, last_json_block
from wideseek.grading.reference_table import (
    TypedTable,
    extract_reference_table,
    read_number,
)
from wideseek.grading.reward import (
    RewardScore,
    evaluate_markdown,
    extract_final_answer,
    get_final_reward_score,
    verify_answer,
)

Asked = Align | ScorePairs | Verify


def read(body: str) -> TypedTable | None:
    return extract_reference_table(f"```markdown\n{body}\n```", strict=True)


@pytest.mark.parametrize(
    ("cells", "dtype", "values"),
    [
        (["1", "-2"], "int64", [1, -2]),
        (["007", "+4"], "int64", [7, 4]),
        (["1", "2.5", "1e3"], "float64", [1.0, 2.5, 1000.0]),
        (["1", "inf"], "float64", [1.0, float("inf")]),
        (["9223372036854775808", "1"], "uint64", [2**63, 1]),
        (["9223372036854775808", "-1"], "object", ["9223372036854775808", "-1"]),
        (["99999999999999999999"], "object", ["99999999999999999999"]),
        (["1.5", "99999999999999999999"], "float64", [1.5, 1.0000000000000002e20]),
        (["True", "FALSE"], "bool", [True, False]),
        (["1", ""], "object", ["1", "nan"]),
        (["1,000", "NA"], "object", ["1,000", "NA"]),
        (["1e400", "2"], "object", ["1e400", "2"]),
        (['"x|y"', '"a""b"'], "object", ["x|y", 'a"b']),
        (['x"y', '"x"y'], "object", ['x"y', "xy"]),
    ],
)
def test_column_types_are_guessed_as_in_a_data_frame(
    cells: list[str], dtype: str, values: list[object]
) -> None:
    table = read("| K | V |\n|---|---|\n" + "\n".join(f"| r | {cell} |" for cell in cells))
    assert table is not None
    assert table.dtypes == ("object", dtype)
    assert table.column(1) == values


@pytest.mark.parametrize(
    ("body", "columns", "rows"),
    [
        ("V | V | V.1 | V\na | b | c | d", ("V", "V.2", "V.1", "V.3"), (("a", "b", "c", "d"),)),
        ("K | V\na | b | c\nd | e", ("K", "V"), (("b", "c"), ("e", "nan"))),
        ("K | Unnamed thing\na | b", ("K",), (("a",),)),
        ("| K |  | V |\n| a | 1 | b |", ("K", "V"), (("a", "b"),)),
        ('K | V\n"a | x\nb" | c', ("K", "V"), (("a|x\nb", "c"),)),
        ("K | V\na\rb | c", ("K", "V"), (("a", "nan"), ("b", "c"))),
    ],
)
def test_headers_and_rows_shift_as_in_a_data_frame(
    body: str, columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]
) -> None:
    table = read(body)
    assert table is not None
    assert (table.columns, table.rows) == (columns, rows)


@pytest.mark.parametrize("body", ["K | V\na | 1\nb | 2 | x", 'K | V\na | "x\nb | 2', "", "|---|"])
def test_ragged_and_unclosed_tables_are_unreadable(body: str) -> None:
    assert read(body) is None


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='|"-:\n\r aK1.e<\x00é', max_size=60))
def test_the_reference_reader_is_total(body: str) -> None:
    table = read(body)
    if table is not None:
        assert len(table.columns) == len(table.dtypes)
        assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1.0), (" 1.5e3 ", 1500.0), ("5.", 5.0), (".5", 0.5), ("-Infinity", float("-inf"))],
)
def test_texts_read_as_numbers(text: str, number: float) -> None:
    assert read_number(text) == number


@pytest.mark.parametrize("text", ["", "nan", "1_000", "1,000", "1e", "0x1", "1e999", "٣", "."])
def test_texts_not_read_as_numbers(text: str) -> None:
    assert read_number(text) is None


def run_table(
    answer: str,
    gold: str,
    judge: Callable[[Asked], Awaitable[str | None]],
    key: str = "K",
    **label: object,
) -> tuple[float, bool]:
    table = extract_final_answer(f"```markdown\n{answer}\n```", "markdown")
    assert table is None or isinstance(table, TypedTable)
    full = {"answer": f"```markdown\n{gold}\n```", "unique_columns": [key], **label}
    return asyncio.run(evaluate_markdown(table, full, judge, norm_column=False))


async def equal_judge(asked: Asked) -> str:
    """Aligns nothing and scores equality."""
    assert not isinstance(asked, Verify)
    if isinstance(asked, Align):
        return "```json\n{}\n```"
    scores = (f'"idx_{i}": {int(one == other)}' for i, (one, other) in enumerate(asked.pairs))
    return "```json\n{" + ", ".join(scores) + "}\n```"


async def silent_judge(asked: Asked) -> None:
    return None


def test_item_f1_by_hand() -> None:
    gold = "| K | V |\n| a | x |\n| b | y |"
    assert run_table(gold, gold, equal_judge) == (1.0, True)
    assert run_table("| K | V |\n| a | x |\n| b | z |", gold, equal_judge) == (0.75, True)
    # One right row of one: precision 1, recall 1/2.
    assert run_table("| K | V |\n| a | x |", gold, equal_judge)[0] == pytest.approx(2 / 3)
    # The first of two rows with one key is kept.
    twice = "| K | V |\n| a | z |\n| a | x |\n| b | y |"
    assert run_table(twice, gold, equal_judge) == (0.75, True)
    # Keys count although the judge says nothing.
    assert run_table(gold, gold, silent_judge) == (0.5, True)
    assert run_table("| K |\n| a |", gold, equal_judge) == (0.0, False)
    assert run_table("| K | V |", gold, equal_judge) == (0.0, False)


def test_numbers_collapse_to_six_digits_as_in_the_reference() -> None:
    one, other = "| K | V |\n| a | 1234567 |", "| K | V |\n| a | 1234568 |"
    assert run_table(one, other, equal_judge) == (1.0, True)


def test_a_number_beside_texts_blanks_them_as_in_the_reference() -> None:
    one, other = "| K | V |\n| a | x |\n| b | 1 |", "| K | V |\n| a | y |\n| b | 1 |"
    assert run_table(one, other, equal_judge) == (1.0, True)


def test_repeated_required_headers_are_a_format_failure() -> None:
    gold = "| K | V |\n| a | x |"
    assert run_table("| K | V | v |\n| a | x | x |", gold, equal_judge) == (0.0, False)


def test_texts_do_not_join_with_numbers() -> None:
    gold = "| K | V |\n| 1 | x |"
    answer = "| K | V |\n| a | x |"
    assert run_table(answer, gold, equal_judge, required=["V"]) == (0.0, False)
    assert run_table(answer, gold, equal_judge) == (0.0, True)


def test_a_silent_judge_is_a_failure_for_a_boxed_answer() -> None:
    reward = asyncio.run(
        get_final_reward_score("q", "Paris", {"answer": ["Paris"]}, silent_judge, is_markdown=False)
    )
    assert reward == Failure(FailureKind.JUDGE_SILENT, "no verdict on the boxed answer")


def test_no_judge_and_no_label_are_zeros() -> None:
    for judge, expected in [(None, (0.0, False, False)), (silent_judge, (0.0, True, True))]:
        reward = asyncio.run(
            get_final_reward_score("q", "x", {"answer": None}, judge, is_markdown=False)
        )
        assert reward == RewardScore(*expected)


@pytest.mark.parametrize(
    ("reply", "score"), [("Correct.", 1.0), ("not correct", 1.0), ("InCorrect", 0.0), ("yes", 0.0)]
)
def test_verdicts(reply: str, score: float) -> None:
    shown: list[object] = []

    async def judge(asked: Asked) -> str:
        assert isinstance(asked, Verify)
        shown.append(asked.labelled)
        return reply

    assert asyncio.run(verify_answer("q", "p", ["only"], judge)) == score
    assert asyncio.run(verify_answer("q", "p", ["one", "two"], judge)) == score
    assert shown == ["only", ["one", "two"]]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('```json {"a": 1}``` then ```json\n{"b": 2}\n```', {"b": 2}),
        ('```json\n{"a": {"b": 1}}\n```', {"a": {"b": 1}}),
        ('```json\n[1]\n``` ```json\n{"b": 2}```', {"b": 2}),
        ('```json\n{"a": 1}', None),
        ("```json\n{bad}\n```", None),
        ("```json\n" + '{"a":' * 100_000 + "}\n```", None),
        ("```json {" * 200_000, None),
        ("```json\n" + "} " * 500_000, None),
        ("", None),
    ],
)
def test_the_last_json_fence_of_a_reply(reply: str, expected: object) -> None:
    assert last_json_block(reply) == expected


OK = CreditTurn(
    role="lead",
    response_tokens=10,
    accesses=0,
    context_failed=False,
    turn_limit_failed=False,
    runaway=False,
    content=0,
)
CONFIG = CreditConfig(
    format_reward=0.1,
    call_search_reward=0.05,
    length_limit=3000,
    max_length_limit=5000,
    length_penalty=0.1,
)


def credit(*turns: CreditTurn, natural_end: bool = True, answer_format: bool = True) -> Credit:
    return credit_assignment(
        CONFIG, turns, outcome=0.5, natural_end=natural_end, answer_format=answer_format
    )


def test_a_good_format_pays_outcome_format_and_access_less_length() -> None:
    sub = replace(OK, role="sub", accesses=1, response_tokens=4000)
    result = credit(OK, sub)
    assert result.train_turns == (0, 1) and result.final_answer_format
    assert result.reward == pytest.approx(0.5 + 0.1 + 0.05 - 0.05)
    failed_sub = replace(sub, context_failed=True)
    assert credit(OK, failed_sub, OK).train_turns == (0, 2)


def test_a_lead_that_ran_out_is_trained_with_zero() -> None:
    lead = replace(OK, turn_limit_failed=True)
    sub = replace(OK, role="sub", context_failed=True)
    assert credit(lead, sub, lead) == Credit((0, 2), False, 0.0)


def test_a_bad_format_trains_the_last_turn_and_the_runaways_or_the_failed() -> None:
    failed = replace(OK, role="sub", context_failed=True, content="f")
    runaway = replace(failed, runaway=True, content="r")
    assert credit(failed, runaway, OK, answer_format=False) == Credit((2, 1), False, 0.0)
    assert credit(failed, OK, answer_format=False) == Credit((1, 0), False, 0.0)
    assert credit(failed, OK, answer_format=False, natural_end=False).train_turns == (0,)


def test_equal_failed_turns_are_trained_once_as_in_the_reference() -> None:
    failed = replace(OK, role="sub", context_failed=True)
    assert credit(failed, failed, OK, answer_format=False).train_turns == (2, 0)
    other = replace(failed, content=1)
    assert credit(failed, other, OK, answer_format=False).train_turns == (2, 0, 1)


def test_credit_refuses_what_it_cannot_weigh() -> None:
    with pytest.raises(ValueError, match="turns must not be empty"):
        credit()
    with pytest.raises(ValueError, match="max_length_limit must be above length_limit 5, not 5"):
        CreditConfig(length_limit=5, max_length_limit=5)
