"""Tables as the official WideSearch scorer reads them: an answer's markdown and a gold CSV.

Both go through a data-frame library there; its guesses at types decide how numbers and blanks are
spelled before anything is compared, so they are repeated here (SPEC section 1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wideseek.grading.answer import table_lines
from wideseek.grading.reference_table import (
    csv_records,
    named_columns,
    read_number,
    read_whole,
    stripped_cells,
    whole_dtype,
)

MISSING = "nan"
"""How a missing cell is spelled, and therefore compared."""

_MISSING_WORDS = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|"
    "null|".split("|")
)
_FENCE = "```markdown"


@dataclass(slots=True)
class Column:
    """Cells of one column, text as read, and which of them were missing; replaced while scoring."""

    name: Any
    cells: list[Any]
    missing: list[bool] = field(repr=False)

    def keep(self, rows: Iterable[int]) -> None:
        """Reduce to these rows."""
        rows = list(rows)
        self.cells = [self.cells[row] for row in rows]
        self.missing = [self.missing[row] for row in rows]


def header(name: str) -> str:
    """A column name as it is compared: lower case, without blanks."""
    return name.strip().lower().replace(" ", "")


def answer_source(response: str) -> str | None:
    """The first closed ```markdown fence, else, with four pipes or more, the first run of lines
    that start with one; None without either. Thinking text is not removed."""
    start = response.find(_FENCE)
    if start != -1:
        end = response.find("```", start + len(_FENCE))
        if end != -1:
            return response[start + len(_FENCE) : end]
    if response.count("|") < 4:
        return None
    run: list[str] = []
    for line in response[response.index("|") :].split("\n"):
        if not line.startswith("|"):
            break
        run.append(line)
    return "\n".join(run)


def read_answer(source: str) -> list[Column] | None:
    """Named columns of a markdown table; None where the reference's reader gives up."""
    first, newline, rest = source.strip().partition("\n")
    lines = table_lines(first.replace(" ", "").lower() + newline + rest)
    named = _named(stripped_cells(lines), "|")
    if named is None:
        return None
    return [_column(name, texts) for name, texts in named if not name.startswith("Unnamed")]


def read_gold(csv: str) -> list[Column] | None:
    """Columns of a gold CSV; None if it is not readable as one."""
    named = _named(csv, ",")
    return None if named is None else [_column(name, texts) for name, texts in named]


def _named(text: str, separator: Literal["|", ","]) -> list[tuple[str, list[str]]] | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    records = csv_records(text.removeprefix("\ufeff"), separator)
    return named_columns(records) if records else None


def _column(name: str, texts: Sequence[str]) -> Column:
    missing = [text in _MISSING_WORDS for text in texts]
    return Column(header(name), spelled(texts, missing), missing)


def spelled(texts: Sequence[str], missing: Sequence[bool]) -> list[str]:
    """Cells after the types of a data frame: whole numbers, else decimals, else truth values.

    Whole numbers beside a missing cell are spelled as decimals, 1 as 1.0. If one of them
    needs all 64 bits, the column is text, and what was missing is spelled as it stood.
    """
    present = [text for text, gone in zip(texts, missing, strict=True) if not gone]
    some_missing = len(present) < len(texts)
    dtype = whole_dtype(present) if present else None
    if some_missing and dtype == "uint64":
        return list(texts)
    cells = iter(_typed(present, dtype, as_decimals=some_missing))
    return [MISSING if gone else next(cells) for gone in missing]


def _typed(texts: Sequence[str], whole: str | None, *, as_decimals: bool) -> list[str]:
    if whole in ("int64", "uint64"):
        wholes = map(read_whole, texts)
        return [str(float(value)) if as_decimals else str(value) for value in wholes]
    if whole is None:
        numbers = [number for text in texts if (number := read_number(text)) is not None]
        if len(numbers) == len(texts):
            return [str(number) for number in numbers]
        if all(text.lower() in ("true", "false") for text in texts):
            return [text.capitalize() for text in texts]
    return list(texts)
