"""The exact judge: hand-computed scores, equalities it must and must not see, and its bounds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wideseek.grading.answer import Table
from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.table import TableScore, match_columns, score_boxed, score_table
from wideseek.grading.value import canonical

GOLD = Table(
    ("Name", "Capital", "Area"),
    (("Peru", "Lima", "1,285,216 km²"), ("Chile", "Santiago", "756,102 km²")),
)


def score(rows: list[tuple[str, ...]], columns: tuple[str, ...] = GOLD.columns) -> TableScore:
    result = score_table(Table(columns, tuple(rows)), GOLD, ["Name"])
    assert isinstance(result, TableScore)
    return result


def test_a_right_table_scores_one_in_any_order_and_notation() -> None:
    right = score(
        [("santiago", " CHILE ", "756102km2"), ("lima", "Peru", "1 285 216 km²")],
        ("capital", "NAME", "area"),
    )
    assert right == TableScore(
        item_f1=1.0,
        item_precision=1.0,
        item_recall=1.0,
        row_f1=1.0,
        row_precision=1.0,
        row_recall=1.0,
        success=True,
        columns_matched=3,
    )


def test_one_wrong_cell_costs_one_item_and_its_row() -> None:
    wrong = score([("Peru", "Cusco", "1,285,216 km²"), ("Chile", "Santiago", "756,102 km²")])
    assert wrong.item_precision == wrong.item_recall == wrong.item_f1 == 5 / 6
    assert wrong.row_precision == wrong.row_recall == wrong.row_f1 == 1 / 2
    assert not wrong.success


def test_a_surplus_row_costs_precision_and_a_missing_row_recall() -> None:
    surplus = score([*GOLD.rows, ("Bolivia", "Sucre", "1")])
    assert (surplus.item_precision, surplus.item_recall) == (6 / 9, 1.0)
    assert surplus.item_f1 == pytest.approx(0.8)
    assert (surplus.row_precision, surplus.row_recall) == (2 / 3, 1.0)
    missing = score([GOLD.rows[0]])
    assert (missing.item_precision, missing.item_recall) == (1.0, 1 / 2)
    assert missing.item_f1 == missing.row_f1 == pytest.approx(2 / 3)
    assert not surplus.success and not missing.success


def test_the_first_of_duplicate_keys_is_kept_on_both_sides() -> None:
    twice = score([("peru", "Cusco", "0"), *GOLD.rows])
    assert (twice.item_precision, twice.item_recall) == (4 / 6, 4 / 6)
    gold = Table(("K", "V"), (("a", "1"), ("A", "2")))
    assert score_table(Table(("K", "V"), (("a", "1"),)), gold, ["K"]).success  # type: ignore[union-attr]


def test_a_missing_column_costs_its_items_and_a_surplus_one_nothing() -> None:
    missing = score([("Peru", "Lima"), ("Chile", "Santiago")], ("Name", "Capital"))
    assert missing.item_f1 == pytest.approx(4 / 6)
    assert missing.row_f1 == 0.0
    assert missing.columns_matched == 2
    surplus = score([(*row, "x") for row in GOLD.rows], ("Name", "Capital", "Area", "Currency"))
    assert surplus.success


def test_two_key_columns_join_together() -> None:
    gold = Table(("K", "Year", "V"), (("a", "2020", "1"), ("a", "2021", "2")))
    answer = Table(("K", "Year", "V"), (("a", "2021", "2"), ("a", "2022", "9")))
    result = score_table(answer, gold, ["K", "Year"])
    assert isinstance(result, TableScore)
    assert result.item_f1 == result.item_recall == 3 / 6
    lost = score_table(Table(("K", "V"), (("a", "1"),)), gold, ["K", "Year"])
    assert isinstance(lost, TableScore) and lost.item_f1 == 0.0


@pytest.mark.parametrize(
    "answer", [None, Table(("Name", "Capital", "Area"), ()), Table(("x", "y"), (("1", "2"),))]
)
def test_nothing_right_is_zero_and_not_a_failure(answer: Table | None) -> None:
    result = score_table(answer, GOLD, ["Name"])
    assert isinstance(result, TableScore)
    assert (result.item_f1, result.row_f1, result.success) == (0.0, 0.0, False)


def test_blank_keys_never_join() -> None:
    gold = Table(("K", "V"), (("", "1"), ("b", "2")))
    result = score_table(Table(("K", "V"), (("", "1"), ("b", "2"))), gold, ["K"])
    assert isinstance(result, TableScore)
    assert result.item_f1 == 2 / 4


def test_an_unusable_gold_is_a_failure_and_not_a_zero() -> None:
    for gold, key in [(Table(("K",), ()), ["K"]), (GOLD, []), (GOLD, ["Country"])]:
        result = score_table(GOLD, gold, key)
        assert isinstance(result, Failure) and result.kind is FailureKind.BAD_GOLD
    blank = score_boxed("x", " ")
    assert isinstance(blank, Failure) and blank.kind is FailureKind.BAD_GOLD


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        (["Name", "Capital"], ["name", " CAPITAL "], [0, 1]),
        (["official language"], ["Official Languages"], [0]),
        (["currencies"], ["Currency"], [0]),
        (["masses"], ["mass"], [0]),
        (["Area (km²)", "Name"], ["name", "area"], [1, 0]),
        (["Ｎａｍｅ", "首都"], ["name", "首都"], [0, 1]),
        (["#", "Country", "Capital"], ["name", "capital"], [1, 2]),
        (["Capital", "Country"], ["name", "capital"], [1, 0]),
        (["Chief town", "Country"], ["name", "capital"], [1, 0]),
        (["Country", "Mayor"], ["name", "capital"], [0, None]),
        (["Name", "Name"], ["name", "capital"], [0, None]),
        (["#"], ["name"], [None]),
    ],
)
def test_columns_are_matched_by_header_alias_number_and_place(
    answer: list[str], gold: list[str], expected: list[int | None]
) -> None:
    assert match_columns(answer, gold, [gold[0]], {"capital": ["chief town"]}) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,234,567", "1234567"),
        ("1 234 567", "1234567"),
        ("1\u202f234\u00a0567", "1234567"),
        ("1'234'567", "1234567"),
        ("12.50", "12.5"),
        (".5", "0.50"),
        ("+5", "5"),
        ("−5", "-5"),
        ("-0.0", "0"),
        ("5.0", "5"),
        ("１２３", "123"),
        ("45 %", "45%"),
        ("8,515,767 km²", "8515767km2"),
        ("$ 1,000", "$1000"),
        ("5 Million", "5million"),
        ("São  Paulo ", "são paulo"),
        ("**Lima**", "lima"),
        ("Ａｃｍｅ", "acme"),
        ("1990–1995", "1990-1995"),
        ("O’Higgins", "O'Higgins"),
        ("Spanish,Quechua , Aymara", "Spanish, Quechua, Aymara"),
        ("line\nbreak", "line break"),
    ],
)
def test_equal_values(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1234567", "1234568"),
        ("20201231", "20201230"),
        ("12345678901234567890", "12345678901234567891"),
        ("0.1", "0.10000000000000001"),
        ("007", "7"),
        ("01 234", "01234"),
        ("1.5", "15"),
        ("1,5", "15"),
        ("1,23", "123"),
        ("1,2345", "12345"),
        ("100, 200", "100200"),
        ("1,234 567", "1234567"),
        ("-5", "5"),
        ("10²", "102"),
        ("5%", "5"),
        ("$5", "5"),
        ("5 km", "5 mi"),
        ("about 20", "20"),
        ("12 10", "1210"),
        ("2020-12-31", "20201231"),
        ("Malé", "Male"),
        ("nan", ""),
        ("New York", "NewYork"),
        ("a b", "ab"),
    ],
)
def test_different_values(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


@settings(max_examples=300, deadline=None)
@given(st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15))
def test_numbers_are_equal_only_when_they_are(one: int, other: int) -> None:
    assert (canonical(f"{one:,}") == canonical(str(other))) == (one == other)
    assert canonical(f"{one:,}") == canonical(str(one)) == canonical(f"{one}.00")


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("Paris", "paris", True),
        (r"\text{Paris}", "Paris", True),
        ("$1{,}000$", "1000", False),
        ("$42$", "42", True),
        ("$5", "$5", True),
        ("1,000", "1000", True),
        ("Paris, France", "Paris", False),
        ("", "Paris", False),
        (None, "Paris", False),
    ],
)
def test_a_boxed_answer_is_a_table_of_one_cell(answer: str | None, gold: str, right: bool) -> None:
    result = score_boxed(answer, gold)
    assert isinstance(result, TableScore)
    assert (result.item_f1, result.row_f1, result.success) == (right, right, right)
    either = score_boxed(answer, ["Rome", gold])
    assert either == result


CELL = st.sampled_from(["a", "A", "b", "1", "1.0", "1,000", "1000", "", "x y", "é"]) | st.text(
    max_size=4
)


def tables() -> st.SearchStrategy[Table]:
    def build(columns: list[str]) -> st.SearchStrategy[Table]:
        row = st.tuples(*[CELL] * len(columns))
        return st.builds(Table, st.just(tuple(columns)), st.lists(row, max_size=6).map(tuple))

    names = st.sampled_from(["k", "K", "v", "#", "area", "areas", "x"])
    return st.lists(names, min_size=1, max_size=4).flatmap(build)


@settings(max_examples=300, deadline=None)
@given(tables(), tables())
def test_scores_stay_between_zero_and_one(answer: Table, gold: Table) -> None:
    result = score_table(answer, gold, [gold.columns[0]])
    assert isinstance(result, Failure) == (not gold.rows)
    if isinstance(result, TableScore):
        figures = [result.item_f1, result.item_precision, result.item_recall]
        figures += [result.row_f1, result.row_precision, result.row_recall]
        assert all(0.0 <= figure <= 1.0 for figure in figures)
        assert result.success == (min(figures) == 1.0)
        assert result.columns_matched <= len(gold.columns)


@settings(max_examples=100, deadline=None)
@given(tables())
def test_a_table_answers_itself(gold: Table) -> None:
    keyed = [row for row in gold.rows if canonical(row[0])]
    gold = Table(tuple(f"c{i}" for i in range(len(gold.columns))), tuple(keyed))
    if keyed:
        result = score_table(gold, gold, ["c0"])
        assert isinstance(result, TableScore) and result.success


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "cell",
    [
        "9" * 2_000_000,
        "1,234" * 400_000,
        "a\u0301\u0323" * 500_000,
        "\u0301\u0323" * 400,
        ", ;" * 200_000,
        " " * 2_000_000,
        "1 " * 1_000_000,
    ],
    ids=range(7),
)
def test_hostile_cells_neither_crash_nor_hang(cell: str) -> None:
    rows = tuple((f"{index}", cell) for index in range(3))
    result = score_table(Table(("k", "v"), rows), Table(("k", "v"), rows), ["k"])
    assert isinstance(result, TableScore) and result.success


@pytest.mark.timeout(60)
def test_a_table_of_five_thousand_columns_is_scored() -> None:
    wide = Table(tuple(f"cell{i}s" for i in range(5_000)), (("1",) * 5_000,) * 3)
    gold = Table(tuple(f"CELL{i}" for i in range(5_000)), (("1",) * 5_000,))
    result = score_table(wide, gold, ["CELL0"])
    assert isinstance(result, TableScore)
    assert result.success and result.columns_matched == 5_000
