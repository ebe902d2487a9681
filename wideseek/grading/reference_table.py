"""Markdown tables read as the reference's training reward reads them.

The reference hands the pipe-separated lines to a data-frame library; what that does to them
(quotes, ragged rows, doubled and blank headers, guessed types) decides published numbers, so it is
repeated here in plain Python. widesearch_table.py builds its own reading from the same parts.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wideseek.grading.answer import MAX_CELLS, after_thinking, table_lines, table_source

Cell = str | int | float | bool

_INT = re.compile(r"[ \t-\r]*[+-]?[0-9]+[ \t-\r]*")
_FLOAT = re.compile(
    r"[ \t-\r]*([+-]?)(?=\.?[0-9])([0-9]*)\.?([0-9]*)(?:[eE]([+-]?[0-9]+))?[ \t-\r]*"
)
_INFINITY = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)
_DIGITS = 17


@dataclass(frozen=True, slots=True)
class TypedTable:
    """Cells with the type guessed for their column: columns [C], dtypes [C], rows [R][C]."""

    columns: tuple[str, ...]
    dtypes: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def column(self, index: int) -> list[Cell]:
        """Cells of one column, top to bottom."""
        return [row[index] for row in self.rows]


def extract_reference_table(text: str, *, strict: bool) -> TypedTable | None:
    """The table the reference finds in a model's text (strict) or in a label (lenient), or None."""
    source = table_source(after_thinking(text), strict=strict)
    lines = [] if source is None else table_lines(source)
    if not lines:
        return None
    records = csv_records(stripped_cells(lines), "|")
    return None if records is None else _typed_table(records)


def stripped_cells(lines: Sequence[str]) -> str:
    """The lines as one text, without the blanks around each pipe."""
    return "\n".join("|".join(cell.strip() for cell in line.split("|")) for line in lines)


def csv_records(text: str, separator: Literal["|", ","]) -> list[list[str]] | None:
    """Split separated text into fields; None where a quoted field never closes.

    A field that starts with a double quote runs to the next lone one, line ends included; whatever
    follows up to the separator is appended as it is. Quotes elsewhere are text. Blank lines are skipped;
    a field ends at a NUL.
    """
    records: list[list[str]] = []
    fields: list[str] = []
    at, end = 0, len(text)
    stop = re.compile(rf"[{separator}\r\n]|\Z")
    while at < end:
        content = ""
        if text[at] == '"':
            close = _closing_quote(text, at + 1)
            if close == -1:
                return None
            content = text[at + 1 : close].replace('""', '"')
            at = close + 1
        found = stop.search(text, at)
        assert found is not None
        content += text[at : found.start()]
        at = found.end()
        fields.append(content.partition("\0")[0])
        if found[0] == separator:
            if at == end:
                fields.append("")
            else:
                continue
        if len(fields) > 1 or content.strip(" \t"):
            records.append(fields)
        fields = []
    if fields:
        records.append(fields)
    return records


def _closing_quote(text: str, start: int) -> int:
    close = text.find('"', start)
    while close != -1 and text.startswith('"', close + 1):
        close = text.find('"', close + 2)
    return close


def _typed_table(records: Sequence[Sequence[str]]) -> TypedTable | None:
    """Columns whose header starts with "Unnamed", as blank ones do after naming, are dropped."""
    named = named_columns(records)
    if named is None:
        return None
    columns, dtypes, cells = [], [], []
    for name, texts in named:
        if name.startswith("Unnamed"):
            continue
        dtype, values = _typed(texts)
        columns.append(name)
        dtypes.append(dtype)
        cells.append(values)
    by_row = zip(*cells, strict=True) if cells else ()
    return TypedTable(tuple(columns), tuple(dtypes), tuple(by_row))


def named_columns(records: Sequence[Sequence[str]]) -> list[tuple[str, list[str]]] | None:
    """(name, fields) of each column, the first record as header.

    None if a later row is wider than the first two, or past MAX_CELLS. A first row wider than the
    header shifts everything: its surplus leading fields are row labels, not cells.
    """
    names = _column_names(records[0])
    rows = records[1:]
    width = max(len(names), len(rows[0]) if rows else 0)
    if width * len(records) > MAX_CELLS or any(len(row) > width for row in rows):
        return None
    labels = width - len(names)
    full = [[*row, *[""] * (width - len(row))] for row in rows]
    columns = list(zip(*full, strict=True)) if full else [()] * width
    return [(name, list(fields)) for name, fields in zip(names, columns[labels:], strict=True)]


def _column_names(header: Sequence[str]) -> list[str]:
    """Blank names become "Unnamed: i", repeated ones "name.1", "name.2", skipping taken ones."""
    names = list(header)
    blank = [index for index, name in enumerate(names) if not name]
    for index in blank:
        names[index] = f"Unnamed: {index}"
    counts: dict[str, int] = {}
    taken = set(names)
    for index in [index for index, name in enumerate(header) if name] + blank:
        name = original = names[index]
        count = counts.get(name, 0)
        while count > 0:
            counts[original] = count + 1
            name = f"{original}.{count}"
            count = count + 1 if name in taken else counts.get(name, 0)
        names[index] = name
        taken.add(name)
        counts[name] = count + 1
    return names


def _typed(texts: Sequence[str]) -> tuple[str, list[Cell]]:
    """(dtype, values): whole numbers, else decimals, else truth values, else text.

    In text columns `<br>` becomes a newline and a blank "nan".
    """
    dtype = whole_dtype(texts) if texts else "object"
    if dtype in ("int64", "uint64"):
        return dtype, [read_whole(text) for text in texts]
    if dtype is None:
        numbers = [number for text in texts if (number := read_number(text)) is not None]
        if len(numbers) == len(texts):
            return "float64", [*numbers]
        if all(text.lower() in ("true", "false") for text in texts):
            return "bool", [text.lower() == "true" for text in texts]
    return "object", [text.replace("<br>", "\n") or "nan" for text in texts]


def whole_dtype(texts: Sequence[str]) -> str | None:
    """int64 or uint64 that holds every text, "object" past both; None where one is no whole number.

    Past int64 the reference starts over with uint64, where anything with a minus sign makes the
    column text.
    """
    for text in texts:
        if _INT.fullmatch(text) is None:
            return None
        if read_whole(text) not in _INT64:
            break
    else:
        return "int64"
    negative = False
    for text in texts:
        if text.lstrip().startswith("-"):
            negative = True
        elif _INT.fullmatch(text) is None:
            return None
        elif read_whole(text) not in _UINT64:
            return "object"
    return "object" if negative else "uint64"


def read_whole(text: str) -> int:
    """Value of a whole number; 10**20 with its sign stands for anything larger."""
    text = text.strip()
    digits = text.lstrip("+-").lstrip("0") or "0"
    value = int(digits) if len(digits) <= 20 else 10**20
    return -value if text.startswith("-") else value


def read_number(text: str) -> float | None:
    """The number the reference reads from a text, named infinities included, or None.

    It reads 17 digits and scales them once, which is not always the nearest double.
    """
    if _INFINITY.fullmatch(text):
        return float(text)
    match = _FLOAT.fullmatch(text)
    if match is None:
        return None
    sign, whole, fraction, power = match.groups()
    kept = fraction[: max(0, _DIGITS - len(whole))]
    value = 0.0
    for digit in whole[:_DIGITS] + kept:
        value = value * 10.0 + int(digit)
    exponent = max(0, len(whole) - _DIGITS) - len(kept) + _exponent(power or "0")
    if exponent > 308:
        return None
    if exponent > 0:
        value *= float(f"1e{exponent}")
    elif exponent < -308:
        value = value / float(f"1e{min(-308 - exponent, 308)}") / 1e308
    else:
        value /= float(f"1e{-exponent}")
    if math.isinf(value):
        return None
    return -value if sign == "-" else value


def _exponent(power: str) -> int:
    """Past six digits all are as good as infinite."""
    digits = power.lstrip("+-").lstrip("0")[:7] or "0"
    return -int(digits) if power.startswith("-") else int(digits)
