"""The one table of a run: read from its answer, or put together from reports without one."""

import re
from collections.abc import Iterable
from itertools import pairwise

from wideseek.grading.answer import Table, after_thinking, extract_final_answer, last_box

UNKNOWN = frozenset({"", "-", "–", "—", "?", "n/a", "unknown", "未知"})
"""Cells that claim nothing, in lower case."""

MAX_COLUMNS = 100
"""Cells beyond are dropped from partial tables: short rows are filled up, so one long line could
make every row long."""

_BARE_PIPE = re.compile(r"(?<!\\)\|")
_COUNTER = re.compile(r"#?\d{1,3}\.?")
_COLUMNS = re.compile(r"\b(?:columns|facts):\s", re.IGNORECASE)
_WITH = re.compile(r"\bwith\s", re.IGNORECASE)
_LISTED = re.compile(r",|\band\b|\([a-z]\)", re.IGNORECASE)
_NAMES_END = re.compile(r"[.?!\n;:<]")
_RULE = frozenset("|-: ")


def answer_table(text: str) -> Table | None:
    """The table of an answer: its last fence, else its box as a cell, else its last pipe table."""
    table = extract_final_answer(text, "table")
    if table is not None:
        return without_counter(table)
    box = last_box(after_thinking(text))
    if box is not None:
        return Table(("answer",), ((box.strip(),),))
    table = extract_final_answer(text, "table", strict=False)
    return None if table is None else without_counter(table)


def without_counter(table: Table) -> Table:
    """The table without a leading "#" column that only numbers its rows, of which some may be missing."""
    if table.columns[0] != "#" or len(table.columns) == 1 or not table.rows:
        return table
    if not all(_COUNTER.fullmatch(row[0]) for row in table.rows):
        return table
    numbers = [int(row[0].strip("#.")) for row in table.rows]
    rising = all(before < after for before, after in pairwise((0, *numbers)))
    if not rising or numbers[-1] > 2 * len(numbers):  # more would be missing than is there
        return table
    return Table(table.columns[1:], tuple(row[1:] for row in table.rows))


def partial_table(reports: Iterable[str], tasks: Iterable[str] = ()) -> Table | None:
    """The rows that reports hold, the first of each key kept; None if there are none.

    A row is a line `a | b | c`. The header is that of the first report that brings one, else "item"
    and the columns one of the tasks asks for, if they fit, else "item", "value 1", "value 2" ...
    Small numbers that lead a row are a counter, and dropped, where the header leaves no column for
    them or, without a header, where they lead every row.
    """
    read = [_read_rows(report) for report in reports]
    header = next((own for own, _ in read if own), ())
    found = _without_counters([row for _, own in read for row in own], len(header))
    rows: dict[str, tuple[str, ...]] = {}
    for row in found:
        if row[0]:
            rows.setdefault(row[0].casefold(), row)
    if not rows:
        return None
    columns = header or _make_header(tasks, width=max(map(len, rows.values())))
    filled = (row[: len(columns)] + ("",) * (len(columns) - len(row)) for row in rows.values())
    return Table(columns, tuple(filled))


def _without_counters(rows: list[tuple[str, ...]], num_columns: int) -> list[tuple[str, ...]]:
    """Rows of several reports without the numbers that lead them; num_columns 0: no header."""
    widest = num_columns or 2
    counted = [len(row) > widest and _COUNTER.fullmatch(row[0]) is not None for row in rows]
    if not num_columns and not all(counted):
        return rows
    return [row[1:] if drop else row for row, drop in zip(rows, counted, strict=True)]


def to_markdown(table: Table) -> str:
    r"""The table as markdown, one line a row; pipes are escaped and line breaks become `<br>`."""
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)


def _escape(cell: str) -> str:
    return "<br>".join(cell.replace("|", "\\|").splitlines())


def _read_rows(report: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a report; a header is a first row with a rule of dashes below it."""
    header: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = []
    for line in after_thinking(report).splitlines():
        line = line.strip()
        if {"|", "-"} <= set(line) <= _RULE:
            header = header or (rows.pop() if len(rows) == 1 else ())
        elif len(cells := _split(line)) > 1:
            rows.append(cells)
    if header[:1] == ("#",):
        header, rows = header[1:], [row[1:] for row in rows]
    return header, [row for row in rows if row[0]]


def _split(line: str) -> tuple[str, ...]:
    cells = _BARE_PIPE.split(line.removeprefix("|").removesuffix("|"))[:MAX_COLUMNS]
    return tuple(cell.strip().replace("\\|", "|") for cell in cells)


def _make_header(tasks: Iterable[str], width: int) -> tuple[str, ...]:
    for asked in map(wanted_columns, tasks):
        if len(asked) == width:
            return asked
        if len(asked) == width - 1:
            return ("item", *asked)
    return ("item", *(f"value {number}" for number in range(1, width)))


def wanted_columns(text: str) -> tuple[str, ...]:
    """The columns a text asks for by "with A, B and C", "columns: A, B" or "facts: (a) A (b) B"."""
    starts = [found.end() for found in _COLUMNS.finditer(text)]
    starts = starts or [found.end() for found in _WITH.finditer(text)]
    if not starts:
        return ()
    names = _NAMES_END.split(text[starts[-1] :].strip(), maxsplit=1)[0]
    return tuple(name.strip() for name in _LISTED.split(names) if name.strip())
