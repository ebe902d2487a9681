"""The table of an answer and the table put together from reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wideseek.grading.answer import Table
from wideseek.runs.table import (
    MAX_COLUMNS,
    answer_table,
    partial_table,
    to_markdown,
    wanted_columns,
)


def fenced(*lines: str) -> str:
    return "\n".join(["```markdown", *lines, "```"])


def test_last_fence_is_the_answer() -> None:
    text = "<think>" + fenced("| a |", "|---|", "| 0 |") + "</think>"
    text += fenced("| a |", "|---|", "| 1 |") + " better: " + fenced("| a |", "|---|", "| 2 |")
    assert answer_table(text) == Table(("a",), (("2",),))


def test_box_is_a_table_of_one_cell() -> None:
    assert answer_table("It is \\boxed{ Lima }.") == Table(("answer",), (("Lima",),))


def test_pipe_table_without_a_fence_is_the_last_resort() -> None:
    assert answer_table("So:\n| a | b |\n|---|---|\n| 1 | 2 |") == Table(("a", "b"), (("1", "2"),))
    assert answer_table("No table here.") is None


@pytest.mark.parametrize(
    ("counters", "columns"),
    [
        (("1", "2"), ("name",)),
        (("#1", "2."), ("name",)),
        (("1", "3"), ("name",)),
        (("3", "1"), ("#", "name")),
        (("3", "11"), ("#", "name")),
        (("2", "2"), ("#", "name")),
        (("1", "x"), ("#", "name")),
        (("1", "9" * 5000), ("#", "name")),
        ((), ("#", "name")),
    ],
)
def test_leading_counter_is_dropped_only_if_it_counts(
    counters: tuple[str, ...], columns: tuple[str, ...]
) -> None:
    lines = [f"| {counter} | n{counter} |" for counter in counters]
    table = answer_table(fenced("| # | name |", "|---|---|", *lines))
    assert table is not None and table.columns == columns


def test_column_of_numbers_under_another_name_stays() -> None:
    table = answer_table(fenced("| No. | name |", "|---|---|", "| 1 | H |", "| 2 | He |"))
    assert table is not None and table.columns == ("No.", "name")


def test_ragged_rows_are_filled_and_cut_to_the_header() -> None:
    table = answer_table(fenced("| a | b |", "|---|---|", "| 1 |", "| 1 | 2 | 3 |"))
    assert table == Table(("a", "b"), (("1", ""), ("1", "2")))


_CELL = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"])).map(str.strip)
_PLAIN = _CELL.filter(lambda cell: "\\" not in cell and "`" not in cell and "<" not in cell)


@given(st.lists(st.tuples(_PLAIN, _PLAIN), min_size=1))
def test_markdown_is_read_back_cell_for_cell(rows: list[tuple[str, str]]) -> None:
    # A row of dashes and blanks alone reads as a rule.
    rows = [("k" + first, second) for first, second in rows]
    table = Table(("key", "value | more"), tuple(rows))
    assert answer_table(f"```markdown\n{to_markdown(table)}\n```") == table


def test_line_breaks_in_cells_stay_on_one_line() -> None:
    assert to_markdown(Table(("a",), (("x\ny",),))).splitlines()[2] == "| x<br>y |"


def test_partial_table_takes_rows_from_all_reports() -> None:
    reports = ["Found it.\nPeru | Lima\n", "no pipe", "| Brazil | Brasília |", "PERU | other"]
    assert partial_table(reports, ["Brazil with capital"]) == Table(
        ("item", "capital"), (("Peru", "Lima"), ("Brazil", "Brasília"))
    )


def test_partial_table_takes_the_first_header_a_report_brings() -> None:
    reports = ["a | 1", "| country | area |\n| --- | --- |\n| b | 2 |", "c | 3"]
    assert partial_table(reports) == Table(
        ("country", "area"), (("a", "1"), ("b", "2"), ("c", "3"))
    )


def test_partial_table_drops_the_counters_of_reports() -> None:
    plan = "<think>\nfind: lakes\ncolumns: name, depth\n</think>"
    assert partial_table(["2 | Ohrid | 288", "1 | Bled | 30"], [plan]) == Table(
        ("name", "depth"), (("Ohrid", "288"), ("Bled", "30"))
    )
    assert partial_table(["2 | Ohrid | 288"], ["facts: (a) depth"]) == Table(
        ("item", "depth"), (("Ohrid", "288"),)
    )


def test_partial_table_reads_numbered_rows_of_reports() -> None:
    reports = ["| 12 | Ohrid | 288 m | Drin |", "| 3 | Bled | 30 m | unknown |"]
    assert partial_table(reports, ["facts: (a) depth (b) outflow"]) == Table(
        ("item", "depth", "outflow"), (("Ohrid", "288 m", "Drin"), ("Bled", "30 m", "unknown"))
    )


_BEGUN = "```markdown\n| # | name | capital |\n|---|---|---|\n"


@pytest.mark.parametrize("begun", [_BEGUN, _BEGUN + "| 1 | Peru | Lima |\n"])
def test_partial_table_drops_the_counters_under_a_begun_header_from_all_reports(begun: str) -> None:
    reports = [begun, "| 1 | Peru | Lima |", "| 2 | Chile | Santiago |", "Brazil | Brasília"]
    assert partial_table(reports) == Table(
        ("name", "capital"), (("Peru", "Lima"), ("Chile", "Santiago"), ("Brazil", "Brasília"))
    )


def test_partial_table_of_names_alone_has_a_counter_too() -> None:
    begun = "| # | name |\n|---|---|\n| 1 | Peru |"
    assert partial_table([begun, "| 1 | Peru |\n| 2 | Chile |"]) == Table(
        ("name",), (("Peru",), ("Chile",))
    )


def test_partial_table_keeps_small_numbers_that_fit_the_header() -> None:
    begun = "| floor | shop |\n|---|---|\n| 1 | books |"
    assert partial_table([begun, "| 2 | shoes |"]) == Table(
        ("floor", "shop"), (("1", "books"), ("2", "shoes"))
    )


def test_partial_table_keeps_numbers_that_are_not_counters() -> None:
    years = partial_table(["1994 | Speed | de Bont"])
    assert years is not None and years.rows[0] == ("1994", "Speed", "de Bont")
    pairs = partial_table(["1 | 2"])
    assert pairs is not None and pairs.rows[0] == ("1", "2")


def test_partial_table_without_known_columns_is_generic() -> None:
    assert partial_table(["a | 1 | 2", "b | 3"]) == Table(
        ("item", "value 1", "value 2"), (("a", "1", "2"), ("b", "3", ""))
    )


def test_partial_table_of_nothing_is_none() -> None:
    assert partial_table(["", "<think>a | b</think>nothing", "|", "| --- | --- |"]) is None


_PIECES = [
    "```markdown",
    "```",
    "\n",
    "|",
    "---",
    "\\boxed{",
    "}",
    "#",
    "1",
    " a ",
    "with ",
    "</think>",
]


@given(st.lists(st.sampled_from(_PIECES) | st.text(max_size=3)).map("".join))
def test_any_text_has_an_answer_or_none(text: str) -> None:
    table = answer_table(text)
    assert table is None or table.columns
    wanted_columns(text)


@pytest.mark.parametrize("piece", ["-", "|", "-|", "with ", "with a, ", "  ", "| - ", "columns: "])
def test_long_reports_take_linear_time(piece: str) -> None:
    # A quadratic reader runs into the time limit of the suite.
    report = piece * 200_000 + "x"
    rows = "".join(f"b{number} | 1\n" for number in range(1000))
    table = partial_table([report, f"a | {report}", rows], [report])
    assert table is not None and len(table.columns) <= MAX_COLUMNS and len(table.rows) >= 1000


@given(st.lists(st.text(alphabet="ab|-# \n\\1")))
def test_partial_table_takes_any_report(reports: list[str]) -> None:
    table = partial_table(reports)
    assert table is None or (table.rows and all(row[0] or len(row) > 1 for row in table.rows))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("List all countries with capital, currency and area.", ("capital", "currency", "area")),
        ("All lakes? Columns: name, depth, and shore length", ("name", "depth", "shore length")),
        ("Begin with a list. Then cities with mayor.", ("mayor",)),
        ("Cities with a port, with mayor and area", ("mayor", "area")),
        ("columns: name, depth\n</think>\n{lakes with fish}", ("name", "depth")),
        ("facts: (a) visitors, (b) floor area\n</think>", ("visitors", "floor area")),
        ("without, with", ()),
        ("Who is it?", ()),
    ],
)
def test_wanted_columns_are_read_from_the_words(text: str, columns: tuple[str, ...]) -> None:
    assert wanted_columns(text) == columns
