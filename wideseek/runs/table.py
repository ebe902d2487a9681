"""The one table of a run: read from its answer, or put together from reports without one."""

import re
from collections.abc import Iterable, Sequence

from wideseek.grading.answer import (
    Table,
    after_thinking,
    extract_final_answer,
    last_box,
)

UNKNOWN = frozenset({"", "-", "–", "—", "?", "n/a", "unknown", "未知"})
"""Cells that claim nothing, in lower case."""

_BARE_PIPE = re.compile(r"(?<!\\)\|")
_COUNTER = re.compile(r"\W*(\d+)\W*")
_WANTED = re.compile(r"\b(?:with|columns?:)\s+([^.?!\n;:]+)", re.IGNORECASE)
_LISTED = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+", re.IGNORECASE)
_RULE_LINE = re.compile(r"[|:\s-]*-[|:\s-]*")


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
    """The table without a leading "#" column that only numbers its rows."""
    if table.columns[0] != "#" or len(table.columns) == 1:
        return table
    for number, row in enumerate(table.rows, 1):
        counter = _COUNTER.fullmatch(row[0])
        if counter is None or int(counter[1]) != number:
            return table
    return Table(table.columns[1:], tuple(row[1:] for row in table.rows))


def partial_table(reports: Iterable[str], tasks: Iterable[str] = ()) -> Table | None:
    """The rows that reports hold, the first of each key kept; None if there are none.

    A row is a line `a | b | c`. The header is that of the first report that brings one, else the
    columns one of the tasks asks for if they fit, else "item" and "value 1", "value 2" ... A first
    cell without a name is the item, or if it is a number in every row, a counter that is dropped.
    """
    header: tuple[str, ...] = ()
    rows: dict[str, tuple[str, ...]] = {}
    for report in reports:
        own_header, found = _read_rows(report)
        header = header or own_header
        for row in found:
            rows.setdefault(row[0].casefold(), row)
    if not rows:
        return None
    columns = header or _make_header(tasks, list(rows.values()))
    filled = [row[: len(columns)] + ("",) * (len(columns) - len(row)) for row in rows.values()]
    if columns[0] == "#":
        return Table(columns[1:], tuple(row[1:] for row in filled))
    return Table(columns, tuple(filled))


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
        if "|" in line and _RULE_LINE.fullmatch(line):
            header = header or (rows.pop() if len(rows) == 1 else ())
        elif len(cells := _split(line)) > 1:
            rows.append(cells)
    if header[:1] == ("#",):
        header, rows = header[1:], [row[1:] for row in rows if len(row) > 2]
    return header, [row for row in rows if row[0]]


def _split(line: str) -> tuple[str, ...]:
    cells = _BARE_PIPE.split(line.removeprefix("|").removesuffix("|"))
    return tuple(cell.strip().replace("\\|", "|") for cell in cells)


def _make_header(tasks: Iterable[str], rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    width = max(map(len, rows))
    first = "#" if all(_COUNTER.fullmatch(row[0]) for row in rows) else "item"
    for asked in map(wanted_columns, tasks):
        if len(asked) == width:
            return asked
        if len(asked) == width - 1:
            return (first, *asked)
    return ("item", *(f"value {number}" for number in range(1, width)))


def wanted_columns(text: str) -> tuple[str, ...]:
    """The columns a text asks for with the words "with A, B and C" or "columns: A, B, C"."""
    found = _WANTED.findall(text)
    return tuple(name.strip() for name in _LISTED.split(found[-1])) if found else ()
