"""WideSearch preparation and metrics by hand, official and corrected, and dates in cells."""

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wideseek.grading.dates import read_date
from wideseek.grading.widesearch_metrics import (
    OFFICIAL,
    PREPARATIONS,
    Cell,
    CellError,
    corrected,
    extract_number,
    norm_date,
    norm_str,
)

TODAY = date(2024, 9, 17)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$1,190.50", "1190.50"),
        ("about -3 km", "-3"),
        ("12.5%", "12.5%"),
        (".5", ".5"),
        ("7.", "7."),
        ("１２３", "１２３"),
        ("none", "NULL"),
        ("350,5", "3505"),
    ],
)
def test_first_number_without_commas(text: str, number: str) -> None:
    assert extract_number(text) == number


def test_norm_str_takes_spaces_and_asterisks_but_keeps_tabs_and_width() -> None:
    assert norm_str(" **A b**\tＣ　d ") == "ab\tｃ　d"
    assert norm_str(None) == "none"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("May 1, 1999", (1999, 5, 1)),
        ("1st of May 1999", (1999, 5, 1)),
        ("Monday, May 3, 1999", (1999, 5, 3)),
        ("15november2005", (2005, 11, 15)),
        ("Jan 2020", (2020, 1, 1)),
        ("2020/5", (2020, 5, 1)),
        ("05/2020", (2020, 5, 1)),
        ("03/04/2020", (2020, 3, 4)),
        ("25/12/2020", (2020, 12, 25)),
        ("2020-13-01", (2020, 1, 13)),
        ("5/6/68", (2068, 5, 6)),
        ("5-May-99", (1999, 5, 5)),
        ("2019年5月1日", (2019, 5, 1)),
        ("２０２０年５月", (2020, 5, 1)),
        ("5月1日", (2024, 5, 1)),
        ("3 März 2018", (2018, 3, 3)),
        ("1 de mayo de 2020", (2020, 5, 1)),
        ("2020", (2020, 9, 1)),
        ("May 5", (2024, 5, 5)),
        ("nan", (2024, 8, 1)),
    ],
)
def test_dates_as_people_write_them(text: str, day: tuple[int, int, int]) -> None:
    assert read_date(text, TODAY) == datetime(*day)


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "-",
            "sometime",
            "31 Feb 2020",
            "29 Feb 2019",
            "13/13/2020",
            "2020-2021",
            "0000-00-00",
        ],
        *[
            "May-June 1999",
            "Q1 2020",
            "1/2/3",
            "20200501",
            "Spring 2020",
            "1999 May 5 6",
            "9" * 200,
        ],
    ],
)
def test_texts_that_are_no_dates(text: str) -> None:
    assert read_date(text, TODAY) is None


def test_time_and_zone_of_a_date() -> None:
    assert read_date("1999-05-01T12:30:05Z") == datetime(1999, 5, 1, 12, 30, 5, tzinfo=UTC)
    assert read_date("1999-05-01 10:30 pm") == datetime(1999, 5, 1, 22, 30)
    east = timezone(timedelta(hours=2))
    assert read_date("1999-05-01 12:30+0200") == datetime(1999, 5, 1, 12, 30, tzinfo=east)
    assert read_date("1999-05-01 25:30") is None


def test_norm_date_leaves_other_texts_and_refuses_what_is_none() -> None:
    assert norm_date("Nov 15 2005") == "2005-11-15"
    assert norm_date("0099-01-02") == "0099-01-02"
    assert norm_date("some day") == "some day"
    with pytest.raises(CellError):
        norm_date(5)


@pytest.mark.parametrize(
    ("metric", "answer", "gold", "criterion", "official", "better"),
    [
        ("exact_match", "PARIS", "paris", None, 1, 1),
        ("exact_match", "1.0", "1", None, 0, 1),
        ("exact_match", "paris.", "paris", None, 0, 0),
        ("in_match", "ris", "paris", None, 1, 1),
        ("in_match", "", "paris", None, 1, 0),
        ("in_match", "paris,france", "paris", None, 0, 0),
        ("url_match", "https://a.com/x", "http://a.com", None, 1, 1),
        ("url_match", "https://www.a.com", "https://a.com", None, 0, 0),
        ("url_match", "beta.io", "other.net", None, 1, 0),
        ("url_match", "beta.io", "Beta.io", None, 1, 1),
        ("number_near", "105", "100", 0.05, 1, 1),
        ("number_near", "105.1", "100", 0.05, 0, 0),
        ("number_near", "-95", "-100", 0.05, 1, 1),
        ("number_near", "45%", "0.45", 0.0, 1, 1),
        ("number_near", "1,000", "1000", 0.1, 0, 0),
        ("number_near", "x", "x", None, 1, 1),
        ("number_near", "nan", "nan", 0.1, 0, 1),
        ("date_near", "2020-02-01", "2020-01-01", None, 1, 1),
        ("date_near", "2020-02-02", "2020-01-01", None, 0, 0),
        ("date_near", "sometime", "never told", None, 1, 0),
        ("date_near", "sometime", "2020-01-01", None, 0, 0),
    ],
)
def test_metrics_by_hand(
    metric: str, answer: str, gold: str, criterion: object, official: float, better: float
) -> None:
    assert OFFICIAL[metric](answer, gold, criterion) == official
    one, other = Cell(answer, answer, answer == "nan"), Cell(gold, gold, gold == "nan")
    assert corrected(metric, one, other, criterion) == better


def test_without_a_number_on_either_side_the_text_decides() -> None:
    one, other = Cell("unknown", "NULL", False), Cell("not known", "NULL", False)
    assert OFFICIAL["number_near"]("NULL", "NULL", 0.1) == 1.0
    assert corrected("number_near", one, other, 0.1) == 0.0
    assert corrected("number_near", one, Cell("Unknown ", "NULL", False), 0.1) == 1.0


@pytest.mark.parametrize(
    ("metric", "answer", "gold", "better"),
    [
        ("date_near", "2020-01-01T00:00:00+00:00", "2020-01-01", 1.0),
        ("url_match", "https://[x", "https://a.com", 0.0),
        ("number_near", "1", "1", 0.0),
    ],
)
def test_what_breaks_the_reference_does_not_break_the_corrected_rules(
    metric: str, answer: str, gold: str, better: float
) -> None:
    with pytest.raises(CellError):
        OFFICIAL[metric](answer, gold, "text")
    assert corrected(metric, Cell("", answer, False), Cell("", gold, False), "text") == better


def test_a_missing_cell_matches_only_a_missing_cell() -> None:
    gone, said = Cell("nan", "nan", True), Cell("Nan", "nan", False)
    assert OFFICIAL["in_match"]("nan", "banana", None) == 1.0
    assert corrected("in_match", gone, Cell("banana", "banana", False), None) == 0.0
    assert corrected("exact_match", gone, said, None) == 0.0
    assert corrected("exact_match", gone, gone, None) == 1.0


cells = st.text(
    alphabet=st.one_of(st.characters(), st.sampled_from("0123456789-/.:,%年月日 TZ+ahtps[]")),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(cells, cells, st.sampled_from(sorted(OFFICIAL)), st.sampled_from([0, 0.1, None, "x"]))
def test_every_metric_is_total_and_within_0_and_1(
    answer: str, gold: str, metric: str, criterion: object
) -> None:
    for step in PREPARATIONS.values():
        assert isinstance(step(answer), str)
    one, other = Cell(answer, answer, False), Cell(gold, gold, False)
    assert corrected(metric, one, other, criterion) in (0.0, 1.0)
    with suppress(CellError):
        assert OFFICIAL[metric](answer, gold, criterion) in (0.0, 1.0)


@given(st.dates(min_value=date(1000, 1, 1)))
def test_every_day_is_read_back(day: date) -> None:
    midnight = datetime(day.year, day.month, day.day)
    for form in ("%Y-%m-%d", "%Y/%m/%d", "%B %d, %Y", "%d %b %Y", "%m/%d/%Y", "%Y年%m月%d日"):
        assert read_date(midnight.strftime(form)) == midnight
